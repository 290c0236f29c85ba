"""What happens when memory runs short: it is said, written down, and what can be is given back."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from workbench import logs, pressure
from workbench.memory import host_available_bytes
from workbench.pressure import Alert, Level
from workbench.providers.base import Provider
from workbench.store import ModelEvent, Store

_log = logs.get(__name__)

_PAST_LOADS = """
    SELECT model, event, CAST(details -> 'memory' AS VARCHAR) AS memory
    FROM model_events
    WHERE ok AND model IS NOT NULL AND event IN ('load', 'unload', 'evict', 'died')
          AND json_exists(details, '$.memory')
    ORDER BY created_at DESC
    LIMIT 1000
"""

_LEFT_BEHIND = """
    SELECT model, epoch(max(created_at)) AS loaded_at
    FROM model_events
    WHERE model IS NOT NULL AND event IN ('load', 'unload', 'evict', 'died')
          AND (ok OR event <> 'load')
    GROUP BY model
    HAVING arg_max(event, (created_at, t_ns)) = 'load'
"""


def past_loads(store: Store) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Loads of the log, oldest first: model id, event, its ``details.memory``.

    Raises:
        WorkbenchError: if the log cannot be read.
    """
    for row in reversed(store.rows(_PAST_LOADS)):
        yield row["model"], row["event"], json.loads(row["memory"])


def left_behind(store: Store) -> dict[str, float]:
    """Models that an earlier workbench loaded and nobody unloaded, with when (Unix seconds).

    Raises:
        WorkbenchError: if the log cannot be read.
    """
    return {row["model"]: row["loaded_at"] for row in store.rows(_LEFT_BEHIND)}


class Upkeep:
    """Hears of alerts, on the event loop.

    Args:
        store: gets a row in ``model_events`` for each: ``pressure`` or ``relief``.
        providers: are asked to give back what they hold without need.
    """

    def __init__(self, store: Store, providers: Mapping[str, Provider]) -> None:
        self._store = store
        self._providers = providers
        self._tasks: set[asyncio.Task[None]] = set()

    def alerted(self, alert: Alert, before: Level) -> None:
        """A device came to another level."""
        write = _log.warning if alert.rising else _log.info
        write("memory", device=alert.key, level=alert.level, reason=alert.sentence())
        self._store.log_model_event(
            ModelEvent(
                event="pressure" if alert.rising else "relief",
                provider="workbench",
                t_ns=time.monotonic_ns(),
                ok=not alert.rising,
                reason=alert.sentence(),
                details={
                    "device": alert.device,
                    "level": alert.level,
                    "of_budget": alert.of_budget,
                    "before": before,
                    "used_bytes": alert.used_bytes,
                    "total_bytes": alert.total_bytes,
                },
            )
        )
        if pressure.worse(alert.level, before):
            task = asyncio.ensure_future(self.give_back())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def give_back(self) -> None:
        """Collect garbage here and in idle workers, and return freed memory to the system."""
        before = host_available_bytes()
        await asyncio.gather(*(provider.trim() for provider in self._providers.values()))
        await asyncio.to_thread(collect)
        _log.info("memory_given_back", more_available_bytes=host_available_bytes() - before)


def collect() -> None:
    """Collect this process's garbage and return what the allocator keeps."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc's
        ctypes.CDLL(None).malloc_trim(0)
