"""Traces as a collector gets them: real OTLP over HTTP, decoded by OpenTelemetry's own protobuf."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.conftest import EngineFactory
from workbench.errors import ErrorCode
from workbench.observe import conventions
from workbench.observe.tracing import provider_from_environment
from workbench.providers.scripted import Schedule, steady
from workbench.server import create_app
from workbench.settings import Settings

SCHEDULES = {
    "good": Schedule(steady(4, first_s=0.02, gap_s=0.01), load_s=0.02),
    "bad": Schedule(steady(1, first_s=0.01, gap_s=0), error=ErrorCode.HF_GENERATION_FAILED),
}
PROMPT, SYSTEM, KEY = "a-secret-prompt", "a-secret-rule", "a-secret-key"


class Collector:
    """Takes what an exporter sends, and keeps it as it came and as it reads."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.requests: list[ExportTraceServiceRequest] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                assert self.headers["Content-Type"] == "application/x-protobuf"
                collector.bodies.append(body)
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def named(self, name: str) -> Span:
        (found,) = [span for span in self.spans if span.name == name]
        return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    thread = Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def attributes(span: Span) -> dict[str, Any]:
    """Name to value, lists as lists."""
    found: dict[str, Any] = {}
    for item in span.attributes:
        kind = item.value.WhichOneof("value")
        if kind == "array_value":
            found[item.key] = [one.string_value for one in item.value.array_value.values]
        else:
            found[item.key] = getattr(item.value, str(kind))
    return found


async def ask(settings: Settings, make_engine: EngineFactory) -> None:
    """A stream, a failure, a raw prompt and a refusal over HTTP, then all spans are sent."""
    provider = provider_from_environment()
    assert provider is not None, "the standard variables switch it on"
    keyed = settings.model_copy(update={"workbench_api_key": KEY})
    app = create_app(keyed, make_engine(SCHEDULES), page=False, spans=provider)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://127.0.0.1",
        headers={"Authorization": f"Bearer {KEY}"},
    ) as http:
        for name in SCHEDULES:
            body = {"model": f"scripted/{name}", "message": PROMPT, "system": SYSTEM}
            await http.post("/api/v1/stream-message", json=body)
        await http.post("/v1/completions", json={"model": "scripted/good", "prompt": PROMPT})
        await http.post("/api/v1/generate", json={"model": "nobody", "message": PROMPT})
    provider.shutdown()


@pytest.fixture
def switched_on(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")


@pytest.mark.usefixtures("switched_on")
async def test_spans_arrive_under_the_names_of_the_conventions(
    collector: Collector, settings: Settings, make_engine: EngineFactory
) -> None:
    await ask(settings, make_engine)
    resource = collector.requests[0].resource_spans[0].resource
    service = {item.key: item.value.string_value for item in resource.attributes}
    assert service["service.name"] == "llm-workbench"
    scopes = [s for r in collector.requests for o in r.resource_spans for s in o.scope_spans]
    assert conventions.SCHEMA_URL in {scope.schema_url for scope in scopes}

    chat = collector.named("chat scripted/good")
    told = attributes(chat)
    assert chat.kind == Span.SPAN_KIND_CLIENT
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.provider.name"] == "scripted"
    assert told["gen_ai.response.model"] == "scripted/good"
    assert told["gen_ai.usage.output_tokens"] == 4
    assert told["gen_ai.response.finish_reasons"] == ["stop"]
    assert told["gen_ai.response.time_to_first_chunk"] > 0
    phases = {span.name for span in collector.spans if span.parent_span_id == chat.span_id}
    assert {"load", "prefill", "answer"} <= phases
    served = [s for s in collector.spans if s.name == "POST /api/v1/stream-message"]
    assert chat.parent_span_id in {span.span_id for span in served}, "below the server's own"

    text = collector.named("text_completion scripted/good")
    assert attributes(text)["gen_ai.operation.name"] == "text_completion"
    bad = collector.named("chat scripted/bad")
    assert bad.status.code == Status.STATUS_CODE_ERROR
    assert attributes(bad)["error.type"] == "HF_GENERATION_FAILED"
    refused = attributes(collector.named("POST /api/v1/generate"))
    assert refused["error.type"] == "MODEL_NOT_FOUND"

    wire = b"".join(collector.bodies)
    for secret in (PROMPT, SYSTEM, KEY, "gen_ai.input.messages"):
        assert secret.encode() not in wire, "neither content nor keys unless asked for"


@pytest.mark.usefixtures("switched_on")
async def test_content_only_where_it_was_asked_for(
    collector: Collector,
    settings: Settings,
    make_engine: EngineFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(conventions.CAPTURE_CONTENT, "true")
    await ask(settings, make_engine)
    told = attributes(collector.named("chat scripted/good"))
    (asked,) = json.loads(told["gen_ai.input.messages"])
    assert asked["parts"] == [{"type": "text", "content": PROMPT}]
    assert json.loads(told["gen_ai.system_instructions"])[0]["content"] == SYSTEM
    assert json.loads(told["gen_ai.output.messages"])[0]["role"] == "assistant"
    assert KEY.encode() not in b"".join(collector.bodies)
