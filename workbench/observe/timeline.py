"""The last hour of memory: what the machine and each model held, for the page to draw.

Nothing is measured for it: every few seconds it notes what the book knows already.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from workbench import logs
from workbench.background import Background
from workbench.budget import HOST
from workbench.engine import Engine

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Reading:
    """One moment. Bytes; ``held`` and ``limit`` go by device (``host``, ``cuda:0``).

    ``limit_bytes`` is what all models may hold then, ``used_bytes`` what anybody holds.
    """

    at: dt.datetime
    used_bytes: Mapping[str, int]
    total_bytes: Mapping[str, int]
    limit_bytes: Mapping[str, int]
    held_bytes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By model, then by device; Ollama's models are what their runners hold."""
    short: tuple[str, ...] = ()
    """Devices with an alert."""


class MemoryTimeline(Background):
    """Notes a reading now and then. Use it from the engine's event loop.

    Args:
        engine: whose book is read.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        settings = engine.settings
        self._every_s = settings.workbench_timeline_s
        self._readings: deque[Reading] = deque(maxlen=settings.workbench_timeline_readings)

    @property
    def readings(self) -> tuple[Reading, ...]:
        """All that are kept, the oldest first."""
        return tuple(self._readings)

    def note(self) -> Reading:
        """Take a reading now."""
        book = self._engine.book
        devices, limits = book.devices, book.limits()
        reading = Reading(
            at=dt.datetime.now(dt.UTC),
            used_bytes={name: device.used_bytes for name, device in devices.items()},
            total_bytes={name: device.total_bytes for name, device in devices.items()},
            limit_bytes={name: limits.get(name, 0) for name in devices},
            held_bytes={model: dict(sizes) for model, sizes in book.held().items()},
            short=tuple(alert.device for alert in book.alerts),
        )
        self._readings.append(reading)
        return reading

    async def _run(self) -> None:
        while True:
            try:
                self.note()
            except Exception as error:  # the next one may succeed
                _log.warning("memory_not_noted", error=type(error).__name__)
            await asyncio.sleep(self._every_s)


def devices(readings: tuple[Reading, ...]) -> list[str]:
    """The devices that occur, the host first."""
    names = dict.fromkeys(name for reading in readings for name in reading.total_bytes)
    return sorted(names, key=lambda name: (name != HOST, name))
