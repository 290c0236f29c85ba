"""How many threads a pass is given: as many as are quicker, on cores that nobody else uses.

A pass is cut into a thousand small pieces, and at the end of each all threads wait for the last of
them. On free cores two threads take between 90 % (one token) and 58 % (32 tokens) of one thread's
time; beside one busy process they take up to ten times as long. So both are looked at while the
model answers, what others use and what passes have taken, and nothing is fixed beforehand.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
_WINDOW_S: Final = 0.2
"""What others use is read at most this often: the kernel counts in hundredths of a second."""
_WORKED: Final = 0.5
"""A process that used less than this part of a core since the last reading has rested."""
_LOOKS: Final = 4
_BETWEEN_LOOKS_S: Final = 0.0005
_SPARED: Final = 0.3
"""A core that others use less than this counts as free: the server and its client need some."""
_NEWEST: Final = 0.3
"""Weight of the newest pass in the average of their times."""
_FIRST_LOOK: Final = 8
_LAST_LOOK: Final = 256
"""Passes until the other number is tried again, doubled each time that it loses."""
_WINS: Final = 3
"""It has to be quicker so often in a row."""


class OtherPrograms:
    """How many cores other processes use.

    Args:
        busy_s: seconds that this machine's cores have worked so far, all together.
        own_s: those of this process.
        running: processes and threads that want a core at this moment, one of this process among
            them; None where the system does not tell.
        now_s: a clock.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        busy_s: Callable[[], float] | None = None,
        own_s: Callable[[], float] = time.process_time,
        running: Callable[[], int | None] | None = None,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._busy_s, self._own_s = busy_s or _busy_s, own_s
        self._running, self._now_s = running or _running, now_s
        self._sleep = sleep
        self._last = (-math.inf, 0.0, 0.0)
        self._cores = 0.0

    def cores(self) -> float:
        """The average since the last call; what is so at this moment if this process has rested.

        What others did meanwhile says nothing then: it was their turn.
        """
        at, busy, own = self._last
        now = self._now_s()
        passed = now - at
        if passed < _WINDOW_S:
            return self._cores
        self._last = (now, self._busy_s(), self._own_s())
        worked = self._last[2] - own
        if worked < _WORKED * passed:
            self._cores = self._at_once()
        else:
            self._cores = max(0.0, (self._last[1] - busy - worked) / passed)
        return self._cores

    def _at_once(self) -> float:
        """The fewest of a few looks: the server is still busy with what it has just sent."""
        fewest = math.inf
        for look in range(_LOOKS):
            if look:
                self._sleep(_BETWEEN_LOOKS_S)
            running = self._running()
            fewest = min(fewest, max(0, running - 1) if running else 0)
            if not fewest:
                break
        return fewest


@dataclass(slots=True)
class _Size:
    """What passes of one size took."""

    several: bool = True
    """Whether several threads are the quicker here, as far as is known."""
    usual_s: float = 0.0
    """Seconds a token with that number, averaged over the last passes."""
    passes: int = 0
    next_look: int = _FIRST_LOOK
    interval: int = _FIRST_LOOK
    wins: int = 0


class Threads:
    """The number of threads of each pass of one model.

    Args:
        others: how many cores other programs use.
        cores: that this process may use.
    """

    def __init__(
        self, others: Callable[[], float] | None = None, cores: float | None = None
    ) -> None:
        self._others = others or OtherPrograms().cores
        self._cores = cores or usable_cores()
        self._sizes: dict[tuple[bool, int], _Size] = {}

    def choose(self, tokens: int, most: int, *, step: bool) -> tuple[int, bool]:
        """How many the next pass is given.

        Args:
            tokens: that it evaluates, of all requests together.
            most: threads that its requests may use.
            step: whether it is a decoding step and not one over prompts.

        Returns:
            A number between 1 and ``most``, and whether it was free to choose: then
            :meth:`took` learns from the pass.
        """
        if most < 2:
            return 1, False
        many = min(most, math.floor(self._cores - self._others() + _SPARED))
        if many < 2:
            return 1, False
        size = self._size(tokens, step=step)
        size.passes += 1
        several = size.several != (size.passes >= size.next_look)
        return (many if several else 1), True

    def took(self, tokens: int, threads: int, seconds: float, *, step: bool) -> None:
        """A pass with a number that was free to choose is done.

        The other number takes over when it was the quicker three times in a row, with passes of
        this one in between: whatever else the machine did, it did to both.
        """
        size = self._size(tokens, step=step)
        each = seconds / tokens
        if (threads > 1) == size.several:
            size.usual_s += _NEWEST * (each - size.usual_s) if size.usual_s else each
            return
        if each >= size.usual_s:
            size.wins, size.interval = 0, min(2 * size.interval, _LAST_LOOK)
            size.next_look = size.passes + size.interval
            return
        size.wins += 1
        size.next_look = size.passes + 2
        if size.wins == _WINS:
            self._sizes[step, tokens.bit_length()] = _Size(not size.several, each)

    def _size(self, tokens: int, *, step: bool) -> _Size:
        return self._sizes.setdefault((step, tokens.bit_length()), _Size())


def usable_cores() -> float:
    """Cores that this process may use: those it may run on, within its container's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = float(len(os.sched_getaffinity(0)))
    else:
        cores = float(os.cpu_count() or 1)
    with suppress(OSError, ValueError):
        quota, period = _QUOTA.read_text().split()
        cores = min(cores, int(quota) / int(period))  # "max" is no number: there is none
    return cores


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
