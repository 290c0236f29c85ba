"""Endpoints to ask, requests to make, and bytes as such servers send them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.providers.ollama_support import Wire, http, wire
from workbench.endpoints import Endpoint
from workbench.providers.base import CancellationToken
from workbench.providers.openai_compat import OpenAICompatProvider
from workbench.types import ChatRequest, Message, Options, ProviderEvent

MODEL = "org/served"


def ask(text: str = "Say hi.", *, raw: bool = False, **options: Any) -> ChatRequest:
    chosen = Options(**{"temperature": 0.0, "max_tokens": 12, **options})
    return ChatRequest(f"box/{MODEL}", (Message("user", text),), chosen, raw=raw)


@asynccontextmanager
async def connected(url: str, **registered: Any) -> AsyncIterator[OpenAICompatProvider]:
    """A provider of an endpoint named box."""
    provider = OpenAICompatProvider(Endpoint(name="box", base_url=url, **registered))
    try:
        yield provider
    finally:
        await provider.close()


async def answer(
    provider: OpenAICompatProvider,
    request: ChatRequest,
    model: str = MODEL,
    cancel: CancellationToken | None = None,
    each: Callable[[ProviderEvent], None] = lambda event: None,
) -> list[ProviderEvent]:
    """All events of one stream."""
    events = []
    async for event in provider.stream(request, model, 7, cancel or CancellationToken()):
        each(event)
        events.append(event)
    return events


def events_of(*chunks: Any, done: bool = True) -> bytes:
    """A stream of these chunks (bytes are passed as they are)."""
    parts = [x if isinstance(x, bytes) else f"data: {json.dumps(x)}\n\n".encode() for x in chunks]
    body = b"".join([*parts, b"data: [DONE]\n\n" if done else b""])
    return http(body, "200 OK", "Content-Type: text/event-stream")


def says(text: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text, **more}, "finish_reason": None}]}


def ends(reason: str = "stop") -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


def usage(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, **more}
    return {"choices": [], "usage": counts}


@asynccontextmanager
async def serving(
    chat: Callable[[dict[str, Any]], bytes | None] | bytes | None, **entry: Any
) -> AsyncIterator[Wire]:
    """A server that lists one model and answers as told."""

    def reply(path: str, body: dict[str, Any]) -> bytes | None:
        if path.endswith("/models"):
            listed = {"object": "list", "data": [{"id": MODEL, "object": "model", **entry}]}
            return http(json.dumps(listed), "200 OK", "Content-Type: application/json")
        if path.endswith("/metrics"):
            return http("", "404 Not Found")
        return chat(body) if callable(chat) else chat

    async with wire(reply) as state:
        yield state
