"""The time ledger: where each second of an answer went, for all runtimes on one scale.

Our own stamps bound the whole; what the runtime says of itself divides the time between sent and
end. A runtime's clock is another one than ours, but both count the same seconds, so durations may
be subtracted: what the runtime does not account for is transport and whatever it keeps to itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workbench.analysis.drawing import OTHER, PHASES, empty, short, styled
from workbench.analysis.frames import CHOSEN, Columns, Read, real, rows_of, text, typed, whole

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

TIME_LEDGER: Final[Columns] = {
    "model": text("model id"),
    "session_id": text("the session"),
    "queue_s": real("waiting for a slot, retries included"),
    "load_s": real("the load that it waited for"),
    "dispatch_s": real("from the slot until the request was sent"),
    "tokenise_s": real("making tokens of the prompt; missing where the runtime does not tell"),
    "runtime_wait_s": real("waiting and loading inside the runtime"),
    "prompt_s": real("evaluating the prompt, by the runtime's clock"),
    "decode_s": real("decoding, by the runtime's clock"),
    "transport_s": real("between the runtime's total and our stamps: HTTP, pipes, events"),
    "unaccounted_s": real("what a runtime without durations does between sent and end"),
    "wall_s": real("all of it, from arrival to end"),
    "ttft_s": real("time to first token, by our stamps"),
    "decode_tps": real("tokens per second after the first, by our stamps"),
    "runtime_decode_tps": real("the same by the runtime's clock"),
    "prompt_tokens": whole("tokens of the prompt"),
    "output_tokens": whole("tokens of the answer"),
}

PARTS: Final[dict[str, str]] = {
    "queue_s": "queued",
    "load_s": "loading",
    "dispatch_s": "dispatch",
    "tokenise_s": "tokenise",
    "runtime_wait_s": "runtime waits",
    "prompt_s": "prompt",
    "decode_s": "answering",
    "transport_s": "transport",
    "unaccounted_s": "unaccounted",
}
"""The parts of ``wall_s`` in their order, with the words of the page."""

_COLOURS: Final = {
    **PHASES,
    "tokenise": "#2b8a9b",
    "runtime waits": "#a1a1aa",
    "transport": "#c05621",
    "unaccounted": OTHER,
}

# Names of durations: Ollama has load, prompt_eval and eval, our workers tokenize, wait, prefill
# and decode; both have total. A worker's total ends with its last message, Ollama's too.
_SQL: Final = f"""
WITH chosen AS (
    SELECT * FROM stream_sessions WHERE session_id IN ({CHOSEN}) AND sent_ns IS NOT NULL
), told AS (
    SELECT session_id, queued_ns, prompt_tokens,
        runtime_total_ns / 1e9 AS total_s,
        (details->>'$.runtime_ns.tokenize')::DOUBLE / 1e9 AS tokenise_s,
        (coalesce(runtime_load_ns, 0)
            + coalesce((details->>'$.runtime_ns.wait')::BIGINT, 0)) / 1e9 AS told_wait_s,
        coalesce(runtime_prompt_eval_ns, (details->>'$.runtime_ns.prefill')::BIGINT) / 1e9
            AS prompt_s,
        coalesce(runtime_eval_ns, (details->>'$.runtime_ns.decode')::BIGINT) / 1e9 AS decode_s
    FROM chosen
)
SELECT l.model, l.session_id, l.retry_s + l.queue_s AS queue_s, l.load_s, l.dispatch_s,
    t.tokenise_s,
    greatest(t.total_s - coalesce(t.tokenise_s, 0) - t.prompt_s - t.decode_s, 0) AS runtime_wait_s,
    t.prompt_s, t.decode_s,
    l.e2e_s - t.total_s AS transport_s,
    CASE WHEN t.total_s IS NULL THEN l.e2e_s END AS unaccounted_s,
    l.wall_s, l.ttft_s, l.decode_tps,
    (l.output_tokens - 1) / nullif(t.decode_s, 0) AS runtime_decode_tps,
    t.prompt_tokens, l.output_tokens
FROM latencies l JOIN told t USING (session_id)
ORDER BY t.queued_ns, l.session_id
"""  # noqa: S608


def time_ledger(read: Read, id: str) -> pd.DataFrame:
    """Where the time of each answer of a comparison went.

    Args:
        read: runs the query.
        id: a comparison, or a session: then of its comparison, if it was part of one.

    Returns:
        The columns of :data:`TIME_LEDGER`, one row a session that reached its runtime, in the
        order in which they were asked. The parts add up to ``wall_s``.
    """
    return typed(read(_SQL, {"id": id}), TIME_LEDGER)


def plot_time_ledger(found: pd.DataFrame) -> go.Figure:
    """One bar an answer, cut into the parts of its wall time.

    Args:
        found: what :func:`time_ledger` gave.
    """
    import plotly.graph_objects as go

    title = "where the time went"
    if found.empty:
        return empty(title, "no answer reached a runtime")
    figure = go.Figure()
    names = [f"{chr(65 + i)} {short(row.model)}" for i, row in enumerate(rows_of(found))]
    longest = float(found["wall_s"].max()) or 1.0
    for column, word in PARTS.items():
        values = found[column].fillna(0).clip(lower=0)
        if not values.any():
            continue
        figure.add_bar(
            y=names,
            x=values,
            orientation="h",
            name=word,
            marker={"color": _COLOURS.get(word, OTHER)},
            # Where there is room, the word stands on its part; the rest is said on pointing.
            text=[f"{word} {value:.2f} s" if value > longest / 9 else "" for value in values],
            textposition="inside",
            insidetextanchor="middle",
            textfont={"color": "white"},
            hovertemplate=f"{word} %{{x:.3f}} s<extra>%{{y}}</extra>",
        )
    figure = styled(figure, title, height=110 + 46 * len(names))
    figure.update_layout(barmode="stack", bargap=0.3)
    figure.update_xaxes(title="seconds since the request arrived")
    figure.update_yaxes(autorange="reversed")
    return figure
