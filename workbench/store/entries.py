"""What an item adds to the log, encoded once: for the spool and for the database."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

from workbench.errors import WorkbenchError, invalid
from workbench.model_ids import spelled
from workbench.store.rows import (
    Item,
    Row,
    RowsItem,
    SessionItem,
    SharedItem,
    answer_rows,
    columns_of,
    conversation_row,
    error_row,
    history_rows,
    session_row,
    timeline_row,
)
from workbench.wire import clean

if TYPE_CHECKING:
    import duckdb

How = Literal["add", "keep", "replace", "number", "history"]
"""How rows go into their table: as :data:`workbench.store.rows.Mode` says, or

``number``: with the next numbers in ``seq``; ``history``: those that are not stored yet.
"""

SESSIONS: Final = "stream_sessions"

_MOST: Final = {"INTEGER": 2**31 - 1, "BIGINT": 2**63 - 1}

SHARED: Final[Mapping[str, How]] = {
    "environments": "keep",
    "conversations": "keep",
    SESSIONS: "number",
    "token_streams": "add",
    "messages": "history",
    "memory_samples": "add",
}
"""The tables that a shared session has rows in, and how they go in."""

_MODELS: Final[Mapping[str, tuple[str, ...]]] = {
    SESSIONS: ("model", "fallback_from"),
    "memory_samples": ("model",),
    "model_events": ("model",),
    "errors": ("model",),
    "benchmark_cells": ("model",),
    "votes": ("model_a", "model_b"),
    "insights": ("model_a", "model_b"),
}
"""Table -> its columns that name a model; ``requested_model`` is what was typed."""

Columns = Mapping[str, Mapping[str, str]]
"""Table -> column -> type, in order."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one table as JSON objects; ``keys`` identify them where ``how`` needs that.

    ``values`` are the same as tuples, for the table that is too wide to be read from objects fast.
    JSON columns are text in them.
    """

    table: str
    how: How
    rows: tuple[bytes, ...]
    keys: tuple[Hashable, ...] = ()
    values: tuple[tuple[Any, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One item: its number (1, 2, 3, ... in order of the spool) and what it adds.

    ``plain`` says that the values are of the types that the tables take, so that only a session
    id that exists can still make the database refuse it.
    """

    n: int
    parts: tuple[Part, ...]
    plain: bool = False


def columns_in(connection: duckdb.DuckDBPyConnection) -> Columns:
    """The tables of an open log."""
    tables: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for table, column, kind in connection.execute(
        "SELECT table_name, column_name, data_type FROM duckdb_columns() "
        "WHERE NOT internal AND database_name = current_database() "
        "AND table_name IN (SELECT table_name FROM duckdb_tables()) "
        "ORDER BY table_name, column_index"
    ).fetchall():
        tables[table][column] = kind
    return dict(tables)


class Encoder:
    """Turns items into entries.

    Args:
        columns: the tables that there are.
    """

    def __init__(self, columns: Columns) -> None:
        self._json = [name for name, kind in columns[SESSIONS].items() if kind == "JSON"]
        self._numbers = [
            (name, _MOST[kind]) for name, kind in columns[SESSIONS].items() if kind in _MOST
        ]
        self._empty: dict[str, Row] = {}
        """Table -> a row without values; ``stream_sessions`` is numbered later."""
        for table, kinds in columns.items():
            names = [name for name in kinds if (table, name) != (SESSIONS, "seq")]
            self._empty[table] = dict.fromkeys(names)

    def encode(self, item: Item) -> Entry:
        """The entry of an item, not numbered yet.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``, a row names an unknown table or column.
            TypeError, ValueError, RecursionError: a value has no form in JSON.
        """
        plain = isinstance(item, SessionItem)
        parts = []
        for table, how, rows in _parts(item):
            if rows:
                empty = self._empty.get(table)
                if empty is None:
                    raise invalid(
                        f"The log has no table {table!r}.",
                        fix=f"Its tables are {', '.join(self._empty)}.",
                    )
                whole = [_spelled(table, {**empty, **row}) for row in rows]
                if any(len(row) > len(empty) for row in whole):
                    raise _unknown(table, empty, rows)
                part, is_plain = self._part(table, how, whole)
                plain = plain and is_plain
                parts.append(part)
        return Entry(0, tuple(parts), plain)

    def _part(self, table: str, how: How, rows: Sequence[Row]) -> tuple[Part, bool]:
        """Encode whole rows; False: a value of them is none that the tables take."""
        keys = _keys(table, rows)
        try:
            if table == SESSIONS:
                return self._sessions(how, rows, keys), all(map(self._fits, rows))
            return Part(table, how, tuple(orjson.dumps(row, _plain) for row in rows), keys), True
        except TypeError:
            encoded = tuple(_slowly(row) for row in rows)
            if table != SESSIONS:
                return Part(table, how, encoded, keys), False
            return Part(table, how, encoded, keys, tuple(map(self._slow_values, rows))), False

    def _fits(self, row: Row) -> bool:
        """Whether its numbers are within those of their columns."""
        for name, most in self._numbers:
            value = row.get(name)
            if value is not None and not -most <= value <= most:
                return False
        return True

    def _sessions(self, how: How, rows: Sequence[Row], keys: tuple[Hashable, ...]) -> Part:
        encoded, values = [], []
        for row in rows:
            columns = dict(row)
            texts = [(name, orjson.dumps(row[name], _plain)) for name in self._json]
            for name, text in texts:
                columns[name] = text.decode()
            values.append(tuple(columns.values()))
            for name, text in texts:
                columns[name] = orjson.Fragment(text)
            encoded.append(orjson.dumps(columns, _plain))
        return Part(SESSIONS, how, tuple(encoded), keys, tuple(values))

    def _slow_values(self, row: Row) -> tuple[Any, ...]:
        texts = {name: _slowly(row[name]).decode() for name in self._json}
        return tuple({**orjson.loads(_slowly(row)), **texts}.values())

    def decode(self, body: Mapping[str, Any]) -> Entry:
        """The entry that was read back from a spool.

        It may be of an older workbench: columns that are unknown to it are null, names as they are
        written now.
        """
        parts = []
        for table, how, rows in body["parts"]:
            whole = [
                _spelled(table, {name: row.get(name) for name in self._empty[table]})
                for row in rows
            ]
            parts.append(self._part(table, how, whole)[0])
        return Entry(body["n"], tuple(parts))


