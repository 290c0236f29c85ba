"""Metrics: the log's own figures, vLLM's shapes, bounded series, one registry each."""

from __future__ import annotations

import asyncio
import json
import re
from importlib.resources import files

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import EngineFactory
from workbench import metrics
from workbench.engine import Engine
from workbench.errors import ErrorCode, WorkbenchError
from workbench.observe import prometheus
from workbench.observe.prometheus import Metrics
from workbench.providers.scripted import Schedule, steady
from workbench.store import ModelEvent
from workbench.types import ChatRequest, DoneEvent, ErrorEvent, Message, StreamSession

SCHEDULES = {
    "chunks": Schedule(steady(5, first_s=0.02, gap_s=0.02, chunk=4), load_s=0.01),
    "fails": Schedule(steady(2, first_s=0.01, gap_s=0.01), error=ErrorCode.HF_GENERATION_FAILED),
}
Series = dict[str, dict[tuple[tuple[str, str], ...], float]]


async def series(measured: Metrics) -> Series:
    found: Series = {}
    for family in text_string_to_metric_families((await measured.expose()).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def labels(**values: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(values.items()))


async def run(engine: Engine, name: str) -> StreamSession:
    request = ChatRequest(model=f"scripted/{name}", messages=(Message("user", "Hi"),), source="api")
    async for event in engine.stream(request):
        if isinstance(event, DoneEvent | ErrorEvent):
            session = event.session
    return session


@pytest.fixture
def measured(make_engine: EngineFactory) -> tuple[Engine, Metrics]:
    engine = make_engine(SCHEDULES)
    metrics = Metrics(engine)
    engine.observers.append(metrics)
    return engine, metrics


async def test_requests_are_counted_from_their_rows(measured: tuple[Engine, Metrics]) -> None:
    engine, counted = measured
    done, failed = await run(engine, "chunks"), await run(engine, "fails")
    found = await series(counted)
    mine = labels(model="scripted/chunks", provider="scripted")
    for name, figure in (
        ("workbench_time_to_first_token_seconds_sum", done.metrics["ttft_s"]),
        ("workbench_e2e_request_latency_seconds_sum", done.metrics["e2e_s"]),
        ("workbench_request_queue_time_seconds_sum", done.metrics["queue_s"]),
        ("workbench_time_per_output_token_seconds_sum", done.metrics["tpot_s"]),
        ("workbench_generation_tokens_total", 20),
        ("workbench_prompt_tokens_total", 10),
        (
            "workbench_inter_token_latency_seconds_sum",
            sum(metrics.inter_token_latencies(done.timeline)),
        ),
    ):
        assert found[name][mine] == pytest.approx(figure), name
    # Five events of four tokens: sixteen tokens after the first event, each a quarter of a gap.
    assert found["workbench_inter_token_latency_seconds_count"][mine] == 16
    assert found["workbench_inter_token_latency_seconds_bucket"][
        labels(model="scripted/chunks", provider="scripted", le="0.01")
    ] == sum(gap <= 0.01 for gap in metrics.inter_token_latencies(done.timeline))
    status = found["workbench_requests_total"]
    assert status[labels(model="scripted/chunks", provider="scripted", status="ok")] == 1
    assert status[labels(model="scripted/fails", provider="scripted", status="error")] == 1
    assert failed.error is not None
    assert found["workbench_errors_total"] == {
        labels(code="HF_GENERATION_FAILED", provider="scripted"): 1
    }
    loads = found["workbench_model_loads_total"]
    assert loads[labels(model="scripted/chunks", provider="scripted", ok="true")] == 1
    assert found["workbench_model_load_seconds_count"][mine] == 1
    assert found["workbench_log_dropped"] == {(): 0}
    assert found["workbench_log_commit_seconds_count"][()] >= 1
    assert found["workbench_log_items_total"][()] >= 2


async def test_running_and_waiting_are_those_of_the_rotation(
    measured: tuple[Engine, Metrics],
) -> None:
    engine, counted = measured
    schedule = Schedule(steady(1, first_s=60, gap_s=0))
    engine.router.providers["scripted"].schedules["slow"] = schedule  # type: ignore[attr-defined]
    engine.router.providers["scripted"].concurrency = 1
    tasks = [asyncio.create_task(run(engine, "slow")) for _ in range(3)]
    mine = labels(model="scripted/slow", provider="scripted")
    while True:
        found = await series(counted)
        if found.get("workbench_num_requests_waiting", {}).get(mine) == 2:
            break
    assert found["workbench_num_requests_running"][mine] == 1
    engine.cancel_all("user")
    await asyncio.gather(*tasks)
    found = await series(counted)
    assert mine not in found.get("workbench_num_requests_running", {})
    assert found["workbench_requests_total"][(*mine, ("status", "cancelled"))] == 3


async def test_refused_requests_and_dead_models_are_counted(
    measured: tuple[Engine, Metrics],
) -> None:
    engine, counted = measured
    with pytest.raises(WorkbenchError):
        async for _ in engine.stream(ChatRequest("gone", (Message("user", "x"),))):
            pass
    for event in ("evict", "died"):
        counted.model_event(ModelEvent(event, "huggingface", 0, model="huggingface/a", leak=True))
    found = await series(counted)
    assert found["workbench_errors_total"] == {labels(code="MODEL_NOT_FOUND", provider=""): 1}
    mine = labels(model="huggingface/a", provider="huggingface")
    assert found["workbench_model_evictions_total"] == {mine: 1}
    assert found["workbench_model_deaths_total"] == {mine: 1}
    assert found["workbench_model_unload_leaks_total"] == {mine: 2}


async def test_series_are_bounded(
    measured: tuple[Engine, Metrics], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, counted = measured
    monkeypatch.setattr(prometheus, "MOST_MODELS", 3)
    for number in range(10):
        counted.model_event(
            ModelEvent("evict", "huggingface", 0, model=f"huggingface/a?threads={number}")
        )
    found = (await series(counted))["workbench_model_evictions_total"]
    assert len(found) == 4
    assert found[labels(model="other", provider="huggingface")] == 7


async def test_names_of_no_model_take_no_series(
    measured: tuple[Engine, Metrics], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, counted = measured
    monkeypatch.setattr(prometheus, "MOST_MODELS", 3)
    for number in range(5):
        failed = await run(engine, f"no-such-{number}")
        assert failed.error is not None
    await run(engine, "chunks")
    found = (await series(counted))["workbench_requests_total"]
    assert found == {
        labels(model="unknown", provider="scripted", status="error"): 5,
        labels(model="scripted/chunks", provider="scripted", status="ok"): 1,
    }


async def test_two_applications_share_nothing(make_engine: EngineFactory) -> None:
    first, second = make_engine(SCHEDULES), make_engine(SCHEDULES)
    counted = Metrics(first), Metrics(second)
    first.observers.append(counted[0])
    await run(first, "chunks")
    assert (await series(counted[0]))["workbench_requests_total"]
    assert not (await series(counted[1])).get("workbench_requests_total")


async def test_an_observer_that_fails_fails_no_request(make_engine: EngineFactory) -> None:
    engine = make_engine(SCHEDULES)
    engine.observers.append(object())  # type: ignore[arg-type]
    assert (await run(engine, "chunks")).status.value == "ok"


async def test_dashboard_names_only_metrics_that_exist(measured: tuple[Engine, Metrics]) -> None:
    engine, counted = measured
    await run(engine, "chunks")
    await run(engine, "fails")
    counted.lagged(0.001)
    counted.responded("GET", 200)
    known = {
        name
        for family in counted.registry.collect()
        for name in (
            family.name,
            *(f"{family.name}_{end}" for end in ("total", "bucket", "sum", "count")),
        )
    }
    text = (files("workbench.observe") / "grafana.json").read_text(encoding="utf-8")
    board = json.loads(text)
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    queries += [item["query"] for item in board["templating"]["list"] if item["type"] == "query"]
    named = {name for query in queries for name in re.findall(r"workbench_\w+", query)}
    assert named <= known, named - known
    # And the other way: what is measured is also shown, but for the parts of histograms.
    shown = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in named}
    assert {family.name for family in counted.registry.collect()} <= shown


async def test_the_budget_and_its_alerts_are_told(measured: tuple[Engine, Metrics]) -> None:
    engine, counted = measured
    engine.book.alert_counts["host", "high"] += 2
    for _ in range(2):  # asked twice, counted once
        found = await series(counted)
    limit = found["workbench_models_memory_bytes"][labels(device="host", kind="limit")]
    assert limit == engine.book.limits()["host"] > 0
    assert found["workbench_models_memory_bytes"][labels(device="host", kind="held")] == 0
    assert found["workbench_memory_alerts_total"] == {labels(device="host", level="high"): 2}
