"""Views that sum up ``latencies`` and ``model_events``; see :mod:`workbench.store.views`.

:mod:`workbench.analysis` asks them, or builds the same statement with another condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from workbench.metrics import LAG_FLOOR_S, LAG_SHARE, MIN_SAMPLES

QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
DURATIONS: Final = ("ttft", "tpot", "e2e", "queue")
"""Figures of ``latencies`` in seconds, without the unit."""

ALONE: Final = "status = 'ok' AND fallback_from IS NULL AND NOT contended"
"""Answers of the model itself that ended well and that nothing ran beside."""


def spoilt(late_ns: str, timed_ns: str) -> str:
    """SQL: whether the event loop was so late that it spoils a figure; never null.

    Args:
        late_ns: SQL for by how much it was late.
        timed_ns: SQL for the time that the figure is made of.
    """
    floor_ns = round(LAG_FLOOR_S * 1e9)
    return f"coalesce({late_ns} > {floor_ns} AND {late_ns} > {LAG_SHARE} * ({timed_ns}), false)"


_SPOILT_BY: Final = {
    **dict.fromkeys(("ttft_s", "ttfo_s"), "ttft_spoilt"),
    **dict.fromkeys(("tpot_s", "itl_p50_s", "decode_tps", "chars_per_s"), "speed_spoilt"),
}


def sound(column: str) -> str:
    """SQL: whether no late event loop has spoilt a figure of ``latencies``."""
    mark = _SPOILT_BY.get(column)
    return f"NOT {mark}" if mark else "true"


PROMPT_CLASS: Final = (
    "CASE WHEN prompt_tokens < 16 THEN 0 ELSE power(4, floor(log2(prompt_tokens) / 2))::BIGINT END"
)
"""SQL: the class of a prompt's length: from 0, 16, 64, 256, 1,024, 4,096 tokens and so on."""

PROMPT_CLASS_END: Final = "CASE WHEN prompt_tokens_from = 0 THEN 16 ELSE 4 * prompt_tokens_from END"
"""SQL: where it ends."""


def quantiles(name: str, unit: str, wanted: Sequence[str], *, where: str = "true") -> str:
    """SQL for quantiles of a column; each is null where it has fewer samples than it needs.

    Args:
        name: the column without its unit.
        unit: as it ends the names of the results, for example ``_s``.
        wanted: some of :data:`QUANTILES`.
        where: which rows count.

    The sample is gathered once for all of them.
    """
    column, levels = f"{name}{unit}", ", ".join(str(QUANTILES[one]) for one in wanted)
    return ",\n    ".join(
        f"CASE WHEN count({column}) FILTER ({where}) >= {MIN_SAMPLES.get(QUANTILES[one], 1)} "
        f"THEN (quantile_cont({column}, [{levels}]) FILTER ({where}))[{position}] END "
        f"AS {name}_{one}{unit}"
        for position, one in enumerate(wanted, start=1)
    )


def percentiles(condition: str) -> str:
    """SQL for latency percentiles by model, form, timing mode and prompt length.

    Args:
        condition: which rows of ``latencies`` count.

    A percentile is null where there are fewer samples than it needs (``metrics.MIN_SAMPLES``).
    """
    columns = ",\n    ".join(
        quantiles(name, "_s", tuple(QUANTILES), where=sound(f"{name}_s")) for name in DURATIONS
    )
    return f"""
SELECT
    model, dtype, quantization, device, timing_mode,
    {PROMPT_CLASS} AS prompt_tokens_from,
    {PROMPT_CLASS_END} AS prompt_tokens_below,
    count(*) AS sessions,
    {columns}
FROM latencies
WHERE {condition}
GROUP BY ALL
"""  # noqa: S608


BOARD: Final = (("ttft", "_s"), ("tpot", "_s"), ("decode_tps", ""), ("chars_per_s", ""))
"""Figures of the leaderboard and their units."""

BOARD_QUANTILES: Final = ("p50", "p90")

# Speed is taken from answers that ran alone. A fallback's answer is its own model's, never the
# requested one's, and it started from a failure: it is counted, but its figures are left out. So
# are those that a late event loop has spoilt.
_BOARD: Final = ",\n    ".join(
    quantiles(name, unit, BOARD_QUANTILES, where=f"alone AND {sound(f'{name}{unit}')}")
    for name, unit in BOARD
)

BOARD_COUNTS: Final = (
    "sessions",
    "sessions_ok",
    "sessions_uncontended",
    "sessions_as_fallback",
)


def board(rows: str, counts: Sequence[str] = BOARD_COUNTS, machine: str = "") -> str:
    """SQL for a leaderboard out of a row for each form that the log names.

    A session that never came to its model (refused, not found, a load that failed) has no form. It
    counts in the row of the form in which its model was used last; only a model that was never in
    memory has a row without a form.

    Args:
        rows: SQL with the columns of the leaderboard.
        counts: those of them that are added up.
        machine: names of columns that tell machines apart, each with a comma before it.
    """
    sums = ",\n    ".join(f"sum({name})::BIGINT AS {name}" for name in counts)
    names = (f"{name}_{one}{unit}" for name, unit in BOARD for one in BOARD_QUANTILES)
    figures = ",\n    ".join(f"any_value({name}) AS {name}" for name in names)
    # What has no form has no figures either: any_value() passes over its nulls.
    return f"""
SELECT
    model, provider,
    any_value(dtype) AS dtype,
    any_value(quantization) AS quantization,
    any_value(device) AS device{machine},
    {sums},
    {figures},
    max(mem_peak_bytes) AS mem_peak_bytes,
    max(last_used_at) AS last_used_at
FROM (
    SELECT *, CASE WHEN formless THEN 1 ELSE row_number() OVER (
        PARTITION BY model, provider{machine}
        ORDER BY formless, last_used_at DESC, dtype, quantization, device
    ) END AS place
    FROM (
        SELECT *, sessions_ok = 0 AND coalesce(dtype, quantization, device) IS NULL AS formless
        FROM ({rows})
    )
)
GROUP BY model, provider{machine}, place
"""  # noqa: S608


