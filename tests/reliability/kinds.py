"""A kind of fault: how it is injected, what its victims must be told, and whom else it may hurt."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.reliability.asking import Told
from tests.reliability.stage import QUESTION, Stage

OWN = "the model"
"""In ``hurts``: the model that the fault is injected into."""


@dataclass
class Case:
    """One injection: a kind, a model, and those who met the fault."""

    stage: Stage
    chance: random.Random
    model: str
    number: int
    victims: list[Told] = field(default_factory=list)

    @property
    def mark(self) -> str:
        """What tells its requests from all others."""
        return f"mark-{self.number}"

    @property
    def name(self) -> str:
        """The model without its provider."""
        return self.model.partition("/")[2]

    async def ask(self, message: str | None = None, tokens: int = 4, **more: Any) -> Told:
        """One who meets the fault."""
        model = more.pop("model", self.model)
        words = message if message is not None else f"{self.mark} {QUESTION}"
        told = await self.stage.users.ask(model, words, tokens, **more)
        self.victims.append(told)
        return told

    def note(self, outcome: str, message: str = "", fix: str = "-") -> None:
        """One who met the fault otherwise than by asking a model."""
        self.victims.append(Told("", self.model, outcome, message=message, fix=fix))


@dataclass(frozen=True)
class Kind:
    """See the module.

    Args:
        name: for the table.
        family: where it strikes.
        how: how it is injected, in words.
        expects: the outcomes that a victim may have: error codes, ``ok``, ``cancelled``, ``left``.
        inject: does it, and undoes it.
        models: into which it can be injected.
        hurts: what else must stay away meanwhile; :data:`OWN` stands for the model.
        weight: how often it is drawn beside others.
        quick: it takes tens of milliseconds.
        serves: whether the model must serve the next request.
    """

    name: str
    family: str
    how: str
    expects: frozenset[str]
    inject: Callable[[Case], Awaitable[None]]
    models: Sequence[str]
    hurts: tuple[str, ...] = ()
    weight: float = 1.0
    quick: bool = True
    serves: bool = True
