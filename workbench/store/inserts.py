"""A group of entries in one transaction, with one statement per table.

All rows of a table go in as one JSON parameter that DuckDB takes apart: planning an insert of
sixty columns costs milliseconds, so it is paid once per group, and the work on values is done in
C++ without holding up the interpreter that streams tokens. Sessions go in as one array a column:
DuckDB looks every member of every object up by its name, which made 85 of 95 us a session.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import orjson

from workbench.store.entries import SESSIONS, Columns, Entry, How

if TYPE_CHECKING:
    import duckdb

_VERBS: Final[dict[How, str]] = {
    "add": "INSERT",
    "keep": "INSERT OR IGNORE",
    "replace": "INSERT OR REPLACE",
}

FEW: Final = 16
"""Up to so many conversations are looked up before they are inserted, one by one in the index.

Each transaction in which ``INSERT OR IGNORE`` added a row leaves 8.6 KiB in DuckDB 1.5.5 (2.3 with
its optimizer) until the database is closed, which a server that logs one answer after the other
would feel. For many at once the look-up would take longer than that is worth.
"""


class Inserter:
    """Writes groups of entries; used by one thread, the only one that writes.

    Args:
        connection: an open log; the inserter works on cursors of its own.
        columns: its tables.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, columns: Columns) -> None:
        self._connection = connection.cursor()
        # There is nothing to optimise in these inserts, and trying costs a third of their time.
        # Look-ups need it, so they have a cursor without this setting.
        self._connection.execute("PRAGMA disable_optimizer")
        self._lookups = connection.cursor()
        self._columns = columns
        self._names = [name for name in columns[SESSIONS] if name != "seq"]
        self._statements: dict[tuple[str, How], str] = {}
        row = connection.execute(
            "SELECT coalesce(max(seq), 0) FROM (SELECT seq FROM stream_sessions UNION ALL "
            "SELECT seq FROM deletions)"
        ).fetchone()
        assert row is not None
        self.seq: int = row[0]
        """The number of the last session."""

    def commit(self, entries: Sequence[Entry]) -> None:
        """Write the entries and the number of the last, all or none.

        On return they are in the write-ahead log on disk, and queries see them.

        Raises:
            duckdb.Error: the database refused; nothing was written.
        """
        connection = self._connection
        connection.execute("BEGIN TRANSACTION")
        try:
            seq = self._write(entries)
            connection.execute(f"UPDATE log_position SET n = {int(entries[-1].n)}")  # noqa: S608
            connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        self.seq = seq

    def close(self) -> None:
        """Release the cursors."""
        self._connection.close()
        self._lookups.close()

    def _roll_back(self) -> None:
        """Leave the transaction; a failed COMMIT or a fatal error has left it already."""
        import duckdb

        try:
            self._connection.execute("ROLLBACK")
        except duckdb.Error:
            return

    def _write(self, entries: Sequence[Entry]) -> int:
        tables: defaultdict[tuple[str, How], list[bytes]] = defaultdict(list)
        messages: list[tuple[bytes, Any]] = []
        conversations: dict[Any, bytes] = {}
        sessions: list[tuple[Any, ...]] = []
        for entry in entries:
            for part in entry.parts:
                if part.how == "history":
                    messages += zip(part.rows, part.keys, strict=True)
                elif part.how == "number":
                    sessions += part.values
                elif part.how == "keep" and part.table == "conversations":
                    for key, row in zip(part.keys, part.rows, strict=True):
                        conversations.setdefault(key, row)  # the first turn starts it
                else:
                    tables[part.table, part.how] += part.rows
        if conversations:
            # First, because what it adds tells which conversations have no messages yet.
            old = self._start(conversations)
            tables["messages", "add"] += self._unstored(messages, old)
        if sessions:
            self._number(sessions)
        for (table, how), rows in tables.items():
            if rows:
                self._insert(table, how, rows)
        return self.seq + len(sessions)

    def _start(self, conversations: Mapping[Any, bytes]) -> set[Any]:
        """Insert the conversations that are not there yet, and return the others."""
        table, rows = "conversations", list(conversations.values())
        if len(rows) > FEW:
            return conversations.keys() - self._insert(table, "keep", rows)
        marks = ", ".join("?" * len(rows))
        sql = f"SELECT conversation_id FROM {table} WHERE conversation_id IN ({marks})"  # noqa: S608
        old = {row[0] for row in self._lookups.execute(sql, list(conversations)).fetchall()}
        if new := [row for key, row in conversations.items() if key not in old]:
            self._insert(table, "add", new)
        return old

    def _unstored(self, messages: Sequence[tuple[bytes, Any]], old: set[Any]) -> list[bytes]:
        """The messages of these turns that are not stored yet.

        Every turn brings its whole history. A message of the past counts as stored if its
        conversation has the same role and content at the same position; an edited one is thus
        kept beside the original, and what a model was given can always be read back. The question
        itself and the answer are stored with every session, also when they were before.
        """
        known = self._stored(old)
        rows = []
        for row, (*place, is_past) in messages:
            if not is_past or tuple(place) not in known:
                known.add(tuple(place))
                rows.append(row)
        return rows

    def _stored(self, conversations: set[Any]) -> set[tuple[Any, ...]]:
        if not conversations:
            return set()
        marks = ", ".join("?" * len(conversations))
        return set(
            self._lookups.execute(
                "SELECT conversation_id, position, role, content FROM messages "  # noqa: S608
                f"WHERE conversation_id IN ({marks})",
                list(conversations),
            ).fetchall()
        )

    def _number(self, sessions: Sequence[tuple[Any, ...]]) -> None:
        """Insert sessions with the next numbers."""
        columns = dict(zip(self._names, zip(*sessions, strict=True), strict=True))
        document = orjson.dumps(columns, str).decode()
        sql = self._statements.get((SESSIONS, "number")) or self._numbering()
        self._connection.execute(sql, [self.seq + 1, self.seq + 1 + len(sessions), document])

    def _numbering(self) -> str:
        kinds = self._columns[SESSIONS]
        lists = {n: ["VARCHAR" if kinds[n] == "JSON" else kinds[n]] for n in self._names}
        unnested = ", ".join(f"unnest(x.{name})" for name in self._names)
        sql = (
            f"INSERT INTO {SESSIONS} (seq, {', '.join(self._names)}) "  # noqa: S608
            f"SELECT unnest(range(?, ?)), {unnested} "
            f"FROM (SELECT from_json_strict(?, '{json.dumps(lists)}') AS x)"
        )
        self._statements[SESSIONS, "number"] = sql
        return sql

    def _insert(self, table: str, how: How, rows: Sequence[bytes]) -> set[Any]:
        """Insert rows and return the first column of those that were added, if ``how`` is keep."""
        sql = self._statements.get((table, how)) or self._statement(table, how)
        document = b"[%b]" % b",".join(rows)
        result = self._connection.execute(sql, [document.decode()])
        return {row[0] for row in result.fetchall()} if how == "keep" else set()

    def _statement(self, table: str, how: How) -> str:
        """Table, columns and types come from the catalogue, never from outside.

        The two levels that are unnested are the list of rows and the row.
        """
        kinds = dict(self._columns[table])
        names = list(kinds)
        sql = (
            f"{_VERBS[how]} INTO {table} ({', '.join(names)}) SELECT "
            f"unnest(from_json_strict(?, '{json.dumps([kinds])}'), max_depth := 2)"
        )
        if how == "keep":
            sql += f" RETURNING {names[0]}"
        self._statements[table, how] = sql
        return sql
