"""The Benchmarks tab: a new run, the one under way, the runs of the log, one in full, two compared.

The run belongs to the server, not to the page: a page looks at it once a second while its tab is
open, and whoever opens one finds it.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

import gradio as gr

from workbench.bench import listing
from workbench.bench.evidence import gather
from workbench.bench.faults import placed
from workbench.bench.service import Benchmarks
from workbench.engine import Engine
from workbench.errors import WorkbenchError, invalid
from workbench.figures import escape
from workbench.ui import notices, rows
from workbench.ui.benchmarks import live, table
from workbench.ui.benchmarks.making import Making, refusal
from workbench.ui.benchmarks.results import Results
from workbench.ui.catalogue import Catalogue
from workbench.ui.markup import html

ROWS: Final = 50
"""The newest runs that the tab shows."""

_EVERY_S: Final = 1.0
_QUERY_S: Final = 30.0
_RESUMABLE: Final = ("interrupted", "cancelled", "partial", "error")


class BenchmarksTab:
    """Builds the tab at the current place.

    Args:
        engine: whose log is read.
        benchmarks: the run of this server.
        models: the shared listing.
    """

    SILENT: Final[dict[str, Any]] = {
        "show_progress": "hidden",
        "api_visibility": "private",
        "concurrency_limit": None,
    }

    def __init__(self, engine: Engine, benchmarks: Benchmarks, models: Catalogue) -> None:
        self._engine = engine
        self._benchmarks = benchmarks
        with gr.Row(elem_id="benchmarks"):
            with gr.Column(elem_id="bench-new", scale=0, min_width=340):
                self._making = Making(engine.settings, models, benchmarks)
            with gr.Column(elem_id="bench-runs", scale=1, min_width=340):
                self._build_runs()
                self._results = Results(engine)
        self.timer = gr.Timer(_EVERY_S, active=False)
        self._seen = gr.State(None)
        """How many runs had ended, and whether one was under way, when the list was shown."""
        self._wire()

    def _build_runs(self) -> None:
        self._live = html("", elem_id="bench-live")
        self._stop = gr.Button(
            "Stop this run",
            size="sm",
            variant="stop",
            visible=False,
            elem_id="bench-stop",
            elem_classes=["wb-small"],
        )
        self._notice = html("", elem_id="bench-notice", elem_classes=["wb-notices"])
        self._table = gr.HTML(
            "", apply_default_css=False, js_on_load=rows.SCRIPT, elem_id="bench-table"
        )
        with gr.Row(elem_classes=["wb-tools"]):
            self._chosen = gr.Dropdown(
                [], value=None, label="Run", elem_id="bench-run", scale=1, min_width=120
            )
            self._against = gr.Dropdown(
                [],
                value=None,
                label="Compare with",
                elem_id="bench-against",
                scale=1,
                min_width=120,
            )
            self._resume, self._again, self._refresh = (
                gr.Button(
                    words,
                    size="sm",
                    elem_id=f"bench-{name}",
                    elem_classes=["wb-small"],
                    scale=0,
                    min_width=70,
                    interactive=name == "refresh",
                )
                for words, name in (
                    ("Resume", "resume"),
                    ("Use its spec", "again"),
                    ("Refresh", "refresh"),
                )
            )
        self._diff = html("", elem_id="bench-diff", elem_classes=["wb-report"])

    def _wire(self) -> None:
        silent = self.SILENT
        shown = [self._diff, *self._results.outputs, self._resume, self._again]
        making = self._making
        refused = gr.State(("", ""))  # a text, and why it was not started
        making.start.click(self._start, making.text, [refused, *self._looked], **silent).then(
            self._tell_refusal, [making.text, refused], making.told, **silent
        )
        self._stop.click(self._end, None, self._looked, **silent)
        self._resume.click(self._go_on, self._chosen, [self._notice, *self._looked], **silent)
        self._again.click(self._spec_of, self._chosen, [making.text, self._notice], **silent).then(
            making.outline, making.text, making.looked, **silent
        )
        self.timer.tick(self._look, [self._seen, self._chosen], self._looked, **silent)
        self._refresh.click(self._anew, self._chosen, self._looked, **silent)
        # A click in the table chooses the run; to choose one shows it.
        self._table.click(self._picked, None, self._chosen, queue=False, **_QUICK)
        self._chosen.change(None, self._chosen, None, js=rows.follow("bench-table"))
        self._chosen.change(
            self._show,
            [self._chosen, self._against],
            shown,
            show_progress="minimal",
            api_visibility="private",
            concurrency_limit=None,
            trigger_mode="always_last",
        )
        self._against.input(self._compare, [self._chosen, self._against], self._diff, **silent)

    @property
    def _looked(self) -> list[Any]:
        """What :meth:`_look` speaks of."""
        return [
            *(self._live, self._stop, self._making.start, self._making.busy),
            *(self._table, self._chosen, self._against, self._seen),
        ]

    def on_select(self, tab: gr.Tab) -> None:
        """Connect it with the tab it is in: when that is looked at, everything is shown anew."""
        making = self._making
        tab.select(self._opened, None, [*making.outputs, *self._looked], **self.SILENT)
        # A model may have come meanwhile, or gone.
        tab.select(making.outline_again, making.text, making.looked, **self.SILENT)

    async def _opened(self) -> list[Any]:
        return [*await self._making.opened(), *await self._anew(None)]

    # -- the run of the server

    async def _start(self, text: str) -> list[Any]:
        try:
            spec = await asyncio.to_thread(self._making.spec, text)
            with placed("spec", text):
                await self._benchmarks.start(spec)
        except WorkbenchError as problem:
            return [(text, refusal(problem, text)), *await self._anew(None)]
        return [("", ""), *await self._anew(None)]

    async def _tell_refusal(self, text: str, refused: tuple[str, str]) -> Any:
        """Unless the text has changed meanwhile, and is spoken of already."""
        of, words = refused
        return words if words and of == text else gr.skip()

    async def _go_on(self, chosen: str | None) -> list[Any]:
        try:
            if not chosen:
                raise invalid("No run is chosen.", fix="Choose one that was stopped.")
            await self._benchmarks.resume(chosen)
        except WorkbenchError as problem:
            return [notices.error_card(problem), *await self._anew(chosen)]
        return ["", *await self._anew(chosen)]

    async def _end(self) -> list[Any]:
        await self._benchmarks.stop()
        return await self._anew(None)

    async def _look(self, seen: tuple[int, bool] | None, chosen: str | None) -> list[Any]:
        """Every second: the run under way; the list only when one has begun or ended."""
        if seen != self._now:
            return await self._anew(None if self._now[0] != (seen or (0, False))[0] else chosen)
        if not self._benchmarks.running:
            return [gr.skip()] * len(self._looked)
        return [live.render(self._benchmarks), *[gr.skip()] * (len(self._looked) - 1)]

    @property
    def _now(self) -> tuple[int, bool]:
        return self._benchmarks.ended, self._benchmarks.running

    async def _anew(self, chosen: str | None) -> list[Any]:
        """The run under way and the list; ``chosen`` stays, else the newest ended one is it."""
        now = self._now
        running = now[1]
        shown = [
            live.render(self._benchmarks),
            gr.update(visible=running, interactive=not self._benchmarks.stopping),
            gr.update(visible=not running),
            gr.update(visible=running),
        ]
        try:
            runs = await asyncio.to_thread(
                listing.runs, partial(self._engine.store.query, timeout_s=_QUERY_S), ROWS
            )
        except WorkbenchError as problem:
            shown[0] += notices.error_card(problem)
            return [*shown, *[gr.skip()] * 3, now]
        entries = [(table.label(run), run["run_id"]) for run in runs]
        ended = [run["run_id"] for run in runs if run["status"] != "active" and run["trials"]]
        if chosen is None and ended:
            chosen = ended[0]
        return [
            *shown,
            table.render(runs, chosen),
            gr.update(choices=entries, value=chosen),
            gr.update(choices=[("nothing", ""), *entries]),
            now,
        ]

    # -- one run, and two

    async def _picked(self, event: gr.EventData) -> Any:
        return str(event._data.get("id", "")) or gr.skip()

    async def _show(self, chosen: str | None, against: str | None) -> list[Any]:
        status = await asyncio.to_thread(self._status, chosen) if chosen else ""
        free = status in _RESUMABLE and not self._benchmarks.running
        return [
            await self._compare(chosen, against),
            *await self._results.show(chosen),
            gr.update(interactive=free),
            gr.update(interactive=bool(status)),
        ]

    def _status(self, run: str) -> str:
        try:
            return str(listing.find(self._engine.store.query, run)["status"])
        except WorkbenchError:
            return ""

    async def _spec_of(self, chosen: str | None) -> list[Any]:
        """The spec of a run into the text, to change and run it again."""
        from workbench.bench import library
        from workbench.bench.evidence import as_mapping

        found = await asyncio.to_thread(
            self._engine.store.rows,
            "SELECT spec FROM benchmark_runs WHERE run_id = $run",
            {"run": chosen or ""},
        )
        if not found:
            return [gr.skip(), notices.note("Choose a run first.")]
        return [library.to_toml(as_mapping(found[0]["spec"])), ""]

    async def _compare(self, chosen: str | None, against: str | None) -> str:
        """What changed from the other run to the chosen one."""
        if not chosen or not against or chosen == against:
            return ""
        try:
            return await asyncio.to_thread(self._compared, against, chosen)
        except WorkbenchError as problem:
            return notices.error_card(problem)

    def _compared(self, before: str, after: str) -> str:
        from workbench.bench.diff import diff
        from workbench.bench.report import parts

        read = partial(self._engine.store.query, timeout_s=_QUERY_S)
        runs = sorted(
            (gather(read, before), gather(read, after)), key=lambda one: one.run["created_at"]
        )
        found = diff(*runs)
        names = " → ".join(escape(f"{one.name} ({one.run_id})") for one in runs)
        return f"<h2>{names}</h2>{parts.diff(found)}"


_QUICK: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private"}
