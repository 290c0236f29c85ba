"""What a worker's end leaves in the log: the receipt of an unload, the event of a death."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

from tests.hf.asking import request
from workbench.engine import Engine
from workbench.hf.client import WorkerClient
from workbench.hf.protocol import Load, Loaded
from workbench.providers.huggingface import HuggingFaceProvider
from workbench.router import ModelRouter
from workbench.settings import Settings
from workbench.store import Store
from workbench.types import DoneEvent, ErrorEvent, Status, StreamSession, TokenEvent, WarningEvent

MODEL = "org/endless"
ID = f"huggingface/{MODEL}"


@pytest.fixture
async def engine(
    settings: Settings, store: Store, provider: HuggingFaceProvider
) -> AsyncIterator[Engine]:
    router = ModelRouter()
    router.register_provider(provider)
    engine = Engine(settings.model_copy(update={"hf_max_cached_models": 1}), router, store)
    yield engine
    await engine.close()


def events(store: Store, event: str) -> list[dict[str, Any]]:
    store.flush()
    return store.rows("FROM model_events WHERE event = ? ORDER BY t_ns", [event])


async def answer(engine: Engine, model: str = MODEL, **options: Any) -> StreamSession:
    async for event in engine.stream(request(model, **options)):
        last = event
    assert isinstance(last, DoneEvent | ErrorEvent)
    return last.session


@pytest.mark.alone
async def test_unload_gives_back_what_the_worker_held(
    engine: Engine, provider: HuggingFaceProvider, store: Store
) -> None:
    await answer(engine, max_tokens=3)
    (pid,) = provider.pids(MODEL)
    held = psutil.Process(pid).memory_full_info()
    await engine.unload(ID)
    assert not psutil.pid_exists(pid)
    (row,) = events(store, "unload")
    assert (row["ok"], row["leak"], row["recovered_share"]) == (True, False, 1.0)
    assert row["expected_bytes"] == pytest.approx(held.uss, rel=0.05)
    assert row["before_bytes"] == pytest.approx(held.pss, rel=0.05)
    assert row["expected_bytes"] < held.rss, "pages of the zygote are not the worker's to give"


async def test_eviction_leaves_a_receipt_too(engine: Engine, store: Store) -> None:
    await answer(engine, max_tokens=2)
    await answer(engine, "ends", max_tokens=2)
    (row,) = events(store, "evict")
    assert (row["model"], row["ok"], row["recovered_share"]) == (ID, True, 1.0)
    assert row["reason"].startswith("to make room for huggingface/ends: in place of ")


async def test_killed_worker_leaves_an_event_with_its_signal(
    engine: Engine, provider: HuggingFaceProvider, store: Store
) -> None:
    async for event in engine.stream(request(MODEL, max_tokens=1500)):
        if isinstance(event, TokenEvent) and event.seq == 0:
            (pid,) = provider.pids(MODEL)
            os.kill(pid, signal.SIGKILL)
    assert isinstance(event, ErrorEvent)
    assert event.session.status is Status.ERROR
    assert event.session.text, "what had come is kept"
    (row,) = events(store, "died")
    assert (row["model"], row["ok"]) == (ID, False)
    assert "SIGKILL" in row["reason"]
    assert json.loads(row["details"])["signal"] == signal.SIGKILL
    await answer(engine, "ends", max_tokens=2)
    assert events(store, "evict") == [], "nothing was left to evict"


async def test_a_killed_load_names_memory_with_its_figures_and_may_be_asked_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = 0
    load = WorkerClient.load

    async def killed(self: WorkerClient, wanted: Load) -> Loaded:
        nonlocal loads
        loads += 1
        if loads == 1:
            os.kill(self.pid, signal.SIGKILL)
        return await load(self, wanted)

    monkeypatch.setattr(WorkerClient, "load", killed)
    error = (await answer(engine, max_tokens=2)).error
    assert error is not None
    assert loads == 1, "memory that ran out runs out again"
    assert "(SIGKILL), perhaps because memory ran out" in error.message
    assert "it was expected to need" in error.message
    assert "in memory: no other model" in error.message
    assert error.details["need_bytes"]["host"] > 0
    assert error.details["available_at_start_bytes"] > 0
    assert "choose a smaller" in error.fix
    assert (await answer(engine, max_tokens=2)).status is Status.OK
    assert loads == 2


async def test_idle_worker_that_dies_leaves_an_event_and_its_place(
    engine: Engine, provider: HuggingFaceProvider, store: Store
) -> None:
    await answer(engine, max_tokens=2)
    os.kill(provider.pids(MODEL)[0], signal.SIGSEGV)
    async with asyncio.timeout(10):
        while not events(store, "died"):
            await asyncio.sleep(0.02)
    await answer(engine, "ends", max_tokens=2)
    assert events(store, "evict") == []


async def test_crash_before_the_first_token_is_answered_by_a_new_worker(
    engine: Engine, provider: HuggingFaceProvider, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.load(ID)
    (first,) = provider.pids(MODEL)
    stream = provider.stream

    def crashing(*args: Any) -> Any:
        pids = provider.pids(MODEL)
        if first in pids:
            os.kill(first, signal.SIGABRT)
        return stream(*args)

    monkeypatch.setattr(provider, "stream", crashing)
    codes = []
    async for event in engine.stream(request(MODEL, max_tokens=4)):
        if isinstance(event, WarningEvent):
            codes.append(event.code)
    assert isinstance(event, DoneEvent)
    assert (event.session.output_tokens, codes) == (4, ["RETRIED"])
    assert event.session.cold, "the answer waited for the new worker's load"
    assert event.session.metrics["load_s"]
    assert provider.pids(MODEL) not in ((), (first,))
    (row,) = events(store, "died")
    assert "SIGABRT" in row["reason"]


async def test_broken_numbers_are_tried_greedily_and_then_told(engine: Engine) -> None:
    session = await answer(engine, "nan", temperature=1.0)
    assert session.error is not None
    assert session.error.details["numerical"]
    assert session.details["attempts"] == 2
    assert session.options.temperature == 0
