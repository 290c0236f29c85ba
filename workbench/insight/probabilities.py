"""Next-token distributions of which only the likeliest tokens are known. Pure; in nats and bits.

Runtimes tell the probabilities of the 20 likeliest tokens at most. What is computed from them is a
bound, and says so: the unknown tokens together are taken as one, and joining outcomes can only
lower an entropy or a divergence (Cover and Thomas 2006, sections 2.5 and 2.8).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

Top = tuple[tuple[str, float], ...]
"""Texts and natural logarithms of probabilities, the likeliest first."""


@dataclass(frozen=True, slots=True)
class Step:
    """One token of an answer and what the model thought at its place.

    Attributes:
        text: of the token.
        logprob: natural logarithm of its probability; None if it was not among ``top``.
        top: the likeliest tokens there.
    """

    text: str
    logprob: float | None
    top: Top

    @property
    def at_most(self) -> float | None:
        """``logprob``, or the least of ``top``, below which it is; None if nothing is known."""
        if self.logprob is not None:
            return self.logprob
        return self.top[-1][1] if self.top else None

    def of(self, text: str) -> float | None:
        """The logprob of another token at this place, if it is among the known ones."""
        return next((value for one, value in self.top if one == text), None)

    @property
    def likeliest(self) -> str | None:
        """The token that greedy decoding would take."""
        return self.top[0][0] if self.top else None

    @classmethod
    def from_entry(cls, text: str, entry: Mapping[str, Any]) -> Self:
        """From a ``logprobs`` entry of a token event."""
        top = entry.get("top_logprobs") or ()
        return cls(
            text,
            entry.get("logprob"),
            tuple((str(one["token"]), float(one["logprob"])) for one in top),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {"text": self.text, "logprob": self.logprob, "top": [list(one) for one in self.top]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        top = tuple((text, value) for text, value in values["top"])
        return cls(values["text"], values["logprob"], top)


def entropy_bits(top: Top) -> float:
    """Entropy of a next-token distribution, in bits; at least this much (Shannon 1948)."""
    known = [math.exp(value) for _, value in top]
    parts = [*known, max(1 - math.fsum(known), 0.0)]
    return -math.fsum(p * math.log2(p) for p in parts if p > 0)


def divergence_nats(p: Top, q: Top) -> float | None:
    """Kullback-Leibler divergence of ``q`` from ``p`` in nats, at least this much.

    Over the tokens that both name, and one more that stands for all others (Kullback and Leibler
    1951). None if they name no token in common.
    """
    right = dict(q)
    common = [(value, right[text]) for text, value in p if text in right]
    if not common:
        return None
    rest_p = max(1 - math.fsum(math.exp(value) for value, _ in common), 0.0)
    rest_q = max(1 - math.fsum(math.exp(value) for _, value in common), 1e-9)
    total = math.fsum(math.exp(value) * (value - other) for value, other in common)
    if rest_p > 0:
        total += rest_p * math.log(rest_p / rest_q)
    return max(total, 0.0)


def perplexity(steps: Sequence[Step]) -> tuple[float | None, bool]:
    """Of a text, and whether it is only a lower bound because some tokens are merely bounded.

    The exponential of the mean negative logprob (Jelinek et al. 1977).
    """
    values = [step.at_most for step in steps]
    known = [value for value in values if value is not None]
    if not known:
        return None, True
    bounded = len(known) < len(values) or any(step.logprob is None for step in steps)
    return math.exp(-math.fsum(known) / len(known)), bounded
