"""The comparison of each browser tab: started, followed, stopped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Final

from workbench import logs
from workbench.engine import Engine, rejected
from workbench.errors import ErrorCode, WorkbenchError
from workbench.types import SessionEvent, Status, StreamEvent
from workbench.ui.asking import Plan

_log = logs.get(__name__)

MAX_TABS: Final = 256
"""Tabs whose last comparison is remembered; of more, the oldest are forgotten."""


class Run:
    """One press of Run: an answer in each of its panes, under way or ended."""

    def __init__(self, engine: Engine, plan: Plan) -> None:
        self._engine = engine
        self.plan = plan
        self._panes = list(plan.requests)
        self._stopped: set[int] = set()

    @property
    def running(self) -> bool:
        """Whether any answer is still to come."""
        return any(answer.running for answer in self.plan.answers.values())

    async def follow(self, tick_s: float) -> AsyncGenerator[None, None]:
        """Carry the requests out; yields every ``tick_s`` until all have ended, and once after.

        Closing this stops what still runs.
        """
        following = asyncio.create_task(self._follow())
        try:
            while not following.done():
                await asyncio.wait({following}, timeout=tick_s)
                yield
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    def stop(self, pane: int | None = None) -> None:
        """Stop one pane, or all of them."""
        for number in self._panes if pane is None else [pane]:
            answer = self.plan.answers.get(number)
            if answer is None or not answer.running:
                continue
            self._stopped.add(number)
            if answer.session_id is not None:
                self._engine.cancel(answer.session_id)

    def refused(self) -> bool:
        """Whether no pane took the question, so that it is still the user's to send."""
        return all(
            answer.session is not None and answer.session.status is Status.REJECTED
            for answer in self.plan.answers.values()
        )

    async def _follow(self) -> None:
        requests = list(self.plan.requests.values())
        try:
            async with contextlib.aclosing(self._engine.compare(requests)) as events:
                async for index, event in events:
                    self._take(index, event)
        except Exception as failure:  # a bug of ours: the panes must still come to an end
            _log.exception("compare_failed")
            problem = WorkbenchError(
                ErrorCode.INTERNAL,
                f"{type(failure).__name__}: {failure}",
                fix="This is a defect of the workbench; the log has the traceback.",
                operation="compare",
            )
            for index, number in enumerate(self._panes):
                if self.plan.answers[number].running:
                    self._take(index, rejected(requests[index], problem))

    def _take(self, index: int, event: StreamEvent) -> None:
        pane = self._panes[index]
        self.plan.answers[pane].take(event)
        if isinstance(event, SessionEvent) and pane in self._stopped:
            self._engine.cancel(event.session_id)  # the stop came before the session had begun


class Runs:
    """The last run of each browser tab."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._by_tab: dict[str, Run] = {}

    def of(self, tab: str | None) -> Run | None:
        """The tab's last run, if it had one."""
        return self._by_tab.get(tab or "")

    def begin(self, tab: str | None, plan: Plan) -> Run:
        """Make a plan the tab's run."""
        run = Run(self._engine, plan)
        self.forget(tab)
        self._by_tab[tab or ""] = run
        while len(self._by_tab) > MAX_TABS:
            self.forget(next(iter(self._by_tab)))
        return run

    def forget(self, tab: str | None) -> None:
        """Drop the tab's run; what still runs is stopped."""
        if (run := self._by_tab.pop(tab or "", None)) is not None:
            run.stop()
