"""Bringing an older log up to date: the steps that it has not had, all of them or none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from workbench.errors import ErrorCode, WorkbenchError
from workbench.store.steps import LATEST, MIGRATIONS

if TYPE_CHECKING:
    import duckdb

_BY_A_CHECKPOINT: Final = {
    "checkpoint_threshold": "1B",
    # Below it a transaction is in the write-ahead log before the checkpoint begins.
    "auto_checkpoint_skip_wal_threshold": "0",
}


def version_of(connection: duckdb.DuckDBPyConnection) -> int | None:
    """The log's version: 0 for an empty database, None if the tables are somebody else's."""
    tables = {
        row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
    }
    if "schema_migrations" not in tables:
        return None if tables else 0
    row = connection.execute("SELECT coalesce(max(version), 0) FROM schema_migrations").fetchone()
    assert row is not None
    return int(row[0])


def check(version: int | None, *, path: object) -> int:
    """The version, if this code can read a log of it.

    Raises:
        WorkbenchError: ``STORE_UNAVAILABLE``, the log is newer or is no log of the workbench.
    """
    if version is None:
        raise WorkbenchError(
            ErrorCode.STORE_UNAVAILABLE,
            f"{path} is a DuckDB database, but not a log of the workbench.",
            fix="Set WORKBENCH_DB to another file.",
            operation="open",
        )
    if version > LATEST:
        raise WorkbenchError(
            ErrorCode.STORE_UNAVAILABLE,
            f"{path} was written by a newer workbench (schema {version}, this one knows {LATEST}).",
            fix="Update the workbench, or set WORKBENCH_DB to another file.",
            operation="open",
        )
    return version


def migrate(connection: duckdb.DuckDBPyConnection, *, path: object) -> None:
    """Apply the steps that the log has not had yet, all of them or none.

    Steps that change rows are committed by a checkpoint alone: DuckDB 1.5 cannot replay a column
    made anew from its write-ahead log.

    Raises:
        WorkbenchError: ``STORE_UNAVAILABLE``, see :func:`check`.
    """
    connection.execute("BEGIN TRANSACTION")
    try:
        version = check(version_of(connection), path=path)
        if version == 0:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_migrations "
                "(version INTEGER PRIMARY KEY, name VARCHAR NOT NULL, "
                "applied_at TIMESTAMPTZ NOT NULL)"
            )
        missing = MIGRATIONS[version:]
        for migration in missing:
            if version or not migration.of_rows:  # a new log has no rows
                connection.execute(migration.sql)
            connection.execute(
                "INSERT INTO schema_migrations VALUES (?, ?, now())",
                [migration.version, migration.name],
            )
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    of_rows = version and any(migration.of_rows for migration in missing)
    with _set(connection, _BY_A_CHECKPOINT if of_rows else {}):
        connection.execute("COMMIT")


@contextmanager
def _set(connection: duckdb.DuckDBPyConnection, wanted: Mapping[str, str]) -> Iterator[None]:
    """Settings of the database, as they were again afterwards."""
    before = {}
    for name in wanted:
        (before[name],) = connection.execute("SELECT current_setting(?)", [name]).fetchall()[0]
    try:
        for name, value in wanted.items():
            connection.execute(f"SET GLOBAL {name} = '{value}'")
        yield
    finally:
        for name, value in before.items():
            connection.execute(f"SET GLOBAL {name} = '{value}'")
