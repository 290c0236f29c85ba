"""The vote of the Compare tab: which answer is the best, once for each comparison."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import gradio as gr

from workbench.engine import Engine
from workbench.errors import WorkbenchError
from workbench.live import LiveAnswer
from workbench.types import Status
from workbench.ui.asking import Plan
from workbench.ui.desk import QUIET, Desk, Updates, message
from workbench.ui.differences import answers
from workbench.ui.pane import LETTERS
from workbench.ui.runs import Run
from workbench.votes import ALL_BAD, TIE, Candidate, rows

FEWEST: Final = 2
"""Answers of a vote."""


class Voting:
    """Builds it at the current place."""

    def __init__(self) -> None:
        self.ballot = gr.Radio(
            [],
            label="Which answer is better?",
            show_label=False,
            container=False,
            elem_id="vote",
            elem_classes=["wb-mode"],
            visible=False,
            scale=0,
            min_width=200,
        )

    def wire(self, desk: Desk) -> None:
        """Wire it to the tab's components."""
        self._desk = desk
        self.ballot.input(self._vote, self.ballot, self.ballot, **QUIET)

    def offer(self, run: Run | None) -> Updates:
        """The choices when answers have ended; a vote that was cast stands."""
        choices = ballot(run)
        voted = run.voted if run else None
        return {
            self.ballot: gr.update(
                choices=choices,
                value=voted,
                visible=bool(choices),
                interactive=run is not None and voted is None,
            )
        }

    async def _vote(self, request: gr.Request, choice: str) -> Updates:
        desk = self._desk
        run = desk.run_of(request)
        if run is None or run.running or run.voted is not None:
            return self.offer(run)
        try:
            await cast(desk.engine, run, choice, candidates(run.plan))
        except WorkbenchError as problem:
            raise message(problem) from None
        return self.offer(run)


def candidates(plan: Plan) -> dict[int, LiveAnswer]:
    """The answers that a vote is over: those on the page that ended well or were stopped."""
    whole = (Status.OK, Status.CANCELLED)
    return {
        number: one
        for number, one in answers(plan).items()
        if one.session is not None and one.session.status in whole
    }


def ballot(run: Run | None) -> list[tuple[str, str]]:
    """(words, choice) of a vote; empty where there is nothing to vote on.

    A vote that was cast stays readable, also after its pane was removed.
    """
    if run is None or run.running:
        return []
    letters = [LETTERS[number - 1] for number in candidates(run.plan)]
    if run.voted and run.voted in LETTERS and run.voted not in letters:
        letters = sorted([*letters, run.voted])
    if len(letters) < FEWEST and run.voted is None:
        return []
    better = [(f"{letter} is better", letter) for letter in letters]
    return [*better, (TIE, TIE), (ALL_BAD, ALL_BAD)]


def choice_of(plan: Plan, vote: str | None) -> str | None:
    """The choice of the ballot that a vote from the log was.

    Args:
        plan: has the answers voted on.
        vote: a session id, :data:`TIE`, :data:`ALL_BAD` or nothing.
    """
    if vote in (TIE, ALL_BAD):
        return vote
    by_session = {one.session_id: number for number, one in plan.answers.items()}
    return LETTERS[by_session[vote] - 1] if vote in by_session and vote else None


async def cast(
    engine: Engine,
    run: Run,
    choice: str,
    found: Mapping[int, LiveAnswer],
    *,
    arena: bool = False,
    blind: bool = False,
) -> None:
    """Put a vote into the log; on return it is there.

    Args:
        engine: has the log.
        run: its answers have ended, and nothing was said of them yet.
        choice: a pane's letter, :data:`TIE` or :data:`ALL_BAD`.
        found: the answers by pane, in their order.
        arena: whether it is a vote of the arena.
        blind: whether the voter saw the answers without the names.

    Raises:
        WorkbenchError: it could not be stored, and may be cast again.
    """
    voted_on = [
        Candidate(
            one.session.model if one.session else one.model, one.session_id, one.conversation_id
        )
        for one in found.values()
    ]
    letters = [LETTERS[number - 1] for number in found]
    cast_rows = rows(
        run.plan.comparison_id,
        voted_on,
        letters.index(choice) if choice in letters else choice,
        blind=blind,
        mode="arena" if arena else "compare",
    )
    run.voted = choice
    try:
        await asyncio.wrap_future(engine.store.insert("votes", *cast_rows).stored)
    except WorkbenchError:
        run.voted = None
        raise
