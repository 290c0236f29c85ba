"""How late the event loop is: whatever blocks it delays every stream, token stamps included."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from workbench.background import Background

INTERVAL_S: Final = 0.1
WINDOW: Final = 600
"""Samples that are looked at: one minute."""


@dataclass(frozen=True, slots=True)
class Lag:
    """Seconds by which wake-ups were late during the last minute; quantiles by nearest rank."""

    p50_s: float
    p99_s: float
    max_s: float
    samples: int


class LagSampler(Background):
    """Sleeps for an interval again and again and notes how much longer it took.

    A timer that the system wakes late counts as well: it too makes streams late.

    Args:
        on_sample: told every sample, in seconds.
        interval_s: how long it sleeps; costs as many wake-ups a second.
    """

    def __init__(
        self,
        on_sample: Callable[[float], None] = lambda lag_s: None,
        *,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._on_sample = on_sample
        self._interval_s = interval_s
        self._samples: deque[float] = deque(maxlen=WINDOW)

    @property
    def lag(self) -> Lag:
        """The last minute."""
        ordered = sorted(self._samples)
        if not ordered:
            return Lag(0.0, 0.0, 0.0, 0)
        last = len(ordered) - 1
        return Lag(
            p50_s=ordered[round(0.5 * last)],
            p99_s=ordered[round(0.99 * last)],
            max_s=ordered[-1],
            samples=len(ordered),
        )

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self._interval_s
            await asyncio.sleep(self._interval_s)
            late_s = max(0.0, loop.time() - due)
            self._samples.append(late_s)
            self._on_sample(late_s)
