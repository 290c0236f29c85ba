"""From the log to data frames and plots: what the page and the notebooks share.

Every query takes ``read``, a function of (sql, params) that gives a DataFrame: ``wb.sql`` in a
notebook, ``engine.store.query`` in the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

COLOURS: Final = ("#3f66e0", "#d1802b", "#2f9e6e", "#a855b5", "#c2495c", "#5f7d95")
"""One a model, in the order in which they first appear; told apart also by their names."""

_GREY: Final = "#8a8a94"
"""A middle grey: text and lines that read on white and on near black."""


class Read(Protocol):
    """Runs one statement that only reads."""

    def __call__(self, sql: str, params: Mapping[str, Any] | None = None, /) -> pd.DataFrame:
        """The rows."""
        ...


_GAPS: Final = """
SELECT s.model, s.provider, s.comparison_id, e.session_id, e.position, e.n_tokens, e.gap_s,
    e.gap_s / nullif(e.n_tokens, 0) AS gap_per_token_s,
    (e.t_ns - s.sent_ns) / 1e9 AS since_sent_s
FROM token_events e JOIN stream_sessions s USING (session_id)
WHERE s.session_id = $id OR s.comparison_id = $id
    OR s.comparison_id = (SELECT comparison_id FROM stream_sessions WHERE session_id = $id)
ORDER BY s.model, e.session_id, e.position
"""


def token_gaps(read: Read, id: str) -> pd.DataFrame:
    """The times between tokens of a comparison.

    Args:
        read: runs the query.
        id: a comparison, or one of its sessions.

    Returns:
        One row per text that a runtime produced, with ``gap_s`` since the one before it (null for
        the first), ``gap_per_token_s`` and ``since_sent_s``.
    """
    return read(_GAPS, {"id": id})


def plot_ttft(sessions: pd.DataFrame) -> go.Figure:
    """Every TTFT as a point, one line a model; answers that ran beside others are hollow.

    Args:
        sessions: with the columns ``model``, ``ttft_s`` and ``contended``.
    """
    import plotly.graph_objects as go

    timed = sessions[sessions["ttft_s"].notna()]
    figure = go.Figure()
    for position, (model, rows) in enumerate(timed.groupby("model", sort=True)):
        for contended, part in rows.groupby("contended"):
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
                        "color": COLOURS[position % len(COLOURS)],
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


def plot_gaps(gaps: pd.DataFrame) -> go.Figure:
    """The time between tokens over the course of each answer.

    Args:
        gaps: what :func:`token_gaps` gave.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for position, ((model, _), rows) in enumerate(gaps.groupby(["model", "session_id"])):
        counted = rows[rows["gap_per_token_s"].notna()]
        figure.add_trace(
            go.Scatter(
                x=counted["since_sent_s"],
                y=counted["gap_per_token_s"] * 1e3,
                mode="lines",
                line={"color": COLOURS[position % len(COLOURS)], "width": 1.5},
                name=_short(str(model)),
                hovertemplate="%{y:.1f} ms at %{x:.2f} s<extra>%{fullData.name}</extra>",
            )
        )
    figure.update_xaxes(title_text="time since the request was sent, s", rangemode="tozero")
    figure.update_yaxes(title_text="gap per token, ms", rangemode="tozero")
    return _styled(figure, "Inter-token gaps", height=280)


def _short(model: str) -> str:
    """The provider and the last part of the name: enough to know it by."""
    provider, _, name = model.partition("/")
    last = name.rsplit("/", 1)[-1]
    return f"{provider}/{last}" if len(last) <= 36 else f"{provider}/{last[:35]}…"


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
