"""OpenTelemetry spans of model calls, made from their finished rows.

Off unless the standard ``OTEL_*`` variables name an exporter. The server's own spans are FastAPI's,
which continue a W3C ``traceparent``; a model call is a span below them, and its phases are spans
below that. They begin and end at the stamps of the row, so tracing costs a running answer nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from workbench import __version__, metrics
from workbench.errors import ErrorCode, WorkbenchError
from workbench.observe.conventions import (
    CAPTURE_CONTENT,
    CHAT,
    COMPLETION,
    NAMES,
    SCHEMA_URL,
)
from workbench.store import ModelEvent
from workbench.types import ChatRequest, Message, Status, StreamSession

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_OPTIONS: Final = ("max_tokens", "temperature", "top_p", "top_k")
_FIGURES: Final = ("ttft_s", "queue_s", "load_s", "tpot_s", "overlap_s")
_PROTOCOLS: Final = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_TRUE: Final = ("true", "1", "span_only", "span_and_event")


def exporters(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Names of the exporters that the environment asks for; none: tracing is off."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    chosen = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if not chosen:
        endpoints = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
        chosen = "otlp" if any(environment.get(name) for name in endpoints) else "none"
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
    )
    names = [name.strip() for name in chosen.split(",")]
    return [
        _PROTOCOLS.get(protocol, protocol) if name == "otlp" else name
        for name in names
        if name and name != "none"
    ]


def provider_from_environment() -> TracerProvider | None:
    """What spans go to, as the standard variables say; None if they name no exporter.

    Sampler, resource, endpoint, headers and batching are read by OpenTelemetry's own SDK.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``: an exporter is wanted that is not installed.
    """
    names = exporters()
    if not names:
        return None
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise _not_installed(names[0]) from None
    service = os.environ.get("OTEL_SERVICE_NAME") or "llm-workbench"
    resource = Resource.create({"service.name": service, "service.version": __version__})
    made = TracerProvider(resource=resource)
    for name in names:
        found = list(metadata.entry_points(group="opentelemetry_traces_exporter", name=name))
        if not found:
            raise _not_installed(name)
        made.add_span_processor(BatchSpanProcessor(found[0].load()()))
    return made


def _not_installed(name: str) -> WorkbenchError:
    return WorkbenchError(
        ErrorCode.INVALID_REQUEST,
        f"OTEL_* asks for the trace exporter {name!r}, which is not installed.",
        fix="Install it (pip install 'llm-workbench[tracing]' for OTLP over HTTP), or set "
        "OTEL_TRACES_EXPORTER=none.",
        operation="serve",
    )


class Tracing:
    """Turns finished sessions into spans; an :class:`~workbench.observer.Observer`.

    Args:
        provider: where spans go.
        content: whether prompts and answers are put into them; None: as
            ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` says, else not.
    """

    def __init__(self, provider: TracerProvider, content: bool | None = None) -> None:
        self._tracer = provider.get_tracer("workbench", __version__, schema_url=SCHEMA_URL)
        wanted = os.environ.get(CAPTURE_CONTENT, "").strip().lower() in _TRUE
        self._content = wanted if content is None else content

    def session_ended(self, session: StreamSession, request: ChatRequest) -> None:
        """One span for the call, and one below it for each phase that took time."""
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.status import Status as SpanStatus
        from opentelemetry.trace.status import StatusCode

        # Stamps are monotonic; the row's wall time was taken together with the first of them.
        offset = round(session.created_at.timestamp() * metrics.NS) - session.stamps.queued
        span = self._tracer.start_span(
            f"{_operation(request)} {session.model}",
            kind=SpanKind.CLIENT,
            start_time=offset + session.stamps.queued,
            attributes=self._attributes(session, request),
        )
        if session.error is not None:
            # Without the message, which may quote the prompt.
            span.set_status(SpanStatus(StatusCode.ERROR, session.error.code.value))
        elif session.status is Status.OK:
            span.set_status(SpanStatus(StatusCode.OK))
        below, at = set_span_in_context(span), offset + session.stamps.queued
        for phase, seconds in metrics.phases(session.stamps).items():
            length = round(seconds * metrics.NS)
            if length:
                part = self._tracer.start_span(phase.removesuffix("_s"), below, start_time=at)
                part.end(at + length)
            at += length
        span.end(offset + session.stamps.end)

    def request_refused(self, request: ChatRequest, error: WorkbenchError) -> None:
        """Note it in the server's span."""
        from opentelemetry.trace import get_current_span

        get_current_span().set_attribute(NAMES["error_code"], error.code.value)

    def model_event(self, event: ModelEvent) -> None:
        """Note it in the span of the request that caused it, if one did."""
        from opentelemetry.trace import get_current_span

        about = {name: getattr(event, name) for name in ("model", "reason", "duration_s", "ok")}
        get_current_span().add_event(f"workbench.model.{event.event}", _named(about))

    def _attributes(self, session: StreamSession, request: ChatRequest) -> dict[str, Any]:
        options = session.options
        wanted = options.response_format or {}
        values: dict[str, Any] = {
            "operation": _operation(request),
            "stream": True,
            "output_type": "json" if str(wanted.get("type", "")).startswith("json") else "text",
            "seed": session.seed,
            "stop": list(options.stop) or None,
            "finish_reasons": [session.finish_reason] if session.finish_reason else None,
            "status": session.status.value,
            "timing_mode": session.timing_mode.value,
            "error_code": session.error.code.value if session.error else None,
            **{name: getattr(options, name) for name in _OPTIONS},
            **{name: session.metrics.get(name) for name in _FIGURES},
        }
        for name in (
            "provider", "requested_model", "model", "conversation_id", "session_id",
            "prompt_tokens", "output_tokens", "correlation_id", "source", "fallback_from",
            "termination_reason", "cold",
        ):  # fmt: skip
            values[name] = getattr(session, name)
        if self._content:
            values |= _content(session, request.messages)
        return _named(values)


def _operation(request: ChatRequest) -> str:
    return COMPLETION if request.raw else CHAT


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    """Under the names of the conventions; what is unknown is left out."""
    return {NAMES[name]: value for name, value in values.items() if value is not None}


def _content(session: StreamSession, messages: Sequence[Message]) -> dict[str, str]:
    said = [message for message in messages if message.role != "system"]
    system = [_part("text", message.content) for message in messages if message.role == "system"]
    parts = [_part("reasoning", session.reasoning)] if session.reasoning else []
    answer = {
        "role": "assistant",
        "parts": [*parts, _part("text", session.text)],
        "finish_reason": session.finish_reason or session.status.value,
    }
    asked = [{"role": item.role, "parts": _parts(item)} for item in said]
    return {
        "input": json.dumps(asked, ensure_ascii=False),
        "output": json.dumps([answer], ensure_ascii=False),
        **({"system": json.dumps(system, ensure_ascii=False)} if system else {}),
    }


def _parts(message: Message) -> list[dict[str, Any]]:
    if message.role == "tool":
        answer = {"type": "tool_call_response", "id": message.tool_call_id}
        return [{**answer, "response": message.content}]
    calls = [
        {"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments}
        for call in message.tool_calls
    ]
    return [*([_part("text", message.content)] if message.content or not calls else []), *calls]


def _part(kind: str, text: str) -> dict[str, str]:
    return {"type": kind, "content": text}
