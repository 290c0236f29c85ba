"""What a cell came to, asked from the log: the figures that exit codes and sweeps go by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from workbench.bench.plan import Cell
from workbench.bench.road import Road
from workbench.bench.spec import Spec
from workbench.store.summaries import quantiles

SATURATED: Final = 0.9
"""An open loop whose answers come at less than this share of its arrivals only fills a queue."""
LAG_SHARE: Final = 0.05
"""A lag of the client's event loop above this share of the TTFT is the client's fault."""

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
        l.*, s.sent_ns, s.end_ns, coalesce(s.intended_ns, s.queued_ns) AS intended_ns
    FROM benchmark_trials t
    LEFT JOIN latencies l ON l.session_id = t.session_id
    LEFT JOIN stream_sessions s ON s.session_id = t.session_id
    WHERE t.run_id = $run_id AND t.cell_id = $cell_id
), spans AS (
    SELECT
        (max(end_ns) - min(sent_ns)) / 1e9 AS span_s,
        (max(intended_ns) - min(intended_ns)) / 1e9 AS arriving_s,
        count(*) AS requests
    FROM sessions GROUP BY block
)
SELECT
    count(*) AS trials,
    count(*) FILTER (trial_status = 'ok') AS ok,
    count(*) FILTER (trial_status NOT IN ('ok', 'cancelled')) AS failed,
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
    {_COLUMNS}
FROM sessions l
"""  # noqa: S608


async def of_cell(road: Road, run_id: str, spec: Spec, cell: Cell) -> dict[str, Any]:
    """The figures of a finished cell.

    ``goodput_share`` is met of all issued (null without an SLO), ``slo_met`` whether that is
    enough. ``throughput_tps``, ``requests_per_s`` and ``goodput_per_s`` are of the time in which
    requests ran, null where other cells ran in between. ``saturated`` says that an open loop's
    answers did not keep up with its arrivals.
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
    found["requests_per_s"] = per_s and found["trials"] * per_s
    found["throughput_tps"] = per_s and (found["output_tokens"] or 0) * per_s
    found["goodput_share"] = found["goodput_per_s"] = found["slo_met"] = None
    if spec.slo is not None:
        found["goodput_share"] = found["met"] / found["issued"] if found["issued"] else 0.0
        found["goodput_per_s"] = per_s and found["met"] * per_s
        found["slo_met"] = found["goodput_share"] >= spec.slo.share
    found["saturated"] = None
    if spec.load.pattern in ("open", "ramp", "trace", "sweep") and arriving_s and span_s:
        offered = (found["trials"] - blocks) / arriving_s
        found["saturated"] = found["ok"] / span_s < SATURATED * offered
    return found


def is_mixed(spec: Spec) -> bool:
    """Whether trials of several cells run in turns, so that none has a time of its own."""
    alone = spec.alone and spec.order == "interleaved" and spec.load.pattern != "prefix"
    return alone or spec.load.pattern == "storm"


def lag(samples: list[float], ttft_p50_s: float | None) -> dict[str, Any]:
    """How late the client's event loop was, and whether that spoils the cell's figures.

    The quantile is the nearest rank, for a few samples thereby the largest: more careful than none.
    """
    if not samples:
        return {"client_lag_p99_s": None, "client_lag": None}
    ordered = sorted(samples)
    p99 = ordered[round(0.99 * (len(ordered) - 1))]
    late = None if ttft_p50_s is None else p99 > LAG_SHARE * ttft_p50_s
    return {"client_lag_p99_s": p99, "client_lag": late}
