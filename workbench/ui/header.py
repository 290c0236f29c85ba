"""The header: the name, and what the machine's memory holds."""

from __future__ import annotations

from typing import Any, Final

import gradio as gr
import psutil

from workbench import figures
from workbench.engine import Engine
from workbench.figures import escape
from workbench.store import Store
from workbench.types import ModelInfo
from workbench.ui import notices
from workbench.ui.catalogue import Catalogue
from workbench.ui.markup import html

_EVERY_S: Final = 5.0
_SILENT: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private"}


class Header:
    """Builds the header at the current place."""

    def __init__(self, engine: Engine, models: Catalogue) -> None:
        self._engine = engine
        self._models = models
        html('<span class="wb-name">Workbench</span>', elem_id="brand")
        self._machine = html("", elem_id="machine")
        self._banner = html("", elem_id="log-banner", elem_classes=["wb-notices"])
        self._outputs = [self._machine, self._banner]
        gr.Timer(_EVERY_S).tick(self._look, None, self._outputs, concurrency_limit=None, **_SILENT)

    def on_load(self, page: gr.Blocks) -> None:
        """Show the first reading when the page opens."""
        page.load(self._look, None, self._outputs, concurrency_limit=None, **_SILENT)

    async def _look(self) -> Any:
        warning = banner(self._engine.store)
        if self._engine.active_sessions:
            # nothing is read beside a measurement that the page could spare
            return gr.skip(), warning
        listing = await self._models.listing(max_age_s=_EVERY_S / 2)
        memory = psutil.virtual_memory()
        return render(memory.total - memory.available, memory.total, listing.models), warning


def banner(store: Store) -> str:
    """What is wrong with the log, or was and has been mended, as HTML; empty when all is well."""
    problem = store.last_error
    return "".join(notices.error_card(told) for told in ([problem] if problem else store.repairs))


def render(
    used_bytes: int, total_bytes: int, models: list[ModelInfo] | tuple[ModelInfo, ...] | Any
) -> str:
    """The indicator as HTML."""
    resident = [info for info in models if info.status == "resident"]
    names = (
        "no model is in memory"
        if not resident
        else ", ".join(
            f"{info.id} {figures.size(info.memory_bytes)}" if info.memory_bytes else info.id
            for info in resident
        )
    )
    share = figures.percent(used_bytes, total_bytes)
    return (
        f'<div class="wb-machine" title="memory of this machine in use, of all">RAM '
        f'<span data-metric="ram">{used_bytes / 1e9:.1f} / {total_bytes / 1e9:.0f} GB</span>'
        f'<span class="wb-gauge"><i style="width:{share}%"></i></span></div>'
        f'<div class="wb-machine" data-metric="resident" title="{escape(names)}">'
        f"{len(resident)} resident</div>"
    )
