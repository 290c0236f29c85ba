"""The components of one pane, and the ids by which tests and the style sheet find them."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from workbench.ui import strip
from workbench.ui.markup import html
from workbench.ui.timeline import mark

LETTERS = "ABCDEF"
COUNT = len(LETTERS)
FIRST_SHOWN = 2
"""Panes of a fresh page; more are a click away."""

_EMPTY = "The answer appears here.\n\nType a message below; `Ctrl+Enter` sends it to all panes."
_LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]


@dataclass(frozen=True)
class Pane:
    """One model's column. ``number`` counts from 1 and never changes; hidden panes keep theirs."""

    number: int
    column: gr.Column
    badge: gr.HTML
    model: gr.Dropdown
    remove: gr.Button
    strip: gr.HTML
    own: gr.Textbox
    """Options over the shared ones, as ``name=value`` words."""
    stop: gr.Button
    again: gr.Button
    spread: gr.Button
    """Carries this pane's history over to all others."""
    notice: gr.HTML
    chat: gr.Chatbot
    turns: gr.State
    """``tuple[Turn, ...]``: the pane's own history."""

    @property
    def letter(self) -> str:
        """The pane's name on the page."""
        return LETTERS[self.number - 1]


def badge(number: int, model: str | None) -> str:
    """The pane's letter in the colour of its model's provider; the word is in the model id."""
    return mark(LETTERS[number - 1], model or "")


def chat_of(name: str, empty: str) -> gr.Chatbot:
    """Where answers are shown; ``empty`` is Markdown that stands there before the first one."""
    return gr.Chatbot(
        elem_id=f"{name}-chat",
        elem_classes=["wb-chat"],
        show_label=False,
        container=False,
        height=None,
        layout="panel",
        sanitize_html=True,
        allow_tags=False,
        latex_delimiters=_LATEX,
        feedback_options=None,
        buttons=["copy"],
        placeholder=empty,
        group_consecutive_messages=True,
    )


def build(number: int) -> Pane:
    """Lay a pane out at the current place."""
    name = f"pane-{number}"
    letter = LETTERS[number - 1]
    with gr.Column(
        elem_id=name,
        elem_classes=["wb-pane"],
        visible=number <= FIRST_SHOWN,
        min_width=200,
    ) as column:
        with gr.Row(elem_classes=["wb-head"]):
            marked = html(badge(number, None), elem_classes=["wb-badge"])
            model = gr.Dropdown(
                choices=[],
                value=None,
                label=f"Model of pane {letter}",
                show_label=False,
                container=False,
                filterable=True,
                # A model can be typed: by a short name, or with options of its load
                # (NAME?quantization=int8), which no list has.
                allow_custom_value=True,
                elem_id=f"{name}-model",
                elem_classes=["wb-model"],
                scale=1,
                min_width=120,
            )
            # The words are what a screen reader says; the style sheet shows a sign.
            gr.Button(
                "Expand or restore",
                size="sm",
                elem_id=f"{name}-expand",
                elem_classes=["wb-small", "wb-quiet", "wb-sign"],
                scale=0,
                min_width=28,
            )
            remove = gr.Button(
                "Remove pane",
                size="sm",
                elem_id=f"{name}-remove",
                elem_classes=["wb-small", "wb-quiet", "wb-sign"],
                scale=0,
                min_width=28,
            )
        shown = html(strip.render(None, 0), elem_id=f"{name}-strip")
        own = gr.Textbox(
            label=f"Own options of pane {letter}",
            show_label=False,
            container=False,
            placeholder="own options: temperature=0 seed=7",
            lines=1,
            max_lines=1,
            elem_id=f"{name}-own",
            elem_classes=["wb-own"],
            visible=False,
        )
        notice = html("", elem_id=f"{name}-notice", elem_classes=["wb-notices"])
        chat = chat_of(name, _EMPTY)
        with gr.Row(elem_classes=["wb-foot"]):
            stop, again, spread = (
                gr.Button(
                    words,
                    size="sm",
                    interactive=False,
                    elem_id=f"{name}-{part}",
                    elem_classes=["wb-small"],
                    scale=0,
                    min_width=40,
                )
                for words, part in (
                    ("Stop", "stop"),
                    ("Ask again", "again"),
                    ("Continue in all", "spread"),
                )
            )
        turns = gr.State(())
    return Pane(
        number, column, marked, model, remove, shown, own, stop, again, spread, notice, chat, turns
    )
