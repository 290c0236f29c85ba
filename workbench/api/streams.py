"""Generating over REST: whole answers, server-sent events, coming back after a lost connection.

A client that leaves stops its work, wherever that is: in the queue, in a load, in the prompt, in
the middle of the answer. One that says ``"detach": true`` may come back: the work goes on for
``WORKBENCH_DETACH_GRACE_S`` without a reader. Events carry numbers (``id:``); whoever has seen
``N`` gets the rest from ``/streams/{id}/events?after=N``, also for a while after the end.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request
from pydantic import Field
from starlette.responses import Response

from workbench import wire
from workbench.api.calls import Body, Compare, Generate, StreamMessage
from workbench.api.feeds import Feed, Feeds
from workbench.api.streaming import EventStream, collect, finished, while_connected
from workbench.engine import Engine
from workbench.errors import invalid
from workbench.types import new_id

router = APIRouter(prefix="/api/v1", tags=["generate"])

_LARGEST: Final = 2**53


class Encoded(Body):
    """Requests as :func:`workbench.wire.encode_request` writes them (our own client's form)."""

    requests: list[dict[str, Any]] = Field(min_length=1, max_length=64)


def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


def _feeds(request: Request) -> Feeds:
    feeds: Feeds = request.app.state.feeds
    return feeds


@router.post("/generate")
async def generate(request: Request, body: Generate) -> Response:
    """One whole answer with its figures: the finished session, as ``done`` carries it."""
    call = body.request(body.model, request.state.correlation_id)
    events = _engine(request).stream(call)
    async with aclosing(events):
        told = await while_connected(request, collect(events))
    content = json.dumps(wire.encode_session(finished(told[-1])), default=str)
    return Response(
        content, media_type="application/json", headers={"X-Session-ID": call.session_id}
    )


@router.post("/stream-message", response_class=EventStream)
async def stream_message(request: Request, body: StreamMessage) -> EventStream:
    """Server-sent events of one answer: session, queued, loading, prompt, token, done, error."""
    call = body.request(body.model, request.state.correlation_id)
    return _sse(_feeds(request).start([call], call.session_id, detach=body.detach))


@router.post("/compare", response_class=EventStream)
async def compare(request: Request, body: Compare) -> EventStream:
    """Server-sent events of several answers; ``pane`` is the model's index."""
    comparison = new_id("cmp")
    calls = [
        body.request(model, request.state.correlation_id, comparison_id=comparison)
        for model in body.models
    ]
    return _sse(_feeds(request).start(calls, comparison, detach=body.detach))


@router.post("/streams", include_in_schema=False)
async def streams(request: Request, body: Encoded) -> EventStream:
    """As ``compare``, with a full request per pane."""
    try:
        calls = [wire.decode_request(item) for item in body.requests]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise invalid(
            f"A request is not in the form of wire.encode_request: {error!r}.",
            fix="Give the client the version of the workbench that the server has.",
        ) from None
    return _sse(_feeds(request).start(calls, new_id("str"), detach=False))


@router.get("/streams")
async def active(request: Request) -> dict[str, Any]:
    """Streams that run or wait now, of every face, each with its phase."""
    return {"streams": _engine(request).active()}


@router.get("/streams/{stream_id}/events", response_class=EventStream)
async def events(
    request: Request,
    stream_id: str,
    after: Annotated[int | None, Query(ge=0, le=_LARGEST)] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> EventStream:
    """The rest of a stream after event number ``after`` (or the header ``Last-Event-ID``)."""
    feed = _feeds(request).get(stream_id)
    if after is None:
        after = _number(last_event_id)
    feed.check(after)
    return _sse(feed, after)


@router.delete("/streams/{stream_id}")
async def cancel(request: Request, stream_id: str) -> dict[str, bool]:
    """Stop a stream of any face; ``cancelled`` is false when none of that id runs."""
    return {"cancelled": _feeds(request).cancel(stream_id)}


def _number(last_event_id: str | None) -> int:
    if not last_event_id:
        return 0
    if not (last_event_id.isascii() and last_event_id.isdecimal() and len(last_event_id) < 16):
        raise invalid(
            f"Last-Event-ID {last_event_id[:40]!r} is no number of an event.",
            fix="Give the id of the last event received.",
            option="last-event-id",
        )
    return int(last_event_id)


def _sse(feed: Feed, after: int = 0) -> EventStream:
    async def lines() -> AsyncGenerator[str, None]:
        async with aclosing(feed.follow(after)) as items:
            async for number, pane, event in items:
                body = json.dumps({"pane": pane, **wire.encode_event(event)}, default=str)
                yield f"id: {number}\nevent: {event.type}\ndata: {body}\n\n"

    async def close() -> None:
        feed.abandon()

    return EventStream(lines(), close, {"X-Stream-ID": feed.stream_id})
