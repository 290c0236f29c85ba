"""What a scorer is: a question, an answer, and how good the answer is."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from workbench.bench.items import Item
from workbench.errors import WorkbenchError, invalid
from workbench.types import ChatRequest, StreamSession, new_id

Ask = Callable[[ChatRequest], Awaitable[StreamSession]]
"""Puts a request to a model over the engine and gives the finished session, a failed one too."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered, as far as a scorer looks at it.

    ``logprobs`` are those of the first token of content: an entry with ``token``, ``logprob`` and
    ``top_logprobs`` as its event carried it. The log does not keep them, so a scorer that needs
    them runs while the answer is at hand.
    """

    text: str
    logprobs: tuple[Mapping[str, Any], ...] = ()
    model: str = ""
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """How good an answer is.

    ``value`` is between 0 and 1, or None where it could not be told; ``details["reason"]`` says
    why an answer is wrong or could not be scored. Only known values enter any figure.
    """

    value: float | None
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.value is not None and not (math.isfinite(self.value) and 0 <= self.value <= 1):
            raise invalid(f"A score is {self.value}.", fix="Scores are between 0 and 1.")

    @property
    def passed(self) -> bool | None:
        """Whether the answer is entirely right; None if that could not be told."""
        return None if self.value is None else self.value == 1


def verdict(right: bool, reason: str, **details: Any) -> Score:
    """Right or wrong, with the reason if it is wrong."""
    return Score(1.0, details) if right else Score(0.0, {"reason": reason, **details})


def unknown(reason: str, **details: Any) -> Score:
    """A score that could not be told."""
    return Score(None, {"reason": reason, **details})


class Scorer(Protocol):
    """Scores one answer at a time."""

    @property
    def name(self) -> str:
        """Its name in specs, in the log and in reports."""
        ...

    @property
    def logprobs(self) -> int:
        """How many alternatives of the first token it wants to see; 0: none."""
        ...

    async def score(self, item: Item, answer: Answer) -> Score:
        """How good the answer to the item is.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``, the item lacks what this scorer needs.
        """
        ...


@dataclass(frozen=True, slots=True)
class Pure:
    """A scorer that is a function of item and answer."""

    name: str
    of: Callable[[Item, Answer], Score]
    logprobs: int = 0

    async def score(self, item: Item, answer: Answer) -> Score:
        """As the function says, beside the loop: an answer may be long."""
        return await asyncio.to_thread(self.of, item, answer)


def lacks(item: Item, scorer: str, what: str) -> WorkbenchError:
    """The error for an item that cannot be scored this way."""
    return invalid(
        f"Item {item.id!r} has no {what}, which the scorer {scorer!r} needs.",
        fix=f"Give the item {what}, or score this dataset in another way.",
        item=item.id,
        needs=what,
    )


def score_row(
    score: Score,
    scorer: str,
    item: Item,
    *,
    dataset: str,
    session_id: str,
    run_id: str | None,
    cell_id: str | None,
) -> dict[str, Any]:
    """The row of ``scores``."""
    return {
        "score_id": new_id("sco"),
        "created_at": dt.datetime.now(dt.UTC),
        "session_id": session_id,
        "run_id": run_id,
        "cell_id": cell_id,
        "scorer": scorer,
        "task": dataset,
        "item": item.id,
        "family": item.family,
        "score": score.value,
        "passed": score.passed,
        "details": dict(score.details),
    }
