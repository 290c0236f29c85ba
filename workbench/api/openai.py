"""The OpenAI-compatible face: any client of that API reaches both runtimes.

An error before the first token has its HTTP status, also for a stream: the response begins only
when there is something to tell, so that a client sees a full queue as a 503 and tries again.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from workbench import hops
from workbench.api.openai_answers import Answer, ChatAnswer, TextAnswer
from workbench.api.openai_calls import ChatCompletion
from workbench.api.openai_text import TextCompletion
from workbench.api.streaming import EventStream, collect, finished, while_connected
from workbench.engine import Engine
from workbench.types import ChatRequest, ErrorEvent, ModelInfo, StreamEvent

router = APIRouter(prefix="/v1", tags=["OpenAI"])

_DONE: Final = "data: [DONE]\n\n"


@router.get("/models")
async def models(request: Request) -> dict[str, Any]:
    """All usable models of all providers, in OpenAI's form.

    Another workbench is not told of the models of a third.
    """
    with hops.arriving(request.headers.get(hops.HEADER)):
        listing = await _engine(request).list_models()
    return {
        "object": "list",
        "data": [_model(model) for model in listing.models if model.status != "unusable"],
    }


@router.get("/models/{model:path}")
async def model(request: Request, model: str) -> dict[str, Any]:
    """One model in OpenAI's form."""
    return _model(await _engine(request).show(model))


@router.post("/chat/completions")
async def chat_completions(request: Request, body: ChatCompletion) -> Response:
    """One answer, whole or (``stream``) as server-sent events that end with ``[DONE]``."""
    call = body.request(request.state.correlation_id)
    return await _respond(request, call, ChatAnswer(call, body), stream=bool(body.stream))


@router.post("/completions")
async def completions(request: Request, body: TextCompletion) -> Response:
    """A text continued as it stands, without a chat template; whole or as server-sent events."""
    call = body.request(request.state.correlation_id)
    return await _respond(request, call, TextAnswer(call, body), stream=bool(body.stream))


async def _respond(
    request: Request, call: ChatRequest, answer: Answer, *, stream: bool
) -> Response:
    events = _engine(request).stream(call)
    headers = {"X-Session-ID": call.session_id}
    if not stream:
        async with aclosing(events):
            told = await while_connected(request, collect(events))
        session = finished(told[-1])
        # As ASCII, like the events of a stream: a call may hold what is no text.
        body = json.dumps(answer.whole(session, told), allow_nan=False, separators=(",", ":"))
        return Response(body, headers=headers, media_type="application/json")
    try:
        told = await while_connected(request, collect(events, until_token=True))
        if isinstance(told[-1], ErrorEvent):
            raise told[-1].error
    except BaseException:
        await events.aclose()
        raise
    return EventStream(_stream(answer, told, events), events.aclose, headers=headers)


async def _stream(
    answer: Answer, told: Sequence[StreamEvent], events: AsyncGenerator[StreamEvent, None]
) -> AsyncGenerator[str, None]:
    for line in answer.first():
        yield line
    for event in told:
        for line in answer.lines(event):
            yield line
    async for event in events:
        for line in answer.lines(event):
            yield line
    yield _DONE


def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


def _model(model: ModelInfo) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "model",
        "created": _created(model),
        "owned_by": model.provider,
        "workbench": model.to_dict(),
    }


def _created(model: ModelInfo) -> int:
    """When the model came, in Unix seconds; 0 where the provider does not tell."""
    try:
        return int(dt.datetime.fromisoformat(str(model.details.get("modified_at"))).timestamp())
    except ValueError:
        return 0
