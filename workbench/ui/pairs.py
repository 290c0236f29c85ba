"""The arena's pairs: two models drawn blind, and what their page may know of them until the vote.

While a pair is open its page is told nothing that depends on who answers: the two are asked one
after the other in random order, no phase, figure or warning is shown, both answers appear at one
rate from the moment when the later one is complete, and what else the page shows of models in
memory is kept back.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Final

from workbench.engine import Engine
from workbench.errors import invalid
from workbench.hosts import family
from workbench.metrics import NS
from workbench.router import Listing
from workbench.types import Options, Status, TimingMode
from workbench.ui import asking
from workbench.ui.asking import Plan
from workbench.ui.catalogue import ordered
from workbench.ui.composer import Ask
from workbench.ui.runs import Run, Runs

A: Final = 1
B: Final = 2
SIDES: Final = (A, B)
"""Sides by the numbers of the panes that they would be."""

LOCAL: Final = ("huggingface", "ollama")
"""Providers whose models are drawn where the user has chosen none."""

FEWEST: Final = 2


class Pair(Run):
    """One question to two models that the user does not know."""

    def __init__(self, engine: Engine, plan: Plan) -> None:
        super().__init__(engine, plan)
        self._rate = engine.settings.workbench_arena_chars_per_s
        self.skipped = False
        """Whether the user went on without a vote."""
        self.told = False
        """Whether the page has shown, before the vote, what names the models."""
        self.failed: Collection[str] = ()
        """Models that failed in the pairs just before."""

    @property
    def complete(self) -> bool:
        """Whether both models have answered."""
        sessions = [answer.session for answer in self.plan.answers.values()]
        return all(session is not None and session.status is Status.OK for session in sessions)

    @property
    def void(self) -> bool:
        """Whether it ended without two whole answers."""
        return not self.running and not self.complete

    @property
    def blind(self) -> bool:
        """Whether the page must not say who answers."""
        return not (self.void or self.skipped or self.voted)

    @property
    def votable(self) -> bool:
        """Whether a vote is wanted."""
        return self.complete and self.blind

    def shown_chars(self, now: int) -> int:
        """How much of both answers is shown at a moment: the same of either."""
        later = max(answer.ended or now for answer in self.plan.answers.values())
        return int((now - later) / NS * self._rate)

    def replayed(self, now: int) -> bool:
        """Whether both answers are shown to their ends."""
        longest = max(len(answer.answer) for answer in self.plan.answers.values())
        return not self.blind or self.shown_chars(now) >= longest


class Pairs:
    """The last pair of each browser tab.

    Args:
        engine: the one road to all models.
    """

    def __init__(self, engine: Engine) -> None:
        self.runs = Runs(engine, Pair)

    def join(self, connection: str | None, tab: str | None) -> Pair | None:
        """A page was loaded in a tab, known by its secret; several parts of it may say so."""
        return self.runs.join(connection, tab or connection or "")

    def of(self, connection: str | None) -> Pair | None:
        """The last pair of a page's tab."""
        return self.runs.of(connection)

    def blind(self, connection: str | None) -> bool:
        """Whether a page must not show which models are in memory or at work."""
        pair = self.of(connection)
        return pair is not None and pair.blind

    def begin(self, connection: str | None, prompt: str, models: Sequence[str]) -> Pair:
        """Draw two models and their sides, and ask them.

        A model that failed in the pair before is left out while two others are there.

        Args:
            connection: of the page.
            prompt: the question.
            models: to draw from.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``, no prompt or fewer than two models.
        """
        if not prompt.strip():
            raise invalid("The prompt is empty.", fix="Type a message.")
        if len(models) < FEWEST:
            raise invalid(
                "A pair needs two models to draw from.", fix="Choose more of them, or none for all."
            )
        before = self.of(connection)
        failed = [*before.failed, *_failed(before)] if before is not None and before.void else []
        left = [model for model in models if model not in failed]
        if len(left) < FEWEST:
            left, failed = list(models), []
        drawn = random.sample(left, FEWEST)
        ask = Ask(prompt, "", TimingMode.ISOLATED, Options())
        made = asking.plan(ask, SIDES, dict(zip(SIDES, drawn, strict=True)), {A: (), B: ()})
        pair = self.runs.begin(connection, made)
        pair.failed = failed
        return pair


def _failed(pair: Pair) -> list[str]:
    """The models that did not answer; one that was stopped has not failed."""
    return [
        answer.model
        for answer in pair.plan.answers.values()
        if answer.session is None or answer.session.status not in (Status.OK, Status.CANCELLED)
    ]


def drawable(listing: Listing, chosen: Sequence[str]) -> list[str]:
    """The models that a pair is drawn from: those chosen, or all local ones.

    Args:
        listing: of all providers.
        chosen: by the user; those no longer listed are left out.
    """
    usable = [
        info
        for info in ordered(listing.models)
        if info.status != "unusable" and info.task == "text-generation"
    ]
    if chosen:
        return [info.id for info in usable if info.id in chosen]
    return [info.id for info in usable if family(info.provider) in LOCAL]
