"""Comparisons with intervals: paired by prompt and repeat, clustered by prompt.

Answers to one prompt resemble each other, so it is prompts that are drawn from a population and
prompts that are resampled: what is measured of a prompt is first averaged over its repeats, whose
scatter thereby stays in the spread of the averages. Resampling whole clusters is the first
strategy of Davison and Hinkley, *Bootstrap Methods and their Application* (1997), section 3.8.
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
"""With five pairs even the most lopsided outcome has p = 2/32 in a sign test: nothing to say."""

RESAMPLES: Final = 1_999
MAX_RESAMPLES: Final = 199_999
BATCH: Final = 2_000_000
"""Values drawn at once: some 16 MB."""
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
        seed: of the resampling.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, there is nothing to compare.
    """
    import numpy as np

    return _estimate(np.asarray(means, dtype=float), pairs, seed, level)


def clustered(
    families: Mapping[Hashable, Sequence[float]], pairs: int, *, seed: int = 0
) -> Estimate:
    """The mean over prompts of which some share a source: families are what is resampled.

    Every prompt counts the same, so large families weigh more; the mean of a resample is the sum
    over its families through the number of their prompts. The scatter is that of the family sums
    (Miller, *Adding Error Bars to Evals*, arXiv 2411.00640, 2024, section 2.2), by the factor
    C / (C - 1) wider for C families.

    Args:
        families: by family, one value a prompt: the mean of its repeats' differences.
        pairs: how many pairs they come from.
        seed: of the resampling.
    """
    import numpy as np

    sums = np.array([sum(values) for values in families.values()], dtype=float)
    sizes = np.array([len(values) for values in families.values()], dtype=float)
    if not len(sums):
        raise invalid("There are no pairs.", fix="Ask both models the same prompts.")
    if np.ptp(sizes) == 0:
        return _estimate(sums / sizes, pairs, seed, LEVEL)
    value = float(sums.sum() / sizes.sum())
    count = len(sums)
    if count < MIN_PROMPTS:
        return Estimate(value, None, None, None, None, count, pairs)
    # What each family adds to the mean and to its scatter, as if it were one prompt of a mean.
    weighed = value + (sums - value * sizes) * count / sizes.sum()
    if np.ptp(weighed) == 0:
        return _estimate(weighed, pairs, seed, LEVEL)
    low, high = _interval((sums, sizes), seed, LEVEL)
    return Estimate(
        value,
        low,
        high,
        _sign_flip_p(sums, seed),
        float(_multiplier(count) * np.std(weighed, ddof=1) / np.sqrt(count)),
        count,
        pairs,
    )


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
        seed: of the resampling.
    """
    import numpy as np

    means = np.array([np.mean([b - a for a, b in repeats]) for repeats in pairs.values()])
    return _estimate(means, sum(map(len, pairs.values())), seed)


def ratio(pairs: Mapping[Hashable, Sequence[tuple[float, float]]], *, seed: int = 0) -> Estimate:
    """The geometric mean of b / a, every prompt counting the same.

    Args:
        pairs: by prompt, the (a, b) of each repeat; all above 0.
        seed: of the resampling.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, a value is not above 0.
    """
    import numpy as np

    if any(a <= 0 or b <= 0 for repeats in pairs.values() for a, b in repeats):
        raise invalid("A ratio needs values above 0.", fix="Ask for the difference.")
    means = np.array([np.mean([np.log(b / a) for a, b in repeats]) for repeats in pairs.values()])
    return exponential(_estimate(means, sum(map(len, pairs.values())), seed))


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


def _estimate(means: NDArray[np.float64], pairs: int, seed: int, level: float = LEVEL) -> Estimate:
    import numpy as np

    if not len(means):
        raise invalid("There are no pairs.", fix="Ask both models the same prompts.")
    value = float(means.mean())
    if len(means) < MIN_PROMPTS:
        return Estimate(value, None, None, None, None, len(means), pairs)
    if np.ptp(means) == 0:  # nothing to resample; a bootstrap would only warn
        p = 1.0 if value == 0 else 2.0 ** (1 - len(means))
        return Estimate(value, value, value, p, 0.0, len(means), pairs)
    low, high = _interval((means,), seed, level)
    return Estimate(
        value, low, high, _sign_flip_p(means, seed), detectable(means), len(means), pairs
    )


def _interval(
    data: tuple[NDArray[np.float64], ...], seed: int, level: float
) -> tuple[float, float]:
    """The bootstrap interval of a mean, as wide as few values call for.

    The mean is that of the first array, or where there is a second one that of its sums through
    that one's sizes.

    The plain percentile interval of n values is too narrow, by the factor sqrt((n - 1) / n) and by
    taking the normal for Student's t; the level is raised to make up for both: the expanded
    percentile interval of Hesterberg, *What Teachers Should Know About the Bootstrap* (The American
    Statistician 69, 2015), section 5.3.
    """
    import numpy as np
    from scipy import stats

    def of_families(sums: NDArray[np.float64], sizes: NDArray[np.float64], axis: int) -> Any:
        return np.sum(sums, axis=axis) / np.sum(sizes, axis=axis)

    n = len(data[0])
    tail = stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf((1 + level) / 2, n - 1))
    found = stats.bootstrap(
        data,
        np.mean if len(data) == 1 else of_families,
        paired=len(data) > 1,
        n_resamples=RESAMPLES,
        confidence_level=1 - 2 * float(tail),
        method="percentile",
        batch=max(1, BATCH // n),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def sign_flip_p(means: Sequence[float], *, smallest: float = 0.05, seed: int = 0) -> float:
    """The p value of :func:`estimate` alone: 1 below two prompts.

    Args:
        means: one value a prompt.
        smallest: the p value that matters; so many labels are drawn that it can be told.
        seed: of the labels that are drawn where there are many prompts.
    """
    import numpy as np

    values = np.asarray(means, dtype=float)
    if len(values) < 2 or not np.any(values):
        return 1.0
    wanted = int(min(20 / smallest, MAX_RESAMPLES))
    return _sign_flip_p(values, seed, max(RESAMPLES, wanted))


def _sign_flip_p(means: NDArray[np.float64], seed: int, resamples: int | None = None) -> float:
    """Two-sided p of a mean of zero: how often swapping the labels does as much.

    Fisher's randomisation test for pairs (*The Design of Experiments*, 1935, section 21): exact if
    both models are the same; enumerated where there are few prompts, else drawn.
    """
    import numpy as np
    from scipy import stats

    found = stats.permutation_test(
        (means,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples or RESAMPLES,
        batch=max(1, BATCH // len(means)),
        rng=np.random.default_rng(seed),
    )
    return min(float(found.pvalue), 1.0)


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
