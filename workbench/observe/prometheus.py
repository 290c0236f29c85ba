"""Metrics in Prometheus' form: vLLM's names and buckets with our prefix.

Figures of requests come from their finished rows, so that they are those of the log and of the
page: :mod:`workbench.metrics` is the one definition. Gauges are read when somebody asks. Every
application has a registry of its own.
"""

from __future__ import annotations

import asyncio
from typing import Final

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from workbench import metrics
from workbench.engine import Engine
from workbench.errors import WorkbenchError
from workbench.observe.health import disk_part
from workbench.store import ModelEvent
from workbench.types import ChatRequest, StreamSession

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

MOST_MODELS: Final = 100
"""Models that get series of their own; all later ones are counted together as ``other``."""
UNKNOWN: Final = "unknown"
"""Stands for names of which no model was found: anybody can send as many of them as they like."""

_TTFT: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_TOKEN: Final = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
)  # fmt: skip
_REQUEST: Final = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_COMMIT: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LAG: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_MODEL: Final = ("model", "provider")


class Metrics:
    """Everything that is counted of one engine; an :class:`~workbench.observer.Observer` of it.

    Args:
        engine: what is measured.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._models: set[tuple[str, str]] = set()
        self._alerts_seen: dict[tuple[str, str], int] = {}
        self.registry = registry = CollectorRegistry()

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"workbench_{name}", text, _MODEL, registry=registry, buckets=buckets)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"workbench_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"workbench_{name}", text, labels, registry=registry)

        meaning = metrics.DEFINITIONS
        self._ttft = histogram("time_to_first_token_seconds", meaning["ttft_s"], _TTFT)
        self._itl = histogram(
            "inter_token_latency_seconds",
            "gaps between events divided by the tokens in each, one sample per token",
            _TOKEN,
        )
        self._tpot = histogram("time_per_output_token_seconds", meaning["tpot_s"], _TOKEN)
        self._e2e = histogram("e2e_request_latency_seconds", meaning["e2e_s"], _REQUEST)
        self._queue = histogram("request_queue_time_seconds", meaning["queue_s"], _REQUEST)
        self._load = histogram("model_load_seconds", "how long loads took", _REQUEST)
        self._requests = counter("requests", "finished requests", *_MODEL, "status")
        self._prompt = counter("prompt_tokens", "tokens of prompts", *_MODEL)
        self._generated = counter("generation_tokens", "tokens generated", *_MODEL)
        self._errors = counter("errors", "errors of requests by their code", "code", "provider")
        self._loads = counter("model_loads", "loads into memory", *_MODEL, "ok")
        self._evictions = counter("model_evictions", "models unloaded to make room", *_MODEL)
        self._deaths = counter("model_deaths", "model processes that ended unasked", *_MODEL)
        self._leaks = counter("model_unload_leaks", "unloads that left memory behind", *_MODEL)
        self._running = gauge("num_requests_running", "generations and their loads now", *_MODEL)
        self._waiting = gauge("num_requests_waiting", "requests in the queue now", *_MODEL)
        self._model_memory = gauge(
            "model_memory_bytes", "measured memory of a model's processes, GPU included", *_MODEL
        )
        self._budget = gauge(
            "models_memory_bytes", "what all models hold, and may hold now", "device", "kind"
        )
        self._alerts = counter(
            "memory_alerts", "times that a device's memory came to a level", "device", "level"
        )
        self._depth = gauge("log_queue_depth", "rows that are not on disk yet")
        self._commit = Histogram(
            "workbench_log_commit_seconds",
            "how long the log's transactions took",
            registry=registry,
            buckets=_COMMIT,
        )
        self._rows = counter("log_items", "items written to the log")
        self._dropped = gauge("log_dropped", "items that could not be logged since the start")
        self._lag_seconds = Histogram(
            "workbench_event_loop_lag_seconds",
            "how late the event loop's wake-ups were",
            registry=registry,
            buckets=_LAG,
        )
        self._host = gauge("host_memory_bytes", "memory of the machine", "kind")
        self._disk = gauge("disk_bytes", "file systems of the log and the models", "place", "kind")
        self._responses = counter("http_responses", "HTTP answers", "method", "status")
        engine.store.on_commit = self._committed

    # -- what happens

    def session_ended(self, session: StreamSession, request: ChatRequest) -> None:
        """Count a finished request."""
        found = session.stamps.slot is not None
        labels = self._labels(session.model, session.provider, found=found)
        self._requests.labels(*labels, session.status.value).inc()
        figures = session.metrics
        for histogram, name in (
            (self._ttft, "ttft_s"),
            (self._tpot, "tpot_s"),
            (self._e2e, "e2e_s"),
            (self._queue, "queue_s"),
        ):
            if (value := figures.get(name)) is not None:
                histogram.labels(*labels).observe(value)
        observe = self._itl.labels(*labels).observe
        for gap_s in metrics.inter_token_latencies(session.timeline):
            observe(gap_s)
        self._prompt.labels(*labels).inc(session.prompt_tokens or 0)
        self._generated.labels(*labels).inc(session.output_tokens or 0)
        if session.error is not None:
            self._errors.labels(session.error.code.value, session.provider).inc()

    def request_refused(self, request: ChatRequest, error: WorkbenchError) -> None:
        """Count a request that became no session."""
        self._errors.labels(error.code.value, error.provider or "").inc()

    def model_event(self, event: ModelEvent) -> None:
        """Count a load, an eviction, a death."""
        if event.event == "refuse":
            return  # its request is counted, and there may be no such model
        labels = self._labels(event.model or "", event.provider)
        if event.event == "load":
            self._loads.labels(*labels, str(event.ok).lower()).inc()
            if event.ok and event.duration_s is not None:
                self._load.labels(*labels).observe(event.duration_s)
        elif event.event == "evict":
            self._evictions.labels(*labels).inc()
        elif event.event == "died":
            self._deaths.labels(*labels).inc()
        if event.leak:
            self._leaks.labels(*labels).inc()

    def responded(self, method: str, status: int) -> None:
        """Count an HTTP answer."""
        known = method if method in ("GET", "POST", "DELETE", "HEAD", "OPTIONS") else "other"
        self._responses.labels(known, str(status)).inc()

    def lagged(self, lag_s: float) -> None:
        """Count a wake-up of the event loop."""
        self._lag_seconds.observe(lag_s)

    def _committed(self, items: int, seconds: float) -> None:
        self._commit.observe(seconds)
        self._rows.inc(items)

    # -- what is

    async def expose(self) -> bytes:
        """All series as text; gauges are read now."""
        rotation = self._engine.rotation
        for gauge in (self._running, self._waiting, self._model_memory):
            gauge.clear()
        for model, count in rotation.running.items():
            self._running.labels(*self._of(model)).inc(count)
        for ticket in rotation.queue.tickets:
            self._waiting.labels(*self._of(ticket.model)).inc()
        self._read_book()
        store = self._engine.store
        self._depth.set(store.queue_depth)
        self._dropped.set(store.dropped)
        return await asyncio.to_thread(self._text)

    def _text(self) -> bytes:
        memory = psutil.virtual_memory()
        self._host.labels("available").set(memory.available)
        self._host.labels("total").set(memory.total)
        settings = self._engine.settings
        folders = {"log": self._engine.store.path.parent, "models": settings.hf_model_path}
        for name, size in disk_part(folders, 0).figures.items():
            place, kind, _ = name.split("_")
            self._disk.labels(place, kind).set(size)
        return generate_latest(self.registry)

    def _read_book(self) -> None:
        """Measured bytes by model and device, limits and alerts."""
        book = self._engine.book
        held = book.held()
        for model, sizes in held.items():
            self._model_memory.labels(*self._of(model)).inc(sum(sizes.values()))
        for device, limit in book.limits().items():
            total = sum(sizes.get(device, 0) for sizes in held.values())
            self._budget.labels(device, "limit").set(limit)
            self._budget.labels(device, "held").set(total)
        for (device, level), count in list(book.alert_counts.items()):
            new = count - self._alerts_seen.get((device, level), 0)
            self._alerts.labels(device, level).inc(new)
            self._alerts_seen[device, level] = count

    def _of(self, model: str) -> tuple[str, str]:
        return self._labels(model, model.partition("/")[0])

    def _labels(self, model: str, provider: str, *, found: bool = True) -> tuple[str, str]:
        """Labels of a model; bounded, or ways of loading (``NAME?threads=3``) would fill memory."""
        labels = (model, provider)
        if labels not in self._models:
            if not found:
                return UNKNOWN, provider
            if len(self._models) >= MOST_MODELS:
                return "other", provider
            self._models.add(labels)
        return labels
