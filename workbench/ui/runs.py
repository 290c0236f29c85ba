"""The comparison of each browser tab: started, watched, stopped.

A run belongs to its tab and not to a connection: it goes on while a page is loaded anew or the
network is away, and whoever comes back in time finds it as far as it has come. After
``WORKBENCH_DETACH_GRACE_S`` without anybody watching it is stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from typing import Final, Generic, TypeVar

from workbench import logs
from workbench.admission import rejected
from workbench.engine import Engine
from workbench.errors import unforeseen
from workbench.types import SessionEvent, Status, StreamEvent
from workbench.ui.asking import Plan
from workbench.ui.conversation import Turn

_log = logs.get(__name__)

MAX_TABS: Final = 256
"""Tabs whose last comparison is remembered; of more, the oldest are forgotten."""


class Run:
    """One press of Run: an answer in each of its panes, under way or ended.

    Of a plan whose answers have all ended, one from the log, nothing is asked.
    """

    def __init__(self, engine: Engine, plan: Plan) -> None:
        self._engine = engine
        self.plan = plan
        self.voted: str | None = None
        """What the user said of the answers."""
        self._panes = [n for n in plan.requests if plan.answers[n].running]
        self._stopped: dict[int, str] = {}
        self._watchers = 0
        self._timer: asyncio.TimerHandle | None = None
        self._task = asyncio.create_task(self._follow(), name="page run")
        self._wait_for_somebody()

    @property
    def running(self) -> bool:
        """Whether any answer is still to come."""
        return any(answer.running for answer in self.plan.answers.values())

    async def watch(self, tick_s: float) -> AsyncGenerator[None, None]:
        """Yields every ``tick_s`` until all answers have ended, and once after."""
        self._watchers += 1
        if self._timer is not None:
            self._timer.cancel()
        try:
            while not self._task.done():
                await asyncio.wait({self._task}, timeout=tick_s)
                yield
        finally:
            self._watchers -= 1
            self._wait_for_somebody()

    def stop(self, pane: int | None = None, reason: str = "user") -> None:
        """Stop one pane, or all of them."""
        for number in self._panes if pane is None else [pane]:
            answer = self.plan.answers.get(number)
            if answer is None or not answer.running:
                continue
            self._stopped[number] = reason
            if answer.session_id is not None:
                self._engine.cancel(answer.session_id, reason)

    def refused(self) -> bool:
        """Whether no pane took the question, so that it is still the user's to send."""
        return bool(self.plan.answers) and all(
            answer.session is not None and answer.session.status is Status.REJECTED
            for answer in self.plan.answers.values()
        )

    def rearrange(
        self,
        *,
        shown: tuple[int, ...] | None = None,
        chosen: tuple[int, str | None] | None = None,
        earlier: Mapping[int, tuple[Turn, ...]] | None = None,
    ) -> None:
        """Follow what the user did with the panes after the answers, for a page loaded anew.

        Args:
            shown: the panes on the page.
            chosen: a pane and the model that it has now; the figures of the old one go.
            earlier: the histories of all panes now; all figures go.
        """
        plan = self.plan
        if shown is not None:
            plan = replace(plan, shown=shown)
        if chosen is not None:
            pane, model = chosen
            plan = replace(
                plan,
                models={**plan.models, pane: model},
                earlier={**plan.earlier, pane: plan.turns(pane)},
                answers={n: one for n, one in plan.answers.items() if n != pane},
                kept={n: one for n, one in plan.kept.items() if n != pane},
            )
        if earlier is not None:
            plan = replace(plan, earlier=earlier, answers={}, kept={})
        self.plan = plan

    def _wait_for_somebody(self) -> None:
        if self._watchers or self._task.done():
            return
        if self._timer is not None:
            self._timer.cancel()
        grace_s = self._engine.settings.workbench_detach_grace_s
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(grace_s, self.stop, None, "disconnect")

    async def _follow(self) -> None:
        requests = [self.plan.requests[number] for number in self._panes]
        try:
            async with contextlib.aclosing(self._engine.compare(requests)) as events:
                async for index, event in events:
                    self._take(index, event)
        except Exception as failure:  # a bug of ours: the panes must still come to an end
            _log.exception("compare_failed")
            problem = unforeseen(failure, "compare")
            for index, number in enumerate(self._panes):
                if self.plan.answers[number].running:
                    self._take(index, rejected(requests[index], problem))
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _take(self, index: int, event: StreamEvent) -> None:
        pane = self._panes[index]
        self.plan.answers[pane].take(event)
        if isinstance(event, SessionEvent) and pane in self._stopped:
            # the stop came before the session had begun
            self._engine.cancel(event.session_id, self._stopped[pane])


R = TypeVar("R", bound=Run)


class Runs(Generic[R]):
    """The last run of each browser tab.

    A tab is known by a secret that it keeps; each time its page is loaded it has a new connection.

    Args:
        engine: the one road to all models.
        make: the kind of run.
    """

    def __init__(self, engine: Engine, make: Callable[[Engine, Plan], R]) -> None:
        self._engine = engine
        self._make = make
        self._by_tab: dict[str, R] = {}
        self._tab_of: dict[str, str] = {}

    def join(self, connection: str | None, tab: str) -> R | None:
        """A page was loaded in a tab; the run that the tab had before, if there is one."""
        self._tab_of[connection or ""] = tab
        return self._by_tab.get(tab)

    def leave(self, connection: str | None) -> None:
        """The page is gone; its tab may come back."""
        self._tab_of.pop(connection or "", None)

    def of(self, connection: str | None) -> R | None:
        """The last run of a page's tab, if it had one."""
        return self._by_tab.get(self._tab(connection))

    def begin(self, connection: str | None, plan: Plan) -> R:
        """Carry a plan out as the tab's run."""
        self.forget(connection)
        run = self._by_tab[self._tab(connection)] = self._make(self._engine, plan)
        while len(self._by_tab) > MAX_TABS:
            self._drop(next(iter(self._by_tab)))
        return run

    def forget(self, connection: str | None) -> None:
        """Drop the tab's run; what still runs is stopped."""
        self._drop(self._tab(connection))

    def _tab(self, connection: str | None) -> str:
        return self._tab_of.get(connection or "", connection or "")

    def _drop(self, tab: str) -> None:
        if (run := self._by_tab.pop(tab, None)) is not None:
            run.stop()
