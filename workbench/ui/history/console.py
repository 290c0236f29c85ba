"""The SQL box of the History tab: one reading statement, kept queries, result as table and plot.

The statement goes the way of all SQL from outside: checked by the gate, run in a read-only
transaction within the limits of time, rows and memory, and stopped when it is asked to.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from workbench import figures
from workbench.analysis import charts
from workbench.analysis.charts import Chart
from workbench.engine import Engine
from workbench.errors import WorkbenchError, invalid
from workbench.figures import escape
from workbench.queries import Queries, Query
from workbench.store.reading import Limits
from workbench.ui import notices
from workbench.ui.desk import LAST, QUIET
from workbench.ui.markup import html

if TYPE_CHECKING:
    import pandas as pd

SHOWN_ROWS: Final = 500
SHOWN_CELLS: Final = 20_000
"""Of a result that is wider the table shows fewer rows: a browser lays every cell out."""
SHOWN_CHARS: Final = 200
"""Of a text in a cell."""

_AUTO: Final = "as fits"
_NONE: Final = "(none)"


@dataclass(frozen=True, slots=True)
class Result:
    """What a statement gave: the rows that are kept for the plot."""

    frame: pd.DataFrame
    more: bool
    """Whether the statement has more rows than these."""
    took_s: float


class Console:
    """Builds it at the current place."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queries = Queries(engine.settings.workbench_db.parent / "queries.json")
        self._running: dict[str, threading.Event] = {}
        """The stop of each page's statement."""
        self._result = gr.State(None)
        kept = self._queries.all()
        with gr.Row(elem_classes=["wb-tools", "wb-filters"]):
            self._kept = gr.Dropdown(
                choices=_choices(kept),
                value=kept[0].name,
                show_label=False,
                label="Kept queries",
                container=False,
                elem_id="sql-kept",
                elem_classes=["wb-filter"],
                scale=2,
                min_width=220,
            )
            self._name = gr.Textbox(
                placeholder="Name to keep it by",
                show_label=False,
                label="Name",
                container=False,
                lines=1,
                max_lines=1,
                elem_id="sql-name",
                scale=1,
                min_width=140,
            )
            self._save = _button("Save", "sql-save")
            self._delete = _button("Delete", "sql-delete")
        self._sql = gr.Code(
            value=kept[0].sql,
            language="sql",
            label="SQL",
            show_label=False,
            container=False,
            lines=5,
            max_lines=16,
            elem_id="sql-text",
            interactive=True,
            visible=False,
        )
        with gr.Row(elem_classes=["wb-tools"]):
            self._run = gr.Button(
                "Run  Ctrl+Enter",
                variant="primary",
                size="sm",
                elem_id="sql-run",
                scale=0,
                min_width=130,
            )
            self._stop = _button("Stop", "sql-stop", interactive=False)
            self._said = html(self._limits(), elem_id="sql-said", elem_classes=["wb-hint"])
        self._notice = html("", elem_id="sql-notice", elem_classes=["wb-notices"])
        with gr.Column(visible=False, elem_id="sql-result") as self._shown:
            self._table = gr.Dataframe(
                interactive=False,
                show_label=False,
                wrap=False,
                max_height=320,
                elem_id="sql-table",
                visible=False,
            )
            with gr.Row(elem_classes=["wb-tools", "wb-filters"]):
                self._kind, self._x, self._y, self._by = (
                    gr.Dropdown(
                        choices=[],
                        label=words,
                        container=True,
                        elem_id=f"sql-{name}",
                        elem_classes=["wb-filter"],
                        scale=1,
                        min_width=120,
                    )
                    for name, words in (
                        ("kind", "Plot"),
                        ("x", "x"),
                        ("y", "y"),
                        ("by", "coloured by"),
                    )
                )
            self._plot_notice = html("", elem_id="sql-plot-notice", elem_classes=["wb-notices"])
            self._plot = gr.Plot(show_label=False, elem_id="sql-plot")
        with gr.Accordion("Tables and views", open=False, elem_id="sql-tables") as tables:
            self._tables = html("", elem_id="sql-schema")
        self._wire(tables)

    def on_select(self, tab: gr.Tab) -> None:
        """Bring the editor when its tab is opened: a page would load its code before it is used."""
        tab.select(None, None, self._sql, js="() => ({ __type__: 'update', visible: true })")

    def _wire(self, tables: gr.Accordion) -> None:
        axes = [self._kind, self._x, self._y, self._by]
        drawn = [self._plot, self._plot_notice]
        shown = [self._result, self._said, self._notice, self._shown, self._table, *axes, *drawn]
        buttons = [self._run, self._stop]
        began = self._run.click(_busy, None, buttons, queue=False, **_QUICK)
        ran = began.then(self._ask, self._sql, shown, **QUIET)
        ran.then(_idle, None, buttons, queue=False, **_QUICK)
        self._stop.click(self._interrupt, None, None, queue=False, **_QUICK)
        for axis in axes:
            axis.input(self._redraw, [self._result, *axes], drawn, **LAST)
        keeping = [self._kept, self._name, self._notice]
        self._kept.input(self._choose, self._kept, [self._sql, self._name], **LAST)
        self._save.click(self._keep, [self._name, self._sql], keeping, **QUIET)
        self._delete.click(self._drop, self._kept, keeping, **QUIET)
        tables.expand(self._list, None, self._tables, **QUIET)

    # -- running

    def _limits(self) -> str:
        settings = self._engine.settings
        return (
            f"reads only; at most {settings.workbench_query_timeout_s:g} s and "
            f"{settings.workbench_page_query_rows:,} rows"
        )

    async def _ask(self, request: gr.Request, sql: str | None) -> list[Any]:
        stop = threading.Event()
        page = request.session_hash or ""
        if (earlier := self._running.get(page)) is not None:
            earlier.set()
        self._running[page] = stop
        try:
            result = await asyncio.to_thread(self._read, sql or "", stop)
            return await asyncio.to_thread(self._show, result)
        except WorkbenchError as problem:
            # What the statement before gave is no longer what stands above it.
            gone = [None, self._limits(), notices.error_card(problem), gr.update(visible=False)]
            return [*gone, *(gr.skip() for _ in range(7))]
        finally:
            if self._running.get(page) is stop:
                del self._running[page]

    def _interrupt(self, request: gr.Request) -> None:
        if (stop := self._running.get(request.session_hash or "")) is not None:
            stop.set()

    def _read(self, sql: str, stop: threading.Event) -> Result:
        if not sql.strip():
            raise invalid("There is no statement.", fix="Type one, or choose a kept query.")
        settings = self._engine.settings
        most = settings.workbench_page_query_rows
        began = time.monotonic()
        limits = Limits(
            limit=most + 1,
            timeout_s=settings.workbench_query_timeout_s,
            max_bytes=settings.workbench_query_memory,
            stop=stop,
        )
        frame, _, rows = self._engine.store.query_within(sql, None, limits)
        assert frame is not None
        return Result(frame.head(most), rows > most, time.monotonic() - began)

    def _show(self, result: Result) -> list[Any]:
        frame = result.frame
        chart = charts.suggest(frame)
        times, numbers, labels = charts.sorts(frame)
        columns = [*times, *numbers, *labels]
        return [
            *(result, said(result), "" if len(frame) else notices.note("It gave no rows.")),
            *(gr.update(visible=True), gr.update(value=cells(frame), visible=True)),
            gr.update(choices=[_AUTO, *charts.KINDS], value=chart.kind if chart else _AUTO),
            gr.update(choices=columns, value=chart.x if chart else None),
            gr.update(choices=[_NONE, *numbers], value=(chart and chart.y) or _NONE),
            gr.update(choices=[_NONE, *labels], value=(chart and chart.by) or _NONE),
            *self._drawn(result, chart),
        ]

    async def _redraw(
        self,
        result: Result | None,
        kind: str | None,
        x: str | None,
        y: str | None,
        by: str | None,
    ) -> list[Any]:
        if result is None:
            return [gr.skip(), gr.skip()]
        if kind == _AUTO or not kind or not x:
            chart = charts.suggest(result.frame)
        else:
            chart = Chart(kind, x, _column(y), _column(by))  # type: ignore[arg-type]
            if kind == "histogram":
                chart = Chart("histogram", x, None, _column(by))
        return await asyncio.to_thread(self._drawn, result, chart)

    def _drawn(self, result: Result, chart: Chart | None) -> list[Any]:
        hidden = gr.update(value=None, visible=False)
        if chart is None:
            why = "There is no column of numbers to draw." if len(result.frame) else ""
            return [hidden, notices.note(why) if why else ""]
        try:
            return [gr.update(value=charts.draw(result.frame, chart), visible=True), ""]
        except WorkbenchError as problem:
            return [hidden, notices.error_card(problem)]

    # -- kept queries

    def _choose(self, name: str | None) -> list[Any]:
        query = self._queries.get(name or "")
        if query is None:
            return [gr.skip(), gr.skip()]
        return [query.sql, query.name if query.own else ""]

    def _keep(self, name: str | None, sql: str | None) -> list[Any]:
        try:
            made = self._queries.save(name or "", sql or "")
        except WorkbenchError as problem:
            return [gr.skip(), gr.skip(), notices.error_card(problem)]
        kept = _choices(self._queries.all())
        return [
            gr.update(choices=kept, value=made.name),
            made.name,
            notices.note(f"{made.name} is kept, for everyone who uses this log."),
        ]

    def _drop(self, name: str | None) -> list[Any]:
        query = self._queries.get(name or "")
        if query is None or not query.own:
            why = "Choose one of your own first; those marked ready stay."
            return [gr.skip(), gr.skip(), notices.note(why)]
        try:
            self._queries.delete(query.name)
        except WorkbenchError as problem:
            return [gr.skip(), gr.skip(), notices.error_card(problem)]
        kept = _choices(self._queries.all())
        return [
            gr.update(choices=kept, value=None),
            "",
            notices.note(f"{query.name} is deleted."),
        ]

    async def _list(self) -> str:
        try:
            tables = await asyncio.to_thread(self._engine.store.tables)
        except WorkbenchError as problem:
            return notices.error_card(problem)
        return "".join(_schema(one) for one in tables)


