"""Results of a running server's log, fetched over Quack: fast, and with DuckDB's own types."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import duckdb

from workbench.errors import ErrorCode, WorkbenchError
from workbench.store.extension import load_quack
from workbench.store.reading import fetch_frame

if TYPE_CHECKING:
    import pandas as pd


class QuackReader:
    """Fetches parked results; connects at the first one, and anew when the server was restarted.

    Args:
        uri: ``quack:host:port``.
        token: of the server.
        offline: True never asks the network for the extension.

    Raises:
        WorkbenchError: ``STORE_UNAVAILABLE``, the extension cannot be had here.
    """

    def __init__(self, uri: str, token: str, *, offline: bool = False) -> None:
        self._uri = uri
        self._lock = threading.Lock()
        self._connection = duckdb.connect(config={"python_enable_replacements": False})
        try:
            load_quack(self._connection, offline=offline)
            self._connection.execute("SET TimeZone = 'UTC'")
            quoted = token.replace("'", "''")
            self._connection.execute(f"CREATE SECRET (TYPE quack, TOKEN '{quoted}')")
        except WorkbenchError:
            self.close()
            raise

    def fetch(self, table: str) -> pd.DataFrame:
        """A parked result.

        Raises:
            WorkbenchError: ``SERVER_UNREACHABLE``.
        """
        with self._lock:
            try:
                return fetch_frame(
                    self._connection.execute(
                        "FROM quack_query(?, ?, disable_ssl := true)", [self._uri, f"FROM {table}"]
                    )
                )
            except duckdb.Error as error:
                raise WorkbenchError(
                    ErrorCode.SERVER_UNREACHABLE,
                    f"The result could not be fetched over Quack: {error}",
                    fix="Ask again.",
                    operation="query",
                ) from None

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()
