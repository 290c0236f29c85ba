"""The client's end of a request: work that stops when it leaves, answers that stream to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from workbench.errors import ErrorCode, WorkbenchError
from workbench.types import (
    DoneEvent,
    ErrorEvent,
    Status,
    StreamEvent,
    StreamSession,
    TokenEvent,
    ToolCallEvent,
)

T = TypeVar("T")


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of some work, which is cancelled if the client leaves before it is done.

    Args:
        request: whose body has been read.
        work: what the client waits for.

    Raises:
        WorkbenchError: ``CANCELLED``, the client left; or whatever the work raises.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise WorkbenchError(ErrorCode.CANCELLED, "The client has left.", operation="http")
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait({working, leaving})


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def collect(
    events: AsyncGenerator[StreamEvent, None], *, until_token: bool = False
) -> list[StreamEvent]:
    """Events up to the end, or up to the first that carries some of the answer."""
    told: list[StreamEvent] = []
    async for event in events:
        told.append(event)
        if until_token and isinstance(event, TokenEvent | ToolCallEvent | DoneEvent | ErrorEvent):
            break
    return told


def finished(event: StreamEvent) -> StreamSession:
    """The record of an answer that may be told as one.

    Raises:
        WorkbenchError: why it failed, or ``CANCELLED``.
    """
    if isinstance(event, ErrorEvent):
        raise event.error
    assert isinstance(event, DoneEvent)
    if event.session.status is Status.CANCELLED:
        raise stopped(event.session)
    return event.session


def stopped(session: StreamSession) -> WorkbenchError:
    """The error that tells of an answer which was stopped from elsewhere."""
    return WorkbenchError(
        ErrorCode.CANCELLED,
        f"The answer was stopped ({session.termination_reason}).",
        fix="Ask again.",
        operation="stream",
        provider=session.provider,
        details={"session_id": session.session_id},
    )


class EventStream(StreamingResponse):
    """Server-sent events.

    Args:
        events: as written on the wire.
        close: called when the response is over, however it ended, also if it never began.
        headers: further ones.
        status_code: HTTP status; FastAPI reads its default for the OpenAPI document.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[str, None],
        close: Callable[[], Awaitable[None]],
        headers: Mapping[str, str] | None = None,
        status_code: int = 200,
    ) -> None:
        headers = {"Cache-Control": "no-store", **(headers or {})}
        super().__init__(events, status_code, headers)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the events end or the client leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._close()
