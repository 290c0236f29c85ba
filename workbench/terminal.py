"""What the command line shows: tables, live panes, a line of figures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from workbench.errors import WorkbenchError
from workbench.types import (
    DoneEvent,
    ErrorEvent,
    LoadingEvent,
    ModelInfo,
    PromptEvent,
    QueuedEvent,
    StreamEvent,
    StreamSession,
    TokenEvent,
    WarningEvent,
)

_REDRAWS_PER_S = 8


def size(value: float | None) -> str:
    """Bytes for people: ``269 MB``; a dash for unknown."""
    if value is None:
        return "–"
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def figures(session: StreamSession) -> str:
    """One line: ``ok · TTFT 61 ms · 26.1 tok/s · 48 tokens · 655 MB``."""
    values = session.metrics
    ttft_s, speed = values.get("ttft_s"), values.get("decode_tps")
    parts = [
        session.status.value,
        f"TTFT {ttft_s * 1000:.0f} ms" if ttft_s is not None else "TTFT –",
        f"{speed:.1f} tok/s" if speed is not None else "– tok/s",
        f"{'–' if session.output_tokens is None else session.output_tokens} tokens",
        size(values.get("mem_peak_bytes")),
    ]
    if load_s := values.get("load_s"):
        parts.append(f"load {load_s:.1f} s")
    if session.overlap_ns:
        parts.append(f"contended {100 * session.overlap_ns / _generating_ns(session):.0f} %")
    return " · ".join(parts)


def _generating_ns(session: StreamSession) -> int:
    sent = session.stamps.sent
    return max(session.stamps.end - (session.stamps.queued if sent is None else sent), 1)


def print_models(models: Sequence[ModelInfo], problems: Mapping[str, WorkbenchError]) -> None:
    """A table of models, then what kept a provider from telling its own."""
    longest = max((len(model.id) for model in models), default=0)
    # Ids are there to be copied: a narrow terminal may wrap a line, but none is cut short.
    console = Console(width=max(Console().width, longest + 70))
    if models:
        table = Table(box=None, pad_edge=False)
        table.add_column("model", no_wrap=True)
        for name in ("status", "size", "memory", "weights", "context"):
            table.add_column(name, justify="right" if name in ("size", "memory") else "left")
        for model in models:
            table.add_row(
                escape(model.id),
                model.status,
                size(model.size_bytes),
                size(model.memory_bytes),
                " ".join(part for part in (model.format, model.quantization or model.dtype) if part)
                or "–",
                str(model.context_length or "–"),
            )
        console.print(table)
    else:
        console.print("No models yet. Get a small one with: workbench models pull demo")
    for model in models:
        if model.problem:
            console.print(f"{model.id}: {model.problem}", markup=False)
    for name, error in problems.items():
        console.print(f"{name}: {error}", markup=False)


@dataclass
class _Pane:
    model: str
    phase: str = "queued"
    text: str = ""
    notes: list[str] = field(default_factory=list)
    session: StreamSession | None = None


class LiveTable:
    """Answers side by side in the terminal while they stream.

    Args:
        models: one column each.
        enabled: False shows nothing at all (for ``--json``).
    """

    def __init__(self, models: Sequence[str], *, enabled: bool) -> None:
        self._panes = [_Pane(model) for model in models]
        self._enabled = enabled
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._drawn = 0.0

    def __enter__(self) -> Self:
        if self._enabled and self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()
        if self._enabled and error is None:
            self._console.print(self._table(whole=True))

    def update(self, index: int, event: StreamEvent) -> None:
        """Take an event of column ``index``; redraws a few times a second."""
        pane = self._panes[index]
        match event:
            case QueuedEvent():
                pane.phase = f"queued ({event.position}): {event.reason}"
            case LoadingEvent():
                pane.phase = "loading"
            case PromptEvent():
                pane.phase = "prompt"
            case TokenEvent():
                pane.phase = "thinking" if event.channel == "reasoning" else "answering"
                pane.text += event.text if event.channel == "content" else ""
            case WarningEvent():
                pane.notes.append(f"warning: {event.message}")
            case DoneEvent():
                pane.session = event.session
            case ErrorEvent():
                pane.session = event.session
                pane.notes.append(str(event.error))
        now = time.monotonic()
        if self._live.is_started and now - self._drawn > 1 / _REDRAWS_PER_S:
            self._drawn = now
            self._live.update(self._table(whole=False), refresh=True)

    def _table(self, *, whole: bool) -> Table:
        """The panes; while streaming only the end of each text, so that the screen holds it."""
        table = Table(expand=True, show_lines=True)
        rows = max(self._console.height - 8, 5)
        strips, texts = [], []
        for pane in self._panes:
            table.add_column(Text(pane.model), ratio=1, overflow="fold")
            strips.append(Text(figures(pane.session) if pane.session else pane.phase))
            text = pane.text if whole else "\n".join(pane.text.splitlines()[-rows:])
            texts.append(Text("\n".join([text, *pane.notes])))
        table.add_row(*strips)
        table.add_row(*texts)
        return table
