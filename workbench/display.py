"""Answers side by side in a notebook, while they stream."""

from __future__ import annotations

import html
import time
from typing import Any

from workbench import figures
from workbench.live import LiveAnswer
from workbench.types import DoneEvent, ErrorEvent, StreamEvent

_REDRAW_S = 0.1
"""A notebook is redrawn at most this often: drawing must not slow what is measured."""


def in_notebook() -> bool:
    """True in a Jupyter kernel, where rich output can be shown and replaced."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


class LiveComparison:
    """One HTML table that is replaced as events arrive.

    Args:
        models: one pane each.
    """

    def __init__(self, models: list[str]) -> None:
        from IPython.display import HTML, display

        self._html = HTML
        self._panes = [LiveAnswer(model) for model in models]
        self._handle: Any = display(HTML(self._render()), display_id=True)
        self._drawn = time.monotonic()

    def update(self, index: int, event: StreamEvent) -> None:
        """Take an event of pane ``index`` and redraw when it is due."""
        self._panes[index].take(event)
        final = isinstance(event, DoneEvent | ErrorEvent)
        if final or time.monotonic() - self._drawn >= _REDRAW_S:
            self._handle.update(self._html(self._render()))
            self._drawn = time.monotonic()

    def _render(self) -> str:
        width = 100 / max(len(self._panes), 1)
        cells = "".join(
            f'<td style="vertical-align:top;text-align:left;width:{width:.1f}%;padding:8px 12px">'
            f"<b>{html.escape(pane.model)}</b><br>"
            f'<small style="font-variant-numeric:tabular-nums">{_strip(pane)}</small>'
            f'<div style="white-space:pre-wrap;margin-top:6px">{html.escape(pane.answer)}</div>'
            + "".join(f"<div><i>{html.escape(note)}</i></div>" for note in _notes(pane))
            + "</td>"
            for pane in self._panes
        )
        return f'<table style="width:100%;table-layout:fixed"><tr>{cells}</tr></table>'


def _strip(pane: LiveAnswer) -> str:
    """The figures of a finished answer, the phase of one that runs."""
    shown = figures.line(pane.session) if pane.session else f"{pane.phase} {pane.detail}"
    return html.escape(shown)


def _notes(pane: LiveAnswer) -> list[str]:
    """Warnings and the error."""
    return [message for _, message in pane.warnings] + ([str(pane.error)] if pane.error else [])
