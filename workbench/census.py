"""Who holds how much memory, looked at now and then while anybody holds any.

A walk over all pages of a process, which tells its PSS, is dear. Between walks the cheap RSS says
how much has come or gone, and the kernel's own high-water mark how high the peak was, however
short. So an idle model costs a few file reads a second, and no peak between two looks is missed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import psutil

from workbench import logs, memory, procfs
from workbench.memory import DeviceMemory

_log = logs.get(__name__)

MOST_OF_A_CORE: Final = 0.004
_CHANGE_BYTES: Final = 16 * 2**20
_CHANGE_SHARE: Final = 0.02
"""A change of RSS that is worth a walk: more than either of these."""

Pids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Holding:
    """What one model's processes hold, bytes by device; ``peak`` is the most since they began."""

    pids: Pids
    now: Mapping[str, int]
    peak: Mapping[str, int]
    droppable_bytes: int
    """The host's part that are pages of files, which the system counts as available."""
    high_water_bytes: int = 0
    """The kernel's own marks, shared pages in full: whether they rose is exact."""
    began_ns: int = 0
    """Monotonic: when this look at them began."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at all devices and models. ``t_ns`` is monotonic."""

    t_ns: int
    devices: Mapping[str, DeviceMemory]
    holdings: Mapping[str, Holding] = field(default_factory=dict)
    shared: Mapping[str, str] = field(default_factory=dict)
    """Models without a process of their own, with the one whose process it is."""


@dataclass(slots=True)
class _Process:
    """One process between two walks."""

    pid: int
    walked_rss: int = -1
    gap: int = 0
    """RSS less PSS at the last walk: what it shares with others."""
    file_bytes: int = 0
    denied: bool = False

    def due(self, rss: int) -> bool:
        """Whether so much has changed that it is to be walked again."""
        if self.denied:
            return False
        moved = abs(rss - self.walked_rss)
        return self.walked_rss < 0 or moved > max(_CHANGE_BYTES, _CHANGE_SHARE * rss)

    def walk(self) -> None:
        pages = procfs.rollup(self.pid)
        if pages is None:
            self.denied = True  # another user's: then RSS is all there is
            return
        self.walked_rss, self.file_bytes = pages.rss_bytes, pages.file_bytes
        self.gap = pages.rss_bytes - pages.pss_bytes


class Census:
    """Looks at the models that ``sources`` names, every ``interval_s`` while there are any.

    Args:
        sources: process ids by model, asked from the thread; no process means not measurable.
        interval_s: between two looks; longer if a look takes more than its share of a core.
        on_sample: called from the thread with each sample.
    """

    def __init__(
        self,
        sources: Callable[[], Mapping[str, Sequence[int]]],
        interval_s: float,
        on_sample: Callable[[Sample], None] = lambda sample: None,
    ) -> None:
        self._sources = sources
        self._interval_s = interval_s
        self._on_sample = on_sample
        self._trees: dict[Pids, list[_Process]] = {}
        self._gpu_peaks: dict[Pids, dict[str, int]] = {}
        self._looking = threading.Lock()
        self._changed = threading.Condition()
        self._poked = self._active = self._stopping = False
        self._thread: threading.Thread | None = None
        self.latest: Sample | None = None
        """None before the first look."""

    @property
    def active(self) -> bool:
        """Whether it looks regularly now."""
        return self._active

    def wake(self) -> None:
        """Look now, and go on as long as there is anything in memory."""
        with self._changed:
            self._poked = self._active = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="census", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Stop the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def look(self) -> Sample:
        """Take a sample now, in the calling thread."""
        with self._looking:
            sources = {model: tuple(pids) for model, pids in self._sources().items()}
            owners: dict[Pids, str] = {}
            shared: dict[str, str] = {}
            for model, pids in sources.items():
                owner = owners.setdefault(pids, model) if pids else model
                if owner != model:
                    shared[model] = owner
            for gone in self._trees.keys() - owners.keys():
                del self._trees[gone]
                self._gpu_peaks.pop(gone, None)
            found = memory.devices()
            gpu = memory.gpu_processes() if len(found) > 1 else {}
            holdings = {
                model: self._holding(sources[model], gpu)
                for model in sources
                if model not in shared
            }
            self.latest = Sample(time.monotonic_ns(), found, holdings, shared)
            return self.latest

    def glance(self, model: str) -> Holding | None:
        """The latest of one model without a walk: cheap, for a last look before it ends."""
        sample = self.latest
        known = sample.holdings.get(model) if sample is not None else None
        if known is None or not self._looking.acquire(blocking=False):
            return known
        try:
            if self._trees.get(known.pids) is None:
                return known
            return self._holding(known.pids, {}, walk=False)
        finally:
            self._looking.release()

    def _holding(
        self, roots: Pids, gpu: Mapping[tuple[str, int], int], *, walk: bool = True
    ) -> Holding:
        began_ns = time.monotonic_ns()
        now: dict[str, int] = {}
        peak: dict[str, int] = {}
        droppable = high_water = 0
        tree = self._trees.get(roots)
        readings = [(process, procfs.status(process.pid)) for process in tree or ()]
        changed = any(r is None or process.due(r.rss_bytes) for process, r in readings)
        if tree is None or (walk and changed):
            known = {process.pid: process for process in tree or ()}
            tree = [known.get(pid) or _Process(pid) for pid in _family(roots)]
            for process in tree:
                process.walk()
            self._trees[roots] = tree
            readings = [(process, procfs.status(process.pid)) for process in tree]
        for process, reading in readings:
            if reading is None:
                continue
            held = max(reading.rss_bytes - process.gap, 0)
            now["host"] = now.get("host", 0) + held
            peak["host"] = peak.get("host", 0) + max(reading.peak_bytes - process.gap, held)
            droppable += process.file_bytes
            high_water += reading.peak_bytes
        for (device, pid), size in gpu.items():
            if any(pid == process.pid for process in tree):
                now[device] = now.get(device, 0) + size
        peaks = self._gpu_peaks.setdefault(roots, {})
        for device, size in now.items():
            if device != "host":
                peaks[device] = max(peaks.get(device, 0), size)
        return Holding(roots, now, {**peak, **peaks}, droppable, high_water, began_ns)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._poked)
                if self._stopping:
                    return
                self._poked = False
            spent = time.thread_time()
            try:
                sample = self.look()
                self._on_sample(sample)
            except Exception as error:  # whatever a callback or a driver does, go on looking
                _log.error("census_failed", exc_info=error)
                sample = None
            spent = time.thread_time() - spent
            with self._changed:
                if sample is None or sample.holdings:
                    pause = max(self._interval_s, spent / MOST_OF_A_CORE)
                    self._changed.wait_for(lambda: self._stopping or self._poked, timeout=pause)
                    self._poked = True
                self._active = self._poked


def _family(roots: Sequence[int]) -> list[int]:
    found: dict[int, None] = {}
    for pid in roots:
        try:
            root = psutil.Process(pid)
            found |= dict.fromkeys(
                process.pid for process in (root, *root.children(recursive=True))
            )
        except psutil.Error:
            continue  # it ended between two looks
    return list(found)
