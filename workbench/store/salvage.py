"""What can be read of a damaged database file, and what the spool still knows of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import duckdb

from workbench.store import rollup
from workbench.store.entries import Columns, Entry
from workbench.store.files import spool_of, wal_of

_PIECES: Final = (122_880, 2_048)
"""Rows of a row group and of a vector: the units in which DuckDB stores a table."""

_IDS: Final = {
    "conversations": ("conversation_id",),
    "token_streams": ("session_id",),
    "environments": ("environment_id",),
    "benchmark_runs": ("run_id",),
    "benchmark_cells": ("cell_id",),
    "benchmark_trials": ("cell_id", "trial"),
}

_NOT_COPIED: Final = ("schema_migrations", "log_position", *rollup.TABLES)
_POSITION: Final = "position"
"""In the manifest, beside the tables: the last entry that the file has."""

_MANIFEST: Final = "checkpoint.json"


def mark_of(path: Path) -> Path:
    """A file that makes the next start read every block of the database file."""
    return spool_of(path) / "check-blocks"


def write_manifest(folder: Path, connection: duckdb.DuckDBPyConnection) -> None:
    """Note how many rows a proven file has, so that what is lost with it can be named."""
    tables = [
        row[0]
        for row in connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE NOT internal "
            "AND database_name = current_database()"
        ).fetchall()
    ]
    counting = " UNION ALL ".join(
        f"SELECT '{table}', count(*) FROM {table}"  # noqa: S608
        for table in tables
    )
    counts = dict(connection.execute(counting).fetchall())
    counts[_POSITION] = connection.execute("SELECT n FROM log_position").fetchall()[0][0]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = folder / f".{_MANIFEST}"
    temporary.touch(mode=0o600)
    temporary.write_text(json.dumps(counts))
    temporary.replace(folder / _MANIFEST)


@dataclass(frozen=True, slots=True)
class Had:
    """What a file had: rows of each table, and the number of its last entry; ``why`` in words.

    ``why`` says what is lost where the rows are not known.
    """

    rows: Mapping[str, int] = field(default_factory=dict)
    position: int = 0
    why: str = ""


def noted(folder: Path) -> Had:
    """What a file had at its last checkpoint."""
    counts: dict[str, int] = {}
    with suppress(OSError, ValueError):
        counts = json.loads((folder / _MANIFEST).read_text())
    position = counts.pop(_POSITION, 0)
    return Had({table: n for table, n in counts.items() if table not in _NOT_COPIED}, position)


def missing(connection: duckdb.DuckDBPyConnection, had: Had) -> list[str]:
    """What of the rows that a file had is not in the tables now, in words; sessions first."""
    gone = {}
    for table, before in had.rows.items():
        with suppress(duckdb.CatalogException):
            row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
            gone[table] = before - (row[0] if row else 0)
    ordered = sorted(gone, key=lambda table: (table != "stream_sessions", table))
    words = [
        f"{gone[table]} of {had.rows[table]} "
        + ("sessions" if table == "stream_sessions" else f"rows of {table}")
        for table in ordered
        if gone[table] > 0
    ]
    return [*words, had.why] if had.why else words


def unreadable(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Read every value of every table; the tables where that fails, with DuckDB's reason."""
    found = []
    for (table,) in connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE NOT internal "
        "AND database_name = current_database() ORDER BY table_name"
    ).fetchall():
        try:
            connection.execute(f"SELECT bit_xor(hash(COLUMNS(*))) FROM {table}").fetchall()  # noqa: S608
        except duckdb.Error as error:
            found.append(f"{table}: {error}")
    return found


def copy_readable(damaged: Path, target: duckdb.DuckDBPyConnection, *, folder: Path) -> Had:
    """Copy every row that can be read into a new log.

    Args:
        damaged: the file, set aside.
        target: the new log, empty.
        folder: of the spool, whose note of the last checkpoint names what was there.

    Returns:
        What the file had.
    """
    known = noted(folder)
    try:
        _attach(damaged, target)
    except duckdb.Error as error:
        why = "" if known.rows else f"the file, which cannot be opened ({error})"
        return replace(known, why=why)
    had = dict(known.rows)
    try:
        names = [
            row[0]
            for row in target.execute(
                "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database() "
                "AND NOT internal ORDER BY table_name"
            ).fetchall()
        ]
        for table in names:
            if table not in _NOT_COPIED:
                had[table] = _copy(target, table, known.rows.get(table, 0))
        with suppress(duckdb.Error):
            target.execute("UPDATE log_position SET n = (SELECT n FROM damaged.log_position)")
    except duckdb.Error as error:
        return replace(known, rows=had, why=f"what its catalogue would have named ({error})")
    finally:
        with suppress(duckdb.Error):
            target.execute("DETACH damaged")
    return replace(known, rows=had)


