"""How strong models are, from votes over pairs of their answers: Bradley and Terry's model.

The chance that model i is preferred to model j is ``1 / (1 + exp(s_j - s_i))`` (Bradley and Terry,
*Rank Analysis of Incomplete Block Designs*, Biometrika 39, 1952); a tie is half a vote for each.
The strengths maximise the likelihood with Firth's penalty (*Bias Reduction of Maximum Likelihood
Estimates*, Biometrika 80, 1993), half the logarithm of the determinant of the information: they
are finite also for a model that won or lost every vote, and less biased where votes are few. For
two models it adds half a vote to each side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from workbench.analysis.statistics import LEVEL, POWER

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]
    Matrix = NDArray[np.float64]

MAX_VOTES_NEEDED: Final = 100_000
"""Two models that so many votes would not separate are as good as equal."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """A vote: models by their place in a list, ``share`` 1 for the first, 0 for the second.

    A tie is 0.5. Votes over one prompt have the same ``prompt``: they are not independent.
    """

    first: int
    second: int
    share: float
    prompt: str


@dataclass(frozen=True, eq=False)
class Strengths:
    """Strengths in log-odds, their sum 0, and what is needed for intervals.

    Args:
        values: one a model.
        model_based: covariance if all votes were independent, of shape (models, models).
        robust: covariance with the votes of a prompt taken together, of the same shape.
    """

    values: Vector
    model_based: Matrix
    robust: Matrix

    def variance(self, contrast: Vector) -> float:
        """Of a weighted sum of strengths, the larger of both.

        The robust one is too small where prompts are few, most of all if they all went one way; the
        model-based one takes what was said again of one prompt for new.
        """
        return max(float(contrast @ part @ contrast) for part in (self.model_based, self.robust))

    def interval(self, model: int) -> tuple[float, float]:
        """The 95 % interval of a model's strength against the mean of all."""
        half = _z((1 + LEVEL) / 2) * math.sqrt(self.variance(self._against_mean(model)))
        return float(self.values[model]) - half, float(self.values[model]) + half

    def p(self, first: int, second: int) -> float:
        """Two-sided, of no difference between two models (Wald's test)."""
        from scipy import stats

        contrast = self._between(first, second)
        return float(
            2 * stats.norm.sf(abs(contrast @ self.values) / math.sqrt(self.variance(contrast)))
        )

    def votes_needed(self, first: int, second: int) -> int | None:
        """How many more votes over these two show their difference, if it is as it seems.

        At 5 % in 80 % of all cases. A vote adds ``p (1 - p)`` to the precision of the difference
        (the information of a binary trial), less by as much as votes of one prompt repeat each
        other.

        Returns:
            0 if it is shown already; None for more than :data:`MAX_VOTES_NEEDED`.
        """
        if self.p(first, second) < 1 - LEVEL:
            return 0
        contrast = self._between(first, second)
        difference, variance = float(contrast @ self.values), self.variance(contrast)
        wanted = ((_z((1 + LEVEL) / 2) + _z(POWER)) / difference) ** 2 if difference else math.inf
        chance = 1 / (1 + math.exp(-difference))
        repeating = variance / float(contrast @ self.model_based @ contrast)
        needed = (wanted - 1 / variance) * repeating / (chance * (1 - chance))
        return None if needed > MAX_VOTES_NEEDED else max(1, math.ceil(needed))

    def _between(self, first: int, second: int) -> Vector:
        contrast: Vector = self._identity[first] - self._identity[second]
        return contrast

    def _against_mean(self, model: int) -> Vector:
        contrast: Vector = self._identity[model] - 1 / len(self.values)
        return contrast

    @cached_property
    def _identity(self) -> Matrix:
        import numpy as np

        return np.eye(len(self.values))


def connected(ballots: Sequence[Ballot], models: int) -> list[list[int]]:
    """The models in groups between which there is no vote: nothing can be said across them.

    Returns:
        The groups, the largest first, each with the places of its models.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    firsts, seconds = [one.first for one in ballots], [one.second for one in ballots]
    met = coo_array(([1] * len(ballots), (firsts, seconds)), shape=(models, models))
    count, labels = connected_components(met, directed=False)
    groups = [[i for i in range(models) if labels[i] == group] for group in range(count)]
    return sorted(groups, key=len, reverse=True)


def fit(ballots: Sequence[Ballot], models: int) -> Strengths:
    """Strengths of models that are all connected by votes.

    Args:
        ballots: the votes.
        models: how many models there are, two or more.
    """
    import numpy as np
    from scipy.optimize import minimize
    from scipy.special import expit, log_expit

    wins = np.zeros((models, models))
    for one in ballots:
        wins[one.first, one.second] += one.share
        wins[one.second, one.first] += 1 - one.share
    votes = wins + wins.T
    mean = np.full((models, models), 1 / models)  # makes the information of full rank

    def information(values: Vector) -> Matrix:
        chance = expit(values[:, None] - values)
        weights = votes * chance * (1 - chance)
        found: Matrix = np.diag(weights.sum(axis=1)) - weights
        return found

    def loss(values: Vector) -> tuple[float, Vector]:
        """The penalised likelihood with its gradient; each vote's leverage acts as a tie."""
        margins = values[:, None] - values
        inside = information(values) + mean
        inverse = np.linalg.inv(inside) - mean
        chance = expit(margins)
        spread = np.diag(inverse)[:, None] + np.diag(inverse) - 2 * inverse
        leverage = votes * chance * (1 - chance) * spread
        gained = wins + leverage / 2 - (votes + leverage) * chance
        likelihood = float((wins * log_expit(margins)).sum() + np.linalg.slogdet(inside)[1] / 2)
        return -likelihood, -gained.sum(axis=1)

    values = minimize(loss, np.zeros(models), jac=True, method="BFGS").x
    values = values - values.mean()
    model_based = np.linalg.inv(information(values) + mean) - mean
    return Strengths(values, model_based, _robust(ballots, values, model_based))


def _robust(ballots: Sequence[Ballot], values: Vector, model_based: Matrix) -> Matrix:
    """The sandwich of the prompts' scores.

    Liang and Zeger, *Longitudinal Data Analysis Using Generalized Linear Models* (Biometrika 73,
    1986), by the factor G / (G - 1) wider for G prompts.
    """
    import numpy as np

    places = {prompt: i for i, prompt in enumerate(dict.fromkeys(one.prompt for one in ballots))}
    count = len(places)
    if count < 2:
        return np.zeros_like(model_based)
    scores = np.zeros((count, len(values)))
    for one in ballots:
        surprise = one.share - 1 / (1 + math.exp(values[one.second] - values[one.first]))
        scores[places[one.prompt], one.first] += surprise
        scores[places[one.prompt], one.second] -= surprise
    found: Matrix = model_based @ (scores.T @ scores) @ model_based * count / (count - 1)
    return found


def _z(share: float) -> float:
    from scipy import stats

    return float(stats.norm.ppf(share))
