"""Comparisons with intervals: paired by prompt and repeat, clustered by prompt.

Answers to one prompt resemble each other, so it is prompts that are drawn from a population and
prompts that count as evidence: what is measured of a prompt is first averaged over its repeats,
whose scatter thereby stays in the spread of the averages.

Intervals and p values are two sides of one thing: Fisher's randomisation test for pairs (*The
Design of Experiments*, 1935, section 21), which swaps the labels of whole prompts, and the values
that this test does not reject. The second are found without trying any: they lie between two of
the ordered means of random subsets of the prompts (Hartigan, *Using Subsample Values as Typical
Values*, JASA 64, 1969). So a 95 % interval leaves "no difference" out exactly where p < 0.05.

Why not a bootstrap: two models that are the same scatter evenly around no difference, however
heavy the tails and however unlike the prompts, and that evenness is all that the test assumes.
Over 10 to 30 prompts in ``benchmarks/aa_calibration.py`` it errs in 4.2 to 5.7 % for 5 %. There
the percentile bootstrap errs in up to 9 % (expanded as Hesterberg proposes, 2015), the studentised
one in up to 12 %, BCa in up to 25 %, for all three take a few far values at their word; Student's t
is too wide (down to 1 %). What none of them mends: the mean difference in seconds of models
that do differ, over prompts of which few are very long. Ratios do not suffer from that.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from workbench.errors import invalid

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_PROMPTS: Final = 6
"""With five pairs even the most lopsided outcome has p = 2/32: there is no interval at 5 %.

With six the level is 3.1 %, for 64 ways of swapping labels allow none nearer to 5 %; from seven on
it is 4.7 to 5 %.
"""

SUBSETS: Final = 1_999
"""So many subsets of the prompts are drawn; all are taken where there are fewer."""
MAX_SUBSETS: Final = 199_999
BATCH: Final = 2_000_000
"""Values drawn at once: some 16 MB."""
_ROUNDING: Final = 1e-13
LEVEL: Final = 0.95
POWER: Final = 0.8
MAX_FIT_POINTS: Final = 1_500
"""Theil and Sen look at every pair of points: a million of them are enough."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A paired difference or ratio of b to a.

    ``low`` and ``high`` bound the 95 % interval, ``p`` tests for no difference, and
    ``detectable`` is the smallest effect (same scale as ``value``) that so many prompts would
    have shown four times in five. These are None below :data:`MIN_PROMPTS` prompts. ``prompts``
    counts what was resampled: prompts, or the families of prompts that share a source.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None
    detectable: float | None
    prompts: int
    pairs: int


@dataclass(frozen=True, slots=True)
class Line:
    """A robust line: y = intercept + slope * x, with the 95 % interval of the slope."""

    intercept: float
    slope: float
    slope_low: float
    slope_high: float
    points: int


def estimate(
    means: Sequence[float], pairs: int, *, level: float = LEVEL, seed: int = 0
) -> Estimate:
    """The mean of what was measured of each prompt: differences, or logarithms of ratios.

    Args:
        means: one value a prompt, the mean over its repeats.
        pairs: how many pairs they come from.
        level: of the interval.
        seed: of the subsets.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, there is nothing to compare.
    """
    import numpy as np

    values = np.asarray(means, dtype=float)
    return _estimate(values, np.ones_like(values), pairs, seed, level)


def clustered(
    families: Mapping[Hashable, Sequence[float]], pairs: int, *, seed: int = 0
) -> Estimate:
    """The mean over prompts of which some share a source: families are what counts as evidence.

    Every prompt counts the same, so large families weigh more; the mean of a subset is the sum
    over its families through the number of their prompts. The scatter is that of the family sums
    (Miller, *Adding Error Bars to Evals*, arXiv 2411.00640, 2024, section 2.2), by the factor
    C / (C - 1) wider for C families.

    Args:
        families: by family, one value a prompt: the mean of its repeats' differences.
        pairs: how many pairs they come from.
        seed: of the subsets.
    """
    import numpy as np

    sums = np.array([sum(values) for values in families.values()], dtype=float)
    sizes = np.array([len(values) for values in families.values()], dtype=float)
    return _estimate(sums, sizes, pairs, seed)


