"""TTFT against the length of the prompt: what a longer prompt costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workbench.analysis.drawing import empty, short, styled, styles
from workbench.analysis.frames import (
    GROUP,
    Columns,
    Read,
    condition,
    flag,
    real,
    rows_of,
    text,
    typed,
    whole,
)
from workbench.analysis.statistics import robust_line
from workbench.store.summaries import sound

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MAX_POINTS: Final = 2_000
"""Sessions of each model that are looked at: a random part of more."""

PROMPT_COSTS: Final[Columns] = {
    "session_id": text("the session"),
    **GROUP,
    "prompt_tokens": whole("length of the prompt, counted by the runtime"),
    "ttft_s": real("time to first token"),
    "contended": flag("another generation or load ran beside it"),
}

PROMPT_FITS: Final[Columns] = {
    **GROUP,
    "sessions": whole("points of the fit"),
    "intercept_s": real("TTFT of an empty prompt, by the line"),
    "ms_per_1000_tokens": real("what 1,000 more prompt tokens cost"),
    "ms_per_1000_tokens_low": real("lower end of its 95 % interval"),
    "ms_per_1000_tokens_high": real("upper end of its 95 % interval"),
    "prompt_tokens_min": whole("shortest prompt: the line says nothing below"),
    "prompt_tokens_max": whole("longest prompt: nor above"),
}


def ttft_by_prompt(read: Read, *, contended: bool = False) -> pd.DataFrame:
    """TTFT and prompt length of single answers.

    Args:
        read: runs the query.
        contended: True takes the answers too that ran beside others.

    Returns:
        The columns of :data:`PROMPT_COSTS`, at most :data:`MAX_POINTS` answers a model.
    """
    found = read(
        f"""
        SELECT session_id, model, dtype, quantization, prompt_tokens, ttft_s, contended
        FROM latencies
        WHERE {condition(contended)} AND {sound("ttft_s")}
            AND prompt_tokens IS NOT NULL AND ttft_s IS NOT NULL
        QUALIFY row_number() OVER (
            PARTITION BY model, dtype, quantization ORDER BY hash(session_id)
        ) <= {MAX_POINTS}
        ORDER BY model, dtype, quantization, prompt_tokens
        """  # noqa: S608
    )
    return typed(found, PROMPT_COSTS)


def ttft_fits(points: pd.DataFrame) -> pd.DataFrame:
    """A robust line for each model: :func:`workbench.analysis.statistics.robust_line`.

    Args:
        points: what :func:`ttft_by_prompt` gave.

    Returns:
        The columns of :data:`PROMPT_FITS`; figures are NaN where there are too few points or
        all prompts have one length.
    """
    import pandas as pd

    rows = []
    for (model, dtype, quantization), part in points.groupby(list(GROUP), dropna=False):
        lengths = part["prompt_tokens"].astype(float)
        line = robust_line(lengths.tolist(), part["ttft_s"].tolist())
        row = {
            "model": model,
            "dtype": dtype,
            "quantization": quantization,
            "sessions": len(part),
            "prompt_tokens_min": lengths.min(),
            "prompt_tokens_max": lengths.max(),
        }
        if line is not None:
            row |= {
                "intercept_s": line.intercept,
                "ms_per_1000_tokens": line.slope * 1e6,
                "ms_per_1000_tokens_low": line.slope_low * 1e6,
                "ms_per_1000_tokens_high": line.slope_high * 1e6,
            }
        rows.append(row)
    return typed(pd.DataFrame(rows, columns=list(PROMPT_FITS)), PROMPT_FITS)


def plot_ttft_by_prompt(points: pd.DataFrame) -> go.Figure:
    """Every answer as a point, the line of each model with the interval of its slope.

    Args:
        points: what :func:`ttft_by_prompt` gave.
    """
    import plotly.graph_objects as go

    title = "TTFT against prompt length, with robust lines"
    if points.empty:
        return empty(
            title,
            "No answer with a counted prompt was measured alone yet.<br>"
            "Ask with prompts of several lengths in isolated mode.",
        )
    figure = go.Figure()
    looks = styles(points["model"])
    for (model, *_), part in points.groupby(list(GROUP), dropna=False):
        look = looks[str(model)]
        figure.add_trace(
            go.Scatter(
                x=part["prompt_tokens"],
                y=part["ttft_s"] * 1e3,
                mode="markers",
                marker={
                    "color": look.colour,
                    "size": 6,
                    "symbol": [
                        f"{look.mark}-open" if hollow else look.mark for hollow in part["contended"]
                    ],
                },
                hovertemplate=f"%{{x}} tokens: %{{y:.0f}} ms<extra>{short(str(model))}</extra>",
            )
        )
    fits = ttft_fits(points).dropna(subset=["intercept_s"])
    for line, fit in enumerate(rows_of(fits)):
        look = looks[str(fit.model)]
        x = [float(fit.prompt_tokens_min), float(fit.prompt_tokens_max)]
        middle = float(points[points["model"] == fit.model]["prompt_tokens"].median())
        at_middle = fit.intercept_s * 1e3 + fit.ms_per_1000_tokens * middle / 1e3
        for slope, width, opacity in (
            (fit.ms_per_1000_tokens, 2.0, 1.0),
            (fit.ms_per_1000_tokens_low, 1.0, 0.5),
            (fit.ms_per_1000_tokens_high, 1.0, 0.5),
        ):
            figure.add_trace(
                go.Scatter(
                    x=x,
                    y=[at_middle + slope * (at - middle) / 1e3 for at in x],
                    mode="lines",
                    opacity=opacity,
                    line={
                        "color": look.colour,
                        "width": width,
                        "dash": look.dash if opacity == 1 else "dot",
                    },
                    hoverinfo="skip",
                )
            )
        words = (
            f"{short(str(fit.model))}: {fit.intercept_s * 1e3:.0f} ms + "
            f"{fit.ms_per_1000_tokens:.0f} ms per 1,000 tokens "
            f"[{fit.ms_per_1000_tokens_low:.0f}, {fit.ms_per_1000_tokens_high:.0f}]"
        )
        figure.add_annotation(
            text=words,
            xref="paper",
            yref="paper",
            x=0.01,
            y=1,
            yshift=-16 * line,
            xanchor="left",
            yanchor="top",
            showarrow=False,
            font={"color": look.colour},
        )
    figure.update_xaxes(title_text="prompt length, tokens", rangemode="tozero")
    top = float(points["ttft_s"].max()) * 1e3
    figure.update_yaxes(title_text="TTFT, ms", range=[0, top * (1.08 + 0.07 * len(fits))])
    return styled(figure, title, height=360)
