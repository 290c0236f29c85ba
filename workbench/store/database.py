"""The database file and its spool, open for writing: one owner of both."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb

from workbench import logs
from workbench.errors import WorkbenchError
from workbench.settings import Settings
from workbench.store import failures, mirror, retention, rollup
from workbench.store.entries import Encoder, Entry, body_of, columns_in
from workbench.store.files import check_room, protect_wal, spool_of, wal_of
from workbench.store.inserts import Inserter
from workbench.store.repair import Opened, Repair, open_log
from workbench.store.rows import Item, RowsItem, SessionItem, error_row
from workbench.store.salvage import mark_of, write_manifest
from workbench.store.spool import line_of
from workbench.store.verify import Check, verify

_log = logs.get(__name__)

RECENT: Final = 65_536
"""Session ids that are remembered, so that one given twice is told before it is acknowledged."""

_BUSY_S: Final = 1.0
"""Pause after a checkpoint that another's transaction was in the way of."""


@dataclass(frozen=True, slots=True)
class Durability:
    """When what the write-ahead log holds is put into the database file, and what a start checks.

    Args:
        checkpoint_bytes: as soon as the write-ahead log is larger.
        checkpoint_s: so long after the first entry that is not in the file yet.
        check_bytes: a start reads every block of a file up to this size.
        copy_bytes: a file up to this size has a copy of its last checkpoint.
        exact_sessions: a larger log keeps counts for its percentiles.
        open_wait_s: for another process that is opening the log.
    """

    checkpoint_bytes: int = 16 * 2**20
    checkpoint_s: float = 60.0
    check_bytes: int = 256 * 2**20
    copy_bytes: int = 2 * 2**30
    exact_sessions: int = rollup.EXACT_SESSIONS
    open_wait_s: float = 30.0


def durability(settings: Settings) -> Durability:
    """As the settings say."""
    return Durability(
        settings.workbench_checkpoint_size,
        settings.workbench_checkpoint_s,
        settings.workbench_check_size,
        settings.workbench_copy_size,
        settings.workbench_exact_sessions,
        settings.workbench_open_wait_s,
    )


