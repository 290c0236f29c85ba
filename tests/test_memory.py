"""The memory monitor: who is read how often."""

from __future__ import annotations

import errno
import math
import os
import threading
from collections.abc import Sequence

import psutil
import pytest

from workbench import memory
from workbench.memory import MemoryMonitor, MemoryReading


@pytest.mark.alone
def test_requests_to_one_model_share_its_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[tuple[int, ...]] = []
    wanted = [math.inf]
    enough = threading.Event()
    read_tree = memory.read_tree

    def counting(pids: Sequence[int]) -> MemoryReading | None:
        reads.append(tuple(pids))
        if len(reads) >= wanted[0]:
            enough.set()
        return read_tree(pids)

    monkeypatch.setattr(memory, "read_tree", counting)
    monitor = MemoryMonitor(20)
    own = (os.getpid(),)
    watches = [monitor.watch(lambda: own) for _ in range(10)]
    before = sum(len(watch.readings) for watch in watches)
    wanted[0] = len(reads) + 5
    assert enough.wait(60)
    # Four have come to all ten, and the fifth begins; unshared, five would have come to one each.
    assert sum(len(watch.readings) for watch in watches) - before >= 30
    for watch in watches:
        monitor.unwatch(watch)
    monitor.close()
    for watch in watches:
        assert watch.before is not None
        stamps = [reading.t_ns for reading in watch.readings]
        assert stamps == sorted(set(stamps)), "a reading is kept once"


def test_two_models_are_read_apart() -> None:
    monitor = MemoryMonitor(20)
    here, there = monitor.watch(lambda: (os.getpid(),)), monitor.watch(lambda: (os.getppid(),))
    assert here.before is not None
    assert there.before is not None
    assert here.before.pid == os.getpid()
    assert there.before.pid == os.getppid()
    monitor.close()


def test_what_is_gone_has_no_reading() -> None:
    monitor = MemoryMonitor(20)
    watch = monitor.watch(lambda: ())
    monitor.unwatch(watch)
    assert watch.readings == []
    assert watch.peak_pss_bytes is None
    monitor.close()


def test_measuring_goes_on_after_descriptors_had_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first reading that failed ended the thread, and nothing was measured any more."""
    again = threading.Event()
    monitor = MemoryMonitor(20)
    watch = monitor.watch(lambda: (os.getpid(),), lambda reading: again.set())
    failed = threading.Event()

    def none_left(process: psutil.Process) -> None:
        failed.set()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(psutil.Process, "memory_full_info", none_left)
        assert failed.wait(20)
    again.clear()
    assert again.wait(20)
    monitor.unwatch(watch)
    monitor.close()
