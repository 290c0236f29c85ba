"""How late the event loop is: whatever blocks it delays every stream, token stamps included."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from workbench.metrics import NS

INTERVAL_S: Final = 0.02
"""A loop that is held up for less, between two wake-ups, need not be seen to be late."""
IDLE_S: Final = 0.1
"""Where nothing is timed: waking up costs 0.2 % of a core, five times as often 1 %."""
WINDOW_S: Final = 60.0
_STEP_NS: Final = 2 * NS // 1_000
"""From a wake-up to what was ready with it, at least."""


@dataclass(frozen=True, slots=True)
class Lag:
    """Seconds by which wake-ups were late during the last minute; quantiles by nearest rank."""

    p50_s: float
    p99_s: float
    max_s: float
    samples: int


class LagSampler:
    """Sleeps for an interval again and again and notes how much longer it took.

    A timer that the system wakes late counts as well: it too makes streams late. All of it happens
    in one event loop.

    Args:
        on_sample: told every sample, in seconds.
        interval_s: how long it sleeps while something is timed.
        busy: whether something is; else it sleeps longer.
    """

    def __init__(
        self,
        on_sample: Callable[[float], None] = lambda lag_s: None,
        *,
        interval_s: float = INTERVAL_S,
        busy: Callable[[], bool] = lambda: True,
    ) -> None:
        self.on_sample = on_sample
        self.interval_ns = round(interval_s * NS)
        self._busy = busy
        self._samples: deque[tuple[int, int]] = deque(maxlen=round(WINDOW_S / interval_s))
        """Woken when, late by how much; monotonic nanoseconds."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns = 0

    def start(self) -> None:
        """Begin, in the running loop; without effect while it runs there."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._sleep()

    def close(self) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop = None

    def hurry(self) -> None:
        """Something is timed from now on: the sleep that goes on is cut short."""
        if self._timer is not None and self._due_ns - time.monotonic_ns() > self.interval_ns:
            self._timer.cancel()
            self._sleep()

    @property
    def lag(self) -> Lag:
        """The last minute."""
        since = time.monotonic_ns() - WINDOW_S * NS
        ordered = sorted(late / NS for woken, late in self._samples if woken >= since)
        if not ordered:
            return Lag(0.0, 0.0, 0.0, 0)
        last = len(ordered) - 1
        return Lag(
            p50_s=ordered[round(0.5 * last)],
            p99_s=ordered[round(0.99 * last)],
            max_s=ordered[-1],
            samples=len(ordered),
        )

    def at(self, t_ns: int, begun_ns: int) -> int | None:
        """By how much the loop was late when it came to something, or at most since then.

        What waited with a late wake-up is worked off after it: in no longer than it was late, and
        before the next wake-up, or that is late too.

        Args:
            t_ns: the moment, monotonic, of a little while ago at most.
            begun_ns: lateness before it does not count.

        Returns:
            Nanoseconds, a sleep that should be over by now included; None: it does not sample.
        """
        if self._timer is None:
            return None
        worst = max(0, time.monotonic_ns() - max(self._due_ns, begun_ns))
        for woken, late in reversed(self._samples):
            if woken < t_ns - self.interval_ns:
                break
            if woken + max(late, _STEP_NS) >= t_ns:
                worst = max(worst, min(late, woken - begun_ns))
        return worst

    def _sleep(self) -> None:
        assert self._loop is not None
        interval_s = self.interval_ns / NS if self._busy() else IDLE_S
        self._due_ns = time.monotonic_ns() + round(interval_s * NS)
        self._timer = self._loop.call_later(interval_s, self._wake)

    def _wake(self) -> None:
        woken = time.monotonic_ns()
        late = max(0, woken - self._due_ns)
        self._samples.append((woken, late))
        self._sleep()
        self.on_sample(late / NS)


class Lateness:
    """By how much the loop was late at the stamps that the figures of one call are made of.

    Args:
        sampler: of the loop, which runs.
        sent_ns: when the call was handed to its runtime, monotonic.
    """

    def __init__(self, sampler: LagSampler, sent_ns: int) -> None:
        self._sampler, self._sent_ns = sampler, sent_ns
        sampler.hurry()
        self._sending: int | None = None
        self._first: int | None = None
        self.ttft_ns: int | None = None
        """At the sending or the first token, whichever was later; None: not known."""
        self.speed_ns: int | None = None
        """At the first or the latest token."""
        # What is to be sent waits for the loop, too.
        soon_s = 2 * sampler.interval_ns / NS
        self._timer = asyncio.get_running_loop().call_later(soon_s, self._note_sending)

    def token(self, t_ns: int) -> None:
        """A token has its stamp."""
        late = self._sampler.at(t_ns, self._sent_ns)
        if late is None:
            return
        if self._first is None:
            self._note_sending()
            self._first = late
            self.ttft_ns = max(late, self._sending or 0)
        self.speed_ns = max(self._first, late)

    def _note_sending(self) -> None:
        self._timer.cancel()
        if self._sending is None:
            self._sending = self._sampler.at(self._sent_ns, self._sent_ns)