def _attach(damaged: Path, target: duckdb.DuckDBPyConnection) -> None:
    """With the write-ahead log that was set aside with it, if that can be replayed."""
    quoted = str(damaged).replace("'", "''")
    sql = f"ATTACH '{quoted}' AS damaged (READ_ONLY)"
    try:
        target.execute(sql)
    except duckdb.Error:
        wal = wal_of(damaged)
        if not wal.exists():
            raise
        wal.rename(wal.with_name(f"{wal.name}.unreplayable"))
        target.execute(sql)


def _copy(target: duckdb.DuckDBPyConnection, table: str, known: int) -> int:
    """Copy what can be read of a table; how many rows it had."""
    columns = ", ".join(_common_columns(target, table))
    if not columns:
        return known
    try:
        count = target.execute(f"SELECT count(*) FROM damaged.{table}").fetchall()[0][0]  # noqa: S608
    except duckdb.Error:
        count = known
    copy = f"INSERT INTO {table} ({columns}) SELECT {columns} FROM damaged.{table}"  # noqa: S608
    try:
        target.execute(copy)
    except duckdb.Error:
        _pieces(target, copy, 0, count, _PIECES)
    return int(count)


def _pieces(
    target: duckdb.DuckDBPyConnection, copy: str, first: int, end: int, sizes: Sequence[int]
) -> None:
    """Copy in pieces; the smallest ones that cannot be read are left out."""
    size, *smaller = sizes
    for start in range(first, end, size):
        stop = min(start + size, end)
        try:
            target.execute(f"{copy} WHERE rowid BETWEEN {start} AND {stop - 1}")
        except duckdb.Error:
            if smaller:
                _pieces(target, copy, start, stop, smaller)


def _common_columns(target: duckdb.DuckDBPyConnection, table: str) -> list[str]:
    rows = target.execute(
        "SELECT column_name FROM duckdb_columns() WHERE table_name = ? "
        "AND database_name IN ('damaged', current_database()) "
        "GROUP BY column_name HAVING count(*) = 2 ORDER BY min(column_index)",
        [table],
    ).fetchall()
    return [row[0] for row in rows]


def fill_in(
    connection: duckdb.DuckDBPyConnection, columns: Columns, entries: Sequence[Entry]
) -> Counter[str]:
    """Put back the rows of entries that the old file had and the new one has not.

    Returns:
        How many rows of each table that were.
    """
    added: Counter[str] = Counter()
    # From the last: a session takes the highest number that is free.
    for entry in reversed(entries):
        for part in entry.parts:
            kinds = dict(columns[part.table])
            document = f"[{b','.join(part.rows).decode()}]"
            if part.how == "number":
                added[part.table] += _fill_sessions(connection, kinds, document)
            else:
                is_history = part.how == "history"
                added[part.table] += _fill(connection, part.table, kinds, document, is_history)
    return added


def _fill(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    kinds: Mapping[str, str],
    document: str,
    is_history: bool,
) -> int:
    alike = list(kinds)
    if is_history:  # an id is drawn every turn; what makes it the same is what it says and where
        alike = ["conversation_id", "position", "role", "content"]
    elif table in _IDS:
        alike = list(_IDS[table])
    same = " AND ".join(f"old.{name} IS NOT DISTINCT FROM new.{name}" for name in alike)
    return _changed(
        connection,
        f"INSERT INTO {table} SELECT new.* FROM ({_rows(kinds)}) AS new "  # noqa: S608
        f"WHERE NOT EXISTS (SELECT 1 FROM {table} AS old WHERE {same})",
        [document],
    )


def _fill_sessions(
    connection: duckdb.DuckDBPyConnection, kinds: dict[str, str], document: str
) -> int:
    """A session takes the highest number below the last that nobody has, else the next one."""
    del kinds["seq"]
    row = connection.execute(
        "SELECT coalesce((SELECT max(n) FROM range(1, (SELECT max(seq) FROM stream_sessions)) r(n) "
        "WHERE n NOT IN (SELECT seq FROM stream_sessions)), "
        "(SELECT coalesce(max(seq), 0) + 1 FROM stream_sessions))"
    ).fetchone()
    assert row is not None
    return _changed(
        connection,
        f"INSERT OR IGNORE INTO stream_sessions (seq, {', '.join(kinds)}) "  # noqa: S608
        f"SELECT ?, new.* FROM ({_rows(kinds)}) AS new",
        [row[0], document],
    )


def _rows(kinds: Mapping[str, str]) -> str:
    return f"SELECT unnest(from_json_strict(?, '{json.dumps([kinds])}'), max_depth := 2)"


def _changed(connection: duckdb.DuckDBPyConnection, sql: str, values: Sequence[Any]) -> int:
    row = connection.execute(sql, values).fetchone()
    return int(row[0]) if row else 0
