"""Deleting sessions with all that belongs to them: those that are old, or those that are named."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import duckdb

from workbench.errors import invalid
from workbench.store import failures, mirror, rollup

KEEP: Final = {
    "runs": "s.run_id IS NULL",
    "scored": "s.session_id NOT IN (SELECT session_id FROM scores WHERE session_id IS NOT NULL)",
    "errors": "s.status = 'ok'",
}
"""What may be kept whatever its age: sessions of benchmark runs, scored ones, those that failed."""

_UNITS: Final = {"d": 1, "w": 7, "m": 30, "y": 365}

# What goes, in this order: later ones look at what is left of earlier ones. {old} is the condition
# on a time of its own, for rows that belong to no session.
_PARTS: Final = (
    ("token_streams", "session_id IN (FROM doomed)"),
    ("memory_samples", "session_id IN (FROM doomed) OR (session_id IS NULL AND {old})"),
    ("errors", "session_id IN (FROM doomed) OR (session_id IS NULL AND {old})"),
    ("scores", "session_id IN (FROM doomed)"),
    ("benchmark_trials", "session_id IN (FROM doomed)"),
    ("model_events", "{old}"),
    (
        "messages",
        "session_id IN (FROM doomed) OR conversation_id IN "
        "(SELECT conversation_id FROM stream_sessions GROUP BY conversation_id "
        "HAVING bool_and(session_id IN (FROM doomed)))",
    ),
    (
        "conversations",
        "conversation_id IN (SELECT conversation_id FROM stream_sessions GROUP BY conversation_id "
        "HAVING bool_and(session_id IN (FROM doomed)))",
    ),
    ("stream_sessions", "session_id IN (FROM doomed)"),
)


def cutoff(older_than: str, now: dt.datetime) -> dt.datetime:
    """The moment before which sessions are old.

    Args:
        older_than: ``90d``, ``12w``, ``6m`` (of 30 days), ``1y``, or a date ``2026-01-31`` (UTC).
        now: the present.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``.
    """
    if match := re.fullmatch(r"(\d{1,4})([dwmy])", older_than.strip().lower()):
        return now - dt.timedelta(days=int(match[1]) * _UNITS[match[2]])
    try:
        return dt.datetime.fromisoformat(older_than.strip()).replace(tzinfo=dt.UTC)
    except ValueError:
        raise invalid(
            f"{older_than!r} is no age.", fix="Give 90d, 12w, 6m, 1y or a date such as 2026-01-31."
        ) from None


def prune(
    cursor: duckdb.DuckDBPyConnection,
    log: Path,
    before: dt.datetime,
    keep: Sequence[str],
    *,
    dry_run: bool = False,
    exact_sessions: int = rollup.EXACT_SESSIONS,
) -> dict[str, int]:
    """Delete what is older, in one transaction with the counts of a large log.

    Args:
        cursor: to the open log; for nothing else meanwhile.
        log: its path.
        before: sessions from before this moment go.
        keep: names of :data:`KEEP`.
        dry_run: True only counts.
        exact_sessions: a log of no more has no counts.

    Returns:
        Table -> its rows that went, or would go.

    Raises:
        WorkbenchError: ``INVALID_REQUEST`` for an unknown name in ``keep``.
    """
    if unknown := set(keep) - KEEP.keys():
        raise invalid(f"Cannot keep {min(unknown)!r}.", fix=f"Use {', '.join(KEEP)}.")
    kept = " AND ".join(["true", *(KEEP[name] for name in keep)])
    with _at_once(cursor, log, dry_run=dry_run):
        cursor.execute(
            "CREATE OR REPLACE TEMP TABLE doomed AS SELECT session_id FROM stream_sessions s "  # noqa: S608
            f"WHERE s.created_at < ? AND {kept}",
            [before],
        )
        rows = {table: _part(cursor, table, where, before) for table, where in _PARTS}
        if not dry_run and (gone := rows["stream_sessions"]):
            # Explains to the check of the log why numbers are missing.
            cursor.execute("INSERT INTO prunes VALUES (now(), ?, ?)", [before, gone])
            rollup.rebuild(cursor, exact_sessions)
    return rows


def delete(
    cursor: duckdb.DuckDBPyConnection,
    log: Path,
    session_ids: Sequence[str],
    *,
    dry_run: bool = False,
    exact_sessions: int = rollup.EXACT_SESSIONS,
) -> dict[str, int]:
    """Delete these sessions, as :func:`prune` deletes old ones. Ids that are not there are none.

    Votes stay: they name models and say nothing of what was written.
    """
    with _at_once(cursor, log, dry_run=dry_run):
        cursor.execute(
            "CREATE OR REPLACE TEMP TABLE doomed AS SELECT session_id FROM stream_sessions "
            "WHERE list_contains(?, session_id)",
            [list(session_ids)],
        )
        cursor.execute(
            "INSERT INTO deletions SELECT now(), seq, session_id FROM stream_sessions "
            "WHERE session_id IN (FROM doomed)"
        )
        rows = {
            table: _part(cursor, table, where.replace("{old}", "false"), None)
            for table, where in _PARTS
        }
        if not dry_run and rows["stream_sessions"]:
            rollup.rebuild(cursor, exact_sessions)
    return rows


@contextmanager
def _at_once(cursor: duckdb.DuckDBPyConnection, log: Path, *, dry_run: bool) -> Iterator[None]:
    """One transaction, which leaves nothing behind if it is only to be counted."""
    try:
        cursor.execute("BEGIN TRANSACTION")
        yield
        cursor.execute("ROLLBACK" if dry_run else "COMMIT")
    except duckdb.Error as error:
        raise failures.writing(error, log) from error


def report(
    cursor: duckdb.DuckDBPyConnection,
    log: Path,
    before: dt.datetime,
    rows: Mapping[str, int],
    size_bytes: int,
    *,
    dry_run: bool,
) -> dict[str, Any]:
    """What was pruned.

    Args:
        cursor: to the open log.
        log: its path.
        before: as for :func:`prune`.
        rows: what that gave.
        size_bytes: of the file before.
        dry_run: whether it was only counted.

    Returns:
        ``before``, ``dry_run``, ``sessions``, ``sessions_left``, ``sessions_kept`` (of these, those
        from before that moment), ``rows`` (per table), ``size_bytes`` (of the file now),
        ``freed_bytes`` (by which it is smaller: what was free at its end), and
        ``free_bytes``: what it has free inside, used before it grows again.
    """
    free = cursor.execute(
        "SELECT free_blocks * block_size FROM pragma_database_size() "
        "WHERE database_name = current_database()"
    ).fetchone()
    ((left, kept),) = cursor.execute(
        "SELECT count(*), count(*) FILTER (created_at < ?) FROM stream_sessions", [before]
    ).fetchall()
    still_there = rows["stream_sessions"] if dry_run else 0
    return {
        "before": before.isoformat(),
        "dry_run": dry_run,
        "sessions": rows["stream_sessions"],
        "sessions_left": left - still_there,
        "sessions_kept": kept - still_there,
        "rows": dict(rows),
        "size_bytes": log.stat().st_size,
        "freed_bytes": max(0, size_bytes - log.stat().st_size),
        "free_bytes": free[0] if free else 0,
    }


def _part(
    cursor: duckdb.DuckDBPyConnection, table: str, where: str, before: dt.datetime | None
) -> int:
    condition = where.replace("{old}", "created_at < ?")
    values = [before] * where.count("{old}")
    row = cursor.execute(f"DELETE FROM {table} WHERE {condition}", values).fetchone()  # noqa: S608
    return int(row[0]) if row else 0


def compact(log: Path) -> int:
    """Rewrite a log that nobody has open, so that its file is as small as its rows.

    Returns:
        The bytes that the disk has back.

    Raises:
        WorkbenchError: ``STORE_UNAVAILABLE``, it is open somewhere.
    """
    before = log.stat().st_size
    made = log.with_name(f".{log.name}.compact")
    made.unlink(missing_ok=True)
    try:
        # Configured unlike a store, or DuckDB would share one that this process has open.
        with duckdb.connect(str(log), config={"memory_limit": "2GiB"}) as connection:
            (name,) = connection.execute("SELECT current_database()").fetchone() or ("",)
            quoted = str(made).replace("'", "''")
            connection.execute("CHECKPOINT")
            connection.execute(f"ATTACH '{quoted}' AS compacted")
            connection.execute(f'COPY FROM DATABASE "{name}" TO compacted')
            connection.execute("DETACH compacted")
            made.chmod(0o600)
            # In place while the lock on the old file is still held.
            made.replace(log)
            mirror.forget(log)
    except (duckdb.Error, OSError) as error:
        made.unlink(missing_ok=True)
        raise failures.opening(error, log) from error
    return max(0, before - log.stat().st_size)
