"""The comparisons under way, by browser tab, so that a stop reaches the engine at once."""

from __future__ import annotations

from workbench.engine import Engine
from workbench.types import SessionEvent, StreamEvent
from workbench.ui.live import LiveAnswer


class Run:
    """One press of Run: an answer under way in each of its panes."""

    def __init__(self, engine: Engine, answers: dict[int, LiveAnswer]) -> None:
        self._engine = engine
        self.answers = answers
        self._panes = list(answers)
        self._stopped: set[int] = set()

    def take(self, index: int, event: StreamEvent) -> None:
        """Account for an event of the engine; ``index`` counts the requests in order."""
        pane = self._panes[index]
        self.answers[pane].take(event)
        if isinstance(event, SessionEvent) and pane in self._stopped:
            self._engine.cancel(event.session_id)  # the stop came before the session had begun

    def stop(self, pane: int | None = None) -> None:
        """Stop one pane, or all of them."""
        for number in self._panes if pane is None else [pane]:
            answer = self.answers.get(number)
            if answer is None or not answer.running:
                continue
            self._stopped.add(number)
            if answer.session_id is not None:
                self._engine.cancel(answer.session_id)


class Runs:
    """At most one run per browser tab."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._by_tab: dict[str, Run] = {}

    def begin(self, tab: str, answers: dict[int, LiveAnswer]) -> Run:
        """Register a run; an older one of the same tab is stopped."""
        if (older := self._by_tab.get(tab)) is not None:
            older.stop()
        run = Run(self._engine, answers)
        self._by_tab[tab] = run
        return run

    def end(self, tab: str, run: Run) -> None:
        """Forget a run."""
        if self._by_tab.get(tab) is run:
            del self._by_tab[tab]

    def stop(self, tab: str, pane: int | None = None) -> None:
        """Stop what runs in a tab, if anything."""
        if (run := self._by_tab.get(tab)) is not None:
            run.stop(pane)
