"""A group of items in one transaction, with one statement per table.

All rows of a table go in as one JSON parameter that DuckDB takes apart: planning an insert of
sixty columns costs milliseconds, so it is paid once per group, and the work on values is done in
C++ without holding up the interpreter that streams tokens.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from workbench.errors import invalid
from workbench.store.rows import (
    Item,
    Mode,
    Row,
    RowsItem,
    SessionItem,
    answer_rows,
    clean,
    columns_of,
    conversation_row,
    error_row,
    history_rows,
    session_row,
    timeline_row,
)

if TYPE_CHECKING:
    import duckdb

_VERBS: Final[Mapping[Mode, str]] = {
    "add": "INSERT",
    "keep": "INSERT OR IGNORE",
    "replace": "INSERT OR REPLACE",
}


class Inserter:
    """Writes groups of items; used by one thread, the only one that writes.

    Args:
        connection: an open log; the inserter works on cursors of its own.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection.cursor()
        # There is nothing to optimise in these inserts, and trying costs a third of their time.
        # Look-ups need it, so they have a cursor without this setting.
        self._connection.execute("PRAGMA disable_optimizer")
        self._lookups = connection.cursor()
        self._columns = _columns(connection)
        row = connection.execute("SELECT coalesce(max(seq), 0) FROM stream_sessions").fetchone()
        assert row is not None
        self._seq: int = row[0]

    def commit(self, items: Sequence[Item]) -> None:
        """Write the items, all of them or none; on return they are on disk.

        Raises:
            duckdb.Error: the database refused; nothing was written.
            WorkbenchError: ``INVALID_REQUEST``, a row names an unknown table or column.
            TypeError: a value cannot be stored.
        """
        connection = self._connection
        connection.execute("BEGIN TRANSACTION")
        try:
            seq = self._write(items)
            connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        self._seq = seq

    def _roll_back(self) -> None:
        """Leave the transaction; a failed COMMIT or a fatal error has left it already."""
        import duckdb

        try:
            self._connection.execute("ROLLBACK")
        except duckdb.Error:
            return

    def _write(self, items: Sequence[Item]) -> int:
        sessions = [item for item in items if isinstance(item, SessionItem)]
        tables: defaultdict[tuple[str, Mode], list[Row]] = defaultdict(list)
        seq = self._seq
        for item in items:
            if isinstance(item, RowsItem):
                tables[item.table, item.mode] += item.rows
        for item in sessions:
            seq += 1
            session = item.session
            tables["stream_sessions", "add"].append(session_row(item, seq))
            tables["token_streams", "add"].append(timeline_row(session))
            tables["memory_samples", "add"] += [columns_of(sample) for sample in item.samples]
            if session.error is not None:
                tables["errors", "add"].append(
                    error_row(
                        session.error,
                        model=session.model,
                        session_id=session.session_id,
                        correlation_id=session.correlation_id,
                    )
                )
        if sessions:
            # First, because what it adds tells which conversations have no messages yet.
            started = self._insert(
                "conversations",
                "keep",
                _first_of_each([conversation_row(item) for item in sessions]),
            )
            tables["messages", "add"] += self._messages(sessions, started)
        for (table, mode), rows in tables.items():
            if rows:
                self._insert(table, mode, rows)
        return seq

    def _messages(self, sessions: Sequence[SessionItem], started: set[str]) -> list[Row]:
        """The messages of these turns that are not stored yet.

        Every turn brings its whole history. A message of the past counts as stored if its
        conversation has the same role and content at the same position; an edited one is thus
        kept beside the original, and what a model was given can always be read back. The question
        itself is stored with every session, also when it was asked before.
        """
        known = self._stored({item.session.conversation_id for item in sessions} - started)
        rows: list[Row] = []
        for item in sessions:
            for row in history_rows(item):
                key = _place(row)
                if key not in known or row["session_id"] is not None:
                    known.add(key)
                    rows.append(row)
            for row in answer_rows(item):
                known.add(_place(row))
                rows.append(row)
        return rows

    def _stored(self, conversations: set[str]) -> set[tuple[str, int, str, str]]:
        if not conversations:
            return set()
        marks = ", ".join("?" * len(conversations))
        found = self._lookups.execute(
            "SELECT conversation_id, position, role, content FROM messages "  # noqa: S608
            f"WHERE conversation_id IN ({marks})",
            list(conversations),
        ).fetchall()
        return {(row[0], row[1], row[2], row[3]) for row in found}

    def _insert(self, table: str, mode: Mode, rows: Sequence[Row]) -> set[str]:
        """Insert rows and return the first column of those that were added, if ``mode`` is keep."""
        types = self._columns.get(table)
        if types is None:
            raise invalid(f"The log has no table {table!r}.")
        unknown = {name for row in rows for name in row} - types.keys()
        if unknown:
            raise invalid(f"The table {table} has no column {min(unknown)!r}.")
        names = list(types)
        document = _document([{name: row.get(name) for name in names} for row in rows])
        # Table, columns and types come from the catalogue, never from outside. The two levels that
        # are unnested are the list of rows and the row.
        sql = (
            f"{_VERBS[mode]} INTO {table} ({', '.join(names)}) "
            f"SELECT unnest(from_json_strict(?, '{json.dumps([types])}'), max_depth := 2)"
        )
        if mode == "keep":
            added = self._connection.execute(f"{sql} RETURNING {names[0]}", [document]).fetchall()
            return {row[0] for row in added}
        self._connection.execute(sql, [document])
        return set()


def _columns(connection: duckdb.DuckDBPyConnection) -> dict[str, dict[str, str]]:
    """Table -> column -> type, in order."""
    tables: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for table, column, kind in connection.execute(
        "SELECT table_name, column_name, data_type FROM duckdb_columns() "
        "WHERE NOT internal AND table_name IN (SELECT table_name FROM duckdb_tables()) "
        "ORDER BY table_name, column_index"
    ).fetchall():
        tables[table][column] = kind
    return dict(tables)


def _first_of_each(rows: Sequence[Row]) -> list[Row]:
    """One row per conversation: the first turn in the group starts it."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row["conversation_id"], row)
    return list(first.values())


def _place(row: Row) -> tuple[str, int, str, str]:
    return row["conversation_id"], row["position"], row["role"], row["content"]


def _document(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as JSON that DuckDB accepts: UTF-8, and null for a number that is not finite."""
    try:
        text = json.dumps(rows, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError:
        text = json.dumps(_finite(rows), ensure_ascii=False, allow_nan=False, default=_plain)
    return clean(text)


def _plain(value: object) -> object:
    """What JSON has no form for: times as ISO 8601, mappings as objects, the rest as text."""
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