_FORMS: Final = f"""
WITH marked AS (SELECT *, {ALONE} AS alone FROM latencies)
SELECT
    model, provider, dtype, quantization, device,
    count(*) AS sessions,
    count(*) FILTER (status = 'ok') AS sessions_ok,
    count(*) FILTER (alone) AS sessions_uncontended,
    count(*) FILTER (fallback_from IS NOT NULL) AS sessions_as_fallback,
    {_BOARD},
    max(mem_peak_bytes) AS mem_peak_bytes,
    max(created_at) AS last_used_at
FROM marked
GROUP BY model, provider, dtype, quantization, device
"""  # noqa: S608

_MODEL_LEADERBOARD: Final = f"CREATE OR REPLACE VIEW model_leaderboard AS {board(_FORMS)}"

# Speeds of two machines are two things: a shared log has them in rows of their own.
_MACHINE: Final = ", writer_id, cpu, cores, gpu"

_TEAM_FORMS: Final = f"""
WITH marked AS (
    SELECT l.*, e.cpu, e.cores, e.gpu, {ALONE} AS alone
    FROM latencies AS l LEFT JOIN environments AS e USING (environment_id)
)
SELECT
    model, provider, dtype, quantization, device{_MACHINE},
    count(*) AS sessions,
    count(*) FILTER (status = 'ok') AS sessions_ok,
    count(*) FILTER (alone) AS sessions_uncontended,
    {_BOARD},
    max(mem_peak_bytes) AS mem_peak_bytes,
    max(created_at) AS last_used_at
FROM marked
GROUP BY model, provider, dtype, quantization, device{_MACHINE}
"""  # noqa: S608

_TEAM_LEADERBOARD: Final = "CREATE OR REPLACE VIEW team_leaderboard AS " + board(
    _TEAM_FORMS, BOARD_COUNTS[:3], _MACHINE
)

_LATENCY_PERCENTILES: Final = f"""
CREATE OR REPLACE VIEW latency_percentiles AS
{percentiles(ALONE)}
"""

EXACT: Final = (_MODEL_LEADERBOARD, _LATENCY_PERCENTILES)
"""Views that read every session; a large log has others, see :mod:`workbench.store.rollup`."""

# Every session stores its own question under its id and time, also when it was asked before. Joined
# by both, only the part of a long log from that time is read. A tag in square brackets at the
# beginning (to defeat a prefix cache) is not part of what was asked.
_SESSION_PROMPTS: Final = r"""
CREATE OR REPLACE VIEW session_prompts AS
SELECT
    session_id,
    created_at,
    content AS prompt,
    regexp_replace(content, '^\s*\[[^\]]*\]\s*', '') AS prompt_untagged
FROM messages
WHERE role <> 'assistant' AND session_id IS NOT NULL
"""

# A runtime counts the tokens of its own tokenizer, so tokens/s of two models do not compare.
_TOKEN_EFFICIENCY: Final = f"""
CREATE OR REPLACE VIEW token_efficiency AS
SELECT
    model, dtype, quantization, device,
    count(*) AS sessions,
    sum(output_tokens)::BIGINT AS output_tokens,
    sum(text_chars + reasoning_chars)::BIGINT AS output_chars,
    sum(text_chars + reasoning_chars) / sum(output_tokens) AS chars_per_token,
    median(decode_tps) AS decode_tps_p50,
    median(chars_per_s) AS chars_per_s_p50
FROM latencies
WHERE {ALONE} AND {sound("decode_tps")} AND output_tokens > 0 AND text_chars + reasoning_chars > 0
GROUP BY model, dtype, quantization, device
"""  # noqa: S608

_LOAD_COSTS: Final = """
CREATE OR REPLACE VIEW load_costs AS
SELECT
    model, provider,
    count(*) FILTER (event = 'load' AND ok) AS loads,
    count(*) FILTER (event = 'load' AND NOT ok) AS loads_failed,
    count(*) FILTER (event = 'unload') AS unloads,
    count(*) FILTER (event = 'evict') AS evictions,
    count(*) FILTER (event = 'died') AS deaths,
    count(*) FILTER (leak) AS leaks,
    median(duration_s) FILTER (event = 'load' AND ok) AS load_p50_s,
    max(duration_s) FILTER (event = 'load' AND ok) AS load_max_s,
    median(duration_s) FILTER (event IN ('unload', 'evict')) AS release_p50_s,
    max(after_bytes) FILTER (event = 'load' AND ok) AS loaded_max_bytes,
    coalesce(sum(recovered_bytes), 0)::BIGINT AS recovered_bytes,
    coalesce(sum(duration_s) FILTER (event IN ('load', 'unload', 'evict')), 0) AS spent_s
FROM model_events
WHERE model IS NOT NULL AND event IN ('load', 'unload', 'evict', 'died')
GROUP BY model, provider
"""

SUMMARIES: Final[tuple[str, ...]] = (
    *EXACT,
    _TEAM_LEADERBOARD,
    _SESSION_PROMPTS,
    _TOKEN_EFFICIENCY,
    _LOAD_COSTS,
)
