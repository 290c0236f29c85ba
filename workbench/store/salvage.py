"""What can be read of a damaged database file, and what the spool still knows of it."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import duckdb

from workbench import logs
from workbench.store import failures, rollup
from workbench.store.entries import SESSIONS, Columns, Entry, How
from workbench.store.files import spool_of, wal_of
from workbench.store.spool import Spool
from workbench.store.steps import TODAY

_log = logs.get(__name__)

_PIECES: Final = (122_880, 2_048)
"""Rows of a row group and of a vector: the units in which DuckDB stores a table."""

_BATCH: Final = 1024
"""Rows that go into a table with one statement."""

_PLACE: Final = ("conversation_id", "position", "role", "content")
"""Of a message."""

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
    with temporary.open("w") as file:
        file.write(json.dumps(counts))
        file.flush()
        os.fsync(file.fileno())  # what it is about may be deleted right after
    temporary.replace(folder / _MANIFEST)


def forget_spooled(
    connection: duckdb.DuckDBPyConnection, spool: Spool, n: int, *, surely: bool
) -> bool:
    """Note what a proven file has, then delete what the spool has of it.

    In this order: a kill between them loses nothing.

    Args:
        connection: to the file.
        spool: of it.
        n: the last entry that it has.
        surely: as for :meth:`workbench.store.spool.Spool.rotate`.

    Returns:
        False if there was no room for it: the spool is kept.
    """
    try:
        write_manifest(spool.folder, connection)
        spool.rotate(n, surely=surely)
    except OSError as error:
        _log.warning("store_spool_kept", reason=str(error))
        return False
    return True


@dataclass(frozen=True, slots=True)
class Had:
    """What a file had: rows of each table, and the number of its last entry; ``why`` in words.

    ``why`` says what is lost where the rows are not known. ``since`` is how many sessions came
    after the last checkpoint, of a file that could be read.
    """

    rows: Mapping[str, int] = field(default_factory=dict)
    position: int = 0
    why: str = ""
    since: int | None = None

    def reached(self, entries: Sequence[Entry]) -> int:
        """The number of the last entry that it had for sure, where it does not say so itself.

        Args:
            entries: of the spool, in order.
        """
        left, last = self.since or 0, self.position
        for entry in entries:
            if entry.n > last and left > 0:
                left -= sum(len(part.rows) for part in entry.parts if part.how == "number")
                last = entry.n
        return last


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


def blocks_of(connection: duckdb.DuckDBPyConnection) -> set[int]:
    """The blocks that hold rows of tables; those of indexes and of metadata are not among them."""
    used: set[int] = set()
    for (table,) in connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE NOT internal "
        "AND database_name = current_database()"
    ).fetchall():
        for block, more in connection.execute(
            "SELECT block_id, additional_block_ids FROM pragma_storage_info(?)", [table]
        ).fetchall():
            used.update([block] if block is not None else [], more or [])
    return used - {-1}  # in none: rows that are all the same


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
        why = f"what its catalogue would have named ({error})"
        return replace(known, rows=had, why=why, since=0)
    finally:
        with suppress(duckdb.Error):
            target.execute("DETACH damaged")
    return replace(known, rows=had, since=had.get(SESSIONS, 0) - known.rows.get(SESSIONS, 0))


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
    names = _common_columns(target, table)
    if not names:
        return known
    columns = ", ".join(names)
    values = ", ".join(TODAY.get((table, name), name) for name in names)
    try:
        count = target.execute(f"SELECT count(*) FROM damaged.{table}").fetchall()[0][0]  # noqa: S608
    except duckdb.Error:
        count = known
    copy = f"INSERT INTO {table} ({columns}) SELECT {values} FROM damaged.{table}"  # noqa: S608
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

    It takes a statement for each table and thousand rows; one a row took seconds. Rows that the
    database refuses, as it did before, are left out.

    Returns:
        How many rows of each table that were.
    """
    sessions: dict[Hashable, bytes] = {}
    questions: list[bytes] = []
    past: list[bytes] = []
    rows: defaultdict[tuple[str, How], list[bytes]] = defaultdict(list)
    for entry in entries:
        given = [key for part in entry.parts if part.how == "number" for key in part.keys]
        if sessions.keys() & set(given):
            continue  # a session id that was given twice was refused
        for part in entry.parts:
            if part.how == "number":
                sessions.update(zip(part.keys, part.rows, strict=True))
            elif part.how == "history":
                places: Sequence[Any] = part.keys
                for (*_, is_past), row in zip(places, part.rows, strict=True):
                    (past if is_past else questions).append(row)
            else:
                rows[part.table, part.how] += part.rows
    added: Counter[str] = Counter()
    # From the last: a session takes the highest number that is free.
    last_first = [*reversed(sessions.values())]
    added[SESSIONS] = _insert(connection, _sessions_sql(columns[SESSIONS]), last_first)
    keys = _keys_in(connection)
    # What replaced others goes first, the last of it before all: the others then find it there.
    for (table, how), found in sorted(rows.items(), key=lambda item: item[0][1] != "replace"):
        sql = _rows_sql(table, columns[table], keys.get(table, ()), once=table in keys)
        added[table] += _insert(connection, sql, found[::-1] if how == "replace" else found)
    # A message has a new id every turn: what makes it the same is what it says and where.
    for found, same in ((questions, (*_PLACE, "session_id")), (past, _PLACE)):
        sql = _rows_sql("messages", columns["messages"], same, once=True)
        added["messages"] += _insert(connection, sql, found)
    return added


