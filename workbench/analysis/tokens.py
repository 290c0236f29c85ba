"""Tokens: the gaps between them, and what one is worth in text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workbench.analysis.drawing import empty, label_at_end, short, styled, styles
from workbench.analysis.frames import (
    CHOSEN,
    GROUP,
    Columns,
    Read,
    real,
    rows_of,
    text,
    typed,
    whole,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

TOKEN_GAPS: Final[Columns] = {
    "model": text("model id"),
    "provider": text("its runtime"),
    "comparison_id": text("the comparison, if it was one"),
    "session_id": text("the session"),
    "position": whole("of the event in its stream, from 0"),
    "n_tokens": whole("tokens in the event"),
    "n_chars": whole("characters in the event"),
    "channel": text("content or reasoning"),
    "gap_s": real("since the event before it; NaN for the first"),
    "gap_per_token_s": real("gap_s divided by its tokens"),
    "since_sent_s": real("since the request was sent"),
}

TOKEN_EFFICIENCY: Final[Columns] = {
    **GROUP,
    "device": text("where it ran"),
    "sessions": whole("answers counted"),
    "output_tokens": whole("tokens written, counted by the model's own tokenizer"),
    "output_chars": whole("characters written, reasoning included"),
    "chars_per_token": real("characters that one token stands for"),
    "decode_tps_p50": real("median tokens/s: compares within one tokenizer only"),
    "chars_per_s_p50": real("median characters/s: compares everywhere"),
}

# Ids first: with them the lists of one comparison are read and no others.
_GAPS: Final = f"""
WITH chosen AS (
    SELECT session_id, model, provider, comparison_id, sent_ns FROM stream_sessions
    WHERE session_id IN ({CHOSEN})
), events AS (
    SELECT session_id,
        unnest(range(len(t_ns))) AS position, unnest(t_ns) AS t_ns,
        unnest(n_tokens) AS n_tokens, unnest(n_chars) AS n_chars, unnest(channels) AS channel
    FROM token_streams WHERE session_id IN (SELECT session_id FROM chosen)
), spaced AS (
    SELECT *, (t_ns - lag(t_ns) OVER (PARTITION BY session_id ORDER BY position)) / 1e9 AS gap_s
    FROM events
)
SELECT model, provider, comparison_id, session_id, position, n_tokens, n_chars, channel, gap_s,
    gap_s / nullif(n_tokens, 0) AS gap_per_token_s,
    (t_ns - sent_ns) / 1e9 AS since_sent_s
FROM spaced JOIN chosen USING (session_id)
ORDER BY model, session_id, position
"""  # noqa: S608


def token_gaps(read: Read, id: str) -> pd.DataFrame:
    """The times between the tokens of a comparison.

    Args:
        read: runs the query.
        id: a comparison, or a session: then of its comparison, if it was part of one.

    Returns:
        The columns of :data:`TOKEN_GAPS`, one row per text that a runtime produced.
    """
    return typed(read(_GAPS, {"id": id}), TOKEN_GAPS)


def plot_gaps(gaps: pd.DataFrame) -> go.Figure:
    """The time between tokens over the course of each answer.

    Args:
        gaps: what :func:`token_gaps` gave.
    """
    import plotly.graph_objects as go

    title = "Inter-token gaps"
    counted = gaps[gaps["gap_per_token_s"].notna()]
    if counted.empty:
        return empty(title, "These answers have fewer than two tokens: there is no gap.")
    figure = go.Figure()
    looks = styles(counted["model"])
    for (model, _), rows in counted.groupby(["model", "session_id"]):
        look = looks[str(model)]
        figure.add_trace(
            go.Scatter(
                x=rows["since_sent_s"],
                y=rows["gap_per_token_s"] * 1e3,
                mode="lines+markers" if len(rows) == 1 else "lines",
                # A gap is the time before its token: the step is as wide as it is high.
                line={"color": look.colour, "width": 1.5, "dash": look.dash, "shape": "vh"},
                hovertemplate="%{y:.1f} ms at %{x:.2f} s<extra>" + short(str(model)) + "</extra>",
            )
        )
    figure.update_xaxes(title_text="time since the request was sent, s", rangemode="tozero")
    top = float(counted["gap_per_token_s"].max()) * 1e3
    figure.update_yaxes(title_text="gap per token, ms", range=[0, top * 1.2 or 1.0])
    for model, rows in counted.groupby("model"):
        last = rows.iloc[-1]
        label_at_end(
            figure,
            float(last["since_sent_s"]),
            float(rows["gap_per_token_s"].max()) * 1e3,
            short(str(model)),
            looks[str(model)].colour,
            inside=True,
        )
    return styled(figure, title, height=280)


def token_efficiency(read: Read) -> pd.DataFrame:
    """What a token is worth: characters per token and per second, by model.

    Tokenizers cut text differently, so tokens/s of two models may rank them the wrong way round.
    Only answers that ran alone count.

    Returns:
        The columns of :data:`TOKEN_EFFICIENCY`, the fastest first.
    """
    found = read("FROM token_efficiency ORDER BY chars_per_s_p50 DESC NULLS LAST, model")
    return typed(found, TOKEN_EFFICIENCY)


def plot_token_efficiency(found: pd.DataFrame) -> go.Figure:
    """Characters/s against tokens/s; the slope to a point is its characters per token.

    Args:
        found: what :func:`token_efficiency` gave.
    """
    import plotly.graph_objects as go

    title = "Characters/s against tokens/s"
    rows = found.dropna(subset=["decode_tps_p50", "chars_per_s_p50"])
    if rows.empty:
        return empty(title, "No answer of two tokens or more was measured alone yet.")
    figure = go.Figure()
    looks = styles(rows["model"])
    for row in rows_of(rows):
        look = looks[str(row.model)]
        figure.add_trace(
            go.Scatter(
                x=[0, row.decode_tps_p50],
                y=[0, row.chars_per_s_p50],
                mode="lines+markers",
                line={"color": look.colour, "width": 1, "dash": "dot"},
                marker={
                    "color": look.colour,
                    "symbol": look.mark,
                    "size": [0, 9],
                    "line": {"width": 0},
                },
                hovertemplate=f"%{{x:.1f}} tokens/s, %{{y:.0f}} characters/s<extra>"
                f"{short(str(row.model))}, {row.sessions} answers</extra>",
            )
        )
        words = f"{short(str(row.model))}, {row.chars_per_token:.2f} characters a token"
        label_at_end(
            figure, row.decode_tps_p50, row.chars_per_s_p50, words, look.colour, inside=True
        )
    figure.update_xaxes(title_text="tokens/s (p50)", rangemode="tozero")
    figure.update_yaxes(title_text="characters/s (p50)", rangemode="tozero")
    return styled(figure, title, height=340)