def share(families: Mapping[Hashable, Sequence[float]]) -> Estimate:
    """The mean of scores between 0 and 1 with its 95 % interval, clustered by family.

    Wilson's interval (*Probable Inference*, JASA 22, 1927), which holds near 0 and 1 too, for as
    many independent prompts as would scatter as much as these (Kish's effective sample size,
    *Survey Sampling*, 1965); where all scores are alike that is the number of families.

    Args:
        families: by family, one value a prompt: the mean of its repeats' scores.
    """
    import numpy as np
    from scipy import stats

    sums = np.array([sum(values) for values in families.values()], dtype=float)
    sizes = np.array([len(values) for values in families.values()], dtype=float)
    prompts, count = int(sizes.sum()), len(sums)
    if not count:
        raise invalid("There are no scores.", fix="Score some answers first.")
    value = float(min(max(sums.sum() / prompts, 0.0), 1.0))
    if count < MIN_PROMPTS:
        return Estimate(value, None, None, None, None, count, prompts)
    error = np.sqrt(np.sum((sums - value * sizes) ** 2) * count / (count - 1)) / prompts
    spread = value * (1 - value)
    effective = spread / error**2 if error > 0 and spread > 0 else float(count)
    z2 = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) ** 2
    middle = (value + z2 / (2 * effective)) / (1 + z2 / effective)
    half = np.sqrt(z2 * (spread / effective + z2 / (4 * effective**2))) / (1 + z2 / effective)
    low, high = max(0.0, float(middle - half)), min(1.0, float(middle + half))
    return Estimate(value, min(low, value), max(high, value), None, None, count, prompts)


def difference(
    pairs: Mapping[Hashable, Sequence[tuple[float, float]]], *, seed: int = 0
) -> Estimate:
    """The mean of b - a, every prompt counting the same.

    Args:
        pairs: by prompt, the (a, b) of each repeat.
        seed: of the subsets.
    """
    import numpy as np

    means = [float(np.mean([b - a for a, b in repeats])) for repeats in pairs.values()]
    return estimate(means, sum(map(len, pairs.values())), seed=seed)


def ratio(pairs: Mapping[Hashable, Sequence[tuple[float, float]]], *, seed: int = 0) -> Estimate:
    """The geometric mean of b / a, every prompt counting the same.

    Args:
        pairs: by prompt, the (a, b) of each repeat; all above 0.
        seed: of the subsets.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, a value is not above 0.
    """
    import numpy as np

    if any(a <= 0 or b <= 0 for repeats in pairs.values() for a, b in repeats):
        raise invalid("A ratio needs values above 0.", fix="Ask for the difference.")
    means = [float(np.mean([np.log(b / a) for a, b in repeats])) for repeats in pairs.values()]
    return exponential(estimate(means, sum(map(len, pairs.values())), seed=seed))


def exponential(logs: Estimate) -> Estimate:
    """An estimate of the mean logarithm of a ratio, as that of the ratio."""
    import math

    def back(value: float | None) -> float | None:
        return None if value is None else math.exp(value)

    return replace(
        logs,
        value=math.exp(logs.value),
        low=back(logs.low),
        high=back(logs.high),
        detectable=back(logs.detectable),
    )


def _estimate(
    sums: NDArray[np.float64],
    sizes: NDArray[np.float64],
    pairs: int,
    seed: int,
    level: float = LEVEL,
) -> Estimate:
    count = len(sums)
    if not count:
        raise invalid("There are no pairs.", fix="Ask both models the same prompts.")
    value = float(sums.sum() / sizes.sum())
    if count < MIN_PROMPTS:
        return Estimate(value, None, None, None, None, count, pairs)
    typical = _typical_values(sums, sizes, seed, _subsets_for(1 - level))
    low, high = _bounds(typical, 1 - level)
    # What each family adds to the mean and to its scatter, as if it were one prompt of a mean.
    weighed = value + (sums - value * sizes) * count / sizes.sum()
    return Estimate(value, low, high, _p_value(typical), detectable(weighed), count, pairs)


def _subsets_for(smallest_p: float) -> int:
    """How many subsets tell a p value of this size."""
    return int(min(max(SUBSETS, 20 / smallest_p), MAX_SUBSETS))


