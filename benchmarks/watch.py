"""What surrounds a cell: memory of the peer, cores taken by others, lag of our own event loop."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, Self

import psutil

from benchmarks.figures import tail
from workbench.memory import read_tree
from workbench.metrics import NS

MEMORY_INTERVAL_S: Final = 0.5
MEMORY_COST: Final = 0.02
"""The part of one core that reading memory may take: a process of several GB takes long to read."""

LAG_INTERVAL_S: Final = 0.005


def family(pids: Iterable[int]) -> list[psutil.Process]:
    """The processes and all that descend from them, those that still live."""
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        try:
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                found[process.pid] = process
        except psutil.Error:
            continue
    return list(found.values())


def _cpu_seconds(pids: Iterable[int]) -> float:
    total = 0.0
    for process in family(pids):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        # A child that ended counts in its parent's children_*: it is not among the living.
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    # Time stolen by the host is time that others had. guest is part of user already.
    return float(
        times.user
        + times.system
        + times.nice
        + times.irq
        + times.softirq
        + getattr(times, "steal", 0.0)
    )


class Surroundings:
    """Watches while a cell runs; ``figures`` is filled on leaving.

    Args:
        pid: root of the peer's process tree.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._pids = (pid, os.getpid())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch_memory, daemon=True)
        self._peak = 0
        self.figures: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._load_average = os.getloadavg()[0]
        self._started = time.monotonic()
        self._busy, self._own = _busy_seconds(), self._cpu_of_ours()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        wall = time.monotonic() - self._started
        cores = psutil.cpu_count() or 1
        others = (_busy_seconds() - self._busy) - (self._cpu_of_ours() - self._own)
        self._stop.set()
        self._thread.join()
        self._read_memory()
        self.figures = {
            "wall_s": wall,
            "load_average_before": self._load_average,
            # Ticks of the two counters differ by some hundredths of a second: never below zero.
            "others_cpu_share": min(1.0, max(0.0, others / (wall * cores))) if wall else None,
            "memory_peak_bytes": self._peak or None,
        }

    def _cpu_of_ours(self) -> float:
        # The peer is a child of this process, so one walk from here finds both.
        return _cpu_seconds(self._pids)

    def _read_memory(self) -> None:
        reading = read_tree([self._pid])
        if reading is not None:
            self._peak = max(self._peak, reading.pss_bytes)

    def _watch_memory(self) -> None:
        wait_s = 0.0
        while not self._stop.wait(wait_s):
            started = time.monotonic()
            self._read_memory()
            wait_s = max(MEMORY_INTERVAL_S, (time.monotonic() - started) / MEMORY_COST)


class LagSampler:
    """How late the event loop wakes up: a client that is itself the bottleneck shows here."""

    def __init__(self) -> None:
        self.samples_s: list[float] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._sample())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _sample(self) -> None:
        while True:
            started = time.monotonic_ns()
            await asyncio.sleep(LAG_INTERVAL_S)
            late = (time.monotonic_ns() - started) / NS - LAG_INTERVAL_S
            self.samples_s.append(max(0.0, late))

    def figures(self) -> dict[str, float | int | None]:
        """Median, p99 and maximum in seconds."""
        return tail(self.samples_s)
