"""What rings once, at the first of several times."""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections.abc import Callable, Iterable


class Alarm:
    """Belongs to one event loop.

    Args:
        ring: called at that time, in a context of its own: what it does is nobody's request.
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None

    def set(self, times: Iterable[float]) -> None:
        """Ring at the first of these, and not when it was set to before.

        Args:
            times: monotonic seconds; infinite ones never come.
        """
        self.cancel()
        if math.isfinite(nearest := min(times, default=math.inf)):
            pause = max(nearest - time.monotonic(), 0.0)
            self._timer = asyncio.get_running_loop().call_later(
                pause, self._ring, context=contextvars.Context()
            )

    def cancel(self) -> None:
        """Do not ring; without effect after it has."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
