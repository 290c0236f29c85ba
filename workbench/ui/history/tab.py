"""The History tab: every session of the log, found, read, opened again, exported, deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import gradio as gr

from workbench import analysis, figures, logs, votes
from workbench.engine import Engine
from workbench.errors import WorkbenchError, invalid
from workbench.exports import FORMATS, MAX_SELECTION
from workbench.store.recall import recall
from workbench.store.records import benchmark_runs
from workbench.store.search import Found, facets, search
from workbench.types import new_id
from workbench.ui import catalogue, notices, reopening
from workbench.ui.asking import SOURCE
from workbench.ui.catalogue import Catalogue
from workbench.ui.compare import CompareTab
from workbench.ui.confirm import Confirm
from workbench.ui.desk import LAST, QUIET, Updates, message
from workbench.ui.history import filters, found
from workbench.ui.history.console import Console
from workbench.ui.history.detail import Detail
from workbench.ui.history.filters import Filters
from workbench.ui.markup import html
from workbench.ui.pane import COUNT

ROWS: Final = 50
"""Sessions of a page."""

_RUNS: Final = 50
_WORDS: Final = {"json": "JSON", "markdown": "Markdown", "csv": "CSV", "spec": "benchmark spec"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the log the list is: the cursors of the pages up to this one, and the next one's."""

    cursors: tuple[str | None, ...] = (None,)
    next: str | None = None
    shown: tuple[str, ...] = ()
    """Ids of the sessions on the page."""


