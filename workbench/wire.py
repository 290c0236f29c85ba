"""Values as JSON and back, for HTTP and the command line.

Decoding builds the same frozen values as were encoded, so that a notebook sees no difference
between an engine in its own process and one behind HTTP.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, Final

from workbench import metrics
from workbench.errors import WorkbenchError
from workbench.types import (
    ChatRequest,
    DoneEvent,
    ErrorEvent,
    Image,
    LoadingEvent,
    MemoryEvent,
    Message,
    ModelInfo,
    Options,
    Priority,
    PromptEvent,
    ProviderWarning,
    QueuedEvent,
    SessionEvent,
    Stamps,
    Status,
    StreamEvent,
    StreamSession,
    Timeouts,
    TimingMode,
    TokenEvent,
    TokenTimeline,
    ToolCall,
    ToolCallEvent,
    WarningEvent,
)

SOURCE_HEADER: Final = "X-Workbench-Source"
"""With which our own clients say through which face a request came."""

_EVENTS: Final[dict[str, type[Any]]] = {
    event.type: event
    for event in (
        SessionEvent,
        QueuedEvent,
        LoadingEvent,
        PromptEvent,
        TokenEvent,
        ToolCallEvent,
        MemoryEvent,
        WarningEvent,
        DoneEvent,
        ErrorEvent,
    )
}


EVENT_TYPES: Final = frozenset(_EVENTS)
"""The ``type`` of every stream event there is."""


_TOKEN_FIELDS: Final = tuple(item.name for item in fields(TokenEvent))


def clean(text: str) -> str:
    """The text as UTF-8 can hold it: paired surrogates joined, lone ones replaced by U+FFFD.

    JSON from a runtime may carry half of an emoji as an escape; Python keeps it, a file cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def encode_request(request: ChatRequest) -> dict[str, Any]:
    """A request as JSON values."""
    values = asdict(request)
    values["messages"] = [asdict(message) for message in request.messages]
    values["options"] = request.options.to_dict()
    return values


def decode_request(body: Mapping[str, Any]) -> ChatRequest:
    """The request that :func:`encode_request` described."""
    values = dict(body)
    values["messages"] = tuple(decode_message(message) for message in body["messages"])
    values["tools"] = tuple(body.get("tools", ()))
    values["forced"] = tuple(body.get("forced", ()))
    values["options"] = Options.from_mapping(body["options"])
    values["timeouts"] = Timeouts(**body["timeouts"])
    values["timing_mode"] = TimingMode(body["timing_mode"])
    values["priority"] = Priority(body.get("priority", Priority.INTERACTIVE))
    return ChatRequest(**values)


def decode_message(body: Mapping[str, Any]) -> Message:
    """The message that ``asdict`` described."""
    calls = tuple(ToolCall(**call) for call in body.get("tool_calls", ()))
    images = tuple(Image(**image) for image in body.get("images", ()))
    return Message(**{**body, "tool_calls": calls, "images": images})


_COMPUTED: Final = ("error_code", "contended", "ttft_spoilt", "speed_spoilt")
"""What is told of a session beside its fields and figures."""


def encode_session(session: StreamSession) -> dict[str, Any]:
    """A finished session as JSON values; its figures stand beside its identity.

    The keys of ``metrics`` are lifted to the top, so that a reader finds ``ttft_s`` where the
    ``latencies`` view has it; ``stamps`` and ``timeline`` keep what the figures come from.
    """
    values = {
        item.name: getattr(session, item.name)
        for item in fields(session)
        if item.name not in ("error", "options", "stamps", "timeline", "warnings", "metrics")
    }
    values["created_at"] = session.created_at.isoformat()
    values["options"] = session.options.to_dict()
    values["stamps"] = asdict(session.stamps)
    values["timeline"] = asdict(session.timeline)
    values["warnings"] = [asdict(warning) for warning in session.warnings]
    values["error"] = session.error.to_dict(session.correlation_id) if session.error else None
    values["error_code"] = session.error.code if session.error else None
    values["contended"] = session.overlap_ns > 0
    return {**values, **metrics.spoilt(session), **session.metrics}


def decode_session(body: Mapping[str, Any]) -> StreamSession:
    """The session that :func:`encode_session` described."""
    names = {item.name for item in fields(StreamSession)}
    values = {name: value for name, value in body.items() if name in names}
    error = body["error"]
    timeline = body["timeline"]
    values.update(
        created_at=dt.datetime.fromisoformat(body["created_at"]),
        status=Status(body["status"]),
        timing_mode=TimingMode(body["timing_mode"]),
        options=Options.from_mapping(body["options"]),
        stamps=Stamps(**body["stamps"]),
        timeline=TokenTimeline(**{name: tuple(items) for name, items in timeline.items()}),
        warnings=tuple(ProviderWarning(**warning) for warning in body["warnings"]),
        error=WorkbenchError.from_dict(error) if error else None,
        metrics={
            name: value
            for name, value in body.items()
            if name not in names and name not in _COMPUTED
        }
        | {"mem_peak_bytes": body["mem_peak_bytes"]},
    )
    return StreamSession(**values)


def encode_event(event: StreamEvent) -> dict[str, Any]:
    """A stream event as JSON values, with its ``type``."""
    if isinstance(event, DoneEvent | ErrorEvent):
        values: dict[str, Any] = {"session_id": event.session_id, "t_ns": event.t_ns}
        values["session"] = encode_session(event.session)
        if isinstance(event, ErrorEvent):
            values["error"] = event.error.to_dict(event.session.correlation_id)
    elif isinstance(event, TokenEvent):
        # One by one: asdict copies each value, which a thousand tokens a second would feel.
        values = {name: getattr(event, name) for name in _TOKEN_FIELDS}
    else:
        values = asdict(event)
    return {"type": event.type, **values}


def decode_event(body: Mapping[str, Any]) -> StreamEvent:
    """The event that :func:`encode_event` described."""
    kind = _EVENTS[body["type"]]
    values = {name: value for name, value in body.items() if name not in ("type", "pane")}
    if "session" in values:
        values["session"] = decode_session(values["session"])
    if "error" in values:
        values["error"] = WorkbenchError.from_dict(values["error"])
    if "logprobs" in values:
        values["logprobs"] = tuple(values["logprobs"])
    event: StreamEvent = kind(**values)
    return event


def decode_model(body: Mapping[str, Any]) -> ModelInfo:
    """The model that :meth:`ModelInfo.to_dict` described."""
    values = dict(body)
    for name in ("loaded_at", "last_used_at"):
        values[name] = dt.datetime.fromisoformat(values[name]) if values[name] else None
    return ModelInfo(**values)
