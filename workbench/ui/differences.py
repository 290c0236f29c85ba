"""Two answers of the Compare tab side by side, with the words marked that only one of them has."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import gradio as gr

from workbench import figures, worddiff
from workbench.figures import escape
from workbench.live import LiveAnswer
from workbench.ui import notices
from workbench.ui.asking import Plan
from workbench.ui.desk import LAST, QUIET, Desk, Updates
from workbench.ui.markup import html
from workbench.ui.pane import LETTERS
from workbench.ui.timeline import mark
from workbench.worddiff import Difference, Piece


class Differences:
    """Builds the view at the current place; it takes the panes' place while it is open."""

    def __init__(self) -> None:
        with gr.Column(elem_id="diff-view", visible=False) as self._view:
            self._pair = gr.Radio(
                [],
                label="Answers",
                show_label=False,
                container=False,
                elem_id="diff-pair",
                elem_classes=["wb-mode"],
            )
            self._shown = html("", elem_id="diff")
        self._open = gr.State(False)

    def wire(self, desk: Desk, button: gr.Button) -> None:
        """Wire it.

        Args:
            desk: the tab's components.
            button: opens and closes it.
        """
        self._desk = desk
        self.inputs = [self._open, self._pair]
        self.outputs = [self._view, self._pair, self._shown, self._open]
        button.click(self._toggle, self.inputs, self.outputs, **QUIET)
        self._pair.input(self.refresh, self.inputs, self.outputs, **LAST)

    async def refresh(self, request: gr.Request, is_open: bool, pair: str | None) -> Updates:
        """The view of the answers as they are now, if it is open."""
        if not is_open:
            return {self._open: False}
        run = self._desk.run_of(request)
        answered = answers(run.plan) if run else {}
        pairs = [f"{LETTERS[a - 1]} {LETTERS[b - 1]}" for a, b in combinations(answered, 2)]
        if not pairs:
            return {
                self._pair: gr.update(choices=[], value=None),
                self._shown: notices.note("Two answers are needed; ask something first."),
                self._open: True,
            }
        pair = pair if pair in pairs else pairs[0]
        left, right = (LETTERS.index(letter) + 1 for letter in pair.split())
        found = await asyncio.to_thread(
            worddiff.compare, answered[left].answer, answered[right].answer
        )
        return {
            self._pair: gr.update(
                choices=[(p.replace(" ", " and "), p) for p in pairs],
                value=pair,
                visible=len(pairs) > 1,
            ),
            self._shown: render(found, (left, answered[left]), (right, answered[right])),
            self._open: True,
        }

    async def _toggle(self, request: gr.Request, is_open: bool, pair: str | None) -> Updates:
        updates = await self.refresh(request, not is_open, pair)
        return {**updates, self._view: gr.update(visible=not is_open)}


def answers(plan: Plan) -> dict[int, LiveAnswer]:
    """The panes on the page that have an answer, in their order."""
    found = {number: plan.latest(number) for number in plan.shown}
    return {number: one for number, one in found.items() if one is not None and one.answer}


def render(found: Difference, left: tuple[int, LiveAnswer], right: tuple[int, LiveAnswer]) -> str:
    """The comparison as HTML; what only one side has is marked by colour, line and element."""
    heads = "".join(
        f'<div class="wb-diffhead">{mark(LETTERS[number - 1], live.model)} {escape(live.model)}'
        f"<span>{words:,} words, {figures.percent(found.shared_words, words)} % of them also in "
        "the other</span></div>"
        for (number, live), words in zip(
            (left, right), (found.left_words, found.right_words), strict=True
        )
    )
    lines = "".join(
        f"<div>{_side(line.left, 'del')}</div><div>{_side(line.right, 'ins')}</div>"
        for line in found.lines
    )
    told = ""
    if found.same:
        told = notices.note("Both answers are the same, word for word.")
    elif found.cut:
        told = notices.note(f"Only the first {worddiff.MAX_WORDS:,} words are compared.")
    if found.coarse:
        told += notices.note(
            "These texts repeat themselves: frequent words are matched only beside rarer ones."
        )
    return f'{told}<div class="wb-diff">{heads}{lines}</div>'


def _side(pieces: Sequence[Piece], element: str) -> str:
    parts: list[Any] = [
        escape(piece.text) if piece.shared else f"<{element}>{escape(piece.text)}</{element}>"
        for piece in pieces
    ]
    return "".join(parts)
