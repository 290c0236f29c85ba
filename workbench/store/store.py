"""The log of everything that happened: one DuckDB file, one writer, any number of readers."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import duckdb

from workbench import logs
from workbench.errors import ErrorCode, WorkbenchError
from workbench.jobs import Reporter
from workbench.store import failures, imports, retention, serving
from workbench.store.blocks import DatabaseFile
from workbench.store.database import Database, Durability
from workbench.store.exchange import Exchange
from workbench.store.files import (
    attach_import,
    imported,
    open_for_reading,
    seal,
    size_of,
)
from workbench.store.parking import Parking
from workbench.store.reading import Limits, Params, Reader
from workbench.store.repair import reports
from workbench.store.rows import (
    Environment,
    Item,
    MemorySample,
    Mode,
    ModelEvent,
    Row,
    RowsItem,
    SessionItem,
    columns_of,
    environment_row,
    error_row,
)
from workbench.store.serving import Address, Serving
from workbench.store.verify import Check, verify
from workbench.store.writer import Receipt, Writer
from workbench.types import Message, StreamSession

if TYPE_CHECKING:
    import pandas as pd

MAX_QUEUE: Final = 10_000
"""Items that may wait for the disk before further ones are refused."""

_CATCH_UP_S: Final = 5.0

# DuckDB's lock keeps other processes out, but lets one process open the file twice.
_open_paths: set[Path] = set()
_open_lock = threading.Lock()


def _silent(message: str, done: int | None = None, total: int | None = None) -> None:
    """Nobody wants to know."""


class Store:
    """The log. Open it with :meth:`open` or :meth:`open_readonly`; all methods are thread-safe.

    Writing returns a receipt at once, a future. One that is done means: on disk, and it will be in
    the tables, whatever happens; ``receipt.stored`` is done when queries see it (the guarantee is
    stated in :mod:`workbench.store.writer`). One that failed holds a :class:`WorkbenchError`:
    ``INVALID_REQUEST`` for what cannot be logged (an id that exists, a table that does not),
    ``STORE_UNAVAILABLE`` or ``DISK_FULL`` when the log cannot take it.
    """

    def __init__(
        self,
        path: Path,
        opened: Database | duckdb.DuckDBPyConnection,
        *,
        max_queue: int = MAX_QUEUE,
        address: Address | None = None,
    ) -> None:
        self.path = path
        self.serving = Serving()
        self._address = address
        self._environment_id: str | None = None
        self._close_lock = threading.Lock()
        self._closed = False
        self.on_commit: Callable[[int, float], None] = lambda items, seconds: None
        """Told, in the writer's thread, how many items a transaction had and how long it took."""
        self._writer: Writer | None = None
        self._parking: Parking | None = None
        self._database: Database | None = None
        if isinstance(opened, Database):
            self._database = opened
            self._reader = Reader(opened.connection)
            self._open_up(opened.connection)
            opened.before_reopening = self._shut
            opened.after_reopening = self._reopened
            opened.after_commit = lambda items, seconds: self.on_commit(items, seconds)
            self._writer = Writer(opened, next_n=opened.next_n, max_queue=max_queue)
            self._told = 0
            self._tell_repairs()
        else:
            self._connection = opened
            self._reader = Reader(opened)

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        max_queue: int = MAX_QUEUE,
        address: Address | None = None,
        durability: Durability | None = None,
    ) -> Store:
        """Open the log for writing and reading; make it if there is none, mend it if need be.

        What was found damaged is kept beside it and told: :attr:`repairs`, a row of ``errors``.

        Args:
            path: the DuckDB file (setting ``WORKBENCH_DB``).
            max_queue: the most items that wait to be stored.
            address: where to serve it to other processes; ``serving`` then says what came of it.
            durability: when checkpoints are made, how much of the file is checked now.

        Raises:
            WorkbenchError: ``STORE_UNAVAILABLE`` (no permission, held by another process, not a
                log, written by a newer workbench) or ``DISK_FULL``; nothing was left behind.
        """
        path = Path(path).expanduser().absolute()
        with _open_lock:
            if path.resolve() in _open_paths:
                raise failures.already_open(path)
            database = Database(path, durability or Durability())
            try:
                store = cls(path, database, max_queue=max_queue, address=address)
            except BaseException:
                database.close()
                raise
            _open_paths.add(path.resolve())
        return store

    @classmethod
    def open_readonly(cls, path: Path | str) -> Store:
        """Open the log for reading, where no server holds it.

        Queries then have no access to any other file.

        Raises:
            WorkbenchError: ``STORE_UNAVAILABLE``: nothing was logged yet, or as for :meth:`open`.
        """
        path = Path(path).expanduser().absolute()
        return cls(path, open_for_reading(path))

    # -- writing -----------------------------------------------------------------------------------

    def submit(self, item: Item) -> Receipt:
        """Queue an item for the writer."""
        if self._writer is None:
            raise failures.read_only(self.path)
        return self._writer.submit(item)

    def insert(self, table: str, *rows: Row, mode: Mode = "add") -> Receipt:
        """Log rows of any table, by column name; JSON columns take plain values.

        Args:
            table: the table's name.
            rows: mappings from column to value; columns left out are null.
            mode: what to do about a primary key that exists, see :class:`RowsItem`.
        """
        return self.submit(RowsItem(table, rows, mode))

    def log_session(
        self,
        session: StreamSession,
        messages: Sequence[Message],
        samples: Sequence[MemorySample] = (),
    ) -> Receipt:
        """Log a finished session, its tokens, its part of the conversation, its memory, its error.

        Args:
            session: the finished record.
            messages: the whole history that the model was given; what is stored already is not
                stored again.
            samples: the memory readings taken while it ran.
        """
        return self.submit(
            SessionItem(session, tuple(messages), tuple(samples), self._environment_id)
        )

    def log_model_event(self, event: ModelEvent) -> Receipt:
        """Log that a model was found, downloaded, loaded, unloaded or evicted."""
        logs.get(__name__).info(
            "model_operation",
            operation=event.event,
            model=event.model,
            ok=event.ok,
            duration_s=event.duration_s,
            correlation_id=event.correlation_id,
            source=event.source,
            client=event.client,
        )
        return self.insert("model_events", columns_of(event))

    def log_error(
        self,
        error: WorkbenchError,
        *,
        model: str | None = None,
        session_id: str | None = None,
        correlation_id: str | None = None,
    ) -> Receipt:
        """Log an error; a session's own final error is logged with the session.

        Args:
            error: what happened.
            model: the model id that failed; with ``session_id`` it counts in ``error_rates``.
            session_id: the session in which it happened.
            correlation_id: the request in which it happened.
        """
        return self.insert(
            "errors",
            error_row(error, model=model, session_id=session_id, correlation_id=correlation_id),
        )

    def set_environment(self, environment: Environment) -> Receipt:
        """Log the environment once and put its id into every session from now on."""
        self._environment_id = environment.environment_id
        return self.insert("environments", environment_row(environment), mode="keep")

    @property
    def environment_id(self) -> str | None:
        """Id of the environment that sessions get."""
        return self._environment_id

    @property
    def last_error(self) -> WorkbenchError | None:
        """Why nothing can be written at present; None when all is well."""
        return self._writer.last_error if self._writer else None

    @property
    def queue_depth(self) -> int:
        """Items that are not in the tables yet."""
        return self._writer.depth if self._writer else 0

    @property
    def dropped(self) -> int:
        """Items that could not be logged since the start: refused by a full queue or a table."""
        return self._writer.dropped if self._writer else 0

    @property
    def repairs(self) -> list[WorkbenchError]:
        """What was found damaged, done about it and lost; until somebody deletes what was kept."""
        return reports(self.path)

    # -- reading -----------------------------------------------------------------------------------

    def query(
        self,
        sql: str,
        params: Params | None = None,
        *,
        limit: int | None = None,
        timeout_s: float | None = None,
    ) -> pd.DataFrame:
        """Run one statement that only reads.

        Args:
            sql: one SELECT, WITH, FROM, DESCRIBE, SUMMARIZE, SHOW or EXPLAIN.
            params: values for ``?`` (a sequence) or ``$name`` (a mapping).
            limit: the most rows wanted.
            timeout_s: the query is stopped after this many seconds.

        Returns:
            The result. Times are UTC; integers with nulls have pandas' nullable types.

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` with DuckDB's message, ``TIMEOUT``, or
                ``STORE_UNAVAILABLE``.
        """
        self._catch_up()
        return self._reader.frame(sql, params, Limits(limit, timeout_s))

    def rows(
        self,
        sql: str,
        params: Params | None = None,
        *,
        limit: int | None = None,
        timeout_s: float | None = None,
    ) -> list[dict[str, Any]]:
        """As :meth:`query`, but as dictionaries of Python values; nulls are None."""
        self._catch_up()
        return self._reader.rows(sql, params, Limits(limit, timeout_s))

    def query_within(
        self, sql: str, params: Params | None, limits: Limits, *, park: bool = False
    ) -> tuple[pd.DataFrame | None, str | None, int]:
        """As :meth:`query`, for SQL from outside.

        Args:
            sql: as for :meth:`query`.
            params: as for :meth:`query`.
            limits: what it may take.
            park: True leaves a large result in a table, for a reader over Quack.

        Returns:
            The result, or the table that has it until :meth:`release`; and its rows.
        """
        self._catch_up()
        if park and self._parking is not None:
            return self._parking.query(sql, params, limits)
        frame = self._reader.frame(sql, params, limits)
        return frame, None, len(frame)

    def release(self, table: str) -> None:
        """Drop a parked result."""
        if self._parking is not None:
            self._parking.release(table)

    def tables(self) -> list[dict[str, Any]]:
        """What can be queried: ``name``, ``kind`` (table or view), ``rows``, ``columns``.

        ``columns`` is a list of names. ``rows`` is None for views: counting computes them.
        """
        self._catch_up()
        return self._reader.tables()

    # -- the whole of it ---------------------------------------------------------------------------

    def snapshot(
        self, target: Path, report: Reporter = _silent, cancelled: threading.Event | None = None
    ) -> dict[str, Any]:
        """Copy the log into a file of its own; see :class:`workbench.store.exchange.Exchange`."""
        self._catch_up()
        return self._exchange(report, cancelled).snapshot(target)

    def export(
        self, target: Path, report: Reporter = _silent, cancelled: threading.Event | None = None
    ) -> dict[str, Any]:
        """Write the log as Parquet; see :class:`workbench.store.exchange.Exchange`."""
        self._catch_up()
        return self._exchange(report, cancelled).export(target)

    def _exchange(self, report: Reporter, cancelled: threading.Event | None) -> Exchange:
        return Exchange(self._connection, self.path, report, cancelled or threading.Event())

    def import_export(
        self,
        source: Path,
        name: str,
        report: Reporter = _silent,
        cancelled: threading.Event | None = None,
    ) -> dict[str, Any]:
        """Make an export readable as ``name.latencies`` and so on.

        See :func:`workbench.store.imports.bring_in`.
        """
        return imports.bring_in(
            self._connection, self.path, source, name, report, cancelled or threading.Event()
        )

    def prune(self, before: dt.datetime, keep: Sequence[str], *, dry_run: bool) -> dict[str, Any]:
        """Delete what is older, or count it; see :mod:`workbench.store.retention`."""
        self.flush()
        if self._database is None:
            raise failures.read_only(self.path)
        if not dry_run:
            return self._database.prune(before, keep)
        with self._connection.cursor() as cursor:
            rows = retention.prune(cursor, self.path, before, keep, dry_run=True)
            size = self.path.stat().st_size
            return retention.report(cursor, self.path, before, rows, size, dry_run=True)

    def delete_sessions(self, session_ids: Sequence[str], *, dry_run: bool) -> dict[str, int]:
        """Delete sessions with all that belongs to them, or count it.

        Returns:
            Table -> its rows that went, or would go; ``stream_sessions`` are the sessions.

        Raises:
            WorkbenchError: ``STORE_UNAVAILABLE``, ``DISK_FULL``.
        """
        self.flush()
        if self._database is None:
            raise failures.read_only(self.path)
        if not dry_run:
            return self._database.delete(session_ids)
        with self._connection.cursor() as cursor:
            return retention.delete(cursor, self.path, session_ids, dry_run=True)

    def size_bytes(self) -> int:
        """What the log takes on disk: with its write-ahead log, its spool and its copy."""
        return size_of(self.path)

    def verify(self) -> list[Check]:
        """Look whether the log is whole: file, sequence, spool, orphans, views."""
        if self._database is not None:
            self._catch_up()
            return self._database.verify()
        file = DatabaseFile(self.path)
        try:
            return verify(self.path, self._connection, file, is_open=False)
        finally:
            file.close()

    # -- life --------------------------------------------------------------------------------------

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until all that was logged so far is in the tables or refused.

        Raises:
            WorkbenchError: the reason why nothing can be written, or ``TIMEOUT``, when it is not
                done after ``timeout_s`` seconds.
        """
        if self._writer is None or self._writer.flush(timeout_s):
            return
        raise self.last_error or WorkbenchError(
            ErrorCode.TIMEOUT,
            f"{self.queue_depth} items are still to be logged after {timeout_s} s.",
            fix="Allow more time.",
            operation="flush",
        )

    def close(self) -> None:
        """Write what is queued, stop running queries and release the file; harmless if repeated."""
        with self._close_lock:
            if self._closed:
                return
            if self._writer is not None:
                self._writer.close()
            self._reader.close()
            self._closed = True
            if self._database is not None:
                try:
                    self._shut()
                    self._database.close()
                finally:
                    _open_paths.discard(self.path.resolve())
            else:
                self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _catch_up(self) -> None:
        """A query sees what was acknowledged before it, unless that cannot be stored now."""
        if self._writer is not None:
            self._writer.catch_up(_CATCH_UP_S)

    def _open_up(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Serve the log if that is wanted, and seal it."""
        self._connection = connection
        self._parking = Parking(connection, self._reader)
        if self._address is not None:
            self.serving = serving.serve(connection, self._address)
        for name, file in imported(self.path).items():
            with suppress(duckdb.Error):
                attach_import(connection, name, file)
        seal(connection, self.path)

    def _shut(self) -> None:
        """Stop serving, and reading in this process."""
        assert self._database is not None
        with suppress(duckdb.Error):
            serving.stop(self._database.connection, self.serving)
        self.serving = Serving()
        self._reader.pause()

    def _reopened(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._open_up(connection)
        self._reader.resume(connection)
        self._tell_repairs()

    def _tell_repairs(self) -> None:
        """Log what was mended since the last time."""
        assert self._database is not None
        repairs = self._database.repairs[self._told :]
        self._told += len(repairs)
        for repair in repairs:
            self.log_error(repair.error())
