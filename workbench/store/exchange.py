"""What leaves an open log: snapshots and exports, consistent while it is written.

Both are made in the one folder that a sealed log may write, in one transaction each, and put in
their place when they are whole: what is at the place asked for is complete or is not there.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import duckdb

from workbench import __version__
from workbench.errors import ErrorCode, WorkbenchError, invalid
from workbench.jobs import Reporter
from workbench.store import failures, rollup
from workbench.store.files import connect, exchange_folder
from workbench.store.migrations import version_of

MANIFEST: Final = "manifest.json"
FORMAT: Final = 1
"""Of the export: raised when an older workbench could not read it."""

# Tables without a time of their own go by that of their session.
_MONTH_OF_SESSION: Final = frozenset({"token_streams"})
_OWN: Final = ("schema_migrations", "log_position", *rollup.TABLES)
_WATCH_S: Final = 0.2


class Exchange:
    """Makes copies of an open log: each is whole, or there is none.

    Args:
        connection: to the open log.
        log: its path.
        report: hears how much is written.
        cancelled: stops it; nothing is left behind then.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        log: Path,
        report: Reporter,
        cancelled: threading.Event,
    ) -> None:
        self._connection = connection
        self._log = log
        self._report = report
        self._cancelled = cancelled

    def snapshot(self, target: Path) -> dict[str, Any]:
        """Copy the log, as it is at one moment, into a file of its own.

        Args:
            target: the file to make; must not exist.

        Returns:
            ``path``, ``size_bytes``, ``sessions``.

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` for a target that exists, ``DISK_FULL``,
                ``CANCELLED``.
        """
        target = _fresh(target)
        with self._made(target) as (cursor, made):
            connect(made).close()  # an empty log of the same version, to be filled
            name = f"snapshot_{uuid.uuid4().hex}"
            cursor.execute(f"ATTACH '{_quoted(made)}' AS {name}")
            try:
                with self._watched(cursor, made):
                    sessions = _fill(cursor, name)
            finally:
                cursor.execute(f"DETACH {name}")
            made.chmod(0o600)
            _put(made, target)
        return {"path": str(target), "size_bytes": target.stat().st_size, "sessions": sessions}

    def export(self, target: Path) -> dict[str, Any]:
        """Write the log as Parquet, a folder a table and a month, with a manifest.

        Args:
            target: the folder to make; must not exist.

        Returns:
            The manifest, and ``path``.

        Raises:
            WorkbenchError: as for :meth:`snapshot`.
        """
        target = _fresh(target)
        with self._made(target) as (cursor, made):
            made.mkdir(mode=0o700)
            cursor.execute("BEGIN TRANSACTION READ ONLY")
            tables = _tables(cursor)
            with self._watched(cursor, made):
                for table, columns in tables.items():
                    _export_table(cursor, table, columns, made)
            manifest = _manifest(cursor, tables)
            cursor.execute("ROLLBACK")
            (made / MANIFEST).write_text(json.dumps(manifest, indent=1, default=str))
            for file in made.rglob("*"):
                file.chmod(0o700 if file.is_dir() else 0o600)
            _put(made, target)
        return {**manifest, "path": str(target), "size_bytes": _size(target)}

    @contextmanager
    def _made(self, target: Path) -> Iterator[tuple[duckdb.DuckDBPyConnection, Path]]:
        """A cursor, and where the copy is made before it is put in its place."""
        with (
            _workshop(self._log) as folder,
            _explained(target),
            self._connection.cursor() as cursor,
        ):
            yield cursor, folder / target.name

    @contextmanager
    def _watched(self, cursor: duckdb.DuckDBPyConnection, made: Path) -> Iterator[None]:
        """Report how large it is while it grows, and stop it when that is wanted."""
        expected_bytes, ended = self._log.stat().st_size, threading.Event()

        def look() -> None:
            while not ended.wait(_WATCH_S):
                done = _size(made)
                self._report(made.name, done, max(done, expected_bytes))
                if self._cancelled.is_set():
                    cursor.interrupt()

        watcher = threading.Thread(target=look, name="exchange-watch", daemon=True)
        watcher.start()
        try:
            yield
        except duckdb.InterruptException:
            raise WorkbenchError(
                ErrorCode.CANCELLED, "It was stopped; nothing was left behind.", operation="export"
            ) from None
        finally:
            ended.set()
            watcher.join()