class HistoryTab:
    """Builds the tab at the current place; :meth:`wire` connects it with the others."""

    SILENT: Final[dict[str, Any]] = QUIET

    def __init__(self, engine: Engine, models: Catalogue) -> None:
        self._engine = engine
        self._models = models
        self._place = gr.State(Place())
        self._marked = gr.State(())
        """``tuple[str, ...]``: ids of the sessions with a mark."""
        self._chosen = gr.State("")
        with gr.Column(elem_id="history"), gr.Tabs(elem_id="history-views"):
            with gr.Tab("Sessions", id="history-sessions") as self.view:
                self._build_sessions()
            with gr.Tab("SQL", id="history-sql") as sql:
                self.console = Console(engine)
            self.console.on_select(sql)
        self.inputs = self._filters.inputs
        self.outputs = [*self._page, *self._filters.lists]
        self._wire()

    # -- layout

    def _build_sessions(self) -> None:
        self._filters = Filters()
        with gr.Row(elem_classes=["wb-tools", "wb-acts"]):
            self._summary = html("", elem_id="history-summary", elem_classes=["wb-hint"])
            self._newer = _button("Newer", "history-newer")
            self._older = _button("Older", "history-older")
            self._menu = html(menu(()), elem_id="history-export")
            self._delete = _button("Delete", "history-delete")
            again = _button("Refresh", "history-refresh", interactive=True)
        self._again = again.click
        self._confirm = Confirm("history", ())
        self._notice = html("", elem_id="history-notice", elem_classes=["wb-notices"])
        with gr.Row(elem_id="history-main"):
            with gr.Column(elem_id="history-left", min_width=300):
                self._list = gr.HTML(
                    "",
                    apply_default_css=False,
                    js_on_load=found.SCRIPT,
                    elem_id="history-list",
                )
                html(found.KEYS, elem_classes=["wb-hint", "wb-keyboard"])
            with gr.Column(elem_id="history-right", min_width=300):
                with gr.Row(elem_classes=["wb-tools", "wb-again"]):
                    self._open = _button("Open in Compare", "history-open")
                    html("or ask other models:", elem_classes=["wb-hint"])
                    self.others = gr.Dropdown(
                        choices=[],
                        value=[],
                        multiselect=True,
                        max_choices=COUNT,
                        allow_custom_value=True,
                        show_label=False,
                        label="Other models to ask",
                        container=False,
                        elem_id="history-others",
                        scale=1,
                        min_width=160,
                    )
                    self._ask = _button("Ask these", "history-ask")
                self.detail = Detail(self._engine)
        with (
            gr.Accordion(
                "Latencies of the sessions shown", open=False, elem_id="history-latencies"
            ) as self._latencies,
            gr.Row(elem_classes=["wb-plots"]),
        ):
            self._ttft = gr.Plot(show_label=False, elem_id="history-ttft")
            self._tpot = gr.Plot(show_label=False, elem_id="history-tpot")

    @property
    def _page(self) -> list[Any]:
        """What a page of the list fills."""
        return [
            *(self._list, self._summary, self._notice, self._newer, self._older, self._place),
            *(self._marked, self._menu, self._delete, self._confirm.row),
        ]

    @property
    def _selection(self) -> list[Any]:
        return [self._menu, self._delete]

    # -- wiring

    def _wire(self) -> None:
        fields = self._filters.inputs
        for event in (*self._filters.asked, *self._filters.changes):
            event(self._first, fields, self._page, **LAST)
        self._again(self.refresh, fields, self.outputs, **QUIET)
        self._older.click(self._further, [self._place, *fields], self._page, **QUIET)
        self._newer.click(self._back, [self._place, *fields], self._page, **QUIET)
        every: dict[str, Any] = {"trigger_mode": "multiple", **QUIET}
        self._list.input(self._mark, None, [self._marked, *self._selection], **every)
        chosen = [
            *(self._chosen, self._marked, self._open, self._ask),
            *(*self._selection, *self.detail.outputs),
        ]
        self._list.click(self._choose, None, chosen, **every)
        self._latencies.expand(self._draw, self._place, [self._ttft, self._tpot], **QUIET)

        confirm = self._confirm
        asking = [confirm.row, confirm.question, self._notice, confirm.asked]
        self._delete.click(self._ask_deletion, [self._marked, self._chosen], asking, **QUIET)
        confirm.really.click(
            self._delete_now,
            [confirm.asked, self._place, *fields],
            [*self._page, self._chosen, self._open, self._ask, *self.detail.outputs],
            **QUIET,
        )

    def wire(self, compare: CompareTab, tabs: gr.Tabs) -> None:
        """Connect it with the Compare tab, in which sessions are opened and asked again."""
        self._compare, self._tabs = compare, tabs
        outputs = [*compare.outputs, tabs]
        for event in (
            self._list.submit(self._opened, None, outputs, **QUIET),
            self._open.click(self._open_chosen, self._chosen, outputs, **QUIET),
            self._ask.click(self._ask_others, [self._chosen, self.others], outputs, **QUIET),
        ):
            compare.then_stream(event.success)

    # -- the list

    async def refresh(self, *fields: Any) -> list[Any]:
        """The newest page, and what there is to filter by."""
        page = await self._first(*fields)
        try:
            lists = await asyncio.to_thread(self._lists)
        except WorkbenchError as problem:
            page[self._page.index(self._notice)] = notices.error_card(problem)
            lists = [gr.skip() for _ in self._filters.lists]
        return [*page, *lists]

    def _lists(self) -> list[Any]:
        store = self._engine.store
        runs = [
            (f"{run['name']} ({str(run['run_id'])[:10]})", str(run["run_id"]))
            for run in benchmark_runs(store, limit=_RUNS).rows
        ]
        return self._filters.choices(facets(store), runs)

    async def _first(self, *fields: Any) -> list[Any]:
        return await self._show((None,), fields)

    async def _further(self, place: Place, *fields: Any) -> list[Any]:
        return await self._show((*place.cursors, place.next), fields)

    async def _back(self, place: Place, *fields: Any) -> list[Any]:
        return await self._show(place.cursors[:-1] or (None,), fields)

    async def _show(self, cursors: tuple[str | None, ...], fields: Sequence[Any]) -> list[Any]:
        settings = self._engine.settings
        try:
            page = await asyncio.to_thread(
                search,
                self._engine.store,
                filters.read(*fields),
                limit=ROWS,
                cursor=cursors[-1],
                within_s=settings.workbench_search_s,
            )
        except WorkbenchError as problem:
            skipped = [gr.skip() for _ in self._page]
            skipped[self._page.index(self._notice)] = notices.error_card(problem)
            return skipped
        place = Place(cursors, page.next, tuple(str(row["session_id"]) for row in page.rows))
        narrow = filters.is_narrow(*fields)
        return [
            found.render(page.rows),
            summary(page, narrow=narrow, number=len(cursors)),
            "" if page.rows or page.next else empty(narrow=narrow),
            gr.update(interactive=len(cursors) > 1),
            gr.update(
                interactive=page.next is not None,
                value="Search further" if page.reached else "Older",
            ),
            *(place, (), menu(()), gr.update(interactive=False, value="Delete")),
            gr.update(visible=False),
        ]

    def _mark(self, event: gr.EventData) -> list[Any]:
        chosen, marked = _told(event)
        return [marked, *_about(marked or chosen, marked=bool(marked))]

    async def _choose(self, event: gr.EventData) -> list[Any]:
        chosen, marked = _told(event)
        usable = gr.update(interactive=bool(chosen))
        session_id = "".join(chosen)
        return [
            *(session_id, marked, usable, usable, *_about(marked or chosen, marked=bool(marked))),
            *await self.detail.of(session_id),
        ]

    async def _draw(self, place: Place) -> list[Any]:
        def draw() -> list[Any]:
            sessions = self._engine.store.query(
                "SELECT model, contended, ttft_s, tpot_s FROM latencies "
                "WHERE list_contains($ids, session_id)",
                {"ids": list(place.shown)},
            )
            return [
                analysis.plot_ttft(sessions),
                analysis.plot_distribution(sessions, "tpot_s", "time per output token"),
            ]

        try:
            return await asyncio.to_thread(draw)
        except WorkbenchError as problem:
            raise message(problem) from None

    # -- with Compare

    async def _opened(self, request: gr.Request, event: gr.EventData) -> Updates:
        return await self._open_chosen(request, str(event._data.get("id", "")))

    async def _open_chosen(self, request: gr.Request, session_id: str) -> Updates:
        """The comparison as it was: its panes, answers, options and histories."""
        try:
            store = self._engine.store
            plan = reopening.reopened(await asyncio.to_thread(recall, store, session_id))
            vote = await asyncio.to_thread(votes.given, store, plan.comparison_id)
            updates = self._compare.put(request, plan, vote)
        except WorkbenchError as problem:
            raise message(problem) from None
        return {**updates, self._tabs: gr.Tabs(selected="compare-tab")}

    async def _ask_others(
        self, request: gr.Request, session_id: str, models: Sequence[str] | None
    ) -> Updates:
        """The same question to other models, at once."""
        try:
            if not models:
                raise invalid("No model is chosen.", fix="Choose those to be asked.")
            store = self._engine.store
            recalled = await asyncio.to_thread(recall, store, session_id)
            same = [one for one in recalled if one.session.session_id == session_id] or recalled
            updates = self._compare.put(request, reopening.asked_of_others(same, models))
        except WorkbenchError as problem:
            raise message(problem) from None
        return {**updates, self._tabs: gr.Tabs(selected="compare-tab")}

    async def models(self) -> Any:
        """What there is to ask, for the list of other models."""
        listing = await self._models.listing()
        return gr.update(choices=catalogue.choices(listing.models))

    # -- deletion

    async def _ask_deletion(self, marked: tuple[str, ...], chosen: str) -> list[Any]:
        wanted = marked or ((chosen,) if chosen else ())
        if not wanted:
            return [gr.update(visible=False), "", notices.note("Mark sessions first."), ()]
        store = self._engine.store

        def count() -> str:
            rows = store.delete_sessions(wanted, dry_run=True)
            (of,) = store.rows(
                "SELECT count(*) FILTER (run_id IS NOT NULL) AS trials, "
                "count(DISTINCT run_id) AS runs, (SELECT coalesce(sum(strlen(content) + "
                "coalesce(strlen(reasoning), 0)), 0)::BIGINT FROM messages "
                "WHERE list_contains($ids, session_id)) AS bytes "
                "FROM stream_sessions WHERE list_contains($ids, session_id)",
                {"ids": list(wanted)},
            )
            return question(rows, **of)

        try:
            words = await asyncio.to_thread(count)
        except WorkbenchError as problem:
            return [gr.update(visible=False), "", notices.error_card(problem), ()]
        return [gr.update(visible=True), words, "", wanted]

    async def _delete_now(self, wanted: tuple[str, ...], place: Place, *fields: Any) -> list[Any]:
        store = self._engine.store
        try:
            with logs.correlation(new_id("cor"), source=SOURCE):
                before = await asyncio.to_thread(store.size_bytes)
                rows = await asyncio.to_thread(store.delete_sessions, wanted, dry_run=False)
                after = await asyncio.to_thread(store.size_bytes)
            words = notices.note(deleted(rows, before, after))
        except WorkbenchError as problem:
            words = notices.error_card(problem)
        page = await self._show(place.cursors, fields)
        at = self._page.index(self._notice)
        page[at] = f"{words}{page[at]}"
        off = gr.update(interactive=False)
        return [*page, "", off, off, *self.detail.none()]


