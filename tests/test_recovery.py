"""A call that fails: what is tried again, how, what it costs, and who answers in its place."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import EngineFactory
from workbench import recovery
from workbench.engine import Engine
from workbench.errors import ErrorCode, WorkbenchError
from workbench.metrics import PHASES
from workbench.providers.base import CancellationToken
from workbench.providers.scripted import Schedule, ScriptedProvider, steady
from workbench.registration import build_router
from workbench.settings import load_settings
from workbench.store import Store
from workbench.types import (
    ChatRequest,
    DoneEvent,
    ErrorEvent,
    Message,
    Options,
    ProviderEvent,
    ProviderToken,
    Status,
    StreamEvent,
    StreamSession,
    WarningEvent,
)

QUICK = Schedule(steady(5, first_s=0.02, gap_s=0.002))
CRASHED = WorkbenchError(
    ErrorCode.HF_PIPELINE_ERROR, "It crashed.", operation="stream", details={"transient": True}
)
NAN = WorkbenchError(
    ErrorCode.HF_GENERATION_FAILED, "NaN.", operation="stream", details={"numerical": True}
)
FULL = WorkbenchError(ErrorCode.HF_MEMORY_EXCEEDED, "It does not fit.", operation="stream")


class Failing(ScriptedProvider):
    """Its first calls fail, each in its way, after ``before_s`` and ``shown`` tokens."""

    def __init__(
        self, *failures: WorkbenchError, shown: int = 0, before_s: float = 0.0, load_s: float = 0.0
    ) -> None:
        schedule = Schedule(QUICK.steps, load_s=load_s)
        super().__init__({"x": schedule, "y": schedule}, name="failing")
        self.failures = list(failures)
        self.asked: list[Options] = []
        self._shown, self._before_s = shown, before_s

    async def stream(
        self, request: ChatRequest, model: str, seed: int, cancel: CancellationToken
    ) -> AsyncGenerator[ProviderEvent, None]:
        self.asked.append(request.options)
        if not self.failures:
            async for event in super().stream(request, model, seed, cancel):
                yield event
            return
        waits = Schedule(steady(1 + self._shown, first_s=self._before_s, gap_s=0.0))
        playing = ScriptedProvider({"x": waits})
        shown = 0
        async for event in playing.stream(request, "x", seed, cancel):
            if isinstance(event, ProviderToken) and shown < self._shown:
                shown += 1
                yield event
        raise self.failures.pop(0)


def ask(model: str = "failing/x", **changes: Any) -> ChatRequest:
    return ChatRequest(model, (Message("user", "Hi"),), **changes)


async def run(engine: Engine, request: ChatRequest) -> tuple[list[StreamEvent], StreamSession]:
    events = [event async for event in engine.stream(request)]
    last = events[-1]
    assert isinstance(last, DoneEvent | ErrorEvent)
    return events, last.session


@pytest.fixture
def with_provider(make_engine: EngineFactory) -> Any:
    def make(provider: ScriptedProvider, **changes: object) -> Engine:
        engine = make_engine({"quick": QUICK}, **changes)
        engine.router.register_provider(provider)
        return engine

    return make


def warnings(events: Sequence[StreamEvent]) -> list[str]:
    return [event.code for event in events if isinstance(event, WarningEvent)]


async def test_crash_before_the_first_token_is_tried_once_more(
    with_provider: Any, store: Store
) -> None:
    engine = with_provider(Failing(CRASHED))
    events, session = await run(engine, ask())
    assert (session.status, session.output_tokens) == (Status.OK, 5)
    assert warnings(events) == ["RETRIED"]
    assert session.details["attempts"] == 2
    (row,) = store.rows("SELECT status, warnings::VARCHAR AS w, details FROM stream_sessions")
    assert row["status"] == "ok"
    assert "It crashed." in row["w"]
    (failed,) = json.loads(row["details"])["failed_attempts"]
    assert failed["code"] == "HF_PIPELINE_ERROR"
    store.flush()
    (logged,) = store.rows("SELECT code, session_id, model FROM errors")
    assert logged == {
        "code": "HF_PIPELINE_ERROR",
        "session_id": session.session_id,
        "model": "failing/x",
    }


async def test_second_failure_is_the_end(with_provider: Any, store: Store) -> None:
    provider = Failing(CRASHED, CRASHED, CRASHED)
    _, session = await run(with_provider(provider), ask())
    assert (session.status, len(provider.asked)) == (Status.ERROR, 2)
    assert session.details["attempts"] == 2
    store.flush()
    assert store.rows("SELECT count(*) AS n FROM errors") == [{"n": 2}]


async def test_time_of_the_failed_try_is_neither_ttft_nor_lost(
    with_provider: Any, store: Store
) -> None:
    engine = with_provider(Failing(CRASHED, before_s=0.4, load_s=0.1))
    await run(engine, ask())
    (row,) = store.rows("FROM latencies")
    assert 0.5 <= row["retry_s"] < row["wall_s"], "from the arrival, the load included"
    assert row["load_s"] == 0, "the model was there when the second try began"
    assert sum(row[name] for name in PHASES) == pytest.approx(row["wall_s"], abs=1e-6)
    assert row["ttft_s"] <= row["e2e_s"]  # which has no part of the failed try
    assert row["retry_s"] + row["queue_s"] + row["e2e_s"] <= row["wall_s"] + 1e-6


async def test_numbers_that_overflow_are_tried_with_safe_sampling(
    with_provider: Any, store: Store
) -> None:
    provider = Failing(NAN)
    wild = Options(temperature=1.9, repetition_penalty=1.4, top_p=0.5)
    events, session = await run(with_provider(provider), ask(options=wild))
    safe = Options(temperature=0.0, repetition_penalty=1.0, top_p=0.5)
    assert provider.asked == [wild, safe]
    assert warnings(events) == ["RETRIED"]
    assert session.options == safe, "the row tells how its text came about"
    assert session.details["failed_attempts"][0]["options"]["temperature"] == 1.9
    (row,) = store.rows("SELECT options->>'temperature' AS t FROM stream_sessions")
    assert float(row["t"]) == 0.0


async def test_memory_that_ran_out_evicts_idle_models_and_tries_again(
    with_provider: Any, store: Store
) -> None:
    engine = with_provider(Failing(FULL))
    await engine.load("scripted/quick")
    _, session = await run(engine, ask())
    assert session.status is Status.OK
    store.flush()
    (event,) = store.rows("SELECT model, reason FROM model_events WHERE event = 'evict'")
    assert event == {"model": "scripted/quick", "reason": "memory ran out for failing/x"}


@pytest.mark.parametrize("others", [True, False])
async def test_memory_that_is_not_enough_even_then_is_refused_with_the_figures(
    with_provider: Any, others: bool
) -> None:
    provider = Failing(FULL, FULL, FULL)
    engine = with_provider(provider)
    if others:
        await engine.load("scripted/quick")
    _, session = await run(engine, ask())
    assert session.error is not None
    assert session.error.code is ErrorCode.HF_MEMORY_EXCEEDED
    assert session.error.details["evicted"] == (["scripted/quick"] if others else [])
    assert session.error.details["host_available_bytes"] > 0
    assert " available; in memory: " in session.error.message
    assert len(provider.asked) == 1 + others, "with nothing evicted nothing has changed"


async def test_nothing_is_tried_again_once_text_was_shown(with_provider: Any) -> None:
    provider = Failing(CRASHED, shown=2)
    events, session = await run(with_provider(provider), ask())
    assert (session.status, session.output_tokens) == (Status.ERROR, 2)
    assert session.text
    assert len(provider.asked) == 1
    assert warnings(events) == []


@pytest.mark.parametrize(
    ("code", "operation", "details"),
    [
        (ErrorCode.INVALID_REQUEST, "stream", {}),
        (ErrorCode.MODEL_NOT_FOUND, "resolve", {}),
        (ErrorCode.HF_MODEL_NOT_FOUND, "load", {}),
        (ErrorCode.CANCELLED, "stream", {}),
        (ErrorCode.HF_TIMEOUT, "stream", {}),
        (ErrorCode.OLLAMA_TIMEOUT, "stream", {}),
        (ErrorCode.TIMEOUT, "queue", {}),
        (ErrorCode.QUEUE_FULL, "queue", {}),
        (ErrorCode.INTERNAL, "stream", {}),
        (ErrorCode.HF_PIPELINE_ERROR, "stream", {"transient": False}),
        (ErrorCode.HF_PIPELINE_ERROR, "load", {"transient": True}),
        (ErrorCode.HF_MEMORY_EXCEEDED, "load", {}),
    ],
)
async def test_some_failures_are_never_tried_again(
    with_provider: Any, code: ErrorCode, operation: str, details: dict[str, Any]
) -> None:
    error = WorkbenchError(code, "no", operation=operation, details=details)
    provider = Failing(error, error)
    _, session = await run(with_provider(provider), ask())
    assert session.error is not None
    assert len(provider.asked) == 1


def test_greedy_numbers_are_not_computed_twice() -> None:
    greedy = Options(temperature=0.0)
    assert recovery.retry(NAN, greedy) is None
    penalised = Options(temperature=0.0, repetition_penalty=1.2)
    assert recovery.retry(NAN, penalised) is recovery.Retry.SAFE_SAMPLING


async def test_configured_fallback_answers_after_the_retry(
    with_provider: Any, store: Store
) -> None:
    provider = Failing(CRASHED, CRASHED)
    engine = with_provider(provider, workbench_fallbacks={"failing/x": "scripted/quick"})
    events, session = await run(engine, ask())
    assert len(provider.asked) == 2
    assert warnings(events) == ["RETRIED", "FALLBACK"]
    assert (session.model, session.fallback_from) == ("scripted/quick", "failing/x")
    assert session.stamps.retry_ns == 0, "the fallback's figures are its own"
    (row,) = store.rows("SELECT * FROM model_leaderboard WHERE model = 'failing/x'")
    assert (row["sessions"], row["sessions_ok"]) == (1, 0)


async def test_fallback_of_the_request_wins(with_provider: Any) -> None:
    engine = with_provider(
        Failing(CRASHED, CRASHED), workbench_fallbacks={"failing/x": "scripted/quick"}
    )
    _, session = await run(engine, ask(fallback="failing/y"))
    assert session.model == "failing/y"


async def test_bad_request_is_told_and_not_answered_by_another_model(with_provider: Any) -> None:
    refused = WorkbenchError(ErrorCode.INVALID_REQUEST, "too long", operation="stream")
    engine = with_provider(Failing(refused), workbench_fallbacks={"failing/x": "scripted/quick"})
    events, session = await run(engine, ask())
    assert session.error is refused
    assert warnings(events) == []


async def test_fallback_that_does_not_exist_leaves_the_error_of_the_model(
    with_provider: Any,
) -> None:
    engine = with_provider(Failing(CRASHED, CRASHED))
    events, session = await run(engine, ask(fallback="nobody-has-this"))
    assert session.model == "failing/x"
    assert session.error is CRASHED
    assert warnings(events) == ["RETRIED", "NO_FALLBACK"]


def test_fallbacks_of_unknown_providers_stop_the_start(tmp_path: Path) -> None:
    settings = load_settings(_env_file=None, workbench_fallbacks="scripted/a=nowhere/b")
    with pytest.raises(WorkbenchError, match="WORKBENCH_FALLBACKS names nowhere/b"):
        build_router(settings)
