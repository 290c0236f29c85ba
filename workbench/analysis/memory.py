"""Memory of models while they answer, with the phases of the answers drawn over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workbench.analysis.drawing import (
    PHASES,
    empty,
    faded,
    short,
    styled,
    styles,
)
from workbench.analysis.frames import CHOSEN, Columns, Read, real, rows_of, text, typed, whole

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MEMORY_TIMELINE: Final[Columns] = {
    "model": text("model id"),
    "session_id": text("the session during which it was read"),
    "since_start_s": real("since the first of these sessions arrived"),
    "pss_bytes": whole("memory of the model's processes, shared pages shared out"),
    "rss_bytes": whole("the same with shared pages counted in each process"),
    "gpu_bytes": whole("GPU memory of these processes"),
    "host_available_bytes": whole("memory that the machine had left"),
}

PHASE_SPANS: Final[Columns] = {
    "model": text("model id"),
    "session_id": text("the session"),
    "phase": text("retry, queued, loading, dispatch, prompt, thinking, answering or done"),
    "start_s": real("since the first of these sessions arrived"),
    "end_s": real("end of the phase"),
}

_CHOSEN: Final = f"""
WITH chosen AS (
    SELECT session_id, model, queued_ns, min(queued_ns) OVER () AS start_ns FROM stream_sessions
    WHERE session_id IN ({CHOSEN})
)
"""  # noqa: S608

# The processes of a model are read in one go: samples of one stamp are one reading.
_MEMORY: Final = f"""
{_CHOSEN}
SELECT c.model, s.session_id, (s.t_ns - any_value(c.start_ns)) / 1e9 AS since_start_s,
    sum(s.pss_bytes) FILTER (s.scope <> 'host')::BIGINT AS pss_bytes,
    sum(s.rss_bytes) FILTER (s.scope <> 'host')::BIGINT AS rss_bytes,
    sum(s.gpu_bytes) FILTER (s.scope <> 'host')::BIGINT AS gpu_bytes,
    min(s.host_available_bytes) AS host_available_bytes
FROM memory_samples s JOIN chosen c USING (session_id)
GROUP BY c.model, s.session_id, s.t_ns
ORDER BY c.model, s.session_id, s.t_ns
"""  # noqa: S608

_PHASES: Final = f"""
{_CHOSEN}, lengths AS (
    SELECT c.model, c.session_id, (c.queued_ns - c.start_ns) / 1e9 AS arrived_s,
        unnest(['retry', 'queued', 'loading', 'dispatch', 'prompt', 'thinking', 'answering',
            'done']) AS phase,
        unnest([retry_s, queue_s, load_s, dispatch_s, prefill_s, think_s, answer_s,
            finish_s]) AS length_s,
        unnest(range(8)) AS position
    FROM latencies JOIN chosen c USING (session_id)
    WHERE session_id IN (SELECT session_id FROM chosen)
), ends AS (
    SELECT *, arrived_s + sum(length_s) OVER (PARTITION BY session_id ORDER BY position) AS end_s
    FROM lengths
)
SELECT model, session_id, phase, end_s - length_s AS start_s, end_s
FROM ends WHERE length_s > 0 ORDER BY model, session_id, position
"""  # noqa: S608


def memory_timeline(read: Read, id: str) -> pd.DataFrame:
    """Memory of the models of a comparison while they answered.

    Args:
        read: runs the query.
        id: a comparison, or a session: then of its comparison, if it was part of one.

    Returns:
        The columns of :data:`MEMORY_TIMELINE`, one row a reading.
    """
    return typed(read(_MEMORY, {"id": id}), MEMORY_TIMELINE)


def phase_spans(read: Read, id: str) -> pd.DataFrame:
    """When each phase of these sessions began and ended, on the clock of the memory.

    Waiting is drawn in the order retry, queue, load; it is known how long each was, not whether
    they took turns.

    Returns:
        The columns of :data:`PHASE_SPANS`; phases of no length are left out.
    """
    return typed(read(_PHASES, {"id": id}), PHASE_SPANS)


def plot_memory(memory: pd.DataFrame, phases: pd.DataFrame) -> go.Figure:
    """Memory against time, one strip a session, its phases as coloured bands under the line.

    Args:
        memory: what :func:`memory_timeline` gave.
        phases: what :func:`phase_spans` gave.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    title = "Memory (PSS) and phases"
    known = memory[memory["pss_bytes"].notna() | memory["gpu_bytes"].notna()]
    if known.empty:
        return empty(
            title,
            "No memory was read: the runtime has no process of its own here,<br>"
            "or it runs on another machine.",
        )
    sessions = list(dict.fromkeys(known["session_id"]))
    figure: go.Figure = make_subplots(
        rows=len(sessions), cols=1, shared_xaxes=True, vertical_spacing=0.06
    )
    looks = styles(known["model"])
    span = max(float(phases["end_s"].max()) if len(phases) else 0.0, 1e-9)
    for row, session in enumerate(sessions, start=1):
        readings = known[known["session_id"] == session]
        model = str(readings["model"].iloc[0])
        colour = looks[model].colour
        for phase in rows_of(phases[phases["session_id"] == session]):
            shade = PHASES.get(str(phase.phase), colour)
            wide = (phase.end_s - phase.start_s) / span > 0.07
            figure.add_vrect(
                x0=phase.start_s,
                x1=phase.end_s,
                row=row,
                col=1,
                fillcolor=faded(shade, 0.22),
                line_width=0,
                layer="below",
                exclude_empty_subplots=False,
                annotation={
                    "text": str(phase.phase) if wide else "",
                    "font": {"color": shade, "size": 10},
                    "yref": f"y{row if row > 1 else ''} domain",
                    "y": 0,
                    "yanchor": "bottom",
                },
                annotation_position="bottom left",
            )
        for column, dash in (("pss_bytes", "solid"), ("gpu_bytes", "dot")):
            values = readings[readings[column].notna()]
            if not values[column].sum():
                continue
            figure.add_trace(
                go.Scatter(
                    x=values["since_start_s"],
                    y=values[column].astype(float) / 1e6,
                    mode="lines+markers",
                    line={"color": colour, "width": 2, "dash": dash},
                    marker={"size": 4},
                    hovertemplate="%{y:.0f} MB at %{x:.2f} s<extra>"
                    + ("GPU" if column == "gpu_bytes" else "PSS")
                    + "</extra>",
                ),
                row=row,
                col=1,
            )
        top = float(readings[["pss_bytes", "gpu_bytes"]].max().max()) / 1e6
        figure.update_yaxes(title_text="MB", range=[0, top * 1.35 or 1], row=row, col=1, nticks=5)
        first = readings.iloc[0]
        figure.add_annotation(
            x=float(first["since_start_s"]),
            y=top * 1.2,
            row=row,
            col=1,
            text=short(model),
            showarrow=False,
            xanchor="left",
            font={"color": colour},
        )
    figure.update_xaxes(title_text="time, s", row=len(sessions), col=1)
    figure = styled(figure, title, height=110 + 130 * len(sessions))
    figure.update_xaxes(range=[0, span * 1.02])
    return figure