_QUICK: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private"}


def said(result: Result) -> str:
    """How much there is, and how much of it is shown."""
    frame = result.frame
    shown = len(cells(frame))
    rows = f"{'the first ' if result.more else ''}{figures.count(len(frame), 'row')}"
    parts = [
        f"{rows}, {figures.count(len(frame.columns), 'column')} in {figures.seconds(result.took_s)}"
    ]
    if result.more:
        parts.append("there are more (WORKBENCH_PAGE_QUERY_ROWS)")
    if shown < len(frame):
        parts.append(f"the table shows {shown:,}, the plot all of them")
    return "; ".join(parts)


def cells(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the table, every value as text."""
    most = max(min(SHOWN_ROWS, SHOWN_CELLS // max(len(frame.columns), 1)), 1)
    head = frame.head(most).astype(object)
    return head.map(_cell)


def _schema(one: Mapping[str, Any]) -> str:
    """A table with its columns, folded."""
    rows = "" if one["rows"] is None else f", {figures.count(one['rows'], 'row')}"
    return (
        f'<details class="wb-schema"><summary><code>{escape(one["name"])}</code> '
        f"{one['kind']}{rows}</summary>"
        f"<code>{escape(', '.join(one['columns']))}</code></details>"
    )


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value) or str(value) == "<NA>":
        return ""
    if isinstance(value, float):
        return f"{value:,.6g}"
    if hasattr(value, "strftime"):
        text = "" if str(value) == "NaT" else value.strftime("%Y-%m-%d %H:%M:%S")
        return str(text)
    return figures.shorten(str(value), SHOWN_CHARS)


def _choices(kept: list[Query]) -> list[tuple[str, str]]:
    return [(query.name if query.own else f"{query.name}  ·  ready", query.name) for query in kept]


def _column(name: str | None) -> str | None:
    return None if name in (None, "", _NONE) else name


def _busy() -> list[Any]:
    return [gr.update(interactive=False), gr.update(interactive=True)]


def _idle() -> list[Any]:
    return [gr.update(interactive=True), gr.update(interactive=False)]


def _button(words: str, name: str, *, interactive: bool = True) -> gr.Button:
    return gr.Button(words, size="sm", elem_id=name, scale=0, min_width=60, interactive=interactive)
