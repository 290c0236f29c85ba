"""Whether each runtime answers and what it has in memory, looked at also while nobody uses it."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from workbench import logs
from workbench.background import Background
from workbench.errors import WorkbenchError
from workbench.providers import guard
from workbench.providers.base import Provider, Weightless

_log = logs.get(__name__)

_BUSY_S: Final = 1.0
"""How soon it is tried again to look while something generates."""


@dataclass(frozen=True, slots=True)
class Seen:
    """When a runtime last answered: wall time, and seconds on the monotonic clock."""

    at: dt.datetime
    monotonic_s: float


class RuntimeWatch(Background):
    """Asks every runtime now and then. Belongs to one event loop.

    Beside a generation nothing is asked: its tokens would be late by it. Its own requests tell
    then whether its runtime answers.

    Args:
        providers: by name.
        every_s: time between two looks.
        busy: whether a generation is under way.
        on_change: called when another model is in memory than before.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        every_s: float,
        *,
        busy: Callable[[], bool],
        on_change: Callable[[], Awaitable[None]],
    ) -> None:
        self._providers = providers
        self._every_s = every_s
        self._busy = busy
        self._on_change = on_change
        self._seen: dict[str, Seen] = {}
        self._problems: dict[str, WorkbenchError | None] = {}
        self._residents: Mapping[str, frozenset[str]] = {}

    def last_good(self, name: str) -> Seen | None:
        """When a runtime last answered; None: never since the start."""
        return self._seen.get(name)

    async def look(self) -> None:
        """Ask all of them once. Never raises."""
        await asyncio.gather(*(self._ask(name, p) for name, p in self._providers.items()))
        residents = {name: frozenset(guard.residents(p)) for name, p in self._providers.items()}
        if residents != self._residents:
            self._residents = residents
            await self._on_change()

    async def _run(self) -> None:
        while True:
            while self._busy():  # noqa: ASYNC110 (sessions tell nobody of their end in advance)
                await asyncio.sleep(_BUSY_S)
            try:
                await self.look()
            except Exception:  # a defect must not end the watch
                _log.exception("runtimes_not_looked_at")
            await asyncio.sleep(self._every_s)

    async def _ask(self, name: str, provider: Provider) -> None:
        try:
            with guard.blamed(name, "list"):
                await provider.refresh()
        except WorkbenchError as error:
            # Never there since the start is no news: not everybody runs every runtime.
            if self._problems.get(name, error) is None:
                _log.warning("runtime_gone", provider=name, code=error.code, reason=error.message)
            self._problems[name] = error
            return
        if self._problems.get(name) is not None:
            _log.info("runtime_back", provider=name)
        self._problems[name] = None
        if getattr(type(provider), "refresh", None) is not Weightless.refresh:  # which asks nobody
            self._seen[name] = Seen(dt.datetime.now(dt.UTC), time.monotonic())
