"""Which of several choices an answer takes: by its first token's probabilities, or its text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from workbench.bench.items import Item
from workbench.bench.scorers.base import Answer, Score, lacks, unknown, verdict
from workbench.bench.scorers.text import folded, shown
from workbench.errors import invalid

ALTERNATIVES: Final = 20
"""The most that runtimes tell about one token."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Right if the likeliest of the item's ``choices`` is ``expected``.

    The probability of a choice is the sum over the alternatives of the first token that begin it
    and no other choice (``A``, `` A``). Where the runtime gave no probabilities, or none of the
    choices is among them, the choice that the text begins with, or the only one that it names,
    counts; ``details.method`` says which way it was.

    Attributes:
        needs_logprobs: an answer without probabilities has no score, instead of one from its text.
    """

    needs_logprobs: bool = False
    name: str = "choice"
    logprobs: int = ALTERNATIVES

    async def score(self, item: Item, answer: Answer) -> Score:
        """By the first token if its alternatives are known."""
        return self.of(item, answer)

    def of(self, item: Item, answer: Answer) -> Score:
        """The same, as a function."""
        if len(item.choices) < 2 or item.expected is None:
            raise lacks(item, self.name, "choices and expected")
        if item.expected not in item.choices:
            raise invalid(
                f"Item {item.id!r} expects {item.expected!r}, which is not among its choices.",
                fix=f"Expect one of {', '.join(item.choices)}.",
            )
        masses = probabilities(item.choices, answer.logprobs)
        if masses:
            best = max(masses, key=lambda choice: masses[choice])
            total = sum(masses.values())
            return verdict(
                best == item.expected,
                f"{best!r} is likelier than {item.expected!r}",
                method="logprob",
                chosen=best,
                probability=masses.get(item.expected, 0.0) / total,
                covered=total,
            )
        if self.needs_logprobs:
            return unknown("the runtime gave no probabilities of these choices")
        named = named_choice(item.choices, answer.text)
        reason = f"{named!r}" if named else f"no choice in {shown(answer.text)!r}"
        return verdict(named == item.expected, reason, method="text", chosen=named)


def probabilities(
    choices: Sequence[str], logprobs: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """What the first token's alternatives say of each choice; empty if nothing."""
    if not logprobs:
        return {}
    first = logprobs[0]
    told = {}
    for entry in (first, *(first.get("top_logprobs") or ())):
        if isinstance(entry.get("token"), str) and isinstance(entry.get("logprob"), (int, float)):
            told[entry["token"]] = math.exp(min(entry["logprob"], 0.0))
    masses: dict[str, float] = {}
    for token, mass in told.items():
        begun = [c for c in choices if token.strip() and c.startswith(token.strip())]
        same = [c for c in begun if c == token.strip()]
        if len(chosen := same or begun) == 1:
            masses[chosen[0]] = masses.get(chosen[0], 0.0) + mass
    return masses


def named_choice(choices: Sequence[str], text: str) -> str | None:
    """The choice that a text begins with, or else the only one that it names."""

    def at(choice: str, where: str) -> bool:
        return re.search(rf"{where}{re.escape(folded(choice))}(?!\w)", flat) is not None

    flat = folded(text)
    first = [choice for choice in choices if at(choice, "^")]
    if first:
        return max(first, key=len)
    anywhere = [choice for choice in choices if at(choice, r"(?<!\w)")]
    return anywhere[0] if len(anywhere) == 1 else None
