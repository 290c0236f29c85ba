"""Counts that are kept of a large log, so that its percentiles need not read every session.

A percentile needs all of its sample: 0.13 s a million sessions for the views of this module. From
a number of sessions on (``WORKBENCH_EXACT_SESSIONS``) the writer therefore counts them: how many
values of a figure fall into each of buckets that are 0.5 % wide. Sessions up to
``rollup_position.seq`` are counted, later ones are read as they are, and the position moves in the
transaction that counts: every session is seen once, whatever happens. A percentile is the middle
of the bucket that it falls into, so it is off by at most 0.25 %; counts and maxima are exact. A
smaller log has no counts, and the views compute from its rows.

What deletes sessions or gives them numbers anew counts again in the same transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from workbench.metrics import MIN_SAMPLES
from workbench.store.summaries import (
    ALONE,
    BOARD,
    BOARD_QUANTILES,
    DURATIONS,
    EXACT,
    PROMPT_CLASS,
    PROMPT_CLASS_END,
    QUANTILES,
    board,
    sound,
)

if TYPE_CHECKING:
    import duckdb

TABLES: Final = ("rollup_position", "rollup_groups", "rollup_buckets")

EXACT_SESSIONS: Final = 2_000_000
"""Up to so many sessions percentiles are computed from every one of them."""

STEP: Final = 250_000
"""Sessions that are read as they are, at most, beside the counted ones."""

_LONGEST: Final = 1_000_000
"""Sessions that are counted in one transaction."""

_PER_OCTAVE: Final = 139
"""Buckets from a value to its double; each is 0.5 % wide."""

_NOTHING: Final = -1_000_000
"""The bucket of zero, which has no logarithm."""

_FIGURES: Final = tuple(
    dict.fromkeys([f"{name}{unit}" for name, unit in BOARD] + [f"{name}_s" for name in DURATIONS])
)

_KEYS: Final = "model, provider, dtype, quantization, device, timing_mode, prompt_tokens_from"

_BUCKET_KEYS: Final = f"{_KEYS}, figure, bucket"

_COUNTED: Final = "seq <= (SELECT seq FROM rollup_position)"
_REST: Final = "seq > (SELECT seq FROM rollup_position)"


def _read(where: str) -> str:
    return (
        f"SELECT *, {PROMPT_CLASS} AS prompt_tokens_from, {ALONE} AS alone "  # noqa: S608
        f"FROM latencies WHERE {where}"
    )


def _groups(where: str) -> str:
    """SQL: the sessions of each group."""
    return f"""
SELECT {_KEYS}, alone,
    count(*) AS sessions,
    count(*) FILTER (status = 'ok') AS sessions_ok,
    count(*) FILTER (fallback_from IS NOT NULL) AS sessions_as_fallback,
    max(mem_peak_bytes) AS mem_peak_bytes,
    max(created_at) AS last_used_at
FROM ({_read(where)}) GROUP BY ALL"""  # noqa: S608


def _buckets(where: str, figures: Sequence[str] = _FIGURES) -> str:
    """SQL: how many values of each figure fall into each bucket, of answers that ran alone.

    What a late event loop has spoilt is not among them.
    """
    names = ", ".join(f"'{name}'" for name in figures)
    numbers = ", ".join(
        f"CASE WHEN NOT ({sound(name)}) THEN NULL "
        f"WHEN {name} > 0 THEN floor({_PER_OCTAVE} * log2({name}))::INTEGER "
        f"WHEN {name} IS NOT NULL THEN {_NOTHING} END"
        for name in figures
    )
    return f"""
SELECT {_BUCKET_KEYS}, count(*) AS sessions FROM (
    SELECT {_KEYS}, unnest([{names}]) AS figure, unnest([{numbers}]) AS bucket
    FROM ({_read(where)}) WHERE alone
) WHERE bucket IS NOT NULL GROUP BY ALL"""  # noqa: S608


def _ranked(keys: str, figures: Sequence[str]) -> str:
    """SQL: buckets with their value, and how many values there are up to them and in all."""
    return f"""
