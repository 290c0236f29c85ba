"""Next-token distributions of which only the likeliest tokens are known. Pure; in nats and bits.

Runtimes tell the probabilities of the 20 likeliest tokens at most. What is computed from them is a
bound, and says so: the unknown tokens together are taken as one, and joining outcomes can only
lower an entropy or a divergence (Cover and Thomas 2006, sections 2.5 and 2.8).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from workbench.insight.spelling import bytes_of, is_part, is_told, name_of, own_name

Top = tuple[tuple[str, float], ...]
"""Names of tokens and natural logarithms of probabilities, the likeliest first."""
NOT_TOLD: Final = "(parts of characters)"
"""Stands for the tokens that the runtime does not tell apart."""


@dataclass(frozen=True, slots=True)
class Step:
    """One token of an answer and what the model thought at its place.

    Attributes:
        text: what the token added to the answer; empty before the last token of a character.
        logprob: natural logarithm of its probability; None if it was not among ``top``.
        top: the likeliest tokens there.
        token: its name (:func:`spelling.name_of`); None if that is ``text``.
    """

    text: str
    logprob: float | None
    top: Top
    token: str | None = None

    @property
    def name(self) -> str:
        """What the token is called in ``top``."""
        return self.text if self.token is None else self.token

    @property
    def spelt(self) -> bytes | None:
        """Its bytes; None if the runtime does not tell them."""
        return bytes_of(self.name)

    @property
    def is_part(self) -> bool:
        """Whether it is only a part of a character."""
        return is_part(self.name)

    @property
    def is_known(self) -> bool:
        """Whether it can be compared: which token it is, how likely, and which is likeliest."""
        told = is_told(self.name) and self.at_most is not None
        return told and not (self.top and self.likeliest is None)

    @property
    def at_most(self) -> float | None:
        """``logprob``, or the least of ``top``, below which it is; None if nothing is known."""
        if self.logprob is not None:
            return self.logprob
        return self.top[-1][1] if self.top else None

    def of(self, name: str) -> float | None:
        """The logprob of another token at this place, if it is among the known ones."""
        return told_apart(self.top).get(name)

    @property
    def likeliest(self) -> str | None:
        """The token that greedy decoding would take; None if it cannot be told from others."""
        return self.top[0][0] if self.top and self.top[0][0] in told_apart(self.top) else None

    @classmethod
    def from_entry(cls, text: str, entry: Mapping[str, Any]) -> Self:
        """From a ``logprobs`` entry of a token event."""
        top = entry.get("top_logprobs") or ()
        name = own_name(entry)
        return cls(
            text,
            entry.get("logprob"),
            tuple((name_of(one), float(one["logprob"])) for one in top),
            None if name == text else name,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        told = {} if self.token is None else {"token": self.token}
        top = [list(one) for one in self.top]
        return {"text": self.text, "logprob": self.logprob, "top": top, **told}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        top = tuple((text, value) for text, value in values["top"])
        return cls(values["text"], values["logprob"], top, values.get("token"))


def told_apart(top: Top) -> dict[str, float]:
    """Logprobs by name, of the tokens that no other one there is called like."""
    names = [name for name, _ in top]
    return {name: value for name, value in top if is_told(name) and names.count(name) == 1}


def shares(top: Top) -> dict[str, float]:
    """Probabilities by name; those that are not told apart are one, :data:`NOT_TOLD`."""
    found = {name: math.exp(value) for name, value in told_apart(top).items()}
    others = math.fsum(math.exp(value) for name, value in top if name not in found)
    return {**found, NOT_TOLD: others} if others else found


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
    left, right = told_apart(p), told_apart(q)
    common = [(value, right[name]) for name, value in left.items() if name in right]
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
