"""The question before something is deleted for good."""

from __future__ import annotations

from typing import Any

import gradio as gr

from workbench.ui.markup import html


class Confirm:
    """Builds it at the current place, hidden; "Keep" hides it again.

    Args:
        name: of the tab, in the ids of its elements.
        nothing: what ``asked`` holds before anything was asked.

    Attributes:
        row: shown while it is asked.
        question: its words, as HTML.
        really: the button that deletes.
        asked: what was asked about, and goes, whatever is chosen by then.
    """

    def __init__(self, name: str, nothing: Any) -> None:
        with gr.Row(elem_classes=["wb-tools"], elem_id=f"{name}-confirm", visible=False) as row:
            self.question = html("", elem_id=f"{name}-question")
            self.really = gr.Button(
                "Delete now",
                variant="stop",
                size="sm",
                elem_id=f"{name}-really",
                scale=0,
                min_width=80,
            )
            keep = gr.Button("Keep", size="sm", elem_id=f"{name}-keep", scale=0, min_width=80)
        self.row = row
        self.asked = gr.State(nothing)
        keep.click(
            lambda: gr.update(visible=False),
            None,
            row,
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
