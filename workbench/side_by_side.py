"""Several calls at once, their events as one stream."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace

from workbench import logs
from workbench.admission import rejected
from workbench.errors import WorkbenchError, unforeseen
from workbench.types import ChatRequest, StreamEvent, TimingMode

_log = logs.get(__name__)


async def side_by_side(
    stream: Callable[[ChatRequest], AsyncGenerator[StreamEvent, None]],
    requests: Sequence[ChatRequest],
) -> AsyncGenerator[tuple[int, StreamEvent], None]:
    """Run several calls with ``stream``; see :meth:`workbench.engine.Engine.compare`."""
    together = sum(item.timing_mode is TimingMode.CONCURRENT for item in requests)
    requests = [
        replace(
            item,
            place=place,
            parallel=together if item.timing_mode is TimingMode.CONCURRENT else item.parallel,
        )
        for place, item in enumerate(requests, start=1)
    ]
    merged: asyncio.Queue[tuple[int, StreamEvent | None]] = asyncio.Queue(maxsize=len(requests))

    async def pump(index: int, request: ChatRequest) -> None:
        try:
            async with contextlib.aclosing(stream(request)) as events:
                async for event in events:
                    await merged.put((index, event))
        except WorkbenchError as error:
            await merged.put((index, rejected(request, error)))
        except Exception as failure:  # a defect: whoever reads must not wait for ever
            _log.exception("stream_failed", session_id=request.session_id)
            await merged.put((index, rejected(request, unforeseen(failure, "stream"))))
        # Not in a finally: a pump is cancelled when nobody reads any more, and must not wait
        # for room in a queue that nobody empties.
        await merged.put((index, None))

    order = list(range(len(requests)))
    if any(request.timing_mode is TimingMode.ISOLATED for request in requests):
        random.shuffle(order)
    pumps = [asyncio.ensure_future(pump(index, requests[index])) for index in order]
    try:
        open_streams = len(requests)
        while open_streams:
            index, event = await merged.get()
            if event is None:
                open_streams -= 1
            else:
                yield index, event
    finally:
        for task in pumps:
            task.cancel()
