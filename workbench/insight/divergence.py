"""Where two answers part, and what that says: a coin toss, rounding, or another model. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from workbench.insight.alignment import Stretch, stretches
from workbench.insight.probabilities import Step, divergence_nats, entropy_bits, perplexity
from workbench.insight.spelling import places

Verdict = Literal["same", "coin_toss", "rounding", "drawn", "different", "unknown"]
SAYS: Final[Mapping[Verdict, str]] = {
    "same": "Both say the same, token by token.",
    "coin_toss": "They part where two tokens are almost equally likely to both models: a near tie, "
    "which any change of rounding may tip. It says nothing against either model's weights.",
    "rounding": "The models agree on most tokens but each is sure of its own at the parting: the "
    "weights are rounded differently.",
    "drawn": "The answers were drawn: each token is a throw of dice, so where they part says "
    "nothing of the weights. The figures are those of the first one's text, read by both; ask at "
    "temperature 0 to see where the models themselves part.",
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
_MOST_LEFT_OUT: Final = 0.5
"""With more of the text left out, agreement on the rest says nothing of the whole."""
_HALF: Final = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Answer:
    """One model's answer, token by token, and its repeats.

    Attributes:
        model: model id.
        steps: tokens with what the model thought.
        repeats: texts of further answers to the same request.
        is_cut: whether ``max_tokens`` ended it.
    """

    model: str
    steps: tuple[Step, ...]
    repeats: tuple[str, ...] = ()
    is_cut: bool = False

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
        repeats = list(self.repeats)
        return {"model": self.model, "steps": steps, "repeats": repeats, "is_cut": self.is_cut}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        steps = tuple(Step.from_dict(step) for step in values["steps"])
        return cls(values["model"], steps, tuple(values["repeats"]), values.get("is_cut", False))


@dataclass(frozen=True, slots=True)
class Divergence:
    """Two answers to one request, and the first one's text as the second model sees it.

    Attributes:
        a, b: the answers.
        forced: ``a``'s tokens through ``b``; empty if it could not be scored.
        temperature: of both answers; above 0 their tokens are drawn.
        seed: of both answers and all repeats; None if each had its own.
    """

    a: Answer
    b: Answer
    forced: tuple[Step, ...] = ()
    temperature: float = 0.0
    seed: int | None = None

    @property
    def parting(self) -> tuple[int, int] | None:
        """Indices of the first tokens that differ in either answer; None if the texts are equal.

        An index may be one past the last token: that answer ended there.
        """
        ends = [_end(answer) for answer in (self.a, self.b)]
        (left, left_open), (right, right_open) = ends
        if left == right:
            return None
        # What was cut says nothing of what would have come.
        if (left_open and right.startswith(left)) or (right_open and left.startswith(right)):
            return None
        at = next(
            (i for i, (one, two) in enumerate(zip(left, right, strict=False)) if one != two),
            min(len(left), len(right)),
        )
        return _index(self.a.steps, at), _index(self.b.steps, at)

    @property
    def aligned(self) -> bool:
        """Whether both tokens at the parting begin at the same place of the text.

        Only then do the two distributions there answer the same question.
        """
        parting = self.parting
        if parting is None:
            return True
        one, two = (
            [*places(answer.steps), len(answer.text.encode())][index]
            for answer, index in zip((self.a, self.b), parting, strict=True)
        )
        return one is not None and one == two

    @property
    def shared_text(self) -> str:
        """What both say before they part."""
        parting = self.parting
        steps = self.a.steps if parting is None else self.a.steps[: parting[0]]
        return "".join(step.text for step in steps)

    @property
    def left_out(self) -> int:
        """Tokens of ``a`` that no figure counts: one runtime does not tell which they are."""
        return len(self.a.steps) - sum(len(one.a) for one in self._read) if self.forced else 0

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
        if not self.forced:
            return perplexity([step for step in self.a.steps if step.is_known])[0], None
        own = [step for one in self._read for step in one.a]
        other = [step for one in self._read for step in one.b]
        return perplexity(own)[0], perplexity(other)[0]

    @property
    def verdict(self) -> Verdict:
        """What the parting says."""
        parting = self.parting
        if parting is None:
            return "same"
        if self._are_apart():
            return "different"
        if self.is_drawn:
            return "drawn"
        odds = self.odds_nats
        if odds is not None and max(odds) <= _TOSS_NATS:
            return "coin_toss"
        too_little = self.left_out > _MOST_LEFT_OUT * len(self.a.steps)
        if too_little or (odds is None and self.agreement is None):
            return "unknown"
        return "rounding"

    @property
    def is_drawn(self) -> bool:
        """Whether the answers are dice: at a temperature above 0."""
        return self.temperature > 0

    def _are_apart(self) -> bool:
        from scipy.stats import binom

        nats, same = self._divergences_nats(), self._same_likeliest()
        if len(nats) >= _ENOUGH and math.fsum(nats) / len(nats) >= _DIFFERENT_NATS:
            return True
        return bool(same) and float(binom.cdf(sum(same), len(same), _SAME_SHARE)) < _RARELY

    def _same_likeliest(self) -> list[bool]:
        return [
            own.likeliest == other.likeliest for own, other in self._heads if own.top and other.top
        ]

    def _divergences_nats(self) -> list[float]:
        found = (divergence_nats(own.top, other.top) for own, other in self._heads)
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
        values = one.of(one.name), one.of(other.name), other.of(other.name), other.of(one.name)
        if any(value is None for value in values):
            return None
        own_a, its_a, own_b, its_b = (value or 0.0 for value in values)
        return own_a - its_a, own_b - its_b

    @property
    def says(self) -> str:
        """The verdict in a sentence."""
        verdict = self.verdict
        if not self.is_drawn or verdict == "drawn":
            return SAYS[verdict]
        return f"{SAYS[verdict]} The answers were drawn, at temperature {self.temperature:g}."

    def steady(self, answer: Answer) -> str:
        """How many of an answer's repeats say the same, in words; empty without any."""
        if not answer.repeats:
            return ""
        said = f"the same in {answer.same_repeats} of {len(answer.repeats)} repeats"
        if not self.is_drawn:
            return said
        seed = (
            f"all with the seed {self.seed}" if self.seed is not None else "each with its own seed"
        )
        return f"{said}, {seed}"

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
    def _read(self) -> Sequence[Stretch]:
        """Stretches of ``a``'s text of which both tell all that is compared."""
        return [one for one in stretches(self.a.steps, self.forced) if one.is_known]

    @property
    def _heads(self) -> Sequence[tuple[Step, Step]]:
        return [one.heads for one in self._read]

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
        if self.left_out:
            lines.append(
                (
                    "left out of these: tokens that a runtime does not tell apart",
                    f"{self.left_out} of {len(self.a.steps)}",
                )
            )
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
            "temperature": self.temperature,
            "seed": self.seed,
            "verdict": self.verdict,
            "says": self.says,
            "parting": list(self.parting) if self.parting else None,
            "shared_text": self.shared_text,
            "odds_nats": list(self.odds_nats) if self.odds_nats else None,
            "entropies_bits": list(self.entropies_bits) if self.entropies_bits else None,
            "left_out": self.left_out,
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
            values.get("temperature", 0.0),
            values.get("seed"),
        )


def _end(answer: Answer) -> tuple[bytes, bool]:
    """An answer as far as its characters are whole, and whether more of it may have come."""
    text = answer.text.rstrip(_HALF)
    in_half = len(text) < len(answer.text) or bool(answer.steps and not answer.steps[-1].text)
    return text.encode(), answer.is_cut or in_half


def _index(steps: Sequence[Step], byte: int) -> int:
    """The token that holds a byte of the text, or the last known before; at its end one more."""
    if byte >= sum(len(step.text.encode()) for step in steps):
        return len(steps)
    known = [(place, i) for i, place in enumerate(places(steps)) if place is not None]
    return max(((place, i) for place, i in known if place <= byte), default=(0, 0))[1]
