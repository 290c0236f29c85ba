"""Work that goes on beside everything else, for as long as its owner is open."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import suppress


class Background(ABC):
    """One task in one event loop, from :meth:`start` to :meth:`close`."""

    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running loop; without effect the second time."""
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._run(), name=type(self).__name__)

    async def close(self) -> None:
        """Stop, for good."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    @abstractmethod
    async def _run(self) -> None:
        """What it does until it is cancelled."""