def _typical_values(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], seed: int, wanted: int
) -> NDArray[np.float64]:
    """The means of subsets of prompts (sums through sizes of families), in order.

    Each prompt is in a subset by the toss of a coin; empty ones do not count. Of the n + 1 gaps
    between n such means (and beyond them) each is as likely as the others to hold the true mean,
    if a prompt's distance from it has either sign with the same chance.
    """
    import numpy as np

    count = len(sums)
    if count < 64 and 2**count - 1 <= wanted:
        chosen = np.arange(1, 2**count)[:, np.newaxis] >> np.arange(count) & 1
        return np.sort(_means_of(chosen, sums, sizes))
    draw = np.random.default_rng(seed)
    found: list[NDArray[np.float64]] = []
    while (missing := wanted - sum(map(len, found))) > 0:
        drawn = draw.integers(2, size=(min(missing, max(1, BATCH // count)), count), dtype=np.uint8)
        found.append(_means_of(drawn[drawn.any(axis=1)], sums, sizes))
    return np.sort(np.concatenate(found))


def _means_of(
    chosen: NDArray[np.integer[Any]], sums: NDArray[np.float64], sizes: NDArray[np.float64]
) -> NDArray[np.float64]:
    import numpy as np

    total, size = (np.where(chosen, each, 0.0).sum(axis=1) for each in (sums, sizes))
    # Scores cancel often, and do not speak for either side where only rounding is left of them.
    total[np.abs(total) < _ROUNDING * np.abs(sums).sum()] = 0.0
    return np.asarray(total / size)


def _p_value(typical: NDArray[np.float64]) -> float:
    """Two-sided p of a true mean of zero: how often swapping labels does at least as much.

    A swap of the labels of all prompts outside a subset takes the mean to the other side of zero
    where the subset's own mean is there; the labels as they are count as one swap more.
    """
    import numpy as np

    beyond = min(np.count_nonzero(typical <= 0), np.count_nonzero(typical >= 0))
    return min(1.0, 2 * (float(beyond) + 1) / (len(typical) + 1))


def _bounds(typical: NDArray[np.float64], alpha: float) -> tuple[float | None, float | None]:
    """The true means of which p is not below ``alpha``; None where these are all."""
    import math

    rank = math.ceil(alpha * (len(typical) + 1) / 2 - 1e-9) - 1
    if not rank:
        return None, None
    return float(typical[rank - 1]), float(typical[-rank])


def sign_flip_p(means: Sequence[float], *, smallest: float = 1 - LEVEL, seed: int = 0) -> float:
    """The p value of :func:`estimate` alone: 1 below two prompts.

    Args:
        means: one value a prompt.
        smallest: the p value that matters; so many labels are swapped that it can be told.
        seed: of the labels that are drawn where there are many prompts.
    """
    import numpy as np

    values = np.asarray(means, dtype=float)
    if len(values) < 2:
        return 1.0
    return _p_value(_typical_values(values, np.ones_like(values), seed, _subsets_for(smallest)))


def detectable(means: Sequence[float] | NDArray[np.float64]) -> float:
    """The smallest true mean that so many values show at 5 % in 80 % of all experiments.

    (t(0.975) + t(0.8)) * sd / sqrt(n): Bloom, *Minimum Detectable Effects* (Evaluation Review 19,
    1995).
    """
    import numpy as np

    n = len(means)
    return float(_multiplier(n) * np.std(means, ddof=1) / np.sqrt(n))


def prompts_needed(means: Sequence[float] | NDArray[np.float64], effect: float) -> int:
    """How many prompts of this scatter show a true mean of ``effect``: the inverse of the above.

    Args:
        means: what was measured, one value a prompt.
        effect: not 0.
    """
    import numpy as np

    spread = float(np.std(means, ddof=1))
    n = MIN_PROMPTS
    while n < 1_000_000 and _multiplier(n) * spread / np.sqrt(n) > abs(effect):
        n += max(1, n // 20)
    return n


def _multiplier(n: int) -> float:
    from scipy import stats

    return float(stats.t.ppf((1 + LEVEL) / 2, n - 1) + stats.t.ppf(POWER, n - 1))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P values adjusted for being several, in the order given; None stays None and is not counted.

    Holm, *A Simple Sequentially Rejective Multiple Test Procedure* (Scandinavian Journal of
    Statistics 6, 1979).
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, position) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[position] = highest
    return adjusted


def robust_line(x: Sequence[float], y: Sequence[float], *, seed: int = 0) -> Line | None:
    """A line through points of which some may be far off.

    Theil (1950) and Sen (*Estimates of the Regression Coefficient Based on Kendall's Tau*, JASA 63,
    1968): the median of the slopes of all pairs, through the median of what is left, by
    ``scipy.stats.theilslopes``. Of more than
    :data:`MAX_FIT_POINTS` points a random part is taken.

    Returns:
        The line; None below :data:`MIN_PROMPTS` points or if all x are the same.
    """
    import numpy as np
    from scipy import stats

    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(xs) > MAX_FIT_POINTS:
        chosen = np.random.default_rng(seed).choice(len(xs), MAX_FIT_POINTS, replace=False)
        xs, ys = xs[chosen], ys[chosen]
    if len(xs) < MIN_PROMPTS or np.ptp(xs) == 0:
        return None
    found = stats.theilslopes(ys, xs, alpha=LEVEL, method="joint")
    return Line(
        float(found.intercept),
        float(found.slope),
        float(found.low_slope),
        float(found.high_slope),
        len(xs),
    )
