"""Plots of the log: axes with units, the colours of the page, readable in light and dark."""

from __future__ import annotations

from typing import Final

import pandas as pd
import plotly.graph_objects as go

COLOURS: Final = ("#3f66e0", "#d1802b", "#2f9e6e", "#a855b5", "#c2495c", "#5f7d95")
"""One a model, in the order in which they first appear; told apart also by their names."""

_GREY: Final = "#8a8a94"
"""A middle grey: text and lines that read on white and on near black."""


def ttft_by_model(sessions: pd.DataFrame) -> go.Figure:
    """Every TTFT as a point, one line a model; answers that ran beside others are hollow."""
    timed = sessions[sessions["ttft_s"].notna()]
    figure = go.Figure()
    for position, (model, rows) in enumerate(timed.groupby("model", sort=True)):
        for contended, part in rows.groupby("contended"):
            colour = COLOURS[position % len(COLOURS)]
            figure.add_trace(
                go.Box(
                    x=part["ttft_s"] * 1e3,
                    y=[_short(str(model))] * len(part),
                    orientation="h",
                    boxpoints="all",
                    pointpos=0,
                    jitter=0.5,
                    line={"color": "rgba(0,0,0,0)"},
                    fillcolor="rgba(0,0,0,0)",
                    marker={
                        "color": colour,
                        "size": 7,
                        "symbol": "circle-open" if contended else "circle",
                    },
                    hovertemplate="%{x:.0f} ms<extra>"
                    + ("contended" if contended else "alone")
                    + "</extra>",
                    showlegend=False,
                )
            )
    figure.update_xaxes(title_text="TTFT, ms", rangemode="tozero")
    models = timed["model"].nunique()
    return _styled(figure, "TTFT by model (hollow: contended)", height=150 + 34 * models)


def gaps(events: pd.DataFrame) -> go.Figure:
    """The time between tokens over the course of each answer of a comparison."""
    figure = go.Figure()
    for position, ((model, _), rows) in enumerate(events.groupby(["model", "session_id"])):
        counted = rows[rows["gap_s"].notna() & (rows["n_tokens"] > 0)]
        colour = COLOURS[position % len(COLOURS)]
        figure.add_trace(
            go.Scatter(
                x=counted["since_sent_s"],
                y=counted["gap_s"] * 1e3 / counted["n_tokens"],
                mode="lines",
                line={"color": colour, "width": 1.5},
                name=_short(str(model)),
                hovertemplate="%{y:.1f} ms at %{x:.2f} s<extra>%{fullData.name}</extra>",
            )
        )
    figure.update_xaxes(title_text="time since the request was sent, s", rangemode="tozero")
    figure.update_yaxes(title_text="gap per token, ms", rangemode="tozero")
    return _styled(figure, "Inter-token gaps of the comparison", height=280)


def _short(model: str) -> str:
    """The provider and the last part of the name: enough to know it by."""
    provider, _, name = model.partition("/")
    last = name.rsplit("/", 1)[-1]
    return f"{provider}/{last}" if len(last) <= 32 else f"{provider}/{last[:31]}…"


def _styled(figure: go.Figure, title: str, *, height: int) -> go.Figure:
    figure.update_layout(
        title={"text": title, "font": {"size": 13}, "x": 0, "xanchor": "left"},
        height=height,
        margin={"l": 10, "r": 10, "t": 40, "b": 40},
        font={"size": 11, "color": _GREY},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": 1.08, "x": 1, "xanchor": "right"},
    )
    figure.update_xaxes(gridcolor="rgba(138,138,148,.25)", zerolinecolor=_GREY, automargin=True)
    figure.update_yaxes(gridcolor="rgba(138,138,148,.25)", zerolinecolor=_GREY, automargin=True)
    return figure
