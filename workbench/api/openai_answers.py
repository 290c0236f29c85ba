"""Answers in OpenAI's forms: what is told at once, and line by line of a stream."""

from __future__ import annotations

import codecs
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from workbench import metrics
from workbench.api.openai_calls import ChatCompletion, Completion
from workbench.api.openai_text import TextCompletion
from workbench.api.problems import openai_body
from workbench.api.streaming import stopped
from workbench.types import (
    ChatRequest,
    DoneEvent,
    ErrorEvent,
    Status,
    StreamEvent,
    StreamSession,
    TokenEvent,
    ToolCallEvent,
)
from workbench.wire import clean

_FIGURES: Final = ("queue_s", "load_s", "ttft_s", "tpot_s", "decode_tps", "output_tps", "e2e_s")


class Answer:
    """One answer in OpenAI's form; what the two operations have in common.

    Args:
        call: what the engine was asked.
        body: what the client asked.
    """

    ID: ClassVar[str]
    WHOLE: ClassVar[str]
    CHUNK: ClassVar[str]

    def __init__(self, call: ChatRequest, body: Completion) -> None:
        self._call = call
        self._asked = body
        self._created = int(time.time())
        self._model = call.model

    def whole(self, session: StreamSession, told: Sequence[StreamEvent]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        self._model = session.model
        return {
            **self._head(self.WHOLE),
            "choices": [self._choice(session, told)],
            "usage": _usage(session),
            **_fingerprint(session),
            "workbench": self._extra(session),
        }

    def first(self) -> list[str]:
        """What a stream begins with, before there is any text."""
        raise NotImplementedError

    def lines(self, event: StreamEvent) -> list[str]:
        """What one event is on the wire; the last tells the end, and the usage if wanted."""
        match event:
            case TokenEvent():
                return self._token(event)
            case ToolCallEvent():
                return self._called(event)
            case ErrorEvent():
                return [_data(openai_body(event.error, self._call.correlation_id))]
            case DoneEvent(session=session) if session.status is Status.CANCELLED:
                return [_data(openai_body(stopped(session), self._call.correlation_id))]
            case DoneEvent(session=session):
                return self._end(session)
        return []

    def _choice(self, session: StreamSession, told: Sequence[StreamEvent]) -> dict[str, Any]:
        """The choice of a whole answer."""
        raise NotImplementedError

    def _part(self, finish_reason: str | None) -> dict[str, Any]:
        """The choice of a chunk, still without text."""
        raise NotImplementedError

    def _token(self, event: TokenEvent) -> list[str]:
        raise NotImplementedError

    def _called(self, event: ToolCallEvent) -> list[str]:
        raise NotImplementedError

    def _chunk(self, piece: Mapping[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        """One chunk with a piece of the answer."""
        choice = {**self._part(finish_reason), **piece}
        usage = {"usage": None} if self._usage_wanted else {}
        return {**self._head(self.CHUNK), "choices": [choice], **usage}

    @property
    def _usage_wanted(self) -> bool:
        options = self._asked.stream_options
        return bool(options and options.include_usage)

    def _end(self, session: StreamSession) -> list[str]:
        self._model = session.model
        last = self._chunk({}, session.finish_reason)
        last |= {**_fingerprint(session), "workbench": self._extra(session)}
        lines = [_data(last)]
        if self._usage_wanted:
            lines.append(_data({**self._head(self.CHUNK), "choices": [], "usage": _usage(session)}))
        return lines

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"{self.ID}-{self._call.session_id}",
            "object": kind,
            "created": self._created,
            "model": self._model,
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
            **metrics.spoilt(session),
            "warnings": [
                {"code": warning.code, "message": warning.message} for warning in session.warnings
            ],
            "ignored": self._asked.ignored(),
            **{name: session.metrics.get(name) for name in _FIGURES},
            "mem_peak_bytes": session.mem_peak_bytes,
        }


class ChatAnswer(Answer):
    """A message."""

    ID = "chatcmpl"
    WHOLE = "chat.completion"
    CHUNK = "chat.completion.chunk"

    def __init__(self, call: ChatRequest, body: ChatCompletion) -> None:
        super().__init__(call, body)
        self._body = body
        self._calls = 0

    def first(self) -> list[str]:
        """Whose message it is."""
        return [_data(self._chunk({"delta": {"role": "assistant", "content": ""}}))]

    def _choice(self, session: StreamSession, told: Sequence[StreamEvent]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": session.text, "refusal": None}
        if session.reasoning:
            message["reasoning_content"] = session.reasoning
        calls = [_tool_call(event) for event in told if isinstance(event, ToolCallEvent)]
        if calls:
            message["tool_calls"] = calls
            message["content"] = session.text or None
        tokens = [event for event in told if isinstance(event, TokenEvent)]
        return {
            "index": 0,
            "message": message,
            "finish_reason": session.finish_reason,
            "logprobs": self._logprobs(tokens) if self._body.logprobs else None,
        }

    def _part(self, finish_reason: str | None) -> dict[str, Any]:
        return {"index": 0, "delta": {}, "finish_reason": finish_reason, "logprobs": None}

    def _token(self, event: TokenEvent) -> list[str]:
        logprobs = {"logprobs": self._logprobs([event])} if self._body.logprobs else {}
        if not event.text and not (logprobs and event.logprobs):
            return []
        name = "reasoning_content" if event.channel == "reasoning" else "content"
        return [_data(self._chunk({"delta": {name: event.text}, **logprobs}))]

    def _called(self, event: ToolCallEvent) -> list[str]:
        call = {"index": self._calls, **_tool_call(event)}
        self._calls += 1
        return [_data(self._chunk({"delta": {"tool_calls": [call]}}))]

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


class TextAnswer(Answer):
    """A text that goes on."""

    ID = "cmpl"
    WHOLE = CHUNK = "text_completion"

    def __init__(self, call: ChatRequest, body: TextCompletion) -> None:
        super().__init__(call, body)
        self._body = body
        self._echo = body.text if body.echo else ""
        self._offset = len(self._echo)
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def first(self) -> list[str]:
        """The prompt, where it is to be repeated."""
        return [_data(self._chunk({"text": self._echo}))] if self._echo else []

    def _choice(self, session: StreamSession, told: Sequence[StreamEvent]) -> dict[str, Any]:
        tokens = [event for event in told if isinstance(event, TokenEvent)]
        return {
            "text": clean(self._echo + "".join(token.text for token in tokens)),
            "index": 0,
            "finish_reason": session.finish_reason,
            "logprobs": self._logprobs(tokens),
        }

    def _part(self, finish_reason: str | None) -> dict[str, Any]:
        return {"text": "", "index": 0, "finish_reason": finish_reason, "logprobs": None}

    def _token(self, event: TokenEvent) -> list[str]:
        logprobs = self._logprobs([event])
        if not event.text and not event.logprobs:
            return []
        return [_data(self._chunk({"text": event.text, "logprobs": logprobs}))]

    def _called(self, event: ToolCallEvent) -> list[str]:
        return []  # functions cannot be offered here

    def _logprobs(self, events: Sequence[TokenEvent]) -> dict[str, Any] | None:
        """Parallel lists; ``text_offset`` counts whole characters before each token.

        Told from the tokens, since texts of several may have been joined for a slow reader.
        """
        wanted = self._body.logprobs
        if wanted is None:
            return None
        told: dict[str, list[Any]] = {
            name: [] for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        }
        for event in events:
            for entry in event.logprobs:
                top = (entry.get("top_logprobs") or ())[:wanted]
                told["tokens"].append(_spelt(entry))
                told["token_logprobs"].append(entry.get("logprob"))
                told["top_logprobs"].append({_spelt(one): one.get("logprob") for one in top})
                told["text_offset"].append(self._offset)
                self._offset += len(self._characters.decode(_bytes(entry)))
        return {**told, **({} if wanted else {"top_logprobs": None})}


def _data(body: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n"


def _tool_call(event: ToolCallEvent) -> dict[str, Any]:
    function = {"name": event.name, "arguments": event.arguments}
    return {"id": event.call_id, "type": "function", "function": function}


def _logprob(entry: Mapping[str, Any]) -> dict[str, Any]:
    token = str(entry.get("token", ""))
    return {"token": token, "logprob": entry.get("logprob"), "bytes": list(_bytes(entry))}


def _spelt(entry: Mapping[str, Any]) -> str:
    """A token as the key of a mapping: what is no text by itself by its bytes, as OpenAI has it."""
    token, data = str(entry.get("token", "")), _bytes(entry)
    if data == token.encode("utf-8", "replace"):
        return token
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _bytes(entry: Mapping[str, Any]) -> bytes:
    """Of a token, as the runtime tells them, else those of its text."""
    return bytes(entry.get("bytes") or str(entry.get("token", "")).encode("utf-8", "replace"))


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
