"""What a cell came to, asked from the log: the figures that exit codes and sweeps go by."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

from workbench.bench.patterns import Sweep
from workbench.bench.plan import Cell
from workbench.bench.road import Road
from workbench.bench.spec import Spec
from workbench.figures import seconds
from workbench.metrics import LAG_FLOOR_S, LAG_SHARE
from workbench.store.summaries import quantiles

SATURATED: Final = 0.9
"""An open loop whose answers come at less than this share of its arrivals only fills a queue."""
_NAMES: Final = {"ttft": "TTFT", "e2e_eff": "time from the intended start"}

_COLUMNS: Final = ",\n    ".join(
    quantiles(name, unit, ("p50", "p90", "p99"), where="l.status = 'ok'")
    for name, unit in (
        ("ttft", "_s"),
        ("ttfo", "_s"),
        ("tpot", "_s"),
        ("e2e", "_s"),
        ("e2e_eff", "_s"),
        ("queue", "_s"),
    )
)

# A block is what ran without a pause: only within one do requests a second mean anything.
_SQL: Final = f"""
WITH sessions AS (
    SELECT
        t.met, t.cancelled_on_purpose, t.status AS trial_status,
        (t.details->>'$.block')::INTEGER AS block,
        coalesce(
            s.error_code || ': ' || s.error_message,
            (t.details->>'$.error.code') || ': ' || (t.details->>'$.error.message')
        ) AS failure,
        l.*, s.sent_ns, s.end_ns, s.first_any_ns, s.last_ns,
        coalesce(s.intended_ns, s.queued_ns) AS intended_ns
    FROM benchmark_trials t
    LEFT JOIN latencies l ON l.session_id = t.session_id
    LEFT JOIN stream_sessions s ON s.session_id = t.session_id
    WHERE t.run_id = $run_id AND t.cell_id = $cell_id
), spans AS (
    SELECT
        block,
        (max(end_ns) - min(sent_ns)) / 1e9 AS span_s,
        (max(intended_ns) - min(intended_ns)) / 1e9 AS arriving_s,
        -- Until the first answer ends the load fills up; after the last one begins it drains.
        min(end_ns) AS filled_ns,
        greatest(max(sent_ns), filled_ns) AS drains_ns
    FROM sessions GROUP BY block
), parts AS (
    -- How much of an answer came in the steady window: its tokens, spread over its streaming time.
    SELECT
        output_tokens,
        greatest(0, least(last_ns, drains_ns) - greatest(first_any_ns, filled_ns)) AS inside_ns,
        last_ns - first_any_ns AS streaming_ns,
        first_any_ns BETWEEN filled_ns AND drains_ns AS begun_inside
    FROM sessions JOIN spans USING (block)
)
SELECT
    count(*) AS trials,
    count(*) FILTER (trial_status = 'ok') AS ok,
    count(*) FILTER (trial_status NOT IN ('ok', 'cancelled')) AS failed,
    count(*) FILTER (trial_status = 'rejected' AND session_id IS NULL) AS refused,
    count(*) FILTER (cancelled_on_purpose) AS cancelled,
    count(*) FILTER (met) AS met,
    count(*) FILTER (NOT cancelled_on_purpose) AS issued,
    count(*) FILTER (cold) AS cold,
    sum(output_tokens)::BIGINT AS output_tokens,
    max(mem_peak_bytes) AS mem_peak_bytes,
    max(gpu_peak_bytes) AS gpu_peak_bytes,
    (SELECT sum(span_s) FROM spans) AS span_s,
    (SELECT sum(arriving_s) FROM spans) AS arriving_s,
    (SELECT count(*) FROM spans) AS blocks,
    (SELECT sum(drains_ns - filled_ns) / 1e9 FROM spans) AS steady_s,
    (
        SELECT sum(output_tokens * CASE
            WHEN streaming_ns > 0 THEN inside_ns / streaming_ns ELSE begun_inside::INTEGER END)
        FROM parts
    ) AS steady_tokens,
    any_value(l.provider) AS provider,
    mode(failure) FILTER (trial_status NOT IN ('ok', 'cancelled')) AS failure,
    {_COLUMNS}
