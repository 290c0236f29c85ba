"""How many threads a pass is given: as many as are quicker, on cores that nobody else uses.

A pass is cut into a thousand small pieces, and at the end of each all threads wait for the last of
them. On free cores two threads take between 85 % (one token) and 58 % (32 tokens) of one thread's
time; beside one busy process they take up to ten times as long. So both are looked at while the
model answers, what others use and what passes have taken, and nothing is fixed beforehand.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

_WINDOW_S: Final = 0.2
"""What others use is read at most this often: the kernel counts in hundredths of a second."""
_STALE_S: Final = 1.0
"""An average over longer than this says nothing about now."""
_SPARED: Final = 0.3
"""A core that others use less than this counts as free: the server and its client need some."""
_NEWEST: Final = 0.3
"""Weight of a pass that took longer than those before; a quicker one counts at once."""
_FIRST_LOOK: Final = 8
_LAST_LOOK: Final = 256
"""Passes until the number that lost is tried again, doubled each time that it loses again."""


class OtherPrograms:
    """How many cores other processes use.

    Args:
        busy_s: seconds that this machine's cores have worked so far, all together.
        own_s: those of this process.
        running: processes and threads that want a core at this moment, one of this process among
            them; None where the system does not tell.
        now_s: a clock.
    """

    def __init__(
        self,
        busy_s: Callable[[], float] | None = None,
        own_s: Callable[[], float] = time.process_time,
        running: Callable[[], int | None] | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._busy_s, self._own_s = busy_s or _busy_s, own_s
        self._running, self._now_s = running or _running, now_s
        self._last = (-math.inf, 0.0, 0.0)
        self._cores = 0.0

    def cores(self) -> float:
        """The average since the last call, or what is so at this moment if that was long ago."""
        at, busy, own = self._last
        now = self._now_s()
        passed = now - at
        if passed < _WINDOW_S:
            return self._cores
        self._last = (now, self._busy_s(), self._own_s())
        if passed > _STALE_S:
            running = self._running()
            self._cores = float(max(0, running - 1)) if running else 0.0
        else:
            used = (self._last[1] - busy) - (self._last[2] - own)
            self._cores = max(0.0, used / passed)
        return self._cores


@dataclass(slots=True)
class _Size:
    """What passes of one size took, seconds a token, by whether they had several threads."""

    took: dict[bool, float] = field(default_factory=dict)
    next_look: int = _FIRST_LOOK
    interval: int = _FIRST_LOOK
    passes: int = 0
    best: bool = True


class Threads:
    """The number of threads of each pass of one model.

    Args:
        others: what other programs use.
        cores: that this process may use.
    """

    def __init__(self, others: Callable[[], float] | None = None, cores: int | None = None) -> None:
        self._others = others or OtherPrograms().cores
        self._cores = cores or _usable_cores()
        self._sizes: dict[tuple[bool, int], _Size] = {}

    def choose(self, tokens: int, most: int, *, step: bool) -> int:
        """How many the next pass is given.

        Args:
            tokens: that it evaluates, of all requests together.
            most: threads that its requests may use.
            step: whether it is a decoding step and not one over prompts.

        Returns:
            Between 1 and ``most``.
        """
        if most < 2:
            return 1
        many = min(most, math.floor(self._cores - self._others() + _SPARED))
        if many < 2:
            return 1
        size = self._size(tokens, step)
        size.passes += 1
        if size.passes >= size.next_look:
            return 1 if size.best else many
        return many if size.best else 1

    def took(self, tokens: int, threads: int, seconds: float, *, step: bool) -> None:
        """A pass that :meth:`choose` was asked about is done."""
        size = self._size(tokens, step)
        several, each = threads > 1, seconds / tokens
        before = size.took.get(several, each)
        size.took[several] = each if each < before else before + _NEWEST * (each - before)
        if len(size.took) < 2:
            return
        best = size.took[True] < size.took[False]
        if best != size.best:
            size.best, size.interval = best, _FIRST_LOOK
        elif several == best:
            return  # nothing new
        else:
            size.interval = min(2 * size.interval, _LAST_LOOK)
        size.next_look = size.passes + size.interval

    def _size(self, tokens: int, step: bool) -> _Size:
        return self._sizes.setdefault((step, tokens.bit_length()), _Size())


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _busy_s() -> float:
    times = psutil.cpu_times()
    # Guests are in "user" already; a core that waits for a disk is free; one that the host gave
    # to another machine is not.
    names = ("user", "nice", "system", "irq", "softirq", "steal")
    return math.fsum(getattr(times, name, 0.0) for name in names)


def _running() -> int | None:
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("procs_running")), None)
