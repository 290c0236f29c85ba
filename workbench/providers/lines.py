"""The lines of one streamed answer, read apart from whoever consumes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any, Final

from anyio import CancelScope

from workbench.providers.base import CancellationToken

Line = tuple[int, Mapping[str, Any]]
"""Monotonic nanoseconds at which its end arrived, and the JSON object."""

_READ_AHEAD: Final = 4096
"""Lines held for a slow consumer before the server is made to wait."""
_DRAIN_S: Final = 0.05
"""Wait for the last chunk after the last line, so that the connection can be used again."""


async def read_apart(
    lines: AsyncGenerator[Line, None],
    cancel: CancellationToken,
    last: Callable[[Mapping[str, Any]], bool],
) -> AsyncGenerator[Line, None]:
    """The lines up to the one that is ``last``, their end, or the cancellation.

    A task of its own reads the socket: the stamps stay true when the consumer is slow, and a
    cancellation closes the connection at once, whatever the consumer does meanwhile. Closing
    it is what stops the server's decoding.

    It is ended by a scope of anyio, never by ``Task.cancel``: :mod:`workbench.providers.scoped`.
    """
    queue: asyncio.Queue[Line | Exception | None] = asyncio.Queue(_READ_AHEAD)
    reading = CancelScope()

    async def read() -> None:
        with reading:
            try:
                async with aclosing(lines):
                    async for item in lines:
                        await queue.put(item)
                await queue.put(None)
            except Exception as error:
                await queue.put(error)

    async def stop() -> None:
        await cancel.wait()
        reading.cancel()
        with suppress(asyncio.QueueFull):  # then the consumer is not waiting
            queue.put_nowait(None)

    reader = asyncio.create_task(read())
    stopper = asyncio.create_task(stop())
    try:
        while True:
            item = await queue.get()
            if cancel.cancelled or item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item
            if last(item[1]):
                # The last chunk is usually there already; with it the connection can be reused.
                await asyncio.wait({reader}, timeout=_DRAIN_S)
                return
    finally:
        stopper.cancel()
        reading.cancel()
        # wait(), unlike gather(), passes on no cancellation that arrives here meanwhile.
        await asyncio.wait({reader, stopper})
