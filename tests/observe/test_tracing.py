"""Spans: what the row says, below the caller's trace, without content unless it is asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import SpanKind, StatusCode

from tests.conftest import EngineFactory
from workbench.engine import Engine
from workbench.errors import ErrorCode, WorkbenchError
from workbench.observe import conventions
from workbench.observe.tracing import Tracing, _parts, exporters, provider_from_environment
from workbench.providers.scripted import Schedule, steady
from workbench.server import create_app
from workbench.settings import Settings
from workbench.types import (
    ChatRequest,
    DoneEvent,
    ErrorEvent,
    Message,
    Options,
    StreamSession,
    ToolCall,
)

SCHEDULES = {
    "good": Schedule(steady(4, first_s=0.02, gap_s=0.01), load_s=0.02),
    "bad": Schedule(steady(1, first_s=0.01, gap_s=0), error=ErrorCode.HF_GENERATION_FAILED),
}
PROMPT = "a-secret-prompt"


@pytest.fixture
def memory() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(memory: InMemorySpanExporter) -> TracerProvider:
    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(SimpleSpanProcessor(memory))
    return made


async def run(engine: Engine, name: str) -> StreamSession:
    messages = (Message("system", "Be brief."), Message("user", PROMPT))
    request = ChatRequest(f"scripted/{name}", messages, Options(seed=3, stop=("X",)))
    async for event in engine.stream(request):
        if isinstance(event, DoneEvent | ErrorEvent):
            session = event.session
    return session


def named(spans: tuple[ReadableSpan, ...]) -> Mapping[str, ReadableSpan]:
    return {span.name: span for span in spans}


async def test_a_call_and_its_phases(
    make_engine: EngineFactory, provider: TracerProvider, memory: InMemorySpanExporter
) -> None:
    engine = make_engine(SCHEDULES)
    engine.observers.append(Tracing(provider))
    session = await run(engine, "good")
    spans = named(memory.get_finished_spans())
    chat = spans["chat scripted/good"]
    assert chat.kind is SpanKind.CLIENT
    assert chat.instrumentation_scope is not None
    assert chat.instrumentation_scope.schema_url == conventions.SCHEMA_URL
    assert chat.status.status_code is StatusCode.OK
    assert chat.attributes is not None
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "scripted",
        "gen_ai.request.model": "scripted/good",
        "gen_ai.response.model": "scripted/good",
        "gen_ai.response.id": session.session_id,
        "gen_ai.conversation.id": session.conversation_id,
        "gen_ai.request.seed": 3,
        "gen_ai.request.temperature": 0.7,
        "gen_ai.request.stop_sequences": ("X",),
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.time_to_first_chunk": session.metrics["ttft_s"],
        "workbench.correlation_id": session.correlation_id,
    }
    assert {name: chat.attributes.get(name) for name in expected} == expected
    assert chat.start_time is not None
    assert chat.end_time is not None
    assert (chat.end_time - chat.start_time) / 1e9 == pytest.approx(session.metrics["wall_s"])
    phases = [span for span in spans.values() if span.parent is not None]
    assert {"load", "prefill", "answer"} <= {span.name for span in phases}
    for span in phases:
        assert span.parent is not None
        assert span.parent.span_id == chat.context.span_id
        assert span.start_time is not None
        assert span.end_time is not None
        length = session.metrics[f"{span.name}_s"]
        assert (span.end_time - span.start_time) / 1e9 == pytest.approx(length, abs=1e-8)
    assert PROMPT not in str([span.to_json() for span in spans.values()])


async def test_failures_have_their_code_and_no_message(
    make_engine: EngineFactory, provider: TracerProvider, memory: InMemorySpanExporter
) -> None:
    engine = make_engine(SCHEDULES)
    engine.observers.append(Tracing(provider))
    await run(engine, "bad")
    chat = named(memory.get_finished_spans())["chat scripted/bad"]
    assert chat.status.status_code is StatusCode.ERROR
    assert chat.status.description == "HF_GENERATION_FAILED"
    assert chat.attributes is not None
    assert chat.attributes["error.type"] == "HF_GENERATION_FAILED"


async def test_content_is_there_only_if_asked_for(
    make_engine: EngineFactory,
    provider: TracerProvider,
    memory: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(conventions.CAPTURE_CONTENT, "true")
    engine = make_engine(SCHEDULES)
    engine.observers.append(Tracing(provider))
    session = await run(engine, "good")
    chat = named(memory.get_finished_spans())["chat scripted/good"]
    assert chat.attributes is not None
    asked = json.loads(str(chat.attributes["gen_ai.input.messages"]))
    assert asked == [{"role": "user", "parts": [{"type": "text", "content": PROMPT}]}]
    assert json.loads(str(chat.attributes["gen_ai.system_instructions"])) == [
        {"type": "text", "content": "Be brief."}
    ]
    (answer,) = json.loads(str(chat.attributes["gen_ai.output.messages"]))
    assert answer["parts"] == [{"type": "text", "content": session.text}]
    assert answer["finish_reason"] == "stop"


def test_calls_of_functions_are_parts_of_their_messages() -> None:
    asked = Message("assistant", "", tool_calls=(ToolCall("c1", "weather", '{"city":"Rome"}'),))
    told = Message("tool", "sunny", tool_call_id="c1")
    assert [_parts(asked), _parts(told)] == [
        [{"type": "tool_call", "id": "c1", "name": "weather", "arguments": '{"city":"Rome"}'}],
        [{"type": "tool_call_response", "id": "c1", "response": "sunny"}],
    ]


async def test_the_callers_trace_goes_on(
    settings: Settings,
    make_engine: EngineFactory,
    provider: TracerProvider,
    memory: InMemorySpanExporter,
) -> None:
    app = create_app(settings, make_engine(SCHEDULES), page=False, spans=provider)
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        await http.post(
            "/api/v1/stream-message",
            json={"model": "scripted/good", "message": PROMPT},
            headers={"traceparent": f"00-{trace}-{parent}-01"},
        )
        await http.get("/health/live", headers={"traceparent": "00-nonsense"})
    spans = named(memory.get_finished_spans())
    served, chat = spans["POST /api/v1/stream-message"], spans["chat scripted/good"]
    assert f"{served.context.trace_id:032x}" == f"{chat.context.trace_id:032x}" == trace
    assert served.parent is not None
    assert f"{served.parent.span_id:016x}" == parent
    assert chat.parent is not None
    assert chat.parent.span_id == served.context.span_id
    assert any(event.name == "workbench.model.load" for event in served.events)
    assert f"{spans['GET /health/live'].context.trace_id:032x}" != trace
    assert PROMPT not in str([span.to_json() for span in spans.values()])


async def test_two_applications_share_no_provider(
    settings: Settings, make_engine: EngineFactory, memory: InMemorySpanExporter
) -> None:
    app = create_app(settings, make_engine(SCHEDULES), page=False)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        assert (await http.get("/health/live")).status_code == 200
    assert memory.get_finished_spans() == ()


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, []),
        ({"OTEL_TRACES_EXPORTER": "none"}, []),
        ({"OTEL_TRACES_EXPORTER": "console"}, ["console"]),
        ({"OTEL_TRACES_EXPORTER": "otlp, console"}, ["otlp_proto_http", "console"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, ["otlp_proto_http"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c"}, ["otlp_proto_http"]),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            ["otlp_proto_grpc"],
        ),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"}, []),
    ],
)
def test_off_unless_an_exporter_is_named(environment: dict[str, str], names: list[str]) -> None:
    assert exporters(environment) == names


def test_an_exporter_that_is_not_installed_stops_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert provider_from_environment() is None
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "teleport")
    with pytest.raises(WorkbenchError, match=r"llm-workbench\[tracing\]"):
        provider_from_environment()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    made = provider_from_environment()
    assert made is not None
    assert made.resource.attributes["service.name"] == "llm-workbench"
    made.shutdown()


def test_the_names_are_those_of_the_conventions() -> None:
    """Of the version that is installed: an update that moves a name is seen here."""
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    ours = {name for name in conventions.NAMES.values() if name.startswith("gen_ai.")}
    assert ours <= known
    assert Schemas(conventions.SCHEMA_URL)