def _button(words: str, name: str, *, interactive: bool = False) -> gr.Button:
    return gr.Button(words, size="sm", elem_id=name, scale=0, min_width=70, interactive=interactive)


def _told(event: gr.EventData) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The chosen session, if there is one, and the marked ones."""
    chosen = str(event._data.get("id") or "")
    marked = tuple(str(one) for one in event._data.get("ids") or ())
    return ((chosen,) if chosen else ()), marked[:MAX_SELECTION]


def _about(wanted: Sequence[str], *, marked: bool) -> list[Any]:
    """What can be done with these sessions."""
    words = f"Delete {len(wanted)}" if marked else "Delete"
    return [menu(wanted), gr.update(interactive=bool(wanted), value=words)]


def menu(wanted: Sequence[str]) -> str:
    """The formats of an export, each a link to its file."""
    if not wanted:
        return (
            '<details class="wb-menu" inert><summary title="Choose or mark sessions first">'
            "Export</summary></details>"
        )
    query = urlencode([("session", one) for one in wanted])
    links = "".join(
        f'<a download href="/api/v1/exports/{name}?{query}">{_WORDS.get(name, name)}</a>'
        for name in FORMATS
    )
    count = f" {len(wanted)}" if len(wanted) > 1 else ""
    return f'<details class="wb-menu"><summary>Export{count}</summary><div>{links}</div></details>'


def summary(page: Found, *, narrow: bool, number: int = 1) -> str:
    """What the list holds, in a sentence."""
    if page.reached is not None:
        return (
            f"{len(page.rows)} found; searched back to {page.reached:%Y-%m-%d %H:%M} so far "
            "(WORKBENCH_SEARCH_S)"
        )
    if not page.rows:
        return ""
    if page.sessions is None:
        more = "the newest that hold these words" if page.next else "all that hold these words"
        return f"{figures.count(len(page.rows), 'session')}, {more}; page {number}"
    of = figures.count(page.sessions, "session")
    pages = -(-page.sessions // ROWS)
    which = " that match" if narrow else ""
    return f"{of}{which}; page {number:,} of {pages:,}"


def empty(*, narrow: bool) -> str:
    """Why there is nothing to see."""
    if narrow:
        return (
            '<div class="wb-empty"><strong>Nothing matches</strong>'
            "<span>Take a word or a filter away, or choose a longer time.</span></div>"
        )
    return (
        '<div class="wb-empty"><strong>Nothing was logged yet</strong>'
        "<span>Every answer becomes a row here, whichever way it was asked for: this page, a "
        "notebook, the command line or the API.</span></div>"
    )


def question(rows: dict[str, int], *, trials: int, runs: int, bytes: int) -> str:
    """What would go, and what would miss it, as HTML."""
    count = rows["stream_sessions"]
    parts = [
        f"Delete <strong>{figures.count(count, 'session')}</strong> for good? With "
        f"{'it' if count == 1 else 'them'} go {figures.count(rows['messages'], 'text')} "
        f"({figures.size(max(bytes, 1000))}), "
        f"{figures.count(rows['token_streams'], 'token stream')} and "
        f"{figures.count(rows['memory_samples'], 'memory reading')}."
    ]
    if trials:
        parts.append(
            f"<strong>{figures.count(trials, 'trial')} of "
            f"{figures.count(runs, 'benchmark run')}</strong> will be missing in the results."
        )
    return f"<div>{' '.join(parts)}</div>"


def deleted(rows: dict[str, int], before: int, after: int) -> str:
    """What went, in words."""
    count = rows["stream_sessions"]
    freed = before - after
    space = (
        f"the file is {figures.size(freed)} smaller"
        if freed > 0
        else "their space in the file is used again before it grows"
    )
    return f"{count} session{'s are' if count != 1 else ' is'} deleted; {space}."
