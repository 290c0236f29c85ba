"""The one thread that writes: a queue in front, groups of commits behind.

An item is acknowledged when its transaction is on disk. Nobody waits for the disk but those who
want to: :meth:`Writer.submit` returns at once with a future.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice

from workbench import logs
from workbench.errors import ErrorCode, WorkbenchError
from workbench.store.failures import closed, is_about_the_database
from workbench.store.rows import Item

GROUP = 256
"""The most items of one transaction."""

RETRY_S = 1.0
"""Pause between attempts while the database cannot be written."""


@dataclass(frozen=True, slots=True)
class _Entry:
    item: Item
    future: Future[None] = field(default_factory=Future)


class Writer:
    """Drains a queue of items into ``commit``, in order, until closed.

    Args:
        commit: writes items, all or none; raises if it wrote none.
        explain: maps what ``commit`` raised to the error that the submitter gets.
        max_queue: the most items that wait; further ones are refused.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Item]], None],
        explain: Callable[[Exception], WorkbenchError],
        *,
        max_queue: int,
    ) -> None:
        self._commit = commit
        self._explain = explain
        self._max_queue = max_queue
        self._entries: deque[_Entry] = deque()
        self._changed = threading.Condition()
        self._submitted = 0
        self._settled = 0
        self.dropped = 0
        """Items that were refused or given up."""
        self._closing = False
        self._last_error: WorkbenchError | None = None
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    @property
    def last_error(self) -> WorkbenchError | None:
        """Why nothing can be written at present; None when all is well."""
        return self._last_error

    @property
    def depth(self) -> int:
        """Items that are not on disk yet."""
        return len(self._entries)

    def submit(self, item: Item) -> Future[None]:
        """Queue an item.

        Returns:
            A future that is done once the item is on disk, or failed with a WorkbenchError. It
            cannot be cancelled: a cancelled reader does not unlog what happened.
        """
        entry = _Entry(item)
        entry.future.set_running_or_notify_cancel()
        with self._changed:
            refusal = self._refusal()
            if refusal is None:
                self._entries.append(entry)
                self._submitted += 1
                self._changed.notify_all()
        if refusal is not None:
            self.dropped += 1
            entry.future.set_exception(refusal)
        return entry.future

    def flush(self, timeout_s: float | None) -> bool:
        """Wait until all that was submitted so far is settled; False when time ran out."""
        with self._changed:
            target = self._submitted
            return self._changed.wait_for(lambda: self._settled >= target, timeout_s)

    def close(self) -> None:
        """Write what is queued, or fail it if it cannot be written, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _refusal(self) -> WorkbenchError | None:
        if self._closing:
            return closed()
        if len(self._entries) < self._max_queue:
            return None
        if self._last_error is not None:
            return self._last_error
        return WorkbenchError(
            ErrorCode.STORE_UNAVAILABLE,
            f"{self._max_queue} items wait to be logged already.",
            fix="Send less, or wait.",
            operation="log",
            retry_after_s=RETRY_S,
        )

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._entries or self._closing)
                group = list(islice(self._entries, GROUP))
            if not group:
                return
            settled = self._write(group)
            if settled < len(group) and not self._wait_to_retry():
                self._give_up()
                return

    def _write(self, group: Sequence[_Entry]) -> int:
        """Write a group and settle its futures, in order.

        Returns:
            How many were settled. Fewer than given means that the database cannot be written.
        """
        try:
            self._commit([entry.item for entry in group])
        except Exception as error:
            if len(group) == 1:
                return self._blame(group[0], error)
            # One bad item fails its whole group: find it, and save the others.
            for done, entry in enumerate(group):
                if self._write([entry]) == 0:
                    return done
            return len(group)
        self._last_error = None
        self._settle(group, None)
        return len(group)

    def _blame(self, entry: _Entry, error: Exception) -> int:
        explained = self._explain(error)
        if not is_about_the_database(error):
            # Without the message: it may quote a prompt.
            logs.get(__name__).warning("store_refused_item", reason=type(error).__name__)
            self._settle([entry], explained)
            return 1
        if self._last_error is None:
            logs.get(__name__).error("store_unwritable", code=explained.code, reason=str(explained))
        self._last_error = explained
        return 0

    def _settle(self, entries: Sequence[_Entry], error: WorkbenchError | None) -> None:
        with self._changed:
            self.dropped += len(entries) if error is not None else 0
            for _ in entries:
                self._entries.popleft()
        for entry in entries:
            if error is None:
                entry.future.set_result(None)
            else:
                entry.future.set_exception(error)
        with self._changed:
            self._settled += len(entries)
            self._changed.notify_all()

    def _wait_to_retry(self) -> bool:
        """Pause; False when the store is being closed and there will be no other attempt."""
        with self._changed:
            return not self._changed.wait_for(lambda: self._closing, RETRY_S)

    def _give_up(self) -> None:
        lost = list(self._entries)
        logs.get(__name__).error("store_lost_items", count=len(lost))
        self._settle(lost, self._last_error)