class Database:
    """A log that is open for writing; implements :class:`workbench.store.writer.Log`.

    Args:
        path: of the database file.
        durability: when to do what.

    Raises:
        WorkbenchError: as :func:`workbench.store.repair.open_log`.
    """

    def __init__(self, path: Path, durability: Durability) -> None:
        self.path = path
        self.before_reopening: Callable[[], None] = lambda: None
        """Called by the writing thread: close every other connection to the database."""
        self.after_reopening: Callable[[duckdb.DuckDBPyConnection], None] = lambda _: None
        """Called by the writing thread with the new connection."""
        self.after_commit: Callable[[int, float], None] = lambda items, seconds: None
        """Called by the writing thread: how many entries, how long it took."""
        self._durability = durability
        self._still = threading.Lock()
        """Held while the blocks of the file must not change."""
        self._turn = threading.RLock()
        """Held by who writes: the writing thread, or one that wants a checkpoint."""
        self._pruning = 0
        self._can_count = True
        self._recent: dict[str, None] = {}
        self._recent_lock = threading.Lock()
        self._dirty_since: float | None = None
        self._busy_until = 0.0
        self._lost = False
        self._gone = False
        """The file was deleted, and its copy made anew since."""
        opened = open_log(
            path,
            check_bytes=durability.check_bytes,
            copy_bytes=durability.copy_bytes,
            wait_s=durability.open_wait_s,
        )
        try:
            self._adopt(opened)
        except BaseException:
            opened.connection.close()
            opened.file.close()
            raise
        self._spool = opened.spool
        self.repairs: list[Repair] = [opened.repair] if opened.repair else []
        self.next_n = max(opened.n, opened.spooled_n) + 1

    def _adopt(self, opened: Opened) -> None:
        self.connection, self._file = opened.connection, opened.file
        self._gone = False
        columns = columns_in(self.connection)
        self._encoder = Encoder(columns)
        self._inserter = Inserter(self.connection, columns)
        self._stored_n = opened.n
        self._counted_seq = rollup.position(self.connection)
        self._dirty_since = None if opened.proven else time.monotonic()

    # -- for those who submit

    def encode(self, item: Item) -> Entry:
        """As the protocol says; a session id that was seen lately is left to the database."""
        entry = self._encoder.encode(item)
        if isinstance(item, SessionItem):
            session_id = item.session.session_id
            with self._recent_lock:
                if session_id in self._recent:
                    return Entry(0, entry.parts)
                self._recent[session_id] = None
                if len(self._recent) > RECENT:
                    del self._recent[next(iter(self._recent))]
        return entry

    # -- for the spooler

    def spool(self, entries: Sequence[Entry]) -> None:
        """As the protocol says."""
        self._spool.append(entries[0].n, [line_of(body_of(entry)) for entry in entries])

    # -- for the writer

    def commit(self, entries: Sequence[Entry]) -> None:
        """As the protocol says; a database that was lost is opened anew before."""
        with self._turn:
            self._commit(entries)

    def _commit(self, entries: Sequence[Entry]) -> None:
        if self._lost:
            with self._still:
                self._reopen()
        # Whoever opened it anew, which may have been a checkpoint, brought the spool in.
        entries = [entry for entry in entries if entry.n > self._stored_n]
        if not entries:
            return
        started = time.monotonic()
        try:
            self._inserter.commit(entries)
        except duckdb.Error as error:
            self._lost = _is_lost(error)
            raise
        self._stored_n = entries[-1].n
        if self._dirty_since is None:
            self._dirty_since = time.monotonic()
        protect_wal(self.path)
        self.after_commit(len(entries), time.monotonic() - started)

    def tend(self) -> float | None:
        """Count what a large log has more, and make a checkpoint when it is due.

        Raises:
            WorkbenchError: ``STORE_UNAVAILABLE``, the file was deleted; its copy and the spool,
                from which the next start makes it anew, are kept up to date.
        """
        with self._turn:
            if not (self._lost or self._file.is_at(self.path)):
                with suppress(duckdb.Error, OSError):
                    self._tend() if self._gone else self.checkpoint()
                    self._gone = True
                raise failures.deleted(self.path)
            due_s = self._tend()
            return 0.0 if self._count() else due_s

    def _count(self) -> bool:
        """Advance the counts; True: there are more to be counted now."""
        if not self._can_count or self._pruning or self._lost:
            return False
        if self._inserter.seq - self._counted_seq < rollup.STEP:
            return False
        try:
            with self.connection.cursor() as cursor:
                more = rollup.advance(cursor, self._durability.exact_sessions)
                self._counted_seq = rollup.position(cursor)
        except duckdb.Error as error:
            # Percentiles are slower without, and right. The next start tries again.
            self._can_count = False
            self._lost = _is_lost(error)
            _log.warning("store_rollup_failed", reason=str(error))
            return False
        self._dirty_since = self._dirty_since or time.monotonic()
        return more

    def _tend(self) -> float | None:
        if self._dirty_since is None:
            return None
        now = time.monotonic()
        due = max(self._dirty_since + self._durability.checkpoint_s, self._busy_until)
        if self._wal_bytes() > self._durability.checkpoint_bytes:
            due = self._busy_until
        if due > now:
            return due - now
        if not self.checkpoint():
            self._busy_until = now + _BUSY_S
            return _BUSY_S
        return None

    def checkpoint(self) -> bool:
        """Bring all that is stored into the database file, prove it, and rotate the spool.

        Proof: the write-ahead log is gone; the file's header is whole, of a later checkpoint than
        before, and the position read back is that of the last entry. Blocks that are new are read
        for the copy; all of them at a start and by ``workbench db verify``. The spool of the time
        between two checkpoints is kept for it.

        Returns:
            False if a transaction of another connection was in the way.

        Raises:
            duckdb.Error, OSError: it failed, and the spool was left alone.
            WorkbenchError: ``DISK_FULL``, it was not tried, so that reading and writing go on;
                ``STORE_DAMAGED``, it did not do what it said.
        """
        with self._turn, self._still:
            return self._checkpoint()

    def _checkpoint(self) -> bool:
        if self._lost:
            self._reopen()
        n = self._stored_n
        before = self._file.read_state(blocks=False).iteration
        had_wal = self._wal_bytes() > 0
        check_room(self.path)
        try:
            self.connection.execute("CHECKPOINT")
        except duckdb.TransactionException:
            return False
        except duckdb.Error as error:
            self._lost = _is_lost(error)
            raise
        after = self._file.read_state(blocks=False)
        row = self.connection.execute("SELECT n FROM log_position").fetchone()
        if row != (n,) or after.broken or (had_wal and after.iteration <= before):
            raise failures.damaged(self.path, f"after a checkpoint: {row}, {after}")
        if self._wal_bytes() == 0:
            if broken := mirror.update(self.path, self._file, self._durability.copy_bytes):
                mark_of(self.path).touch(mode=0o600)
                raise failures.damaged(self.path, f"after a checkpoint: {', '.join(broken)}")
            # First what is to be there, then what may go: a kill between them loses nothing.
            write_manifest(spool_of(self.path), self.connection)
            self._spool.rotate(n, surely=False)
            self._dirty_since = None
        return True

    def verify(self) -> list[Check]:
        """See :func:`workbench.store.verify.verify`; writing goes on, checkpoints wait."""
        with self._still, self.connection.cursor() as cursor:
            return verify(self.path, cursor, self._file, is_open=True)

    def prune(self, before: dt.datetime, keep: Sequence[str]) -> dict[str, Any]:
        """See :func:`workbench.store.retention.prune`; writing goes on meanwhile.

        Raises:
            WorkbenchError: as there.
        """
        size = self._file.size_bytes
        with self._deleting() as cursor:
            rows = retention.prune(
                cursor, self.path, before, keep, exact_sessions=self._durability.exact_sessions
            )
            self._settle_deletion(cursor)
            return retention.report(cursor, self.path, before, rows, size, dry_run=False)

    def delete(self, session_ids: Sequence[str]) -> dict[str, int]:
        """See :func:`workbench.store.retention.delete`; writing goes on meanwhile.

        Raises:
            WorkbenchError: as there.
        """
        with self._deleting() as cursor:
            rows = retention.delete(
                cursor, self.path, session_ids, exact_sessions=self._durability.exact_sessions
            )
            # Twice: the spool keeps what came between the last two checkpoints.
            self._settle_deletion(cursor, checkpoints=2)
            return rows

    @contextmanager
    def _deleting(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._turn:
            self._pruning += 1
        try:
            with self.connection.cursor() as cursor:
                yield cursor
        except duckdb.Error as error:
            raise failures.writing(error, self.path) from error
        finally:
            with self._turn:
                self._pruning -= 1

    def _settle_deletion(self, cursor: duckdb.DuckDBPyConnection, checkpoints: int = 1) -> None:
        """Bring what was deleted into the file. It is deleted, whatever comes of that."""
        with self._turn:
            self._counted_seq = rollup.position(cursor)
            self._dirty_since = self._dirty_since or time.monotonic()
            try:
                for _ in range(checkpoints):
                    self.checkpoint()
            except (duckdb.Error, OSError, WorkbenchError) as error:
                # The writer makes one when it is due, and tells if it cannot.
                _log.warning("store_checkpoint_failed", reason=str(error))

    def explain(self, error: Exception) -> WorkbenchError:
        """As the protocol says."""
        return failures.writing(error, self.path)

    def recovered(self, problem: WorkbenchError, seconds: float) -> Item:
        """As the protocol says."""
        told = WorkbenchError(
            problem.code,
            f"{problem.message} Nothing could be written for {seconds:.1f} s; what waited has been "
            "written now.",
            fix=problem.fix,
            operation="log",
            details={"seconds": seconds},
        )
        return RowsItem("errors", [error_row(told)])

    # -- life

    def close(self) -> None:
        """Make a last checkpoint, close the file, and delete the spool if the file proves good."""
        proven = False
        try:
            self._inserter.close()
            if not self._lost:
                proven = self.checkpoint()
        except (duckdb.Error, OSError, WorkbenchError) as error:
            # All is in the write-ahead log or the spool, from which the next open takes it.
            _log.warning("store_checkpoint_failed", reason=str(error))
        finally:
            self._spool.close()
            self.connection.close()
            self._file.close()
        if proven and self._wal_bytes() == 0 and self._is_proven():
            with suppress(OSError):
                self._spool.rotate(self._stored_n, surely=True)

    def _is_proven(self) -> bool:
        """Whether the closed file, opened again, has everything."""
        try:
            with duckdb.connect(str(self.path), read_only=True) as connection:
                row = connection.execute("SELECT n FROM log_position").fetchone()
        except duckdb.Error as error:
            _log.warning("store_reopen_failed", reason=str(error))
            return False
        return row == (self._stored_n,)

    def _reopen(self) -> None:
        """Open the database anew after an error that it does not survive."""
        _log.warning("store_reopens", path=str(self.path))
        with suppress(duckdb.Error):
            self._inserter.close()
        self.before_reopening()
        with suppress(duckdb.Error):
            self.connection.close()
        self._file.close()
        opened = open_log(
            self.path,
            check_bytes=self._durability.check_bytes,
            copy_bytes=self._durability.copy_bytes,
            wait_s=self._durability.open_wait_s,
            spool=self._spool,
        )
        self._adopt(opened)
        self._lost = False
        if opened.repair is not None:
            self.repairs.append(opened.repair)
        self.after_reopening(self.connection)

    def _wal_bytes(self) -> int:
        try:
            return wal_of(self.path).stat().st_size
        except OSError:
            return 0


def _is_lost(error: duckdb.Error) -> bool:
    """Whether DuckDB will refuse everything from now on, until the file is opened anew."""
    return isinstance(error, (duckdb.FatalException, duckdb.InternalException)) or (
        "has been invalidated" in str(error)
    )
