"""When a run has answered its question: rules that looking again and again does not break.

A run is looked at after every so many repeats. Whoever stops at the first significant difference
finds differences where there are none: with ten looks one comparison in five, not one in twenty.
Two rules do not:

- :func:`decided` tests at every look, at a level of its own. The levels add up to 5 %, so that by
  Bonferroni's inequality all looks together cry wolf in at most 5 % of all runs, however they hang
  together. It needs no assumption but that of the test, which is exact: under no difference the
  labels of a prompt can be swapped (:func:`workbench.analysis.statistics.sign_flip_p`).
- :func:`known` looks at the width of the interval, never at where it lies (Anscombe, *Fixed-Width
  Sequential Confidence Intervals*, PNAS 38, 1952). It answers "how much", where the other one
  answers "whether": a test after it errs slightly more often than its level says, in 6.2 % of
  runs for 5 % (`benchmarks/calibration.py`), because scatter that happens to look small ends a
  run.

Pure functions of what was measured so far; the runner calls them between repeats.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from workbench.analysis.statistics import LEVEL, MIN_PROMPTS, estimate, sign_flip_p
from workbench.errors import invalid

ALPHA: Final = 1 - LEVEL
SURE: Final = 0.8

Answer = Literal["a is higher", "b is higher", "no more than the margin apart"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look said of every question.

    ``answers`` has those that are answered, ``open`` the names of the others, ``level`` is the
    chance of a wrong answer that this look may spend on each question.
    """

    answers: Mapping[Hashable, Answer]
    open: tuple[Hashable, ...]
    level: float

    @property
    def stop(self) -> bool:
        """Whether nothing is left to ask."""
        return not self.open


def looks(first: int, last: int) -> tuple[int, ...]:
    """After how many repeats to look: from ``first`` on, each time twice as many, and at the end.

    Few looks cost little of the level, and a run is at most twice as long as it had to be.

    Args:
        first: repeats before the first look, 1 or more.
        last: all repeats of the run.
    """
    if not first >= 1:
        raise invalid(f"The first look is after {first} repeats.", fix="Look after 1 or more.")
    found = []
    while first < last:
        found.append(first)
        first *= 2
    return (*found, last)


def decided(
    questions: Mapping[Hashable, Sequence[float]],
    *,
    looks: int,
    earlier: Mapping[Hashable, Answer] | None = None,
    margin: float | None = None,
    alpha: float = ALPHA,
) -> Verdict:
    """Which of the questions are answered at this look.

    A question is two models and a figure; it is answered when one is shown to be higher, or, with
    a margin, when they are shown to be no further apart than that.

    Args:
        questions: all of them by name; one value a prompt: the mean over its repeats of ln(b / a).
        looks: how many looks there are in all.
        earlier: what earlier looks answered, which stays answered.
        margin: a ratio's distance from 1 that does not matter, 0.05 for 5 %.
        alpha: chance that any question gets a wrong answer at any look.
    """
    level = _level(len(questions), looks, alpha)
    answers = dict(earlier or {})
    for name, means in questions.items():
        if name in answers:
            continue
        if len(means) < fewest(len(questions), looks, alpha):
            continue
        if sign_flip_p(means, smallest=level) <= level:
            answers[name] = "b is higher" if math.fsum(means) > 0 else "a is higher"
        elif margin is not None and _within(means, 1 - level, math.log1p(margin)):
            answers[name] = "no more than the margin apart"
    return Verdict(answers, tuple(q for q in questions if q not in answers), level)


def fewest(questions: int, looks: int, alpha: float = ALPHA) -> int:
    """Fewest prompts that can show anything about one of so many questions at so many looks.

    Swapped labels of n prompts cannot give a p below 2 / 2**n.
    """
    return max(MIN_PROMPTS, math.ceil(1 - math.log2(_level(questions, looks, alpha))))


def known(questions: Mapping[Hashable, Sequence[float]], within: float) -> tuple[Hashable, ...]:
    """The questions whose ratio is not known to the relative precision ``within`` yet.

    Args:
        questions: by name, one value a prompt: the mean over its repeats of ln(b / a).
        within: half the width of the 95 % interval on the logarithmic scale, as a ratio's
            distance from 1.
    """
    most = math.log1p(within)
    return tuple(
        name
        for name, means in questions.items()
        if len(means) < MIN_PROMPTS or _half_width(means, LEVEL) > most
    )


def _level(questions: int, looks: int, alpha: float) -> float:
    return alpha / looks / max(1, questions)


def _within(means: Sequence[float], level: float, bound: float) -> bool:
    found = estimate(means, len(means), level=level)
    return (
        found.low is not None
        and found.high is not None
        and -bound <= found.low
        and found.high <= bound
    )


def _half_width(means: Sequence[float], level: float) -> float:
    """Half of Student's interval, with the scatter at the upper end of what it may be.

    Whoever looks for a narrow interval finds it where the scatter happens to be underestimated;
    its 80 % upper bound (chi-squared) makes up for most of that.
    """
    import numpy as np
    from scipy import stats

    n = len(means)
    scatter = np.std(means, ddof=1) * np.sqrt((n - 1) / stats.chi2.ppf(1 - SURE, n - 1))
    return float(stats.t.ppf((1 + level) / 2, n - 1) * scatter / np.sqrt(n))
