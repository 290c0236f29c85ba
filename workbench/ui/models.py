"""The Models tab: every model of every runtime, and what is in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import gradio as gr
import pandas as pd

from workbench import figures
from workbench.engine import Engine
from workbench.errors import WorkbenchError
from workbench.figures import DASH
from workbench.types import ModelInfo
from workbench.ui import hints, notices
from workbench.ui.catalogue import Catalogue, ordered
from workbench.ui.markup import html

COLUMNS: Final = (
    "model",
    "provider",
    "status",
    "on disk",
    "in memory",
    "format",
    "weights",
    "parameters",
    "context",
    "problem",
)


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
            with gr.Row(elem_classes=["wb-tools"]):
                self._chosen = gr.Dropdown(
                    choices=[],
                    value=None,
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
                again = gr.Button(
                    "Refresh", size="sm", elem_id="models-refresh", scale=0, min_width=80
                )
            self._notice = html("", elem_id="models-notice", elem_classes=["wb-notices"])
            self._table = gr.Dataframe(
                value=table([]),
                headers=list(COLUMNS),
                interactive=False,
                wrap=False,
                show_label=False,
                elem_id="models-table",
                max_height=2000,
            )
        self.outputs = [self._table, self._chosen, self._notice]
        again.click(self.refresh, None, self.outputs, **self.SILENT)
        load.click(self._load, self._chosen, self.outputs, **self.SILENT)
        unload.click(self._unload, self._chosen, self.outputs, **self.SILENT)
        self._table.select(self._picked, None, self._chosen, queue=False, **_QUICK)

    async def refresh(self) -> tuple[Any, Any, str]:
        """Ask the runtimes and show the answer."""
        return await self._show("")

    async def _show(self, notice: str) -> tuple[Any, Any, str]:
        listing = await self._models.listing()
        problems = [
            hints.problem(name, error, self._engine.settings)
            for name, error in listing.problems.items()
        ]
        entries = [info.id for info in ordered(listing.models)]
        return table(listing.models), gr.update(choices=entries), "".join([notice, *problems])

    async def _load(self, model: str | None) -> Any:
        if not model:
            return await self._show(notices.note("Choose a model first."))
        try:
            await self._engine.load(model)
        except WorkbenchError as problem:
            return await self._show(notices.error_card(problem))
        return await self._show(notices.note(f"{model} is resident."))

    async def _unload(self, model: str | None) -> Any:
        if not model:
            return await self._show(notices.note("Choose a model first."))
        try:
            await self._engine.unload(model)
        except WorkbenchError as problem:
            return await self._show(notices.error_card(problem))
        return await self._show(notices.note(f"{model} is unloaded."))

    async def _picked(self, event: gr.SelectData) -> Any:
        return event.row_value[0] if event.row_value else gr.skip()


_QUICK: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private"}


def table(models: Sequence[ModelInfo]) -> pd.DataFrame:
    """One row a model."""
    rows = [
        (
            info.id,
            info.provider,
            info.status,
            figures.size(info.size_bytes),
            figures.size(info.memory_bytes),
            info.format or DASH,
            info.quantization or figures.dtype(info.dtype) or DASH,
            _parameters(info.parameters),
            f"{info.context_length:,}" if info.context_length else DASH,
            info.problem or "",
        )
        for info in ordered(models)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)


def _parameters(count: int | None) -> str:
    if not count:
        return DASH
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.0f} M"
