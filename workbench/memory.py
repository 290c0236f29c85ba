"""MemoryMonitor: what the processes of a model really use, measured, never estimated.

PSS (proportional set size) is the figure of a process tree: it counts memory shared with the
forkserver once over all who share it, so that the figures of several models add up.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import psutil

from workbench import logs, procfs

_log = logs.get(__name__)

MOST_OF_A_CORE: Final = 0.03
_REMEMBERED: Final = 16


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """Bytes held by some process trees at one moment (``t_ns`` is monotonic).

    ``private_bytes`` (USS) is what no other process shares: what comes back when these end. Pages
    that a worker still shares with the zygote it was forked from are in its PSS in part, and do
    not come back.
    """

    t_ns: int
    pss_bytes: int
    rss_bytes: int
    gpu_bytes: int
    host_available_bytes: int
    pid: int | None
    private_bytes: int = 0


class ProcessTrees:
    """The processes under some roots, as they were when this was made, to be asked again later.

    A process is known by its id and its start, so that a reused id is never taken for it.

    Args:
        pids: the roots.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._root = pids[0] if pids else None
        self._processes = _family(pids)

    @property
    def known(self) -> bool:
        """Whether there was any process."""
        return bool(self._processes)

    def alive(self) -> list[int]:
        """Ids of those that still run; one that has ended and is not reaped does not."""
        return [process.pid for process in self._processes if _runs(process)]

    def read(self) -> MemoryReading | None:
        """What those that still run hold; None when there are none.

        Where the system does not tell PSS (it is Linux's, and of one's own processes), RSS stands
        in for it.
        """
        pss = rss = private = 0
        seen: list[int] = []
        for process in self._processes:
            if not _runs(process):
                continue
            try:
                full = process.memory_full_info()
            except (psutil.NoSuchProcess, OSError):
                continue
            except psutil.AccessDenied:
                # Another user's, as Ollama's usually are: RSS is public, what it shares is not.
                if (public := procfs.status(process.pid)) is not None:
                    seen.append(process.pid)
                    pss += public.rss_bytes
                    rss += public.rss_bytes
                    private += public.rss_bytes
                continue
            seen.append(process.pid)
            pss += getattr(full, "pss", full.rss)
            rss += full.rss
            private += full.uss
        if not seen:
            return None
        return MemoryReading(
            t_ns=time.monotonic_ns(),
            pss_bytes=pss,
            rss_bytes=rss,
            gpu_bytes=gpu_bytes(seen),
            host_available_bytes=host_available_bytes(),
            pid=self._root,
            private_bytes=private,
        )


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
    except OSError:  # no descriptor is left to look with: it was there a moment ago
        return True


def host_available_bytes() -> int:
    """Memory of the machine that could be used without swapping."""
    return int(psutil.virtual_memory().available)


def _family(pids: Iterable[int]) -> list[psutil.Process]:
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        try:
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                found[process.pid] = process
        except (psutil.Error, OSError):
            continue  # it ended between two readings, or there is no descriptor left to look with
    return list(found.values())


def read_tree(pids: Sequence[int]) -> MemoryReading | None:
    """Memory of the process trees rooted at ``pids``; None when none of them lives."""
    return ProcessTrees(pids).read()


