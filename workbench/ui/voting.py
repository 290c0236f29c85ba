"""The vote of the Compare tab: which answer is the best, once for each comparison."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import gradio as gr

from workbench.engine import Engine
from workbench.errors import WorkbenchError
from workbench.live import LiveAnswer
from workbench.ui.desk import QUIET, Desk, Updates, message
from workbench.ui.differences import answers
from workbench.ui.pane import LETTERS
from workbench.ui.runs import Run
from workbench.votes import ALL_BAD, TIE, Candidate, rows


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
        found = answers(run.plan) if run and not run.running else {}
        letters = [LETTERS[number - 1] for number in found]
        return {
            self.ballot: gr.update(
                choices=[(f"{letter} is better", letter) for letter in letters] + [TIE, ALL_BAD],
                value=run.voted if run else None,
                visible=len(found) > 1,
                interactive=run is not None and run.voted is None,
            )
        }

    async def _vote(self, request: gr.Request, choice: str) -> Updates:
        desk = self._desk
        run = desk.run_of(request)
        if run is None or run.running or run.voted is not None:
            return self.offer(run)
        try:
            await cast(desk.engine, run, choice, answers(run.plan))
        except WorkbenchError as problem:
            raise message(problem) from None
        return self.offer(run)


async def cast(
    engine: Engine,
    run: Run,
    choice: str,
    found: Mapping[int, LiveAnswer],
    *,
    arena: bool = False,
) -> None:
    """Put a vote into the log; on return it is there.

    Args:
        engine: has the log.
        run: its answers have ended, and nothing was said of them yet.
        choice: a pane's letter, :data:`TIE` or :data:`ALL_BAD`.
        found: the answers by pane, in their order.
        arena: whether the voter saw the answers without the names.

    Raises:
        WorkbenchError: it could not be stored, and may be cast again.
    """
    candidates = [
        Candidate(
            one.session.model if one.session else one.model, one.session_id, one.conversation_id
        )
        for one in found.values()
    ]
    letters = [LETTERS[number - 1] for number in found]
    cast_rows = rows(
        run.plan.comparison_id,
        candidates,
        letters.index(choice) if choice in letters else choice,
        blind=arena,
        mode="arena" if arena else "compare",
    )
    run.voted = choice
    try:
        await asyncio.wrap_future(engine.store.insert("votes", *cast_rows).stored)
    except WorkbenchError:
        run.voted = None
        raise
