"""The Health tab: what works, the memory of the last hour, alerts, log lines, the doctor."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from typing import Any, Final

import gradio as gr

from workbench import doctor, logs
from workbench.doctor.findings import Finding
from workbench.engine import Engine
from workbench.errors import WorkbenchError
from workbench.observe.health import HealthMonitor
from workbench.observe.timeline import MemoryTimeline
from workbench.ui import notices
from workbench.ui.desk import QUIET
from workbench.ui.health import drawing, parts
from workbench.ui.markup import html

_EVERY_S: Final = 3.0
_PLOT_EVERY: Final = 3
"""The plot is drawn anew at every so many-th look."""
_LINES: Final = 200
_ALERTS: Final = 30
_QUERY_S: Final = 5.0

_EVENTS: Final = """
SELECT created_at, event, model, reason FROM model_events
WHERE created_at >= $since AND (event IN ('load', 'unload', 'evict') AND ok OR event = 'died')
ORDER BY created_at DESC LIMIT 200
"""
_TROUBLE: Final = f"""
SELECT created_at, event, model, reason FROM model_events
WHERE event IN ('pressure', 'relief', 'died') OR leak
OR event = 'refuse' AND coalesce(details->>'code' NOT LIKE '%MODEL_NOT_FOUND', true)
ORDER BY created_at DESC LIMIT {_ALERTS}
"""  # noqa: S608


class HealthTab:
    """Builds the tab at the current place.

    Args:
        engine: whose log and book are read.
        health: what of it works.
        timeline: the memory of the last hour.
    """

    SILENT: Final[dict[str, Any]] = QUIET

    def __init__(self, engine: Engine, health: HealthMonitor, timeline: MemoryTimeline) -> None:
        self._engine = engine
        self._health = health
        self._timeline = timeline
        self._found: tuple[Sequence[Finding], dt.datetime] | None = None
        """What the doctor said last, to whoever asked."""
        self.timer = gr.Timer(_EVERY_S, active=False)
        """Ticks while the tab is in sight; the page sees to that."""
        self._looks = gr.State(0)
        with gr.Column(elem_id="health"):
            self._parts = html("", elem_id="health-parts")
            self._plot = gr.Plot(show_label=False, elem_id="health-memory")
            _heading("Alerts")
            self._alerts = html("", elem_id="health-alerts")
            with gr.Row(elem_classes=["wb-tools", "wb-heads"]):
                _heading("Log lines")
                self._wanted = gr.Textbox(
                    placeholder="A correlation id (cor_…), a session id, a word; empty: the latest",
                    show_label=False,
                    label="What the lines hold",
                    container=False,
                    lines=1,
                    max_lines=1,
                    elem_id="health-wanted",
                    scale=1,
                    min_width=220,
                )
                find = _button("Find", "health-find")
            self._lines = html("", elem_id="health-lines")
            with gr.Row(elem_classes=["wb-tools", "wb-heads"]):
                _heading("Doctor")
                again = _button("Run again", "health-doctor-run")
            self._doctor = html("", elem_id="health-doctor")
        self.outputs = [self._parts, self._alerts, self._plot, self._looks]
        self.first_outputs = [*self.outputs, self._lines]
        self.timer.tick(self._look, self._looks, self.outputs, **QUIET)
        for event in (find.click, self._wanted.submit):
            event(self._find, self._wanted, self._lines, **QUIET)
        again.click(self._examining, None, self._doctor, queue=False, **_QUICK).then(
            self._examine, None, self._doctor, **QUIET
        )

    def wire(self, tab: gr.Tab) -> None:
        """Begin when the tab is opened."""
        tab.select(self._opened, self._wanted, self.first_outputs, **QUIET)
        tab.select(self.first_opinion, None, self._doctor, **QUIET)

    async def _opened(self, wanted: str | None) -> list[Any]:
        return [*await self._look(0), self._find(wanted)]

    async def _look(self, looks: int) -> list[Any]:
        """What is known now; the plot not every time, since a browser draws it anew."""
        health = await self._health.check()
        trouble, drawn = await asyncio.to_thread(self._read, looks % _PLOT_EVERY == 0)
        return [
            parts.render(health),
            trouble,
            gr.skip() if drawn is None else drawn,
            looks + 1,
        ]

    def _read(self, draw: bool) -> tuple[str, Any]:
        readings = self._timeline.readings
        store = self._engine.store
        try:
            trouble = parts.alerts(
                self._engine.book.alerts, store.rows(_TROUBLE, timeout_s=_QUERY_S)
            )
            events = []
            if draw and readings:
                since = {"since": readings[0].at}
                events = store.rows(_EVENTS, since, timeout_s=_QUERY_S)
        except WorkbenchError as problem:
            return notices.error_card(problem), None
        return trouble, drawing.plot(readings, events) if draw else None

    def _find(self, wanted: str | None) -> str:
        part = (wanted or "").strip()
        kept = self._engine.settings.workbench_log_lines
        return parts.lines(logs.kept(part, _LINES)[::-1], part, kept)

    async def first_opinion(self) -> Any:
        """The doctor's last word; asked by itself only the first time, and not beside answers."""
        if self._found is not None:
            return parts.findings(*self._found)
        if self._engine.active_sessions:
            return notices.note("Not asked yet, since answers are coming: press Run again.")
        return await self._examine()

    def _examining(self) -> str:
        return notices.note("Looking at every part …")

    async def _examine(self) -> str:
        found = await asyncio.to_thread(doctor.examine, self._engine.settings)
        self._found = (found, dt.datetime.now(dt.UTC))
        return parts.findings(*self._found)


_QUICK: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private"}


def _heading(words: str) -> None:
    html(f'<h2 class="wb-heading">{words}</h2>', elem_classes=["wb-headed"])


def _button(words: str, name: str) -> gr.Button:
    return gr.Button(words, size="sm", elem_id=name, scale=0, min_width=70)