SELECT {keys}, figure,
    CASE WHEN bucket = {_NOTHING} THEN 0 ELSE 2 ** ((bucket + 0.5) / {_PER_OCTAVE}) END AS value,
    sum(sum(sessions)) OVER (PARTITION BY {keys}, figure ORDER BY bucket) AS upto,
    sum(sum(sessions)) OVER (PARTITION BY {keys}, figure) AS total
FROM (FROM rollup_buckets UNION ALL BY NAME {_buckets(_REST, figures)})
WHERE figure IN ({", ".join(f"'{name}'" for name in figures)}) GROUP BY {keys}, figure, bucket"""  # noqa: S608


def _quantile(name: str, unit: str, one: str) -> str:
    """SQL for a quantile of ranked buckets, null where there are too few values.

    As ``quantile_cont``: linear between the two values beside the place ``(n - 1) * q``.
    """
    own = f"figure = '{name}{unit}'"
    place = f"((total - 1) * {QUANTILES[one]})"
    low = f"min(value) FILTER ({own} AND upto > floor({place}))"
    high = f"min(value) FILTER ({own} AND upto > ceil({place}))"
    share = f"max({place} - floor({place})) FILTER ({own})"
    return (
        f"CASE WHEN max(total) FILTER ({own}) >= {MIN_SAMPLES.get(QUANTILES[one], 1)} "
        f"THEN {low} + {share} * ({high} - {low}) END AS {name}_{one}{unit}"
    )


def _rows(
    keys: str,
    counts: Mapping[str, str],
    figures: Sequence[tuple[str, str]],
    wanted: Sequence[str],
    *,
    where: str,
    columns: str,
) -> str:
    """SQL for the rows of a view, out of the counts and the sessions that are not counted yet.

    Args:
        keys: what it groups by.
        counts: column -> SQL over ``rollup_groups``.
        figures: names and units of those whose quantiles it has.
        wanted: which quantiles.
        where: which groups it counts.
        columns: those of the view, in order, with ``{figures}`` for the quantiles.
    """
    counted = ", ".join(f"{sql} AS {column}" for column, sql in counts.items())
    quantiles = ",\n    ".join(_quantile(*figure, one) for figure in figures for one in wanted)
    names = ", ".join(f"f.{figure}_{one}{unit}" for figure, unit in figures for one in wanted)
    same = " AND ".join(f"c.{key} IS NOT DISTINCT FROM f.{key}" for key in keys.split(", "))
    return f"""
WITH counts AS (
    SELECT {keys}, {counted}
    FROM (FROM rollup_groups UNION ALL BY NAME {_groups(_REST)}) WHERE {where} GROUP BY {keys}
), ranked AS (
    {_ranked(keys, [f"{figure}{unit}" for figure, unit in figures])}
), found AS (
    SELECT {keys}, {quantiles} FROM ranked GROUP BY {keys}
)
SELECT {columns.format(figures=names)} FROM counts AS c LEFT JOIN found AS f ON {same}
"""  # noqa: S608


_COUNTS: Final = {
    "sessions": "sum(sessions)::BIGINT",
    "sessions_ok": "sum(sessions_ok)::BIGINT",
    "sessions_as_fallback": "sum(sessions_as_fallback)::BIGINT",
    "mem_peak_bytes": "max(mem_peak_bytes)",
    "last_used_at": "max(last_used_at)",
}

_FORMS: Final = _rows(
    "model, provider, dtype, quantization, device",
    {
        **_COUNTS,
        "sessions_uncontended": "coalesce(sum(sessions) FILTER (alone), 0)::BIGINT",
    },
    BOARD,
    BOARD_QUANTILES,
    where="true",
    columns="c.*, {figures}",
)

_PERCENTILES: Final = _rows(
    "model, dtype, quantization, device, timing_mode, prompt_tokens_from",
    {"sessions": _COUNTS["sessions"], "prompt_tokens_below": PROMPT_CLASS_END},
    [(name, "_s") for name in DURATIONS],
    tuple(QUANTILES),
    where="alone",
    columns="c.model, c.dtype, c.quantization, c.device, c.timing_mode, "
    "c.prompt_tokens_from, c.prompt_tokens_below, c.sessions, {figures}",
)

_VIEWS: Final = (
    f"CREATE OR REPLACE VIEW model_leaderboard AS {board(_FORMS)}",
    f"CREATE OR REPLACE VIEW latency_percentiles AS {_PERCENTILES}",
)


def position(connection: duckdb.DuckDBPyConnection) -> int:
    """The number of the last session that is counted; 0: there are no counts."""
    row = connection.execute("SELECT seq FROM rollup_position").fetchone()
    return int(row[0]) if row else 0


def choose_views(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the views that read the counts, if there are any, or those that read every session."""
    for sql in _VIEWS if position(connection) else EXACT:
        connection.execute(sql)


