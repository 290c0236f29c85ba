"""What a browser tab keeps of its comparison: a server that was started anew has no runs.

The browser keeps it, not the server: which models under which options, and what the log calls the
answers. When the page is loaded and the server knows no run of its tab, that is opened again.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from typing import Final

from workbench import votes
from workbench.engine import Engine
from workbench.errors import WorkbenchError
from workbench.figures import escape
from workbench.setups import Setup
from workbench.store.recall import recall
from workbench.ui import notices
from workbench.ui.asking import Plan
from workbench.ui.reopening import reopened
from workbench.ui.runs import Run

MAX_CHARS: Final = 100_000
"""Of what is kept: it travels with each change of the page. A longer prompt is not kept."""

AGAIN: Final = (
    "The server was started anew while this page was open. Models and options are as they were; "
    "what had been answered is in History."
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A tab's comparison: ``asked`` is what the log calls its answers, None before a question."""

    setup: Setup = field(default_factory=Setup)
    asked: str | None = None

    def markup(self) -> str:
        """For the page's script, which stores it in the browser."""
        text = json.dumps({"setup": self.setup.to_dict(), "asked": self.asked})
        return escape(text) if len(text) <= MAX_CHARS else ""

    def told(self) -> str:
        """Says that the page begins anew, and where the answers are, if there were any."""
        return "" if self.asked is None else notices.note(AGAIN)


def read(text: str | None) -> Kept | None:
    """What a browser kept; None if there is nothing that can be used."""
    if not text or len(text) > MAX_CHARS:
        return None
    try:
        values = json.loads(text)
        asked = values["asked"]
        setup = Setup.from_dict(values["setup"])
    except (ValueError, TypeError, KeyError, WorkbenchError):
        return None
    return Kept(setup, asked if isinstance(asked, str) else None)


def of_page(setup: Setup, run: Run | None) -> str:
    """For the browser: what stands on the page, with the question of its run."""
    prompt = run.plan.ask.prompt if run else ""
    asked = run.plan.comparison_id if run else None
    return Kept(replace(setup, prompt=prompt), asked).markup()


def of_plan(plan: Plan) -> str:
    """For the browser: a run."""
    placed = {number: place for place, number in enumerate(plan.shown, start=1)}
    own = {placed[n]: values for n, values in plan.ask.own.items() if n in placed}
    ask = plan.ask
    models = tuple(plan.models[number] for number in plan.shown)
    setup = Setup(models, ask.prompt, ask.system, ask.mode, ask.options, own)
    return Kept(setup, plan.comparison_id).markup()


async def found(engine: Engine, kept: Kept) -> tuple[Plan, str | None] | None:
    """The answers from the log with the vote on them, if they are those of the panes as kept."""
    if kept.asked is None:
        return None
    try:
        plan = reopened(await asyncio.to_thread(recall, engine.store, kept.asked))
        vote = await asyncio.to_thread(votes.given, engine.store, plan.comparison_id)
    except WorkbenchError:
        return None
    models = tuple(plan.models[number] for number in plan.shown)
    return (plan, vote) if models == kept.setup.models else None
