"""HTML blocks that are styled by our sheet alone."""

from __future__ import annotations

from typing import Any

import gradio as gr


def html(value: str = "", **settings: Any) -> gr.HTML:
    """An HTML block without gradio's own typography, which would recolour what stands in it."""
    return gr.HTML(value, apply_default_css=False, js_on_load=None, **settings)
