"""Queries: one read-only statement at a time, each on a cursor of its own, beside the writer."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import duckdb

from workbench.errors import invalid
from workbench.store.failures import closed, querying
from workbench.store.rows import clean

if TYPE_CHECKING:
    import pandas as pd

Params = Sequence[Any] | Mapping[str, Any]


class Reader:
    """Runs queries against a database that this process has open.

    Args:
        connection: its cursors run the queries; it runs nothing itself.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._running: set[duckdb.DuckDBPyConnection] = set()
        self._changed = threading.Condition()
        self._closed = False

    def close(self) -> None:
        """Stop the running queries and refuse further ones; returns when none is left."""
        with self._changed:
            self._closed = True
            while self._running:
                for cursor in self._running:
                    _interrupt(cursor)
                # Again and again: an interrupt between two statements of a query has no effect.
                self._changed.wait(0.05)

    def frame(
        self, sql: str, params: Params | None, *, limit: int | None, timeout_s: float | None
    ) -> pd.DataFrame:
        """The result as a DataFrame."""
        with self._run(sql, params, limit=limit, timeout_s=timeout_s) as result:
            kinds = [str(column[1]) for column in result.description or []]
            arrays = result.fetchnumpy()
        return _frame(arrays, kinds)

    def rows(
        self, sql: str, params: Params | None, *, limit: int | None, timeout_s: float | None
    ) -> list[dict[str, Any]]:
        """The result as dictionaries of Python values."""
        with self._run(sql, params, limit=limit, timeout_s=timeout_s) as result:
            names = _distinct([str(column[0]) for column in result.description or []])
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    @contextmanager
    def _run(
        self, sql: str, params: Params | None, *, limit: int | None, timeout_s: float | None
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        statement = _checked(sql, limit)
        with self._cursor() as cursor:
            timer = threading.Timer(timeout_s, _interrupt, [cursor]) if timeout_s else None
            try:
                # The statement's type is no proof that it only reads; the transaction is.
                cursor.execute("BEGIN TRANSACTION READ ONLY")
                if timer is not None:
                    timer.start()
                yield cursor.execute(statement, params)
            except duckdb.Error as error:
                raise querying(error, timeout_s=timeout_s) from None
            finally:
                if timer is not None:
                    timer.cancel()

    @contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._changed:
            if self._closed:
                raise closed()
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


def _interrupt(cursor: duckdb.DuckDBPyConnection) -> None:
    # The query may have ended and its cursor be closed just now.
    with suppress(duckdb.Error):
        cursor.interrupt()


def _checked(sql: str, limit: int | None) -> str:
    """The statement to run, if it is one and asks for something.

    COPY, ATTACH, SET and the like are no writes to the log and pass a read-only transaction, so
    only statements that return rows are let through.
    """
    sql = clean(sql)
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise querying(error) from None
    if len(statements) != 1:
        raise invalid(
            f"Give exactly one SQL statement, not {len(statements)}.", fix="Send them one by one."
        )
    kind = statements[0].type
    if kind not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise invalid(
            f"{kind.name} is not allowed: queries only read.",
            fix="Use SELECT, WITH, FROM, DESCRIBE, SUMMARIZE, SHOW or EXPLAIN.",
        )
    if limit is None or kind != duckdb.StatementType.SELECT:
        return sql
    if limit < 0:
        raise invalid(f"limit is {limit}.", fix="Give 0 or more.")
    # On a line of its own, so that a comment at the end cannot swallow the bracket.
    return f"SELECT * FROM (\n{_bare(sql)}\n) LIMIT {limit}"  # noqa: S608


def _bare(sql: str) -> str:
    """The text of the one statement in ``sql`` without the semicolons around it."""
    raw = sql.encode()  # DuckDB counts bytes
    tokens = [
        (offset, kind == duckdb.token_type.operator and raw[offset : offset + 1] == b";")
        for offset, kind in duckdb.tokenize(sql)
    ]
    start = next(offset for offset, is_end in tokens if not is_end)
    end = next((offset for offset, is_end in tokens if is_end and offset > start), len(raw))
    return raw[start:end].decode()


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


def _frame(arrays: Mapping[str, Any], kinds: Sequence[str]) -> pd.DataFrame:
    """Arrays as a DataFrame; integers with nulls stay integers, times are aware and UTC.

    Not DuckDB's own ``df()``: for a column with a time zone it calls pandas in a way that pandas
    3.1 warns about.
    """
    import numpy as np
    import pandas as pd

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
