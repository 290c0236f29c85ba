"""What writes: a queue in front, and two threads behind it, each working in groups.

    submit: encode -> queue -> spooler: number, append to the spool, fsync -> acknowledge
                            -> writer: one transaction -> stored; now and then a checkpoint

The guarantee. **Acknowledged** (the receipt is done) means that the item is in the spool, on disk
past a kill of the process and a loss of power, and that it will be in the database: the writer
follows within a group or two, and where it cannot (disk full, database damaged, process killed)
the next attempt or the next start takes it from the spool. **Stored** (``receipt.stored`` is done)
means that it is committed to the database too, its write-ahead log fsynced, and that queries see
it: it is then on disk in two forms, until a checkpoint has put it into the database file and the
file has been looked at. Queries of this process wait for what was acknowledged before them.

A finished session of values that the tables take is acknowledged so, by the spool alone, which
lets the slower transaction take larger groups. What the database may refuse (rows of any table, a
session id that was seen before) is acknowledged only when it is stored.

Nobody waits for the disk but those who want to: :meth:`Writer.submit` returns at once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

from workbench import logs
from workbench.errors import ErrorCode, WorkbenchError
from workbench.store.entries import Entry
from workbench.store.failures import closed, is_about_the_database
from workbench.store.rows import Item

GROUP: Final = 256
"""The most items that share an fsync of the spool."""

TRANSACTION: Final = 1024
"""The most items that share a transaction."""

AHEAD: Final = 4 * TRANSACTION
"""So many items the spool may be ahead of the database before it waits for it."""

RETRY_S = 1.0
"""Pause between attempts while something cannot be written."""

_log = logs.get(__name__)


class Receipt(Future[None]):
    """Done once the item is acknowledged; ``stored`` is done once queries see it.

    Neither can be cancelled: a cancelled reader does not unlog what happened.
    """

    def __init__(self) -> None:
        super().__init__()
        self.set_running_or_notify_cancel()
        self._stored: Future[None] | None = None
        self._outcome: WorkbenchError | bool = False

    def exception(self, timeout: float | None = None) -> WorkbenchError | None:
        """Why it was refused; None if it was not."""
        error = super().exception(timeout)
        assert error is None or isinstance(error, WorkbenchError)
        return error

    @property
    def stored(self) -> Future[None]:
        """Made when it is asked for: most are not, and making one takes as long as a row."""
        with self._condition:
            if self._stored is None:
                self._stored = Future()
                self._stored.set_running_or_notify_cancel()
                if self._outcome:
                    _settle(self._stored, self._outcome)
            return self._stored

    def acknowledge(self) -> None:
        """It is in the spool."""
        with suppress(InvalidStateError):  # the writer was faster
            self.set_result(None)

    def settle(self, error: WorkbenchError | None) -> None:
        """It is stored, or was refused."""
        outcome = error or True
        with self._condition:
            self._outcome, stored = outcome, self._stored
        if stored is not None:
            _settle(stored, outcome)
        if not self.done():
            with suppress(InvalidStateError):  # it is acknowledged just now
                _settle(self, outcome)


def _settle(future: Future[None], outcome: WorkbenchError | bool) -> None:
    if isinstance(outcome, WorkbenchError):
        future.set_exception(outcome)
    else:
        future.set_result(None)


class Log(Protocol):
    """What the two threads write to.

    ``encode`` is called by those who submit, ``spool`` by the spooler, the others by the writer.

    ``spool`` and ``commit`` write all that they are given or raise having written nothing.
    """

    def encode(self, item: Item) -> Entry:
        """Bring an item into its form on disk, without its number."""

    def spool(self, entries: Sequence[Entry]) -> None:
        """Put entries on disk."""

    def commit(self, entries: Sequence[Entry]) -> None:
        """Put entries into the database."""

    def tend(self) -> float | None:
        """Do what is due between two groups; the seconds until it is due again, if it is known."""

    def explain(self, error: Exception) -> WorkbenchError:
        """Why something could not be written."""

    def recovered(self, problem: WorkbenchError, seconds: float) -> Item:
        """What to log once writing works again."""


@dataclass(slots=True)
class _Waiting:
    entry: Entry
    receipt: Receipt


class Writer:
    """Takes items to a log, in order, until closed.

    Args:
        log: where to.
        next_n: the number of the first item.
        max_queue: the most items that wait to be stored; further ones are refused.
    """

    def __init__(self, log: Log, *, next_n: int, max_queue: int) -> None:
        self._log = log
        self._next_n = next_n
        self._max_queue = max_queue
        self._queue: deque[_Waiting] = deque()
        self._spooled: deque[_Waiting] = deque()
        lock = threading.RLock()
        # One lock, a condition for each who waits: the spooler, the writer, everybody else.
        self._queued = threading.Condition(lock)
        self._handed = threading.Condition(lock)
        self._changed = threading.Condition(lock)
        self._submitted = self._settled = 0  # by everybody; refusals count as settled
        self._spooled_count = self._stored_count = 0  # what the writer got, and is done with
        self.dropped = 0
        """Items that were refused or given up."""
        self._closing = self._spooler_ended = False
        self._problems: dict[str, tuple[WorkbenchError, float]] = {}
        self._threads = [
            threading.Thread(target=run, name=name, daemon=True)
            for name, run in (("store-spooler", self._spool), ("store-writer", self._store))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def last_error(self) -> WorkbenchError | None:
        """Why something cannot be written at present; None when all is well."""
        for problem, _ in list(self._problems.values()):
            return problem
        return None

    @property
    def depth(self) -> int:
        """Items that are not stored yet."""
        return self._submitted - self._settled

    def submit(self, item: Item) -> Receipt:
        """Queue an item.

        Returns:
            A receipt, done or failed with a WorkbenchError: see the guarantee above.
        """
        return self._take(item, bounded=True)

    def _take(self, item: Item, *, bounded: bool) -> Receipt:
        receipt = Receipt()
        try:
            # Here, so that it is done while the spooler waits for the disk.
            waiting = _Waiting(self._log.encode(item), receipt)
        except Exception as error:
            self._refuse(receipt, error)
            return receipt
        with self._changed:
            refusal = self._refusal() if bounded else None
            if refusal is None:
                self._queue.append(waiting)
                self._submitted += 1
                if len(self._queue) == 1:
                    self._queued.notify()
        if refusal is not None:
            self.dropped += 1
            receipt.settle(refusal)
        return receipt

    def flush(self, timeout_s: float | None) -> bool:
        """Wait until all that was submitted so far is stored or refused; False: time ran out."""
        with self._changed:
            target = self._submitted
            return self._changed.wait_for(lambda: self._settled >= target, timeout_s)

    def catch_up(self, timeout_s: float) -> None:
        """Wait until what is acknowledged is stored, unless that cannot be at present."""
        target = self._spooled_count
        if self._stored_count >= target:
            return
        with self._changed:
            self._changed.wait_for(
                lambda: self._stored_count >= target or "database" in self._problems, timeout_s
            )

    def close(self) -> None:
        """Write what is queued, or fail it if it cannot be written, and end the threads."""
        with self._changed:
            self._closing = True
            for condition in (self._queued, self._handed, self._changed):
                condition.notify_all()
        for thread in self._threads:
            thread.join()

    def _refusal(self) -> WorkbenchError | None:
        if self._closing:
            return closed()
        if self._submitted - self._settled < self._max_queue:
            return None
        return self.last_error or WorkbenchError(
            ErrorCode.STORE_UNAVAILABLE,
            f"{self._max_queue} items wait to be logged already.",
            fix="Send less, or wait.",
            operation="log",
            retry_after_s=RETRY_S,
        )

    # -- the spooler

    def _spool(self) -> None:
        while True:
            with self._queued:
                self._queued.wait_for(lambda: self._queue or self._closing)
                # A database that cannot be written now is not waited for: the spool is for that.
                self._changed.wait_for(
                    lambda: (
                        len(self._spooled) < AHEAD or "database" in self._problems or self._closing
                    )
                )
                group = [self._queue.popleft() for _ in range(min(GROUP, len(self._queue)))]
            if not group:
                break
            while not self._append(group):
                if not self._wait_to_retry():
                    self._give_up(group)
                    break
            group = []  # with its receipts a group holds whole sessions: not until the next one
        with self._changed:
            self._spooler_ended = True
            self._handed.notify_all()

    def _append(self, group: list[_Waiting]) -> bool:
        entries = [
            Entry(n, waiting.entry.parts, waiting.entry.plain)
            for n, waiting in enumerate(group, self._next_n)
        ]
        try:
            self._log.spool(entries)
        except Exception as error:
            self._failed("spool", error)
            return False
        self._next_n += len(entries)
        for waiting, entry in zip(group, entries, strict=True):
            waiting.entry = entry
        with self._changed:
            self._spooled += group
            self._spooled_count += len(group)
            self._handed.notify()
        for waiting in group:
            if waiting.entry.plain:
                waiting.receipt.acknowledge()
        self._well("spool")
        return True

    def _give_up(self, group: list[_Waiting]) -> None:
        with self._changed:
            lost = [*group, *self._queue]
            self._queue.clear()
        self.dropped += len(lost)
        _log.error("store_lost_items", count=len(lost))
        for waiting in lost:
            waiting.receipt.settle(self.last_error or closed())
        self._count(len(lost))

    # -- the writer

    def _store(self) -> None:
        due_s: float | None = 0.0  # at first, what an earlier process has left to do
        while True:
            with self._handed:
                self._handed.wait_for(lambda: self._spooled or self._spooler_ended, due_s)
                group = list(islice(self._spooled, TRANSACTION))
                ended = self._spooler_ended and not group
            if ended:
                return
            if group:
                stored = self._commit(group)
                if stored < len(group) and not self._wait_to_retry():
                    self._leave()
                    return
            group = []
            try:
                due_s = self._log.tend()
            except Exception as error:
                self._failed("checkpoint", error)
                due_s = RETRY_S
            else:
                self._well("checkpoint")

    def _commit(self, group: Sequence[_Waiting]) -> int:
        """Store a group, in order.

        Returns:
            How many were settled. Fewer than given means that the database cannot be written.
        """
        try:
            self._log.commit([waiting.entry for waiting in group])
        except Exception as error:
            if is_about_the_database(error):
                self._failed("database", error)
                return 0
            if len(group) == 1:
                with self._changed:
                    self._spooled.popleft()
                self._refuse(group[0].receipt, error)
                self._count(1, stored=1)
                return 1
            # One bad item fails its whole group: find it, and save the others.
            half = len(group) // 2
            done = self._commit(group[:half])
            return done + self._commit(group[half:]) if done == half else done
        with self._changed:
            for _ in group:
                self._spooled.popleft()
        self._well("database")
        for waiting in group:
            waiting.receipt.settle(None)
        self._count(len(group), stored=len(group))
        return len(group)

    def _leave(self) -> None:
        """The store is closed while the database cannot be written: the next start does it."""
        with self._handed:
            self._handed.wait_for(lambda: self._spooler_ended)
            left = list(self._spooled)
        _log.error("store_left_in_spool", count=len(left))
        for waiting in left:
            waiting.receipt.settle(self.last_error or closed())
        self._count(len(left), stored=len(left))

    # -- both

    def _refuse(self, receipt: Receipt, error: Exception) -> None:
        # Without the message: it may quote a prompt.
        _log.warning("store_refused_item", reason=type(error).__name__)
        self.dropped += 1
        receipt.settle(self._log.explain(error))

    def _count(self, settled: int, *, stored: int = 0) -> None:
        with self._changed:
            self._settled += settled
            self._stored_count += stored
            self._changed.notify_all()

    def _failed(self, step: str, error: Exception) -> None:
        explained = self._log.explain(error)
        known = self._problems.get(step)
        if known is None:
            _log.error(f"store_{step}_failed", code=explained.code, reason=str(explained))
        self._problems[step] = (explained, known[1] if known else time.monotonic())
        with self._changed:
            self._changed.notify_all()

    def _well(self, step: str) -> None:
        if self._problems and (ended := self._problems.pop(step, None)) is not None:
            seconds = time.monotonic() - ended[1]
            _log.info(f"store_{step}_works_again", after_s=round(seconds, 1))
            if step != "checkpoint":
                # Whoever fills the queue must not keep this out.
                self._take(self._log.recovered(ended[0], seconds), bounded=False)

    def _wait_to_retry(self) -> bool:
        """Pause; False when the store is being closed and there will be no other attempt."""
        with self._changed:
            return not self._changed.wait_for(lambda: self._closing, RETRY_S)