@cache
def _nvml() -> Any | None:
    """NVIDIA's management library, or None on a machine without it."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as error:  # the library raises its own tree, or OSError when it is absent
        _log.debug("no_nvml", error=str(error))
        return None
    return pynvml


def gpu_bytes(pids: Sequence[int]) -> int:
    """Bytes that these processes hold on all GPUs together (0 without NVIDIA's driver)."""
    wanted = set(pids)
    return sum(size for (_, pid), size in gpu_processes().items() if pid in wanted)


def gpu_processes() -> dict[tuple[str, int], int]:
    """Bytes by GPU (``cuda:0``, ...) and process id; empty without NVIDIA's driver.

    The driver's order of GPUs is CUDA's where ``CUDA_DEVICE_ORDER=PCI_BUS_ID`` is set or all are
    of one kind.
    """
    nvml = _nvml()
    if nvml is None:
        return {}
    held: dict[tuple[str, int], int] = {}
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
            held[f"cuda:{index}", process.pid] = process.usedGpuMemory or 0
    return held


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """One device's memory, bytes; ``available_bytes`` could be used without swapping."""

    available_bytes: int
    total_bytes: int

    @property
    def used_bytes(self) -> int:
        """All that is not available."""
        return self.total_bytes - self.available_bytes


def host() -> DeviceMemory:
    """A control group's limit, as a container has it, counts as the machine's where it is lower."""
    machine = psutil.virtual_memory()
    total, available = int(machine.total), int(machine.available)
    if (group := _control_group()) is not None and group.total_bytes < total:
        total, available = group.total_bytes, min(available, group.available_bytes)
    return DeviceMemory(available, total)


def devices() -> dict[str, DeviceMemory]:
    """The host and each GPU, by the names ``host``, ``cuda:0``, ..."""
    found = {"host": host()}
    nvml = _nvml()
    for index in range(nvml.nvmlDeviceGetCount() if nvml is not None else 0):
        assert nvml is not None
        memory = nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByIndex(index))
        found[f"cuda:{index}"] = DeviceMemory(int(memory.free), int(memory.total))
    return found


_CONTROL_GROUPS: Final = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (
        Path("/sys/fs/cgroup/memory"),
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)
"""Where the second and the first version keep them; files not used lately can be dropped."""


def _control_group() -> DeviceMemory | None:
    for folder, most, used, droppable in _CONTROL_GROUPS:
        try:
            total = int((folder / most).read_text())
            current = int((folder / used).read_text())
            entries = dict(
                line.split() for line in (folder / "memory.stat").read_text().splitlines()
            )
        except (OSError, ValueError):  # there is none, or it says "max"
            continue
        taken = max(current - int(entries.get(droppable, 0)), 0)
        return DeviceMemory(max(total - taken, 0), total)
    return None


class Watch:
    """The readings of one model's processes while one request runs."""

    def __init__(
        self, pids: Callable[[], Sequence[int]], on_reading: Callable[[MemoryReading], None] | None
    ) -> None:
        self._pids = pids
        self._on_reading = on_reading
        self.readings: list[MemoryReading] = []

    @property
    def before(self) -> MemoryReading | None:
        """The reading taken just before the request was sent."""
        return self.readings[0] if self.readings else None

    @property
    def peak_pss_bytes(self) -> int | None:
        """Largest PSS seen."""
        return max((reading.pss_bytes for reading in self.readings), default=None)

    @property
    def peak_gpu_bytes(self) -> int | None:
        """Largest GPU use seen."""
        return max((reading.gpu_bytes for reading in self.readings), default=None)

    @property
    def pids(self) -> tuple[int, ...]:
        """Roots of the process trees that are to be read now."""
        return tuple(self._pids())

    def take(self, reading: MemoryReading | None) -> None:
        """Keep a reading of :attr:`pids`; None if there was nothing to read."""
        if reading is None or (self.readings and self.readings[-1] is reading):
            return
        self.readings.append(reading)
        if self._on_reading is not None:
            self._on_reading(reading)


