"""Work that may outlive its cancellation: whoever waits for it goes on without it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from workbench import logs

_log = logs.get(__name__)


class Apart:
    """Work in a task of its own, which is left where it does not end when it is cancelled.

    Args:
        work: what is done.
        name: what the log calls it.
        grace_s: how long it may take to end, once whoever waits for it was cancelled.
    """

    def __init__(self, work: Coroutine[Any, Any, None], name: str, grace_s: float) -> None:
        self._work = work
        self._name = name
        self._grace_s = grace_s
        self.left = False
        """Whether it has outlived its cancellation, and goes on."""

    async def ended(self) -> None:
        """Begin it, and wait for its end.

        Raises:
            asyncio.CancelledError: who waits here was cancelled; so was the work, which has ended
                or was left.
        """
        task = asyncio.create_task(self._work, name=self._name)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            await self._end(task)
            if self.left or task.cancelled():
                raise
        task.result()

    async def _end(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        begun = time.monotonic()
        while not task.done() and (left_s := begun + self._grace_s - time.monotonic()) > 0:
            with suppress(asyncio.CancelledError):  # once more: it is being ended already
                await asyncio.wait({task}, timeout=left_s)
        if task.done():
            return
        self.left = True
        _log.error("left_over", task=self._name, grace_s=self._grace_s, state=repr(task))

        def over(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            after_s = time.monotonic() - begun
            _log.warning("left_over_ended", task=self._name, after_s=after_s, error=repr(error))

        task.add_done_callback(over)
