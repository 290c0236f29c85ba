"""Answers side by side in a notebook, while they stream."""

from __future__ import annotations

import html
import time
from dataclasses import dataclass, field
from typing import Any

from workbench.types import (
    DoneEvent,
    ErrorEvent,
    LoadingEvent,
    PromptEvent,
    QueuedEvent,
    StreamEvent,
    StreamSession,
    TokenEvent,
    WarningEvent,
)

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


@dataclass
class _Pane:
    model: str
    phase: str = "queued"
    text: str = ""
    notes: list[str] = field(default_factory=list)
    session: StreamSession | None = None


class LiveComparison:
    """One HTML table that is replaced as events arrive.

    Args:
        models: one pane each.
    """

    def __init__(self, models: list[str]) -> None:
        from IPython.display import HTML, display

        self._html = HTML
        self._panes = [_Pane(model) for model in models]
        self._handle: Any = display(HTML(self._render()), display_id=True)
        self._drawn = time.monotonic()

    def update(self, index: int, event: StreamEvent) -> None:
        """Take an event of pane ``index`` and redraw when it is due."""
        pane = self._panes[index]
        final = isinstance(event, DoneEvent | ErrorEvent)
        match event:
            case QueuedEvent():
                pane.phase = f"queued ({event.position})"
            case LoadingEvent():
                pane.phase = "loading"
            case PromptEvent():
                pane.phase = "prompt"
            case TokenEvent():
                pane.phase = "thinking" if event.channel == "reasoning" else "answering"
                pane.text += event.text if event.channel == "content" else ""
            case WarningEvent():
                pane.notes.append(event.message)
            case DoneEvent():
                pane.phase, pane.session = event.session.status.value, event.session
            case ErrorEvent():
                pane.phase, pane.session = event.session.status.value, event.session
                pane.notes.append(str(event.error))
        if final or time.monotonic() - self._drawn >= _REDRAW_S:
            self._handle.update(self._html(self._render()))
            self._drawn = time.monotonic()

    def _render(self) -> str:
        width = 100 / max(len(self._panes), 1)
        cells = "".join(
            f'<td style="vertical-align:top;text-align:left;width:{width:.1f}%;padding:8px 12px">'
            f"<b>{html.escape(pane.model)}</b><br>"
            f'<small style="font-variant-numeric:tabular-nums">{_strip(pane)}</small>'
            f'<div style="white-space:pre-wrap;margin-top:6px">{html.escape(pane.text)}</div>'
            + "".join(f"<div><i>{html.escape(note)}</i></div>" for note in pane.notes)
            + "</td>"
            for pane in self._panes
        )
        return f'<table style="width:100%;table-layout:fixed"><tr>{cells}</tr></table>'


def _strip(pane: _Pane) -> str:
    """``done · TTFT 61 ms · 26.1 tok/s · 48 tokens · 655 MB``, a dash for what is unknown."""
    parts = [pane.phase]
    if pane.session is not None:
        figures = pane.session.metrics
        ttft_s, speed, memory = (
            figures.get(name) for name in ("ttft_s", "decode_tps", "mem_peak_bytes")
        )
        tokens = pane.session.output_tokens
        parts += [
            f"TTFT {ttft_s * 1000:.0f} ms" if ttft_s is not None else "TTFT –",
            f"{speed:.1f} tok/s" if speed is not None else "– tok/s",
            f"{tokens if tokens is not None else '–'} tokens",
            f"{memory / 1e6:.0f} MB" if memory is not None else "– MB",
        ]
        if pane.session.overlap_ns:
            parts.append("contended")
    return html.escape(" · ".join(parts))
