"""Queries: one read-only statement at a time, each on a cursor of its own, beside the writer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import duckdb
import psutil

from workbench.errors import WorkbenchError, invalid, require_text
from workbench.store.failures import (
    being_opened,
    closed,
    out_of_memory,
    query_stopped,
    query_timeout,
    querying,
    too_many_rows,
)
from workbench.store.gate import admit

if TYPE_CHECKING:
    import pandas as pd

Params = Sequence[Any] | Mapping[str, Any]

_LOOK_S: Final = 0.02
"""Time between two looks at a query that has limits."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a query may take; None is no limit.

    Args:
        limit: the rows wanted; the others are not asked for.
        timeout_s: it is stopped after this many seconds.
        max_rows: it is refused if it has more rows.
        max_bytes: it is stopped when this process has grown by so much. DuckDB's own limit does
            not count the values that it is computing, nor the result in Python.
        stop: set by who asked, when nobody waits for the result any more.
    """

    limit: int | None = None
    timeout_s: float | None = None
    max_rows: int | None = None
    max_bytes: int | None = None
    stop: threading.Event | None = None

    def around(self, statement: str, is_select: bool) -> str:
        """The statement that asks for no more rows than are wanted or allowed."""
        if self.limit is not None and self.limit < 0:
            raise invalid(f"limit is {self.limit}.", fix="Give 0 or more.")
        bounds = [self.limit, None if self.max_rows is None else self.max_rows + 1]
        most = min((bound for bound in bounds if bound is not None), default=None)
        if most is None or not is_select:
            return statement
        # On a line of its own, so that a comment at the end cannot swallow the bracket.
        return f"SELECT * FROM (\n{statement}\n) LIMIT {most}"  # noqa: S608

    def check(self, rows: int) -> None:
        """Refuse a result that has more rows than are allowed."""
        if self.max_rows is not None and rows > self.max_rows:
            raise too_many_rows(self.max_rows)


_COLUMNS: Final = """
SELECT table_name AS name, list(column_name ORDER BY column_index) AS columns,
    table_name IN (SELECT view_name FROM duckdb_views()) AS is_view