def body_of(entry: Entry) -> bytes:
    """The members of an entry's JSON object, without the opening brace."""
    parts = b",".join(
        b'["%b","%b",[%b]]' % (part.table.encode(), part.how.encode(), b",".join(part.rows))
        for part in entry.parts
    )
    return b'"n":%d,"parts":[%b]}' % (entry.n, parts)


def _spelled(table: str, row: dict[str, Any]) -> dict[str, Any]:
    """The row with one spelling for each model, whoever wrote it."""
    for column in _MODELS.get(table, ()):
        if isinstance(model := row[column], str):
            row[column] = spelled(model)
    return row


def _unknown(table: str, empty: Row, rows: Sequence[Row]) -> WorkbenchError:
    names = sorted({name for row in rows for name in row} - empty.keys())
    return invalid(
        f"The table {table} has no column {', '.join(map(repr, names))}.",
        fix=f"Its columns are {', '.join(empty)}.",
    )


def _parts(item: Item) -> list[tuple[str, How, Sequence[Row]]]:
    if isinstance(item, RowsItem):
        return [(item.table, item.mode, item.rows)]
    if isinstance(item, SharedItem):
        return shared_parts(item)
    session = item.session
    parts: list[tuple[str, How, Sequence[Row]]] = [
        ("conversations", "keep", [conversation_row(item)]),
        ("stream_sessions", "number", [session_row(item)]),
        ("token_streams", "add", [timeline_row(session)]),
        ("messages", "history", [*history_rows(item), *answer_rows(item)]),
        ("memory_samples", "add", [columns_of(sample) for sample in item.samples]),
    ]
    if session.error is not None:
        failure = error_row(
            session.error,
            model=session.model,
            session_id=session.session_id,
            correlation_id=session.correlation_id,
        )
        parts.append(("errors", "add", [failure]))
    return parts


def shared_parts(item: SharedItem) -> list[tuple[str, How, Sequence[Row]]]:
    """What a shared session adds: its rows as they are, but for number and writer."""
    parts: list[tuple[str, How, Sequence[Row]]] = []
    for table, how in SHARED.items():
        rows = item.rows.get(table, ())
        if table == SESSIONS:
            numbered = ({**row, "writer_id": item.writer_id} for row in rows)
            rows = [{name: row[name] for name in row if name != "seq"} for row in numbered]
        parts.append((table, how, rows))
    return parts


def _keys(table: str, rows: Sequence[Row]) -> tuple[Hashable, ...]:
    if table == "conversations":
        return tuple(row["conversation_id"] for row in rows)
    if table == "messages":
        return tuple(
            (
                row["conversation_id"],
                row["position"],
                row["role"],
                row["content"],
                row.get("session_id") is None,
            )
            for row in rows
        )
    if table == SESSIONS:
        return tuple(row["session_id"] for row in rows)
    return ()


def _plain(value: object) -> object:
    """What JSON has no form for: times as ISO 8601, mappings as objects, the rest as text."""
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return str(value)


def _slowly(value: object) -> bytes:
    """What orjson refuses: half a surrogate pair, a number over 64 bits, odd keys."""
    return clean(json.dumps(_finite(value), ensure_ascii=False, default=_plain)).encode()


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
