"""The phase timeline above the panes: one row a pane, one bar a phase, on a common clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workbench import figures
from workbench.figures import escape
from workbench.live import LiveAnswer, Segment
from workbench.metrics import NS

_SHORTEST_S = 2.0
"""The axis is at least this long: the first moments would race across it otherwise."""
_MARKED = 0.96
"""A mark's words stand to the right of it: behind this part of the axis there is no room."""


@dataclass(frozen=True, slots=True)
class Row:
    """One pane's line."""

    letter: str
    model: str = ""
    segments: tuple[Segment, ...] = ()
    phase: str = "idle"

    @classmethod
    def of(cls, letter: str, live: LiveAnswer) -> Row:
        """The line of a running or finished answer."""
        return cls(letter, live.model, tuple(live.segments), live.phase)


def render(rows: Sequence[Row], now: int) -> str:
    """The chart as HTML; every bar carries its phase as a word and in ``data-phase``."""
    started = [row.segments[0].start for row in rows if row.segments]
    if not started:
        lines = "".join(_line(row, "") for row in rows)
        return f'<div class="wb-timeline" data-state="idle">{lines}{_axis(None)}</div>'
    start = min(started)
    end = max(
        segment.end if segment.end is not None else now for row in rows for segment in row.segments
    )
    span_s = max((end - start) / NS, _SHORTEST_S) * 1.02
    lines = "".join(
        _line(row, "".join(_bar(segment, start, span_s, now) for segment in row.segments))
        for row in rows
    )
    return f'<div class="wb-timeline" data-state="drawn">{lines}{_axis(span_s)}</div>'


def mark(letter: str, model: str) -> str:
    """A pane's letter, coloured by the provider of its model."""
    provider = model.partition("/")[0]
    return (
        f'<span class="wb-letter" data-provider="{escape(provider)}" '
        f'title="{escape(model)}">{escape(letter)}</span>'
    )


def _line(row: Row, bars: str) -> str:
    return (
        f'<div class="wb-row" data-pane="{escape(row.letter)}">'
        f"{mark(row.letter, row.model)}"
        f'<div class="wb-track">{bars}</div></div>'
    )


def _bar(segment: Segment, start: int, span_s: float, now: int) -> str:
    begin_s = (segment.start - start) / NS
    length_s = max((segment.end if segment.end is not None else now) - segment.start, 0) / NS
    words = f"{segment.phase} {figures.seconds(length_s)}"
    return (
        f'<div class="wb-bar" data-phase="{escape(segment.phase)}" '
        f'style="left:{100 * begin_s / span_s:.2f}%;width:{100 * length_s / span_s:.2f}%" '
        f'title="{escape(words)}"><span>{escape(segment.phase)}</span></div>'
    )


def _axis(span_s: float | None) -> str:
    if span_s is None:
        return '<div class="wb-axis">the phases of the next answers are drawn here</div>'
    step = _step(span_s)
    marks = "".join(
        f'<span style="left:{100 * i * step / span_s:.2f}%">{i * step:g} s</span>'
        for i in range(int(_MARKED * span_s / step) + 1)
    )
    return f'<div class="wb-axis">{marks}</div>'


def _step(span_s: float) -> float:
    """A round distance that gives four to nine marks."""
    step = 0.5
    factors = (2.0, 2.5, 2.0)  # 0.5, 1, 2.5, 5, 10, 25, 50, ...
    position = 0
    while span_s / step > 9:
        step *= factors[position % len(factors)]
        position += 1
    return step
