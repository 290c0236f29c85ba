"""How long answers take: percentiles, and the distribution of what was filtered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workbench.analysis.drawing import OTHER, empty, short, styled, styles
from workbench.analysis.frames import GROUP, Columns, Read, condition, real, text, typed, whole
from workbench.store.summaries import DURATIONS, QUANTILES, percentiles

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_WORDS: Final = {
    "ttft": "time to first token",
    "tpot": "time per output token after the first",
    "e2e": "time from sending to the end",
    "queue": "waiting for a slot",
}

LATENCY_PERCENTILES: Final[Columns] = {
    **GROUP,
    "device": text("where it ran"),
    "timing_mode": text("concurrent, isolated or interleaved"),
    "prompt_tokens_from": whole("shortest prompt of this class; null where it was not counted"),
    "prompt_tokens_below": whole("the class ends before this length"),
    "sessions": whole("answers counted"),
    **{
        f"{name}_{suffix}_s": real(f"{suffix} of the {_WORDS[name]}; NaN with too few samples")
        for name in DURATIONS
        for suffix in QUANTILES
    },
}

_ORDER: Final = " ORDER BY model, dtype, quantization, device, timing_mode, prompt_tokens_from"


def latency_percentiles(read: Read, *, contended: bool = False) -> pd.DataFrame:
    """Latency percentiles by model, form of its weights, timing mode and prompt length.

    Args:
        read: runs the query.
        contended: True counts the answers too that ran beside others.

    Returns:
        The columns of :data:`LATENCY_PERCENTILES`. p90 needs 64 samples and p99 662
        (``metrics.MIN_SAMPLES``); with fewer they are NaN. On a log larger than
        ``WORKBENCH_EXACT_SESSIONS`` those of answers that ran alone are within 0.25 %.
    """
    wanted = percentiles(condition(contended)) if contended else "FROM latency_percentiles"
    return typed(read(wanted + _ORDER), LATENCY_PERCENTILES)


def plot_latency_percentiles(found: pd.DataFrame, *, figure_of: str = "ttft") -> go.Figure:
    """Percentiles against prompt length: p50 as a line, p90 and p99 as fainter marks above it.

    Args:
        found: what :func:`latency_percentiles` gave.
        figure_of: ``ttft``, ``tpot``, ``e2e`` or ``queue``.
    """
    import plotly.graph_objects as go

    title = f"{_WORDS[figure_of].capitalize()} by prompt length: p50, p90 (◇), p99 (△)"
    rows = found[found[f"{figure_of}_p50_s"].notna() & found["prompt_tokens_from"].notna()]
    if rows.empty:
        return empty(title, "No answer was measured alone yet. Ask in isolated mode.")
    figure = go.Figure()
    looks = styles(rows["model"])
    keys = ["model", "dtype", "quantization", "device", "timing_mode"]
    for (model, dtype, *_, mode), part in rows.groupby(keys, dropna=False, sort=True):
        look = looks[str(model)]
        words = f"{short(str(model))}, {mode}"
        for suffix, symbol in (("p50", "circle"), ("p90", "diamond-open"), ("p99", "triangle-up")):
            figure.add_trace(
                go.Scatter(
                    x=part["prompt_tokens_from"],
                    y=part[f"{figure_of}_{suffix}_s"] * 1e3,
                    mode="lines+markers" if suffix == "p50" else "markers",
                    line={"color": look.colour, "dash": look.dash, "width": 1.5},
                    marker={"color": look.colour, "symbol": symbol, "size": 7},
                    customdata=part["sessions"],
                    hovertemplate=f"{suffix} %{{y:.1f}} ms of %{{customdata}} answers, from "
                    f"%{{x}} tokens<extra>{words} {dtype}</extra>",
                )
            )
        last = part.iloc[-1]
        figure.add_annotation(
            x=float(last["prompt_tokens_from"]),
            y=float(last[f"{figure_of}_p50_s"]) * 1e3,
            text=words,
            showarrow=False,
            xanchor="right",
            yanchor="bottom",
            font={"color": look.colour},
        )
    figure.update_xaxes(title_text="prompt length from, tokens")
    figure.update_yaxes(title_text=f"{figure_of.upper()}, ms", rangemode="tozero")
    return styled(figure, title, height=320)


def plot_ttft(sessions: pd.DataFrame) -> go.Figure:
    """Every TTFT as a point, one line a model; answers that ran beside others are hollow.

    Args:
        sessions: rows of ``latencies`` with ``model``, ``ttft_s`` and ``contended``.
    """
    return plot_distribution(sessions, "ttft_s", "TTFT")


def plot_distribution(sessions: pd.DataFrame, column: str, name: str) -> go.Figure:
    """A figure of every session as a point, one line a model, the median of each line marked.

    Args:
        sessions: rows of ``latencies`` with ``model``, ``contended`` and ``column``.
        column: a time in seconds, shown in milliseconds.
        name: of the figure, as shown.
    """
    import plotly.graph_objects as go

    title = f"{name[:1].upper()}{name[1:]} by model (hollow: contended, bar: median)"
    timed = sessions[sessions[column].notna()] if column in sessions else sessions[:0]
    if timed.empty:
        return empty(title, f"None of these sessions has a {name}.")
    figure = go.Figure()
    looks = styles(str(model) for model in timed["model"])
    for model, rows in timed.groupby("model", sort=True):
        words, colour = short(str(model)), looks[str(model)].colour
        for contended, part in rows.groupby("contended"):
            figure.add_trace(
                go.Box(
                    x=part[column].astype(float) * 1e3,
                    y=[words] * len(part),
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
                    hovertemplate="%{x:.1f} ms<extra>"
                    + ("contended" if contended else "alone")
                    + "</extra>",
                )
            )
        figure.add_trace(
            go.Scatter(
                x=[float(rows[column].median()) * 1e3],
                y=[words],
                mode="markers",
                marker={
                    "symbol": "line-ns",
                    "size": 18,
                    "line": {"width": 2, "color": colour or OTHER},
                },
                hovertemplate=f"median of {len(rows)}: %{{x:.1f}} ms<extra></extra>",
            )
        )
    figure.update_xaxes(title_text=f"{name}, ms", rangemode="tozero")
    return styled(figure, title, height=130 + 44 * timed["model"].nunique())
