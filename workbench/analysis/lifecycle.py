"""What it costs to have models come and go: loads, evictions, and when they happened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workbench.analysis.drawing import (
    INK,
    PHASES,
    WARNING,
    empty,
    short,
    styled,
    styles,
    whiskers,
)
from workbench.analysis.frames import Columns, Read, flag, real, rows_of, text, typed, when, whole

if TYPE_CHECKING:
    import datetime as dt

    import pandas as pd
    import plotly.graph_objects as go

LOAD_COSTS: Final[Columns] = {
    "model": text("model id"),
    "provider": text("its runtime"),
    "loads": whole("loads that succeeded"),
    "loads_failed": whole("loads that did not"),
    "unloads": whole("unloads that were asked for or for being idle"),
    "evictions": whole("unloads that made room"),
    "deaths": whole("processes that ended by themselves"),
    "leaks": whole("unloads that did not give the memory back"),
    "load_p50_s": real("median time of a load"),
    "load_max_s": real("longest load"),
    "release_p50_s": real("median time of an unload or eviction"),
    "loaded_max_bytes": whole("largest memory right after a load"),
    "recovered_bytes": whole("memory given back by all unloads"),
    "spent_s": real("time spent on all of this"),
}

MODEL_EVENTS: Final[Columns] = {
    "created_at": when("when it ended"),
    "since_start_s": real("its beginning, since that of the first of these events"),
    "duration_s": real("how long it took"),
    "model": text("model id"),
    "provider": text("its runtime"),
    "event": text("load, unload, evict or died"),
    "ok": flag("whether it succeeded"),
    "reason": text("why"),
    "before_bytes": whole("memory of the model's processes before"),
    "after_bytes": whole("and after"),
    "expected_bytes": whole("what an unload should give back"),
    "recovered_bytes": whole("what it gave back"),
    "leak": flag("less than 95 % of it"),
}

_MARKS: Final = {"load": "triangle-right", "unload": "triangle-left", "evict": "x", "died": "star"}
_COLOURS: Final = {
    "load": PHASES["loading"],
    "unload": PHASES["done"],
    "evict": PHASES["prompt"],
    "died": WARNING,
}

# t_ns counts from a boot, so the span of a log over several is taken from created_at.
_EVENTS: Final = """
WITH found AS (
    SELECT *, epoch(created_at) - coalesce(duration_s, 0) AS began_s FROM model_events
    WHERE event IN ('load', 'unload', 'evict', 'died') AND created_at >= $since
    ORDER BY created_at DESC LIMIT $limit
)
SELECT created_at, began_s - min(began_s) OVER () AS since_start_s, duration_s, model, provider,
    event, ok, reason, before_bytes, after_bytes, expected_bytes, recovered_bytes, leak
FROM found ORDER BY created_at
"""


def load_costs(read: Read) -> pd.DataFrame:
    """Loads, evictions and their cost by model.

    Returns:
        The columns of :data:`LOAD_COSTS`, the most expensive model first.
    """
    return typed(read("FROM load_costs ORDER BY spent_s DESC, model"), LOAD_COSTS)


def plot_load_costs(found: pd.DataFrame) -> go.Figure:
    """The median load of each model, a whisker up to the longest.

    Args:
        found: what :func:`load_costs` gave.
    """
    import plotly.graph_objects as go

    title = "What a load costs (bar: median, whisker: longest)"
    rows = found[found["load_p50_s"].notna()].iloc[::-1]
    if rows.empty:
        return empty(title, "No model was loaded yet.")
    looks = styles(rows["model"])
    medians = rows["load_p50_s"].tolist()
    figure = go.Figure(
        go.Bar(
            x=medians,
            y=[short(str(model)) for model in rows["model"]],
            orientation="h",
            marker={"color": [looks[str(model)].colour for model in rows["model"]]},
            error_x={**whiskers(medians, medians, rows["load_max_s"].tolist()), "color": INK},
            text=[
                f"{row.loads} loads, {row.evictions} evictions, {row.spent_s:.1f} s in all"
                for row in rows_of(rows)
            ],
            textposition="inside",
            insidetextanchor="start",
            hovertemplate="%{x:.2f} s<extra>%{y}</extra>",
        )
    )
    figure.update_xaxes(title_text="time of a load, s", rangemode="tozero")
    return styled(figure, title, height=120 + 38 * len(rows))


def model_events(
    read: Read, *, since: dt.datetime | None = None, limit: int = 2_000
) -> pd.DataFrame:
    """When models came and went, and why.

    Args:
        read: runs the query.
        since: only events from then on (an aware time).
        limit: the newest so many.

    Returns:
        The columns of :data:`MODEL_EVENTS`, oldest first.
    """
    start = since.isoformat() if since is not None else "0001-01-01T00:00:00+00:00"
    return typed(read(_EVENTS, {"since": start, "limit": limit}), MODEL_EVENTS)


def plot_model_events(events: pd.DataFrame) -> go.Figure:
    """Who was in memory when: a bar from each load to the end of its stay, a mark an event.

    Args:
        events: what :func:`model_events` gave.
    """
    import plotly.graph_objects as go

    title = "Models in memory (▶ load, ✕ evicted, ◀ unloaded, ★ died)"
    if events.empty:
        return empty(title, "No model came or went yet.")
    figure = go.Figure()
    looks = styles(events["model"].dropna())
    done = events["since_start_s"] + events["duration_s"].fillna(0.0)
    end = float(done.max())
    for model, rows in events.assign(done_s=done).groupby("model", sort=True):
        words = short(str(model))
        loaded: float | None = None
        for row in rows_of(rows):
            if row.event == "load" and row.ok:
                loaded = float(row.done_s) if loaded is None else loaded
            elif row.event != "load" and loaded is not None:
                _stay(figure, words, looks[str(model)].colour, loaded, float(row.since_start_s))
                loaded = None
        if loaded is not None:
            _stay(figure, words, looks[str(model)].colour, loaded, end)
        for event, part in rows.groupby("event"):
            figure.add_trace(
                go.Scatter(
                    x=part["since_start_s"],
                    y=[words] * len(part),
                    mode="markers",
                    marker={
                        "symbol": _MARKS[str(event)],
                        "size": 10,
                        "color": _COLOURS[str(event)],
                    },
                    customdata=[
                        f"{row.event}: {'' if row.ok else 'failed, '}"
                        f"{row.reason if isinstance(row.reason, str) else ''} "
                        f"({row.duration_s:.2f} s)"
                        for row in rows_of(part)
                    ],
                    hovertemplate="%{customdata} at %{x:.2f} s<extra>%{y}</extra>",
                )
            )
    figure.update_xaxes(title_text="time, s", rangemode="tozero")
    return styled(figure, title, height=120 + 40 * events["model"].nunique())


def _stay(figure: go.Figure, row: str, colour: str, start: float, end: float) -> None:
    import plotly.graph_objects as go

    figure.add_trace(
        go.Scatter(
            x=[start, max(end, start)],
            y=[row, row],
            mode="lines",
            line={"color": colour, "width": 10},
            opacity=0.5,
            hoverinfo="skip",
        )
    )
