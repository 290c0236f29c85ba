"""The OpenAPI document: what FastAPI finds, completed with examples and with every error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from workbench import __version__
from workbench.api import examples
from workbench.api.problems import MEDIA_TYPE, openai_body
from workbench.api.security import OPEN
from workbench.errors import ErrorCode, invalid
from workbench.wire import EVENT_TYPES

_DESCRIPTION: Final = (
    "Models of Ollama and Hugging Face behind one API, every call logged with its figures. "
    "Errors are `application/problem+json` with a code and a fix; below `/v1` they have OpenAI's "
    "form. Times end in `_s` (seconds) or `_ns`, sizes in `_bytes`."
)
_PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["code", "message", "fix", "operation", "timestamp", "details", "correlation_id"],
    "properties": {
        "code": {"type": "string", "enum": [code.value for code in ErrorCode]},
        "message": {"type": "string"},
        "fix": {"type": "string"},
        "operation": {"type": "string"},
        "provider": {"type": ["string", "null"]},
        "timestamp": {"type": "string", "format": "date-time"},
        "details": {"type": "object"},
        "correlation_id": {"type": ["string", "null"]},
        "retry_after_s": {"type": "number"},
    },
}
_OPENAI_ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
                "workbench": {"$ref": "#/components/schemas/Problem"},
            },
        }
    },
}

_SECURITY: Final[dict[str, Any]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "WORKBENCH_API_KEY, or the token of data/server.json.",
    },
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "For browsers: the key is the password, the name does not matter.",
    },
}
_MODEL: Final = {"model": "scripted/chunks"}
_PAIR: Final = ["ollama/smollm2:135m", "huggingface/SmolLM2-135M-Instruct"]
_CALL: Final = {
    "message": "Name three colors.",
    "options": {"max_tokens": 64, "temperature": 0, "seed": 1},
}
_BODIES: Final[Mapping[str, Any]] = {
    "POST /api/v1/models/load": _MODEL,
    "POST /api/v1/models/unload": _MODEL,
    "POST /api/v1/models/pin": _MODEL,
    "POST /api/v1/models/unpin": _MODEL,
    "POST /api/v1/models/download": {"model": "Qwen/Qwen3-0.6B", "revision": "main"},
    "POST /api/v1/models/verify": {"model": None},
    "POST /api/v1/generate": {**_MODEL, **_CALL},
    "POST /api/v1/stream-message": {**_MODEL, **_CALL, "detach": True},
    "POST /api/v1/compare": {"models": ["scripted/chunks", "scripted/steady"], **_CALL},
    "POST /api/v1/parity": {"models": _PAIR, **_CALL},
    "POST /api/v1/diverge": {"models": _PAIR, **_CALL, "repeats": 2},
    "POST /v1/chat/completions": {
        **_MODEL,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Name three colors."},
        ],
        "max_tokens": 64,
        "temperature": 0,
        "seed": 1,
        "stop": ["."],
    },
    "POST /v1/completions": {
        **_MODEL,
        "prompt": "Three colors: red,",
        "max_tokens": 16,
        "temperature": 0,
        "seed": 1,
        "stop": ["."],
    },
    "POST /api/v1/query": {"sql": "SELECT model, ttft_s FROM latencies", "limit": 10},
}
_EVENTS: Final = (
    'id: 1\nevent: session\ndata: {"pane": 0, "type": "session", "session_id": "ses_1", ...}\n\n'
    'id: 4\nevent: token\ndata: {"pane": 0, "type": "token", "seq": 0, "text": "Red", ...}\n\n'
    'id: 9\nevent: done\ndata: {"pane": 0, "type": "done", "session": {"status": "ok", ...}}\n\n'
)
_ANSWERS: Final[Mapping[str, Any]] = {
    "GET /health/live": {"status": "ok"},
    "GET /api/v1/models": {
        "models": [{"id": "scripted/chunks", "provider": "scripted", "status": "available"}],
        "problems": {},
    },
    "GET /api/v1/queue": {
        "limit_bytes": {"host": 12_000_000_000},
        "held_bytes": {"host": 655_000_000},
        "residents": [{"model": "huggingface/a", "status": "idle", "pinned": False}],
        "waiting": [{"model": "ollama/b", "position": 1, "reason": "...", "estimate_s": 4.2}],
        "next_victims": ["huggingface/a"],
    },
    "GET /api/v1/streams": {
        "streams": [{"session_id": "ses_1", "model": "scripted/chunks", "phase": "answering"}]
    },
    "GET /api/v1/sessions": {
        "sessions": [{"session_id": "ses_1", "status": "ok", "ttft_s": 0.1, "output_tokens": 9}],
        "next": "41",
    },
    "DELETE /api/v1/streams/{stream_id}": {"cancelled": True},
    "POST /api/v1/generate": {"session_id": "ses_1", "status": "ok", "text": "Red.", "ttft_s": 0.1},
    "GET /v1/models": {
        "object": "list",
        "data": [{"id": "scripted/chunks", "object": "model", "owned_by": "scripted"}],
    },
    "POST /v1/chat/completions": {
        "id": "chatcmpl-ses_1",
        "object": "chat.completion",
        "model": "scripted/chunks",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Red, green, blue."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 6, "total_tokens": 16},
    },
    "POST /v1/completions": {
        "id": "cmpl-ses_1",
        "object": "text_completion",
        "model": "scripted/chunks",
        "choices": [
            {"index": 0, "text": " green, blue", "finish_reason": "stop", "logprobs": None}
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9},
    },
}


_STREAM: Final = {
    "schema": {
        "type": "object",
        "description": "One event; `data` is its JSON, with `type`, `pane` and what belongs to it.",
        "required": ["id", "event", "data"],
        "properties": {
            "id": {"type": "string", "description": "Number in the stream, to re-attach by."},
            "event": {"type": "string", "enum": sorted(EVENT_TYPES)},
            "data": {"type": "string", "contentMediaType": "application/json"},
        },
    },
    "example": _EVENTS,
}
_OPENAI_STREAM: Final = {
    "schema": {
        "type": "object",
        "description": "One chunk of the answer; the last is `[DONE]`.",
        "required": ["data"],
        "properties": {"data": {"type": "string", "contentMediaType": "application/json"}},
    },
    "example": 'data: {"object": "chat.completion.chunk", "choices": [...]}\n\ndata: [DONE]\n\n',
}


def install(app: FastAPI, *, keyed: bool = False) -> None:
    """Serve the document at ``/openapi.json``; made at the first request.

    Args:
        app: with its routes.
        keyed: whether the server asks for a key.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, keyed=keyed)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI, *, keyed: bool) -> dict[str, Any]:
    document = get_openapi(
        title="Workbench", version=__version__, description=_DESCRIPTION, routes=app.routes
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas["Problem"], schemas["OpenAIError"] = _PROBLEM, _OPENAI_ERROR
    document["components"]["securitySchemes"] = _SECURITY
    document["security"] = [*({name: []} for name in _SECURITY), *([] if keyed else [{}])]
    for path in OPEN:
        for operation in document["paths"][path].values():
            operation["security"] = []
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    asked, answered = {**_BODIES, **examples.bodies()}, {**_ANSWERS, **examples.answers()}
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            _complete(operation, f"{verb.upper()} {path}", asked, answered)
    return document


def _complete(
    operation: dict[str, Any], name: str, asked: Mapping[str, Any], answered: Mapping[str, Any]
) -> None:
    responses = operation["responses"]
    responses.pop("422", None)  # FastAPI's own form, which is not ours
    example = invalid("max_tokens must be a whole number, not 'x'.", option="max_tokens")
    if " /v1/" in name:
        form, media = "OpenAIError", "application/json"
        body = openai_body(example, "cor_1")
    else:
        form, media = "Problem", MEDIA_TYPE
        body = example.to_dict("cor_1")
    responses["default"] = {
        "description": "An error, with its code and the fix.",
        "headers": {
            "X-Correlation-ID": {"schema": {"type": "string"}},
            "Retry-After": {"schema": {"type": "integer"}},
        },
        "content": {
            media: {
                "schema": {"$ref": f"#/components/schemas/{form}"},
                "example": json.loads(json.dumps(body)),
            }
        },
    }
    if name in asked:
        for content in operation["requestBody"]["content"].values():
            content["example"] = asked[name]
    if name in ("GET /health", "GET /health/ready"):
        # Also an answer: what is not well is in it.
        responses["200"]["content"]["application/json"]["example"] = answered[name]
        responses["503"] = {**responses["200"], "description": "No model can be served."}
    if name == "GET /metrics":
        responses["200"]["content"] = {
            "text/plain": {"schema": {"type": "string"}, "example": answered[name]}
        }
    for status, response in responses.items():
        if not status.startswith("2"):
            continue
        content = response.setdefault("content", {})
        if name in ("POST /v1/chat/completions", "POST /v1/completions"):
            content["text/event-stream"] = {}
        if "text/event-stream" in content:
            stream = _OPENAI_STREAM if " /v1/" in name else _STREAM
            content["text/event-stream"] = dict(stream)
        if name in answered and "application/json" in content:
            content["application/json"]["example"] = answered[name]
