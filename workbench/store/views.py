"""The views: every figure, computed in SQL from the raw stamps.

The formulas are those of :mod:`workbench.metrics`; a test holds the two equal. Views hold no data,
so they are replaced at every open and need no migration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workbench.store.rollup import choose_views
from workbench.store.summaries import SUMMARIES, spoilt

if TYPE_CHECKING:
    import duckdb

_EVENTS: Final = """
CREATE OR REPLACE VIEW token_events AS
WITH events AS (
    SELECT
        session_id,
        unnest(range(len(t_ns))) AS position,
        unnest(t_ns) AS t_ns,
        unnest(n_tokens) AS n_tokens,
        unnest(n_chars) AS n_chars,
        unnest(channels) AS channel
    FROM token_streams
)
SELECT
    session_id, position, t_ns, n_tokens, n_chars, channel,
    (t_ns - lag(t_ns) OVER (PARTITION BY session_id ORDER BY position)) / 1e9 AS gap_s
FROM events
"""

# Phases: a stamp that was never reached takes the value of the next one that was, so each bound is
# the least of the stamps from it on (least() passes over nulls).
#
# itl_p50_s alone is not computed here but taken from the figures that metrics.py computed when the
# session ended: from the stamps it would take a join with token_streams, which every query of this
# view would pay for, also those that do not ask for it (seven times over with a million sessions).
# Sessions of an insight are no measurements: their text is given, or each token asked for alone.
_LATENCIES: Final = f"""
CREATE OR REPLACE VIEW latencies AS
WITH bounds AS (
    SELECT
        s.*,
        least(queued_ns, slot_ns, sent_ns, first_any_ns, first_content_ns, last_ns, end_ns) AS b0,
        least(slot_ns, sent_ns, first_any_ns, first_content_ns, last_ns, end_ns) AS b1,
        least(sent_ns, first_any_ns, first_content_ns, last_ns, end_ns) AS b2,
        least(first_any_ns, first_content_ns, last_ns, end_ns) AS b3,
        least(first_content_ns, last_ns, end_ns) AS b4,
        least(last_ns, end_ns) AS b5,
        b1 - b0 AS waited,
        least(coalesce(retry_ns, 0), waited) AS retried,
        least(load_ns, waited - retried) AS loaded,
        (last_ns - first_any_ns) / 1e9 AS streaming_s,
        (end_ns - sent_ns) / 1e9 AS e2e_s
    FROM stream_sessions AS s
    WHERE source <> 'insight'
), figures AS (
    SELECT
        *,
        CASE WHEN output_tokens >= 2 THEN streaming_s / (output_tokens - 1) END AS tpot_s
    FROM bounds
)
SELECT
    seq, session_id, created_at, model, provider, requested_model, fallback_from,
    digest, dtype, quantization, device, threads, timing_mode, source,
    status, finish_reason, termination_reason, error_code,
    prompt_tokens, output_tokens, streamed_tokens, count_source, text_chars, reasoning_chars,
    conversation_id, correlation_id, comparison_id, environment_id, run_id, cell_id, trial,
    seed, cold, writer_id,
    retried / 1e9 AS retry_s,
    (waited - retried - loaded) / 1e9 AS queue_s,
    loaded / 1e9 AS load_s,
    (b2 - b1) / 1e9 AS dispatch_s,
    (b3 - b2) / 1e9 AS prefill_s,
    (b4 - b3) / 1e9 AS think_s,
    (b5 - b4) / 1e9 AS answer_s,
    (end_ns - b5) / 1e9 AS finish_s,
    (end_ns - queued_ns) / 1e9 AS wall_s,
    (first_any_ns - sent_ns) / 1e9 AS ttft_s,
    (first_content_ns - sent_ns) / 1e9 AS ttfo_s,
    tpot_s,
    (metrics->>'$.itl_p50_s')::DOUBLE AS itl_p50_s,
    e2e_s,
    (end_ns - coalesce(intended_ns, queued_ns)) / 1e9 AS e2e_eff_s,
    output_tokens / nullif(e2e_s, 0) AS output_tps,
    1 / nullif(tpot_s, 0) AS decode_tps,
    nullif(text_chars, 0) / nullif(streaming_s, 0) AS chars_per_s,
    mem_peak_bytes,
    mem_peak_bytes - mem_before_bytes AS mem_delta_bytes,
    gpu_peak_bytes,
    overlap_ns / 1e9 AS overlap_s,
    overlap_ns > 0 AS contended,
    ttft_late_ns / 1e9 AS ttft_late_s,
    speed_late_ns / 1e9 AS speed_late_s,
    {spoilt("ttft_late_ns", "first_any_ns - sent_ns")} AS ttft_spoilt,
    {spoilt("speed_late_ns", "nullif(last_ns - first_any_ns, 0)")} AS speed_spoilt
FROM figures
"""  # noqa: S608

# The processes of a model are read in one go: samples of one stamp are added up to one reading.
# The host's own reading is not memory of the model.
_MEMORY_BY_SESSION: Final = """
CREATE OR REPLACE VIEW memory_by_session AS
WITH readings AS (
    SELECT
        session_id, t_ns,
        sum(pss_bytes) FILTER (scope <> 'host')::BIGINT AS pss_bytes,
        sum(rss_bytes) FILTER (scope <> 'host')::BIGINT AS rss_bytes,
        sum(gpu_bytes) FILTER (scope <> 'host')::BIGINT AS gpu_bytes,
        min(host_available_bytes) AS host_available_bytes
    FROM memory_samples
    WHERE session_id IS NOT NULL
    GROUP BY session_id, t_ns
)
SELECT
    session_id,
    count(*) AS readings,
    max(pss_bytes) AS pss_peak_bytes,
    min(pss_bytes) AS pss_min_bytes,
    avg(pss_bytes) AS pss_mean_bytes,
    arg_min(pss_bytes, t_ns) AS pss_first_bytes,
    arg_max(pss_bytes, t_ns) AS pss_last_bytes,
    max(rss_bytes) AS rss_peak_bytes,
    max(gpu_bytes) AS gpu_peak_bytes,
    min(host_available_bytes) AS host_available_min_bytes,
    (max(t_ns) - min(t_ns)) / 1e9 AS observed_s
FROM readings
GROUP BY session_id
"""

# A model was tried by the sessions it answered and by those it was to answer before a fallback
# took over; its failures are the errors that name it in these sessions.
_ERROR_RATES: Final = """
CREATE OR REPLACE VIEW error_rates AS
WITH tried AS (
    SELECT model, count(*) AS sessions
    FROM (
        SELECT model FROM stream_sessions
        UNION ALL
        SELECT fallback_from FROM stream_sessions
        WHERE fallback_from IS NOT NULL AND fallback_from <> model
    )
    GROUP BY model
), failed AS (
    SELECT
        model, code AS error_code,
        count(DISTINCT session_id) AS errors,
        max(created_at) AS last_at
    FROM errors
    WHERE session_id IS NOT NULL AND model IS NOT NULL
    GROUP BY model, code
)
SELECT model, error_code, errors, sessions, errors / sessions AS error_rate, last_at
FROM failed
JOIN tried USING (model)
"""

VIEWS: Final[tuple[str, ...]] = (
    _EVENTS,
    _LATENCIES,
    _MEMORY_BY_SESSION,
    _ERROR_RATES,
    *SUMMARIES,
)


def create_views(connection: duckdb.DuckDBPyConnection) -> None:
    """Create or replace every view, all of them or none."""
    connection.execute("BEGIN TRANSACTION")
    try:
        for sql in VIEWS:
            connection.execute(sql)
        choose_views(connection)
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
