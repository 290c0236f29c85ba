"""The mailbox between a model call and whoever reads its events."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import replace

from workbench.types import MemoryEvent, StreamEvent, TokenEvent


def joined(last: TokenEvent, event: TokenEvent, chunk_size: int) -> TokenEvent | None:
    """Two token events of a stream as one, if they may be.

    The first one of a stream stays alone, channels are not mixed, and the text does not grow
    beyond ``chunk_size`` characters.
    """
    if not last.seq or last.channel != event.channel:
        return None
    if len(last.text) + len(event.text) > chunk_size:
        return None
    return replace(
        event,
        seq=last.seq,
        text=last.text + event.text,
        n_tokens=last.n_tokens + event.n_tokens,
        logprobs=last.logprobs + event.logprobs,
    )


class Mailbox:
    """Hands events from the run to its reader without ever making the run wait.

    Token events that the reader has not taken yet are joined up to ``chunk_size`` characters; the
    first token of a stream is never held back or joined. Of memory readings only the latest is
    kept.
    """

    def __init__(self, chunk_size: int) -> None:
        self._chunk_size = chunk_size
        self._events: deque[StreamEvent] = deque()
        self._ready = asyncio.Event()
        self._closed = False

    def put(self, event: StreamEvent) -> None:
        """Add an event; never blocks. Call it in the event loop's thread."""
        last = self._events[-1] if self._events else None
        both = None
        if isinstance(last, TokenEvent) and isinstance(event, TokenEvent):
            both = joined(last, event, self._chunk_size)
        match last, event:
            case TokenEvent(), TokenEvent() if both is not None:
                self._events[-1] = both
            case MemoryEvent(), MemoryEvent():
                self._events[-1] = event
            case _:
                if not self._closed:
                    self._events.append(event)
        self._ready.set()

    def close(self) -> None:
        """No more events; the reader ends after those that are there."""
        self._closed = True
        self._ready.set()

    async def __aiter__(self) -> AsyncGenerator[StreamEvent, None]:
        """Events in order until the mailbox is closed and empty."""
        while True:
            while self._events:
                yield self._events.popleft()
            if self._closed:
                return
            self._ready.clear()
            await self._ready.wait()
