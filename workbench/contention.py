"""Which generations and loads ran at the same time: the ledger behind ``overlap_s``."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Final

from workbench import metrics

_FEW: Final = 1_000
_DISORDER_NS: Final = metrics.NS
"""An end is written down when it happened, give or take this much."""


@dataclass
class Generations:
    """When each generation ran, for as long as another one that overlaps it is still running.

    The event loop writes it down, the journal's thread reads it.
    """

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _open: dict[str, int] = field(default_factory=dict)
    _closed: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Start and end of each that ended, in the order of their ends."""
    _look_at: int = _FEW

    def begin(self, session_id: str, start: int) -> None:
        """The request was handed to its runtime at ``start`` (monotonic ns)."""
        with self._lock:
            self._open[session_id] = start

    def end(self, session_id: str, end: int) -> None:
        """It ended; without effect if it never began or has ended before."""
        with self._lock:
            if (start := self._open.pop(session_id, None)) is not None:
                self._closed.pop(session_id, None)  # so that the order is that of the ends
                self._closed[session_id] = (start, end)

    def overlap(self, session_id: str, start: int, end: int) -> int:
        """Nanoseconds of [start, end] during which any other generation or load ran."""
        with self._lock:
            others = [(since, end) for key, since in self._open.items() if key != session_id]
            for key, span in reversed(self._closed.items()):
                if span[1] <= start - _DISORDER_NS:
                    break  # those before it ended earlier still
                if key != session_id:
                    others.append(span)
            self._forget()
        return metrics.overlap_ns(start, end, others)

    def _forget(self) -> None:
        """Drop what no running generation can overlap any more.

        The last minute is kept for those that have ended but whose record is being built.
        """
        if len(self._closed) < self._look_at:  # looking costs as much as there are
            return
        horizon = min(self._open.values(), default=time.monotonic_ns()) - 60 * metrics.NS
        self._closed = {key: span for key, span in self._closed.items() if span[1] > horizon}
        self._look_at = max(_FEW, 2 * len(self._closed))