FROM duckdb_columns() WHERE NOT internal AND database_name = current_database()
GROUP BY table_name ORDER BY is_view, name"""


class Reader:
    """Runs queries against a database that this process has open.

    Args:
        connection: its cursors run the queries; it runs nothing itself.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection: duckdb.DuckDBPyConnection | None = connection
        self._running: set[duckdb.DuckDBPyConnection] = set()
        self._changed = threading.Condition()
        self._closed = False

    def close(self) -> None:
        """Stop the running queries and refuse further ones; returns when none is left."""
        with self._changed:
            self._closed = True
        self.pause()

    def pause(self) -> None:
        """Stop the running queries and let none begin; returns when none is left."""
        with self._changed:
            self._connection = None
            while self._running:
                for cursor in self._running:
                    _interrupt(cursor)
                # Again and again: an interrupt between two statements of a query has no effect.
                self._changed.wait(0.05)

    def resume(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Go on, with the database opened anew."""
        with self._changed:
            self._connection = connection

    def frame(self, sql: str, params: Params | None, limits: Limits) -> pd.DataFrame:
        """The result as a DataFrame."""
        with self._run(sql, params, limits) as result:
            frame = fetch_frame(result)
        limits.check(len(frame))
        return frame

    def rows(self, sql: str, params: Params | None, limits: Limits) -> list[dict[str, Any]]:
        """The result as dictionaries of Python values."""
        with self._run(sql, params, limits) as result:
            names = _distinct([str(column[0]) for column in result.description or []])
            found = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
        limits.check(len(found))
        return found

    def tables(self) -> list[dict[str, Any]]:
        """What can be queried: ``name``, ``kind`` (table or view), ``rows``, ``columns``.

        ``columns`` is a list of names. ``rows`` is None for views: counting computes them.
        """
        found = self.rows(_COLUMNS, None, Limits())
        counting = " UNION ALL ".join(
            f"SELECT '{item['name']}' AS name, count(*) AS rows FROM {item['name']}"  # noqa: S608
            for item in found
            if not item["is_view"]
        )
        counts = {item["name"]: item["rows"] for item in self.rows(counting, None, Limits())}
        return [
            {
                "name": item["name"],
                "kind": "view" if item["is_view"] else "table",
                "rows": counts.get(item["name"]),
                "columns": item["columns"],
            }
            for item in found
        ]

    def trusted(self, sql: str) -> pd.DataFrame:
        """The result of a statement of our own, which needs no gate."""
        with self._cursor() as cursor:
            try:
                return fetch_frame(cursor.execute(sql))
            except duckdb.Error as error:
                raise querying(error) from None

    def into(
        self, table: str, sql: str, params: Params | None, limits: Limits
    ) -> tuple[int, pd.DataFrame | None]:
        """Put the result into a new table of another database, or return it if it is no SELECT.

        Returns:
            Its rows, and the result itself if nothing was put anywhere.
        """
        require_text(params, "params")
        with self._cursor() as cursor:
            statement, is_select = admit(sql, cursor)
            if is_select:
                watch = _Watch(cursor, limits)
                around = limits.around(statement, True)
                ours = around.count("\n", 0, around.index(statement))
                try:
                    # One statement, and DuckDB lets it write into one database only: that of the
                    # table. So it cannot write into the log.
                    with watch:
                        made = f"CREATE TABLE {table} AS {around}"
                        cursor.execute(made, params)
                    row = cursor.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
                except duckdb.Error as error:
                    raise watch.reason or querying(
                        error, timeout_s=limits.timeout_s, lines_before=ours
                    ) from None
                return (row[0] if row else 0), None
        frame = self.frame(sql, params, limits)
        return len(frame), frame

    @contextmanager
    def _run(
        self, sql: str, params: Params | None, limits: Limits
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        require_text(params, "params")
        with self._cursor() as cursor:
            admitted = admit(sql, cursor)
            statement = limits.around(*admitted)
            ours = statement.count("\n", 0, statement.index(admitted[0]))
            watch = _Watch(cursor, limits)
            try:
                # The statement's type is no proof that it only reads; the transaction is.
                cursor.execute("BEGIN TRANSACTION READ ONLY")
                with watch:
                    yield cursor.execute(statement, params)
            except duckdb.Error as error:
                raise watch.reason or querying(
                    error, timeout_s=limits.timeout_s, lines_before=ours
                ) from None

    @contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._changed:
            if self._closed:
                raise closed()
            if self._connection is None:
                raise being_opened()
            cursor = self._connection.cursor()
            self._running.add(cursor)
        try:
            yield cursor
        finally:
            # Closed under the lock, so that no interrupt meets a closed cursor.
            with self._changed:
                cursor.close()
                self._running.discard(cursor)
                self._changed.notify_all()


class _Watch:
    """Interrupts a query that passes its limits; ``reason`` then says which."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, limits: Limits) -> None:
        self.reason: WorkbenchError | None = None
        self._cursor = cursor
        self._limits = limits
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        limits = self._limits
        if limits.timeout_s or limits.max_bytes or limits.stop:
            self._thread = threading.Thread(target=self._look, name="query-watch", daemon=True)
            self._thread.start()

    def __exit__(self, *unused: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _look(self) -> None:
        process = psutil.Process()
        limits, started = self._limits, time.monotonic()
        before = process.memory_info().rss
        while not self._ended.wait(_LOOK_S):
            if limits.timeout_s is not None and time.monotonic() - started > limits.timeout_s:
                self.reason = query_timeout(limits.timeout_s)
            elif limits.max_bytes and process.memory_info().rss - before > limits.max_bytes:
                self.reason = out_of_memory(limits.max_bytes)
            elif limits.stop is not None and limits.stop.is_set():
                self.reason = query_stopped()
            if self.reason is not None:
                # Again and again: an interrupt between two steps of a query has no effect.
                _interrupt(self._cursor)


def _interrupt(cursor: duckdb.DuckDBPyConnection) -> None:
    # The query may have ended and its cursor be closed just now.
    with suppress(duckdb.Error):
        cursor.interrupt()


def _distinct(names: Sequence[str]) -> list[str]:
    """Column names with a number where one is repeated (``a``, ``a_1``), as in a frame."""
    distinct: list[str] = []
    for name in names:
        number, candidate = 0, name
        while candidate in distinct:
            number += 1
            candidate = f"{name}_{number}"
        distinct.append(candidate)
    return distinct


def fetch_frame(result: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """A result as a DataFrame; integers with nulls stay integers, times are aware and UTC.

    Not DuckDB's own ``df()``: for a column with a time zone it calls pandas in a way that pandas
    3.1 warns about.
    """
    import numpy as np
    import pandas as pd

    kinds = [str(column[1]) for column in result.description or []]
    arrays: Mapping[str, Any] = result.fetchnumpy()
    columns: dict[str, Any] = {}
    for (name, array), kind in zip(arrays.items(), kinds, strict=True):
        masked = isinstance(array, np.ma.MaskedArray)
        if masked and array.dtype.kind in "iu":
            columns[name] = pd.arrays.IntegerArray(array.data, np.ma.getmaskarray(array))
        elif masked and array.dtype.kind == "b":
            columns[name] = pd.arrays.BooleanArray(array.data, np.ma.getmaskarray(array))
        elif kind == "TIMESTAMP WITH TIME ZONE":
            columns[name] = pd.Series(array).dt.tz_localize("UTC")
        else:
            columns[name] = pd.Series(array)
    return pd.DataFrame(columns)
