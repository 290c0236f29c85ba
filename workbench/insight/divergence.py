"""Where two answers part, and what that says: a coin toss, rounding, or another model. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, Literal, Self

from workbench.insight.probabilities import Step, divergence_nats, entropy_bits, perplexity

Verdict = Literal["same", "coin_toss", "rounding", "different", "unknown"]
SAYS: Final[Mapping[Verdict, str]] = {
    "same": "Both say the same, token by token.",
    "coin_toss": "They part where two tokens are almost equally likely to both: either model "
    "would have said the other's token with little less ease. Rounding decided, not the weights.",
    "rounding": "The models agree on most tokens but each is sure of its own at the parting: the "
    "weights are rounded differently.",
    "different": "The second model finds the first one's text unlikely throughout: another model, "
    "damaged weights, or a prompt that changes everything. The parity sheet says which.",
    "unknown": "Too few probabilities are known to say why.",
}

_TOSS_NATS: Final = math.log(2)
"""A choice at odds of at most two to one is a coin toss."""
_DIFFERENT_NATS: Final = 0.2
"""Mean divergence from which on two models are not one model rounded. Measured with
``benchmarks/divergence_calibration.py`` (benchmarks/RESULTS.md) on answers of the demo model: its
own forms are at most 0.05 away (bfloat16 0.001, int8 0.013, int4 0.042), another system prompt adds
0.03 at most, as a small model hardly heeds it, and weights with a tenth of noise are 0.26 to 0.58
away. Two good models of other training were not to be had; prompts the parity sheet compares."""
_ENOUGH: Final = 16
"""Tokens from which on a mean divergence says something: a single surprise does not carry it."""
_SAME_SHARE: Final = 0.79
"""Least share of equal likeliest tokens in an answer read by a rounded form; with a tenth of noise
it was 0.75 at most. The share tells where the divergence, a lower bound, says little: of what is
unlike altogether, too few tokens are among both models' likeliest."""
_RARELY: Final = 0.01
"""So rarely may a rounded form be called different because of its share (binomial)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One model's answer, token by token, and its repeats.

    Attributes:
        model: model id.
        steps: tokens with what the model thought.
        repeats: texts of further answers to the same request.
    """

    model: str
    steps: tuple[Step, ...]
    repeats: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(step.text for step in self.steps)

    @property
    def same_repeats(self) -> int:
        """How many of the repeats say the same as the answer."""
        return sum(text == self.text for text in self.repeats)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        steps = [step.to_dict() for step in self.steps]
        return {"model": self.model, "steps": steps, "repeats": list(self.repeats)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        steps = tuple(Step.from_dict(step) for step in values["steps"])
        return cls(values["model"], steps, tuple(values["repeats"]))


@dataclass(frozen=True, slots=True)
class Divergence:
    """Two answers to one request, and the first one's text as the second model sees it.

    Attributes:
        a, b: the answers.
        forced: ``a``'s tokens through ``b``; empty if it could not be scored.
    """

    a: Answer
    b: Answer
    forced: tuple[Step, ...] = ()

    @property
    def parting(self) -> tuple[int, int] | None:
        """Indices of the first tokens that differ in either answer; None if the texts are equal.

        An index may be one past the last token: that answer ended there.
        """
        left, right = self.a.text, self.b.text
        if left == right:
            return None
        shorter = min(len(left), len(right))
        at = next((i for i in range(shorter) if left[i] != right[i]), shorter)
        return _index(self.a.steps, at), _index(self.b.steps, at)

    @property
    def aligned(self) -> bool:
        """Whether both tokens at the parting begin at the same character.

        Only then do the two distributions there answer the same question.
        """
        parting = self.parting
        if parting is None:
            return True
        starts = [
            sum(len(step.text) for step in answer.steps[:index])
            for answer, index in zip((self.a, self.b), parting, strict=True)
        ]
        return starts[0] == starts[1]

    @property
    def shared_text(self) -> str:
        """What both say before they part."""
        parting = self.parting
        steps = self.a.steps if parting is None else self.a.steps[: parting[0]]
        return "".join(step.text for step in steps)

    @property
    def agreement(self) -> float | None:
        """Share of the forced tokens at which both find the same token likeliest."""
        same = self._same_likeliest()
        return sum(same) / len(same) if same else None

    @property
    def mean_divergence_nats(self) -> float | None:
        """Mean divergence of ``b`` from ``a`` over the forced tokens, at least this much."""
        found = self._divergences_nats()
        return math.fsum(found) / len(found) if found else None

    @property
    def perplexities(self) -> tuple[float | None, float | None]:
        """Of ``a``'s text through ``a`` and through ``b``; the second at least this much."""
        return perplexity(self.a.steps)[0], perplexity(self.forced)[0]

    @property
    def verdict(self) -> Verdict:
        """What the parting says."""
        parting = self.parting
        if parting is None:
            return "same"
        if self._are_apart():
            return "different"
        odds = self.odds_nats
        if odds is None:
            return "unknown" if self.agreement is None else "rounding"
        return "coin_toss" if max(odds) <= _TOSS_NATS else "rounding"

    def _are_apart(self) -> bool:
        from scipy.stats import binom

        nats, same = self._divergences_nats(), self._same_likeliest()
        if len(nats) >= _ENOUGH and math.fsum(nats) / len(nats) >= _DIFFERENT_NATS:
            return True
        return bool(same) and float(binom.cdf(sum(same), len(same), _SAME_SHARE)) < _RARELY

    def _same_likeliest(self) -> list[bool]:
        return [
            own.likeliest == other.likeliest for own, other in self._pairs if own.top and other.top
        ]

    def _divergences_nats(self) -> list[float]:
        found = (divergence_nats(own.top, other.top) for own, other in self._pairs)
        return [value for value in found if value is not None]

    @property
    def odds_nats(self) -> tuple[float, float] | None:
        """By how much each model prefers its own token to the other's where they part.

        Differences of logprobs. None if an answer ended there, or a token is not among the known
        ones.
        """
        parting = self.parting
        if parting is None or not self.aligned:
            return None
        if parting[0] >= len(self.a.steps) or parting[1] >= len(self.b.steps):
            return None
        one, other = self.a.steps[parting[0]], self.b.steps[parting[1]]
        values = one.of(one.text), one.of(other.text), other.of(other.text), other.of(one.text)
        if any(value is None for value in values):
            return None
        own_a, its_a, own_b, its_b = (value or 0.0 for value in values)
        return own_a - its_a, own_b - its_b

    @property
    def says(self) -> str:
        """The verdict in a sentence."""
        return SAYS[self.verdict]

    @property
    def entropies_bits(self) -> tuple[float, float] | None:
        """Of both distributions where they part, at least this much."""
        parting = self.parting
        if parting is None or not self.aligned:
            return None
        if parting[0] >= len(self.a.steps) or parting[1] >= len(self.b.steps):
            return None
        one, other = self.a.steps[parting[0]], self.b.steps[parting[1]]
        if not (one.top and other.top):
            return None
        return entropy_bits(one.top), entropy_bits(other.top)

    @property
    def _pairs(self) -> Sequence[tuple[Step, Step]]:
        """Tokens of ``a`` and the same places in ``b``, as far as they begin at the same places."""
        starts = dict(_starts(self.forced))
        return [
            (step, starts[start])
            for start, step in _starts(self.a.steps)
            if start in starts and step.text
        ]

    def figures(self) -> list[tuple[str, str]]:
        """What was computed, as names and texts; what is unknown is left out."""
        lines: list[tuple[str, str]] = []
        if self.agreement is not None:
            lines.append(("likeliest token the same, over A's text", f"{self.agreement:.0%}"))
        if self.mean_divergence_nats is not None:
            lines.append(
                ("mean divergence of B from A (nats, at least)", f"{self.mean_divergence_nats:.3f}")
            )
        own, other = self.perplexities
        if own is not None and other is not None:
            lines.append(("perplexity of A's text", f"{own:.2f} in A, {other:.2f} in B"))
        for name, pair in (
            ("preference for the own token (nats)", self.odds_nats),
            ("entropy where they part (bits, at least)", self.entropies_bits),
        ):
            if pair is not None:
                lines.append((name, f"{pair[0]:.2f} in A, {pair[1]:.2f} in B"))
        return lines

    def _repr_html_(self) -> str:
        from workbench.insight import markup

        return markup.divergence(self)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; what follows from them is told besides."""
        return {
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
            "forced": [step.to_dict() for step in self.forced],
            "verdict": self.verdict,
            "says": self.says,
            "parting": list(self.parting) if self.parting else None,
            "shared_text": self.shared_text,
            "odds_nats": list(self.odds_nats) if self.odds_nats else None,
            "entropies_bits": list(self.entropies_bits) if self.entropies_bits else None,
            "agreement": self.agreement,
            "mean_divergence_nats": self.mean_divergence_nats,
            "perplexities": list(self.perplexities),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        return cls(
            Answer.from_dict(values["a"]),
            Answer.from_dict(values["b"]),
            tuple(Step.from_dict(step) for step in values["forced"]),
        )


def _index(steps: Sequence[Step], character: int) -> int:
    """The token that holds a character of the text; one past the last at its end."""
    ends = accumulate(len(step.text) for step in steps)
    return next((i for i, end in enumerate(ends) if end > character), len(steps))


def _starts(steps: Sequence[Step]) -> list[tuple[int, Step]]:
    """Tokens with the character at which each begins."""
    starts = accumulate((len(step.text) for step in steps), initial=0)
    return list(zip(starts, steps, strict=False))
