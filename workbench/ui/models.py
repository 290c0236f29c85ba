"""The Models tab: every model of every runtime, what is in memory, and what comes to disk."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import gradio as gr

from workbench import figures, logs
from workbench.engine import Engine
from workbench.errors import WorkbenchError
from workbench.jobs import Job
from workbench.types import new_id
from workbench.ui import hints, notices, rows, stock
from workbench.ui.asking import SOURCE
from workbench.ui.catalogue import Catalogue, ordered
from workbench.ui.confirm import Confirm
from workbench.ui.markup import html
from workbench.ui.memory import MemoryPanel, is_pinned, named, resolved
from workbench.ui.stock import Use

_log = logs.get(__name__)


class ModelsTab:
    """Builds the tab at the current place."""

    SILENT: Final[dict[str, Any]] = {
        "show_progress": "hidden",
        "api_visibility": "private",
        "concurrency_limit": None,
    }

    def __init__(self, engine: Engine, models: Catalogue) -> None:
        self._engine = engine
        self._models = models
        with gr.Column(elem_id="models"):
            self.memory = MemoryPanel(engine)
            with gr.Row(elem_classes=["wb-tools"]):
                html("Model", elem_classes=["wb-hint", "wb-name"])
                self._chosen = gr.Dropdown(
                    choices=[],
                    value=None,
                    # What leaves memory leaves the list, and stays chosen; and a model can be
                    # typed with options of its load (NAME?dtype=float32), which no list has.
                    allow_custom_value=True,
                    show_label=False,
                    label="Model",
                    container=False,
                    elem_id="models-chosen",
                    scale=1,
                )
                load = gr.Button("Load", size="sm", elem_id="models-load", scale=0, min_width=80)
                unload = gr.Button(
                    "Unload", size="sm", elem_id="models-unload", scale=0, min_width=80
                )
                self._pin = gr.Button("Pin", size="sm", elem_id="models-pin", scale=0, min_width=80)
                again = gr.Button(
                    "Refresh", size="sm", elem_id="models-refresh", scale=0, min_width=80
                )
                delete = gr.Button(
                    "Delete", size="sm", elem_id="models-delete", scale=0, min_width=80
                )
            with gr.Row(elem_classes=["wb-tools"]):
                name = gr.Textbox(
                    placeholder="Get a model: ORG/NAME from the Hugging Face hub, or ollama/NAME",
                    show_label=False,
                    label="Model to get",
                    container=False,
                    elem_id="models-hub-name",
                    scale=1,
                )
                revision = gr.Textbox(
                    placeholder="main",
                    show_label=False,
                    label="Revision",
                    container=False,
                    elem_id="models-hub-revision",
                    scale=0,
                    min_width=110,
                )
                download = gr.Button(
                    "Download", size="sm", elem_id="models-download", scale=0, min_width=80
                )
            self._progress = gr.HTML(
                "",
                apply_default_css=False,
                js_on_load=stock.STOPPING,
                elem_id="models-progress",
            )
            confirm = Confirm("models", "")
            self._notice = html("", elem_id="models-notice", elem_classes=["wb-notices"])
            self._table = gr.HTML(
                "",
                apply_default_css=False,
                js_on_load=rows.SCRIPT,
                elem_id="models-table",
            )
        self.outputs = [self._table, self._chosen, self._notice]
        self.inputs = [self._chosen]
        again.click(self.refresh, self.inputs, self.outputs, **self.SILENT)
        load.click(self._load, self._chosen, self.outputs, **self.SILENT)
        unload.click(self._unload, self._chosen, self.outputs, **self.SILENT)
        self._pin.click(self._turn_pin, self._chosen, self.outputs, **self.SILENT)
        self.memory.follow(self._chosen, self._pin, **self.SILENT)
        self._table.click(self._picked, None, self._chosen, queue=False, **_QUICK)
        self._chosen.change(None, self._chosen, None, js=rows.follow("models-table"))

        asking = [confirm.row, confirm.question, self._notice, confirm.asked]
        delete.click(self._ask_deletion, self._chosen, asking, **self.SILENT)
        deleted = [*self.outputs, confirm.row]
        confirm.really.click(self._delete, confirm.asked, deleted, **self.SILENT)

        # Which downloads this browser tab has seen running: their end is news.
        self._seen = gr.State(())
        self._followed = [*self.outputs, self._progress, self._seen]
        for start in (download.click, name.submit):
            start(self._download, [name, revision, self._seen], self._followed, **self.SILENT)
        self._progress.stop(self._stop, self._seen, self._followed, **self.SILENT)
        gr.Timer(_EVERY_S).tick(self._follow, self._seen, self._followed, **self.SILENT)

    async def refresh(self, chosen: str | None) -> tuple[Any, Any, str]:
        """Ask the runtimes and show the answer; the row of the chosen model is marked."""
        return await self._show("", chosen)

    async def _show(self, notice: str, chosen: str | None = None) -> tuple[Any, Any, str]:
        listing = await self._models.listing()
        problems = [
            hints.problem(name, error, self._engine.settings)
            for name, error in listing.problems.items()
        ]
        entries = [info.id for info in ordered(listing.models)]
        usable = [info.id for info in listing.models if info.status != "unusable"]
        await self._engine.book.prepare_listed(usable)
        book = self._engine.book
        use = await self._used()
        shown = stock.render(listing.models, book.expectation, book.held(), use, named(chosen))
        return shown, gr.update(choices=entries), "".join([notice, *problems])

    async def _used(self) -> Mapping[str, Use]:
        """Nothing, where the log cannot tell: the table has more to say."""
        try:
            return await asyncio.to_thread(stock.used, self._engine.store, _QUERY_S)
        except WorkbenchError as problem:
            _log.warning("use_not_read", error=str(problem))
            return {}

    async def _load(self, chosen: str | None) -> Any:
        if not named(chosen):
            return await self._show(notices.note(_CHOOSE))
        try:
            with logs.correlation(new_id("cor"), source=SOURCE):
                done = await self._engine.load(named(chosen))
        except WorkbenchError as problem:
            return await self._show(notices.error_card(problem), chosen)
        gone = f" Evicted for it: {', '.join(done['evicted'])}." if done["evicted"] else ""
        what = "was in memory already" if done["was_resident"] else "is resident"
        return await self._show(notices.note(f"{done['id']} {what}.{gone}"), chosen)

    async def _unload(self, chosen: str | None) -> Any:
        if not named(chosen):
            return await self._show(notices.note(_CHOOSE))
        model = await resolved(self._engine, chosen)
        pinned = is_pinned(self._engine, model)
        try:
            with logs.correlation(new_id("cor"), source=SOURCE):
                done = await self._engine.unload(model)
        except WorkbenchError as problem:
            return await self._show(notices.error_card(problem), chosen)
        words = "is unloaded" if done["was_resident"] else "was not in memory"
        words += ", and no longer pinned" if pinned else ""
        return await self._show(notices.note(f"{model} {words}."), chosen)

    async def _turn_pin(self, chosen: str | None) -> Any:
        """Pin the model, or let go of it if it is pinned."""
        if not named(chosen):
            return await self._show(notices.note(_CHOOSE))
        model = await resolved(self._engine, chosen)
        pinned = is_pinned(self._engine, model)
        try:
            with logs.correlation(new_id("cor"), source=SOURCE):
                await (self._engine.unpin(model) if pinned else self._engine.pin(model))
        except WorkbenchError as problem:
            return await self._show(notices.error_card(problem), chosen)
        words = "may be evicted again" if pinned else "is pinned: it stays until it is unpinned"
        return await self._show(notices.note(f"{model} {words}."), chosen)

    # -- disk

    async def _download(self, name: str, revision: str, seen: tuple[str, ...]) -> Any:
        try:
            with logs.correlation(new_id("cor"), source=SOURCE):
                job = self._engine.disk.download(name, revision.strip() or None)
        except WorkbenchError as problem:
            progress, seen = self._running(seen)
            return gr.skip(), gr.skip(), notices.error_card(problem), progress, seen
        progress, seen = self._running((*seen, job.id))
        return gr.skip(), gr.skip(), "", progress, seen

    async def _stop(self, seen: tuple[str, ...], event: gr.EventData) -> Any:
        wanted = str(event._data.get("id", ""))
        if any(job.id == wanted for job in self._active()):
            self._engine.disk.jobs.cancel(wanted)
        return await self._follow(seen)

    async def _follow(self, seen: tuple[str, ...]) -> Any:
        """What the downloads have reached; the table anew when one of them has ended."""
        ended = [job for job in self._engine.disk.jobs.list() if job.id in seen and job.ended]
        progress, now = self._running(())
        if not ended and not now and not seen:
            return tuple(gr.skip() for _ in self._followed)
        if not ended:
            return *(gr.skip() for _ in self.outputs), progress, now
        return *await self._show("".join(_outcome(job) for job in ended)), progress, now

    def _active(self) -> list[Job]:
        jobs = self._engine.disk.jobs.list()
        return [job for job in jobs if job.kind == "download" and not job.ended]

    def _running(self, seen: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        active = self._active()
        ids = tuple(dict.fromkeys((*seen, *(job.id for job in active))))
        return stock.coming(active), ids

    async def _ask_deletion(self, chosen: str | None) -> Any:
        if not named(chosen):
            return gr.update(visible=False), "", notices.note(_CHOOSE), ""
        try:
            plan = await self._engine.disk.plan_deletion(named(chosen))
        except WorkbenchError as problem:
            return gr.update(visible=False), "", notices.error_card(problem), ""
        words = [
            f"Delete <strong>{figures.escape(plan.id)}</strong> from the "
            f"{figures.escape(plan.location)}? "
            f"{figures.size(plan.size_bytes)} will be free."
        ]
        words += [f"{figures.escape(other)} goes with it." for other in plan.also]
        words += [f"{figures.escape(other)} needs it." for other in plan.orphans]
        return gr.update(visible=True), f"<div>{' '.join(words)}</div>", "", plan.id

    async def _delete(self, model: str) -> Any:
        hidden = gr.update(visible=False)
        try:
            with logs.correlation(new_id("cor"), source=SOURCE):
                gone = await self._engine.disk.delete(model)
        except WorkbenchError as problem:
            return *await self._show(notices.error_card(problem)), hidden
        freed = figures.size(gone["freed_bytes"])
        table_now, _, notice = await self._show(
            notices.note(f"{gone['id']} is deleted; {freed} are free again.")
        )
        entries = [info.id for info in ordered(self._models.known.models)]
        return table_now, gr.update(choices=entries, value=None), notice, hidden

    async def _picked(self, event: gr.EventData) -> Any:
        return str(event._data.get("id", "")) or gr.skip()


def _outcome(job: Job) -> str:
    if job.status == "cancelled":
        return notices.note(f"{job.model}: stopped; what has come is kept for the next try.")
    if job.error is not None:
        return notices.error_card(job.error)
    return notices.note(f"{job.model} is here, checked.")


_CHOOSE: Final = "Choose a model first, or type one."
_EVERY_S: Final = 1.0
_QUERY_S: Final = 5.0
_QUICK: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private"}