def parts_of(entries: Sequence[Entry], *, replacing: bool) -> list[Entry]:
    """Of each entry only what replaces rows, which may be done again; or all but that."""
    return [
        replace(entry, parts=parts)
        for entry in entries
        if (parts := tuple(part for part in entry.parts if (part.how == "replace") == replacing))
    ]


def _insert(
    connection: duckdb.DuckDBPyConnection, sql: str, rows: Sequence[bytes], size: int = _BATCH
) -> int:
    """How many rows were added."""
    added = 0
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        try:
            done = connection.execute(sql, [f"[{b','.join(batch).decode()}]"]).fetchall()
        except duckdb.Error as error:
            if failures.is_about_the_database(error):
                raise
            if len(batch) > 1:
                added += _insert(connection, sql, batch, len(batch) // 2)
            else:
                _log.warning("store_refused_item", reason=type(error).__name__)
        else:
            added += int(done[0][0])
    return added


def _keys_in(connection: duckdb.DuckDBPyConnection) -> Mapping[str, Sequence[str]]:
    """Table -> its primary key."""
    rows = connection.execute(
        "SELECT table_name, constraint_column_names FROM duckdb_constraints() "
        "WHERE database_name = current_database() AND constraint_type = 'PRIMARY KEY'"
    ).fetchall()
    return dict(rows)


def _rows_sql(table: str, kinds: Mapping[str, str], same: Sequence[str], *, once: bool) -> str:
    """Insert the rows that are not there; ``once``: of those that are the same the first only."""
    same = same or list(kinds)
    alike = " AND ".join(f"old.{name} IS NOT DISTINCT FROM new.{name}" for name in same)
    first = f"QUALIFY row_number() OVER (PARTITION BY {', '.join(same)} ORDER BY nth) = 1 "
    return (
        f"INSERT INTO {table} ({', '.join(kinds)}) SELECT {', '.join(kinds)} "  # noqa: S608
        f"FROM ({_given(kinds)}) AS new ANTI JOIN {table} AS old ON {alike} "
        f"{first if once else ''}ORDER BY nth"
    )


def _sessions_sql(kinds: Mapping[str, str]) -> str:
    """Sessions, the last first, take the highest numbers below the last one that nobody has.

    Where these do not suffice, those after it, too; what came later has the higher number.
    """
    kinds = {name: kind for name, kind in kinds.items() if name != "seq"}
    names = ", ".join(kinds)
    return (
        f"WITH missing AS (SELECT *, row_number() OVER (ORDER BY nth) AS k "  # noqa: S608
        f"FROM ({_given(kinds)}) AS new "
        "ANTI JOIN stream_sessions AS old ON old.session_id = new.session_id), "
        "last AS (SELECT coalesce(max(seq), 0) AS seq FROM stream_sessions), "
        "free AS (SELECT n FROM range(1, (SELECT seq + 1 + count(k) FROM last, missing "
        "GROUP BY seq)) AS r(n) ANTI JOIN stream_sessions ON seq = n, last "
        "ORDER BY n > last.seq, if(n > last.seq, n, -n) LIMIT (SELECT count(*) FROM missing)) "
        f"INSERT INTO stream_sessions (seq, {names}) SELECT n, {names} FROM missing "
        "JOIN (SELECT n, row_number() OVER (ORDER BY n DESC) AS k FROM free) USING (k) ORDER BY k"
    )


def _given(kinds: Mapping[str, str]) -> str:
    """The rows of a JSON document, with their place in it."""
    return (
        "SELECT unnest(given, max_depth := 2), unnest(range(len(given))) AS nth "  # noqa: S608
        f"FROM (SELECT from_json_strict(?, '{json.dumps([dict(kinds)])}') AS given)"
    )
