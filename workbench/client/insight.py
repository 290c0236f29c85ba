"""Requests of ``Workbench.parity`` and ``Workbench.diverge``, for both kinds of transport."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.types import ChatRequest, Message, Options


def request_of(
    model: str, prompt: str, system: str | None, source: str, options: Mapping[str, Any]
) -> ChatRequest:
    """The request to the first model; greedy unless the options say otherwise."""
    messages = (Message("system", system),) if system else ()
    chosen = {"temperature": 0.0, "max_tokens": 64, **options}
    return ChatRequest(
        model=model,
        messages=(*messages, Message("user", prompt)),
        options=Options.from_mapping(chosen),
        source=source,
    )


def body_of(request: ChatRequest, other: str) -> dict[str, Any]:
    """The same as the JSON body of the API."""
    *earlier, last = request.messages
    return {
        "models": [request.model, other],
        "message": last.content,
        "history": [{"role": one.role, "content": one.content} for one in earlier],
        "options": request.options.to_dict(),
    }
