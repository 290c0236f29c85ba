"""What leaves the Compare tab: an address that opens it as it is, and files of what was said."""

from __future__ import annotations

from typing import Any

import gradio as gr

from workbench.exports import FORMATS
from workbench.figures import escape
from workbench.setups import Setup
from workbench.ui.desk import Updates
from workbench.ui.markup import html
from workbench.ui.runs import Run

_WORDS = {"json": "JSON", "markdown": "Markdown", "csv": "CSV", "spec": "benchmark spec"}


class Sharing:
    """Builds both at the current place."""

    def __init__(self) -> None:
        self.address = gr.Textbox(
            visible=False,
            label="Address of this comparison",
            show_label=False,
            container=False,
            lines=1,
            max_lines=1,
            interactive=False,
            elem_id="share-address",
        )
        self.button = gr.Button(
            "Share", size="sm", elem_id="share", elem_classes=["wb-small"], scale=0
        )
        self.menu = html(menu(None), elem_id="export")

    def offer(self, run: Run | None) -> Updates:
        """The files of what has ended."""
        ended = run is not None and not run.running
        return {self.menu: menu(run.plan.comparison_id if run and ended else None)}

    def shared(self, request: gr.Request, setup: Setup) -> Updates:
        """The address of a setup; it holds nothing but what stands on the page."""
        scheme = "https" if request.headers.get("x-forwarded-proto") == "https" else "http"
        address: Any = f"{scheme}://{request.headers.get('host', '')}/?{setup.to_query()}"
        return {self.address: gr.update(value=address, visible=True)}


def menu(comparison_id: str | None) -> str:
    """The formats, each a link to its file; without a comparison there is nothing to choose."""
    if comparison_id is None:
        return '<details class="wb-menu" inert><summary>Export</summary></details>'
    links = "".join(
        f'<a download href="/api/v1/comparisons/{escape(comparison_id)}/{name}">'
        f"{_WORDS.get(name, name)}</a>"
        for name in FORMATS
    )
    return f'<details class="wb-menu"><summary>Export</summary><div>{links}</div></details>'