def advance(connection: duckdb.DuckDBPyConnection, exact_sessions: int) -> bool:
    """Count the next sessions, in a transaction of its own, if there are enough of them.

    Args:
        connection: that of the one writer.
        exact_sessions: a log of no more has no counts.

    Returns:
        Whether there are more to count.

    Raises:
        duckdb.Error: nothing was changed.
    """
    connection.execute("BEGIN TRANSACTION")
    try:
        more = _advance(connection, exact_sessions)
        connection.execute("COMMIT")
    except BaseException:
        with suppress(Exception):  # a failed COMMIT has left it already
            connection.execute("ROLLBACK")
        raise
    return more


def rebuild(connection: duckdb.DuckDBPyConnection, exact_sessions: int) -> None:
    """Count anew, in the transaction of the caller."""
    if not position(connection):
        return
    connection.execute("DELETE FROM rollup_groups")
    connection.execute("DELETE FROM rollup_buckets")
    connection.execute("UPDATE rollup_position SET seq = 0")
    while _advance(connection, exact_sessions):
        pass
    choose_views(connection)


def _advance(connection: duckdb.DuckDBPyConnection, exact_sessions: int) -> bool:
    done = position(connection)
    ((last, count),) = connection.execute(
        "SELECT coalesce(max(seq), 0), count(*) FROM stream_sessions"
    ).fetchall()
    if last - done < STEP or (not done and count <= exact_sessions):
        return False
    place = min(done + _LONGEST, last)
    new = f"seq > {done} AND seq <= {place}"
    for table, added, keys, columns in (
        ("rollup_groups", _groups(new), f"{_KEYS}, alone", _COUNTS),
        ("rollup_buckets", _buckets(new), _BUCKET_KEYS, {"sessions": _COUNTS["sessions"]}),
    ):
        sums = ", ".join(f"{sql} AS {name}" for name, sql in columns.items())
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE merged AS SELECT {keys}, {sums} "  # noqa: S608
            f"FROM (FROM {table} UNION ALL BY NAME {added}) GROUP BY {keys}"
        )
        connection.execute(f"DELETE FROM {table}")  # noqa: S608
        connection.execute(f"INSERT INTO {table} BY NAME FROM merged")
        connection.execute("DROP TABLE merged")
    connection.execute(f"UPDATE rollup_position SET seq = {place}")  # noqa: S608
    if not done:
        choose_views(connection)
    return bool(last - place >= STEP)


def differences(connection: duckdb.DuckDBPyConnection) -> int:
    """How many rows of the counts differ from what counting again gives."""
    found = 0
    for table, again in (("groups", _groups(_COUNTED)), ("buckets", _buckets(_COUNTED))):
        kept = f"SELECT * FROM rollup_{table}"  # noqa: S608
        for one, other in ((kept, again), (again, kept)):
            row = connection.execute(
                f"SELECT count(*) FROM (SELECT * FROM ({one}) EXCEPT ALL ({other}))"  # noqa: S608
            ).fetchone()
            found += int(row[0]) if row else 0
    return found