FROM sessions l
"""  # noqa: S608


async def of_cell(road: Road, run_id: str, spec: Spec, cell: Cell) -> dict[str, Any]:
    """The figures of a finished cell.

    ``goodput_share`` is met of all issued (null without an SLO), ``slo_met`` whether that is
    enough. ``throughput_tps``, ``requests_per_s`` (that were answered, or stopped on purpose) and
    ``goodput_per_s`` are of the time in which requests ran, null where other cells ran in between.
    ``steady_tps`` is the throughput of its steady part alone, ``steady_s`` long: from the first
    answer's end to the last request's start, for before that the load fills up and after that it
    drains; null where less than one answer's tokens came in it. ``refused`` counts the requests
    that a limit of the workbench refused before there was a session. ``saturated`` says that an
    open loop's answers did not keep up with its arrivals. ``failure`` is what most of those that
    failed died of, its code and message.
    """
    (row,) = await road.rows(_SQL, {"run_id": run_id, "cell_id": cell.cell_id})
    return figures(row, spec, mixed=is_mixed(spec))


def figures(row: Mapping[str, Any], spec: Spec, *, mixed: bool) -> dict[str, Any]:
    """The figures from the counts of a cell; ``mixed`` with the trials of other cells."""
    found = dict(row)
    span_s, arriving_s = found.pop("span_s"), found.pop("arriving_s")
    blocks = found.pop("blocks")
    per_s = None if mixed or not span_s else 1 / span_s
    found["span_s"] = None if mixed else span_s
    found["requests_per_s"] = per_s and (found["trials"] - found["failed"]) * per_s
    found["throughput_tps"] = per_s and (found["output_tokens"] or 0) * per_s
    steady_s, steady_tokens = found.pop("steady_s"), found.pop("steady_tokens")
    an_answer = (found["output_tokens"] or 0) / max(1, found["ok"])
    steady = per_s is not None and bool(steady_s) and (steady_tokens or 0) >= max(1, an_answer)
    found["steady_s"] = steady_s if steady else None
    found["steady_tps"] = steady_tokens / steady_s if steady else None
    found["goodput_share"] = found["goodput_per_s"] = found["slo_met"] = None
    if spec.slo is not None:
        found["goodput_share"] = found["met"] / found["issued"] if found["issued"] else 0.0
        found["goodput_per_s"] = per_s and found["met"] * per_s
        found["slo_met"] = found["goodput_share"] >= spec.slo.share
    found["saturated"] = None
    if _arrives(spec) and arriving_s and span_s:
        offered = (found["trials"] - blocks) / arriving_s
        found["saturated"] = found["ok"] / span_s < SATURATED * offered
    return found


def unanswered(found: Mapping[str, Any]) -> bool:
    """Whether every request of a cell failed, so that it has no figures."""
    return bool(found["trials"]) and found["failed"] == found["trials"]


def _arrives(spec: Spec) -> bool:
    """Whether requests come whatever becomes of them: users wait for their answers."""
    load = spec.load
    return load.pattern in ("open", "ramp", "trace") or (
        isinstance(load, Sweep) and load.of == "rate_per_s"
    )


def is_mixed(spec: Spec) -> bool:
    """Whether trials of several cells run in turns, so that none has a time of its own."""
    alone = spec.alone and spec.order == "interleaved" and spec.load.pattern != "prefix"
    return alone or spec.load.pattern == "storm"


def slo_met(
    spec: Spec,
    found: Sequence[Mapping[str, Any]],
    knees: Mapping[str, float | None],
    status: str,
) -> bool | None:
    """Whether a run kept its SLO: all of its cells, or every sweep at some load.

    Returns:
        None without an SLO, and where nothing missed it but the run was stopped, or has no cell.
    """
    if spec.slo is None:
        return None
    swept = isinstance(spec.load, Sweep)
    kept = [knee is not None for knee in knees.values()] if swept else [f["slo_met"] for f in found]
    if not all(kept):
        return False
    return None if status == "cancelled" or not kept else True


def lag(samples: Sequence[float], found: Mapping[str, Any], *, stamped: bool) -> dict[str, Any]:
    """How late the client's event loop was, and which of a cell's figures that spoils.

    What waits for a late loop gets its stamp later by as much. So each figure is set beside the
    same of the lag: the median beside the mean lag, by which a stamp is late on average, and p90
    and p99 beside those of the lag, where the cell has answers enough to tell them. A figure is
    spoilt by more than ``metrics.LAG_SHARE`` of it, and never by less than ``LAG_FLOOR_S``: a
    few moments of a long run do not move a median, and no answer of 2 ms is measured to 0.1 ms.

    Args:
        samples: by how many seconds the loop was late, at even intervals.
        found: the cell's figures.
        stamped: whether the first token gets its stamp on this loop. If a worker or a server gives
            it, only the request's start is this loop's doing, and ``e2e_eff`` is looked at.

    Returns:
        ``client_lag_p99_s`` (nearest rank), ``client_lag`` (None if unknown), and
        ``client_lag_spoils``: by figure the seconds that it may be too long.
    """
    if not samples:
        return {"client_lag_p99_s": None, "client_lag": None, "client_lag_spoils": {}}
    ordered = sorted(samples)
    late = {
        "p50": statistics.fmean(ordered),
        **{f"p{q}": ordered[round(q / 100 * (len(ordered) - 1))] for q in (90, 99)},
    }
    names = {part: f"{'ttft' if stamped else 'e2e_eff'}_{part}_s" for part in late}
    spoilt = {
        names[part]: late_s
        for part, late_s in late.items()
        if (value := found[names[part]]) is not None
        and late_s > max(LAG_FLOOR_S, LAG_SHARE * value)
    }
    known = found[names["p50"]] is not None
    return {
        "client_lag_p99_s": late["p99"],
        "client_lag": bool(spoilt) if known else None,
        "client_lag_spoils": spoilt,
    }


def late(found: Mapping[str, Any]) -> str:
    """In words, which of a cell's figures its client spoilt."""
    told = ", ".join(
        f"{_NAMES[name.rsplit('_', 2)[0]]} {name.rsplit('_', 2)[1]} by up to {seconds(late_s)}"
        for name, late_s in found.get("client_lag_spoils", {}).items()
    )
    return (
        f"the client was late, which lengthens its figures ({told or 'by how much is not known'})"
    )