class MemoryMonitor:
    """Reads the memory of all watched models every ``interval_ms`` while there are any.

    One thread; it sleeps without cost when nothing is watched. Requests to one model share its
    readings. A reading walks all pages of a process, which takes the kernel's locks of that
    process and a core's time; for large ones the interval grows, so that the measuring takes no
    more than :data:`MOST_OF_A_CORE` of a core from what it measures.
    """

    def __init__(self, interval_ms: int) -> None:
        self._interval_s = interval_ms / 1000
        self._latest: dict[tuple[int, ...], tuple[float, MemoryReading | None]] = {}
        self._reading = threading.Lock()
        self._watches: set[Watch] = set()
        self._settling: set[tuple[int, ...]] = set()
        """Trees that nobody watches any more, to be read once more when they have come to rest."""
        self._at_rest: dict[tuple[int, ...], MemoryReading | None] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def watch(
        self,
        pids: Callable[[], Sequence[int]],
        on_reading: Callable[[MemoryReading], None] | None = None,
    ) -> Watch:
        """Start watching.

        The first reading is the one that was taken when these processes had come to rest after
        their last request, as long as they rest: a request need not wait for a walk over all
        pages. Else it is taken before this returns.

        Args:
            pids: gives the roots of the process trees, asked at every reading.
            on_reading: called from the monitor's thread with every reading.
        """
        at_rest = self.watch_at_rest(pids, on_reading)
        if at_rest is not None:
            return at_rest
        watch = Watch(pids, on_reading)
        watch.take(self._read(watch.pids, self._interval_s))
        self._begin(watch)
        return watch

    def watch_at_rest(
        self,
        pids: Callable[[], Sequence[int]],
        on_reading: Callable[[MemoryReading], None] | None = None,
    ) -> Watch | None:
        """As :meth:`watch`, without blocking; None if there is no reading of a rest."""
        watch = Watch(pids, on_reading)
        roots = watch.pids
        with self._changed:
            self._settling.discard(roots)
            first = self._at_rest.pop(roots, None)
        if first is None:
            return None
        watch.take(first)
        self._begin(watch)
        return watch

    def _begin(self, watch: Watch) -> None:
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="memory", daemon=True)
                self._thread.start()
            self._watches.add(watch)
            self._changed.notify()

    def unwatch(self, watch: Watch) -> None:
        """Take the last reading and stop watching (blocks briefly)."""
        with self._changed:
            self._watches.discard(watch)
            roots = watch.pids
            if all(other.pids != roots for other in self._watches):
                self._settling.add(roots)
                self._changed.notify()
        watch.take(self._read(roots, self._interval_s))

    def close(self) -> None:
        """Stop the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        pause = self._interval_s
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._watches or self._settling)
                settling = set(self._settling)
                if settling and not self._watches:
                    self._changed.wait_for(lambda: self._stopping, timeout=pause)
                if self._stopping:
                    return
            started = time.monotonic()
            self._look(settling)
            spent = time.monotonic() - started
            pause = max(self._interval_s - spent, spent / MOST_OF_A_CORE - spent)
            with self._changed:
                self._changed.wait_for(lambda: self._stopping, timeout=pause)

    def _look(self, settling: set[tuple[int, ...]]) -> None:
        """Read what is watched and what settles; nothing of a watch is held after this."""
        with self._changed:
            watches = list(self._watches)
        roots = {watch: watch.pids for watch in watches}
        fresh = {pids: self._read(pids, 0) for pids in settling | set(roots.values())}
        for watch, pids in roots.items():
            watch.take(fresh[pids])
        with self._changed:
            for pids in settling & self._settling:  # not watched again meanwhile
                self._settling.discard(pids)
                self._at_rest.pop(pids, None)
                self._at_rest[pids] = fresh[pids]
            while len(self._at_rest) > _REMEMBERED:  # processes come and go
                del self._at_rest[next(iter(self._at_rest))]

    def _read(self, pids: tuple[int, ...], age_s: float) -> MemoryReading | None:
        """The latest reading if it is at most ``age_s`` old, else a new one."""
        with self._reading:
            at, reading = self._latest.pop(pids, (-math.inf, None))
            if time.monotonic() - at > age_s:
                reading = read_tree(pids)
                at = time.monotonic()
            self._latest[pids] = (at, reading)  # the newest last
            while len(self._latest) > _REMEMBERED:  # processes come and go
                del self._latest[next(iter(self._latest))]
            return reading