def _fill(cursor: duckdb.DuckDBPyConnection, name: str) -> int:
    """Copy all rows of the log into the empty one of that name.

    Not with COPY FROM DATABASE: it changes a setting, and those of an open log are locked.
    """
    cursor.execute("BEGIN TRANSACTION")
    try:
        for table in (*_tables(cursor), *_OWN):
            cursor.execute(f"DELETE FROM {name}.{table}")  # noqa: S608
            cursor.execute(f"INSERT INTO {name}.{table} BY NAME FROM main.{table}")
        (sessions,) = _one(cursor, f"SELECT count(*) FROM {name}.stream_sessions")  # noqa: S608
        cursor.execute("COMMIT")
    except BaseException:
        with suppress(duckdb.Error):
            cursor.execute("ROLLBACK")
        raise
    return int(sessions)


def _export_table(
    cursor: duckdb.DuckDBPyConnection, table: str, columns: dict[str, str], folder: Path
) -> None:
    place = _quoted(folder / table)
    if table in _MONTH_OF_SESSION:
        source = f"{table} AS t LEFT JOIN stream_sessions AS s USING (session_id)"
        at = "s.created_at"
    else:
        source, at = f"{table} AS t", "t.created_at" if "created_at" in columns else "NULL"
    names = ", ".join(f"t.{name}" for name in columns)
    cursor.execute(
        f"COPY (SELECT {names}, coalesce(strftime({at}, '%Y-%m'), 'undated') AS month "  # noqa: S608
        f"FROM {source}) TO '{place}' (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (month))"
    )


def _manifest(
    cursor: duckdb.DuckDBPyConnection, tables: dict[str, dict[str, str]]
) -> dict[str, Any]:
    (applied,) = _one(cursor, "SELECT min(applied_at) FROM schema_migrations")
    first, last = _one(cursor, "SELECT min(created_at), max(created_at) FROM stream_sessions")
    environments = cursor.execute("SELECT environment_id, cpu, gpu FROM environments").fetchall()
    return {
        "format": FORMAT,
        "workbench_version": __version__,
        "duckdb_version": duckdb.__version__,
        "schema_version": version_of(cursor),
        # The moment a log was made tells it from every other one.
        "log_id": hashlib.sha256(str(applied).encode()).hexdigest()[:16],
        "exported_at": dt.datetime.now(dt.UTC).isoformat(),
        "first_session_at": first,
        "last_session_at": last,
        "environments": [
            {"environment_id": row[0], "cpu": row[1], "gpu": row[2]} for row in environments
        ],
        "tables": {
            table: {"rows": _one(cursor, f"SELECT count(*) FROM {table}")[0]}  # noqa: S608
            for table in tables
        },
    }


def _tables(cursor: duckdb.DuckDBPyConnection) -> dict[str, dict[str, str]]:
    """Table -> column -> type; what a log keeps about itself stays at home."""
    found: dict[str, dict[str, str]] = {}
    for table, column, kind in cursor.execute(
        "SELECT table_name, column_name, data_type FROM duckdb_columns() "
        "WHERE NOT internal AND database_name = current_database() AND schema_name = 'main' "
        "AND table_name IN (SELECT table_name FROM duckdb_tables()) "
        "ORDER BY table_name, column_index"
    ).fetchall():
        if table in _OWN:
            continue
        found.setdefault(table, {})[column] = kind
    return found


# -- how it is put in place ------------------------------------------------------------------------


def _fresh(target: Path) -> Path:
    if not target.is_absolute():
        raise invalid(f"{target} is no absolute path.", fix="Give the whole path.")
    if target.exists():
        raise invalid(f"{target} exists already.", fix="Give another name, or remove it.")
    if not target.parent.is_dir():
        raise invalid(f"The folder {target.parent} does not exist.", fix="Make it first.")
    if "'" in str(target) or not target.name:
        raise invalid(f"{target} cannot be used.", fix="Give a name without quotes.")
    return target


@contextmanager
def _workshop(log: Path) -> Iterator[Path]:
    exchange_folder(log).mkdir(exist_ok=True, mode=0o700)
    folder = exchange_folder(log) / uuid.uuid4().hex
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put(made: Path, target: Path) -> None:
    """Move what is whole to its place; across file systems by a copy beside it."""
    try:
        made.rename(target)
    except OSError:
        beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            if made.is_dir():
                shutil.copytree(made, beside)
            else:
                shutil.copy2(made, beside)
            beside.rename(target)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            beside.unlink(missing_ok=True)
            raise
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except (duckdb.Error, OSError) as error:
        raise failures.exchanging(error, target) from error


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size if path.exists() else 0
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _one(cursor: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = cursor.execute(sql).fetchone()
    assert row is not None
    return row


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
