"""The memory of the last hour as a plot: models stacked, the budget above them, alerts marked."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from workbench.analysis.drawing import INK, WARNING, empty, faded, short, styled, styles
from workbench.observe.timeline import Reading, devices

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_POINTS: Final = 360
"""Of a line: more cannot be told apart in the width of a page."""

_MARKS: Final = {"load": "▶", "evict": "✕", "unload": "◀", "died": "★"}


def plot(readings: tuple[Reading, ...], events: Sequence[Mapping[str, Any]] = ()) -> go.Figure:
    """One strip a device.

    Args:
        readings: of :class:`workbench.observe.timeline.MemoryTimeline`.
        events: rows of ``model_events`` of that time with ``created_at``, ``event``, ``model``.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    title = "Memory: what models hold, their budget, all that is in use (▶ load ◀ unload ✕ evict)"
    kept = thinned(readings)
    if len(kept) < 2:
        return empty(title, "The first readings are being taken; look again in some seconds.")
    names = devices(kept)
    figure: go.Figure = make_subplots(
        rows=len(names), cols=1, shared_xaxes=True, vertical_spacing=0.09
    )
    at = [reading.at for reading in kept]
    models = sorted({model for reading in kept for model in reading.held_bytes})
    looks = styles(models)
    for row, device in enumerate(names, start=1):
        place = {"row": row, "col": 1}
        for model in models:
            sizes = [reading.held_bytes.get(model, {}).get(device, 0) / 1e9 for reading in kept]
            if any(sizes):
                colour = looks[model].colour
                figure.add_trace(
                    go.Scatter(
                        x=at,
                        y=sizes,
                        name=short(model),
                        stackgroup=device,
                        mode="lines",
                        line={"width": 1, "color": colour, "dash": looks[model].dash},
                        fillcolor=faded(colour, 0.35),
                        hovertemplate=f"%{{y:.2f}} GB<extra>{short(model)}</extra>",
                        showlegend=row == 1,
                    ),
                    **place,
                )
        for name, values, dash in (
            ("budget of the models", [one.limit_bytes.get(device, 0) for one in kept], "dash"),
            ("in use by all", [one.used_bytes.get(device, 0) for one in kept], "dot"),
        ):
            figure.add_trace(
                go.Scatter(
                    x=at,
                    y=[value / 1e9 for value in values],
                    name=name,
                    mode="lines",
                    line={"width": 1.5, "color": INK, "dash": dash, "shape": "hv"},
                    hovertemplate=f"%{{y:.2f}} GB<extra>{name}</extra>",
                    showlegend=row == 1,
                ),
                **place,
            )
        for start, end in spans(kept, device):
            figure.add_vrect(
                x0=start,
                x1=end,
                fillcolor=faded(WARNING, 0.16),
                line_width=0,
                layer="below",
                annotation={"text": "alert", "font": {"color": WARNING, "size": 10}},
                annotation_position="top left",
                **place,
            )
        figure.update_yaxes(title_text=f"{device}, GB", rangemode="tozero", nticks=5, **place)
    known = [one for one in events if one["event"] in _MARKS and at[0] <= one["created_at"]]
    if known:
        figure.add_trace(
            go.Scatter(
                x=[one["created_at"] for one in known],
                y=[0] * len(known),
                mode="text",
                text=[_MARKS[one["event"]] for one in known],
                textposition="top center",
                textfont={"color": INK, "size": 11},
                hovertext=[f"{one['event']}: {short(one['model'] or '')}" for one in known],
                hovertemplate="%{hovertext}<extra></extra>",
                showlegend=False,
                cliponaxis=False,
            ),
            row=1,
            col=1,
        )
    figure = styled(figure, title, height=120 + 190 * len(names))
    legend = {"orientation": "h", "y": -0.16, "font": {"size": 10}}
    figure.update_layout(showlegend=True, legend=legend, uirevision="memory")
    return figure


def thinned(readings: tuple[Reading, ...]) -> tuple[Reading, ...]:
    """No more than can be drawn; of those left out the highest use is kept."""
    step = -(-len(readings) // MOST_POINTS)
    if step <= 1:
        return readings
    parts = [readings[start : start + step] for start in range(0, len(readings), step)]
    return tuple(max(part, key=lambda one: sum(one.used_bytes.values())) for part in parts)


def spans(readings: Sequence[Reading], device: str) -> list[tuple[dt.datetime, dt.datetime]]:
    """From when to when the device had an alert."""
    found: list[tuple[dt.datetime, dt.datetime]] = []
    began: dt.datetime | None = None
    for reading in readings:
        if device in reading.short:
            began = began or reading.at
        elif began is not None:
            found.append((began, reading.at))
            began = None
    if began is not None:
        found.append((began, readings[-1].at))
    return found
