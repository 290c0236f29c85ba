"""Large results, kept for a short while in a database in memory, until their reader has them."""

from __future__ import annotations

import threading
import time
import uuid
from typing import TYPE_CHECKING, Final

import duckdb

from workbench.errors import invalid
from workbench.store.reading import Limits, Params, Reader

if TYPE_CHECKING:
    import pandas as pd

INLINE_ROWS: Final = 2000
"""Up to so many rows a result is not worth parking."""

MAX_PARKED: Final = 8
"""Results that wait at the same time; the oldest gives way."""

KEEP_S: Final = 120.0
"""How long a result waits for its reader."""


class Parking:
    """Runs queries and parks what is large.

    Args:
        connection: an open log that is not sealed yet.
        reader: runs the queries.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, reader: Reader) -> None:
        connection.execute("ATTACH ':memory:' AS parked")
        self._connection = connection
        self._reader = reader
        self._lock = threading.Lock()
        self._parked: dict[str, float] = {}  # table -> when

    def query(
        self, sql: str, params: Params | None, limits: Limits
    ) -> tuple[pd.DataFrame | None, str | None, int]:
        """The result itself if it is small, else the table that holds it; and its rows."""
        table = f"parked.main.r_{uuid.uuid4().hex}"
        try:
            rows, frame = self._reader.into(table, sql, params, limits)
            limits.check(rows)
        except BaseException:
            self._drop(table)
            raise
        if frame is None and rows <= INLINE_ROWS:
            frame = self._reader.trusted(f"FROM {table}")
            self._drop(table)
        if frame is not None:
            return frame, None, rows
        with self._lock:
            self._parked[table] = time.monotonic()
        self._clear()
        return None, table, rows

    def release(self, table: str) -> None:
        """The reader has it.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``, there is no such result (any more).
        """
        with self._lock:
            known = self._parked.pop(table, None)
        if known is None:
            raise invalid(f"There is no parked result {table}.", fix="Ask again.")
        self._drop(table)

    def _clear(self) -> None:
        now = time.monotonic()
        with self._lock:
            old = [table for table, at in self._parked.items() if now - at > KEEP_S]
            rest = [table for table in self._parked if table not in old]
            old += rest[: max(0, len(rest) - MAX_PARKED)]
            for table in old:
                del self._parked[table]
        for table in old:
            self._drop(table)

    def _drop(self, table: str) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(f"DROP TABLE IF EXISTS {table}")
