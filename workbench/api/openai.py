"""The OpenAI-compatible face: any client of that API reaches both runtimes.

An error before the first token has its HTTP status, also for a stream: the response begins only
when there is something to tell, so that a client sees a full queue as a 503 and tries again.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from workbench.api.openai_calls import ChatCompletion
from workbench.api.problems import openai_body
from workbench.api.streaming import EventStream, collect, finished, stopped, while_connected
from workbench.engine import Engine
from workbench.types import (
    ChatRequest,
    DoneEvent,
    ErrorEvent,
    ModelInfo,
    Status,
    StreamEvent,
    StreamSession,
    TokenEvent,
    ToolCallEvent,
)

router = APIRouter(prefix="/v1", tags=["OpenAI"])

_DONE: Final = "data: [DONE]\n\n"
_FIGURES: Final = ("queue_s", "load_s", "ttft_s", "tpot_s", "decode_tps", "output_tps", "e2e_s")


@router.get("/models")
async def models(request: Request) -> dict[str, Any]:
    """All usable models of all providers, in OpenAI's form."""
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
    events = _engine(request).stream(call)
    if not body.stream:
        async with aclosing(events):
            told = await while_connected(request, collect(events))
        answer = _Answer(call, body)
        session = finished(told[-1])
        return JSONResponse(answer.whole(session, told), headers=_headers(call))
    try:
        told = await while_connected(request, collect(events, until_token=True))
        if isinstance(told[-1], ErrorEvent):
            raise told[-1].error
    except BaseException:
        await events.aclose()
        raise
    return EventStream(
        _stream(_Answer(call, body), told, events), events.aclose, headers=_headers(call)
    )


def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


def _headers(call: ChatRequest) -> dict[str, str]:
    return {"X-Session-ID": call.session_id}


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


async def _stream(
    answer: _Answer, told: Sequence[StreamEvent], events: AsyncGenerator[StreamEvent, None]
) -> AsyncGenerator[str, None]:
    yield _data(answer.chunk({"role": "assistant", "content": ""}))
    for event in told:
        for line in answer.lines(event):
            yield line
    async for event in events:
        for line in answer.lines(event):
            yield line
    yield _DONE


def _data(body: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n"


class _Answer:
    """One answer in OpenAI's form.

    Args:
        call: what the engine was asked.
        body: what the client asked.
    """

    def __init__(self, call: ChatRequest, body: ChatCompletion) -> None:
        self._call = call
        self._body = body
        self._created = int(time.time())
        self._model = call.model
        self._calls = 0

    def whole(self, session: StreamSession, told: Sequence[StreamEvent]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        message: dict[str, Any] = {"role": "assistant", "content": session.text, "refusal": None}
        if session.reasoning:
            message["reasoning_content"] = session.reasoning
        calls = [self._tool_call(event) for event in told if isinstance(event, ToolCallEvent)]
        if calls:
            message["tool_calls"] = calls
            message["content"] = session.text or None
        choice: dict[str, Any] = {
            "index": 0,
            "message": message,
            "finish_reason": session.finish_reason,
            "logprobs": None,
        }
        if self._body.logprobs:
            tokens = [event for event in told if isinstance(event, TokenEvent)]
            choice["logprobs"] = self._logprobs(tokens)
        self._model = session.model
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": _usage(session),
            **_fingerprint(session),
            "workbench": self._extra(session),
        }

    def lines(self, event: StreamEvent) -> list[str]:
        """What one event is on the wire; the last tells the end, and the usage if wanted."""
        match event:
            case TokenEvent():
                return self._token(event)
            case ToolCallEvent():
                call = {"index": self._calls, **self._tool_call(event)}
                self._calls += 1
                return [_data(self.chunk({"tool_calls": [call]}))]
            case ErrorEvent():
                return [_data(openai_body(event.error, self._call.correlation_id))]
            case DoneEvent(session=session) if session.status is Status.CANCELLED:
                return [_data(openai_body(stopped(session), self._call.correlation_id))]
            case DoneEvent(session=session):
                return self._end(session)
        return []

    def chunk(self, delta: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """One chunk with a piece of the answer."""
        choice = {"index": 0, "delta": delta, "finish_reason": None, "logprobs": None, **more}
        usage = {"usage": None} if self._usage_wanted else {}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **usage}

    @property
    def _usage_wanted(self) -> bool:
        options = self._body.stream_options
        return bool(options and options.include_usage)

    def _token(self, event: TokenEvent) -> list[str]:
        logprobs = {"logprobs": self._logprobs([event])} if self._body.logprobs else {}
        if not event.text and not (logprobs and event.logprobs):
            return []
        name = "reasoning_content" if event.channel == "reasoning" else "content"
        return [_data(self.chunk({name: event.text}, **logprobs))]

    def _end(self, session: StreamSession) -> list[str]:
        self._model = session.model
        last = self.chunk({}, finish_reason=session.finish_reason)
        last |= {**_fingerprint(session), "workbench": self._extra(session)}
        lines = [_data(last)]
        if self._usage_wanted:
            head = self._head("chat.completion.chunk")
            lines.append(_data({**head, "choices": [], "usage": _usage(session)}))
        return lines

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self._call.session_id}",
            "object": kind,
            "created": self._created,
            "model": self._model,
        }

    @staticmethod
    def _tool_call(event: ToolCallEvent) -> dict[str, Any]:
        function = {"name": event.name, "arguments": event.arguments}
        return {"id": event.call_id, "type": "function", "function": function}

    def _logprobs(self, events: Sequence[TokenEvent]) -> dict[str, Any]:
        wanted = self._body.top_logprobs or 0
        return {
            "content": [
                {
                    **_logprob(entry),
                    "top_logprobs": [
                        _logprob(other) for other in (entry.get("top_logprobs") or ())[:wanted]
                    ],
                }
                for event in events
                for entry in event.logprobs
            ],
            "refusal": None,
        }

    def _extra(self, session: StreamSession) -> dict[str, Any]:
        """What is ours: ids under which all is in the log, the figures, what to know."""
        return {
            "session_id": session.session_id,
            "conversation_id": session.conversation_id,
            "correlation_id": session.correlation_id,
            "requested_model": session.requested_model,
            "fallback_from": session.fallback_from,
            "seed": session.seed,
            "contended": session.overlap_ns > 0,
            "warnings": [
                {"code": warning.code, "message": warning.message} for warning in session.warnings
            ],
            "ignored": self._body.ignored(),
            **{name: session.metrics.get(name) for name in _FIGURES},
            "mem_peak_bytes": session.mem_peak_bytes,
        }


def _logprob(entry: Mapping[str, Any]) -> dict[str, Any]:
    token = str(entry.get("token", ""))
    spelt = entry.get("bytes") or list(token.encode("utf-8", "replace"))
    return {"token": token, "logprob": entry.get("logprob"), "bytes": spelt}


def _fingerprint(session: StreamSession) -> dict[str, Any]:
    """What identifies the weights, where that is known."""
    digest = (session.digest or "").removeprefix("sha256:")
    return {"system_fingerprint": f"fp_{digest[:16]}" if digest else None}


def _usage(session: StreamSession) -> dict[str, Any]:
    """Tokens by the runtime's own count."""
    prompt, output = session.prompt_tokens or 0, session.output_tokens or 0
    timeline = session.timeline
    thinking = sum(
        count
        for count, channel in zip(timeline.n_tokens, timeline.channels, strict=True)
        if channel == "reasoning"
    )
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "completion_tokens_details": {"reasoning_tokens": thinking},
    }
