"""Runtimes that come and go while nobody uses them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.conftest import DEMO_GGUF
from tests.ollama_standin.fixture import StandIn
from workbench.engine import Engine
from workbench.errors import ErrorCode, WorkbenchError
from workbench.observe.health import HealthMonitor
from workbench.providers.ollama import OllamaProvider
from workbench.router import ModelRouter
from workbench.runtimes import RuntimeWatch
from workbench.settings import Settings
from workbench.store import Store


class Runtime:
    """Answers as it is told."""

    name = "runtime"

    def __init__(self) -> None:
        self.problem: WorkbenchError | None = None
        self.inside: list[str] = []
        self.asked = 0

    async def refresh(self) -> None:
        self.asked += 1
        if self.problem is not None:
            raise self.problem

    def residents(self) -> list[str]:
        return self.inside


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.01)


async def test_what_came_into_memory_is_told_once_and_the_last_answer_remembered() -> None:
    runtime, told = Runtime(), []

    async def changed() -> None:
        told.append(list(runtime.inside))

    watch = RuntimeWatch({"r": runtime}, 1, busy=lambda: False, on_change=changed)  # type: ignore[dict-item]
    await watch.look()
    runtime.inside = ["a"]
    await watch.look()
    await watch.look()
    assert told == [[], ["a"]]
    seen = watch.last_good("r")
    runtime.problem = WorkbenchError(ErrorCode.OLLAMA_UNREACHABLE, "It is away.")
    await watch.look()
    assert watch.last_good("r") == seen is not None
    assert watch.last_good("other") is None


async def test_nothing_is_asked_beside_a_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.runtimes._BUSY_S", 0.01)
    runtime, looks = Runtime(), []

    def busy() -> bool:
        looks.append(runtime.asked)
        return len(looks) < 4

    async def changed() -> None: ...

    watch = RuntimeWatch({"r": runtime}, 60, busy=busy, on_change=changed)  # type: ignore[dict-item]
    watch.start()
    await until(lambda: runtime.asked == 1)
    await watch.close()
    assert looks == [0, 0, 0, 0]


@pytest.mark.model
async def test_a_server_that_goes_away_takes_its_models_with_a_row_each(
    demo_folder: Path, settings: Settings, store: Store
) -> None:
    """First one that another program loaded before the start, then one of ours."""
    model = "ollama/smollm2:135m"
    with StandIn(DEMO_GGUF) as server:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as api:
            load = {"model": "smollm2:135m", "messages": [], "keep_alive": 60}
            await api.post("/api/chat", json=load)
        changes = {"ollama_host": server.url, "workbench_runtime_watch_s": 0.05}
        settings = settings.model_copy(update=changes)
        router = ModelRouter()
        router.register_provider(OllamaProvider(settings))
        engine = Engine(settings, router, store)
        try:
            engine.prewarm()
            await until(lambda: model in engine.overview().others)
            assert engine.overview().held_bytes["host"] > 100e6, "before anything was asked for"
            server.stop()
            await until(lambda: not engine.overview().others)
            part = (await HealthMonitor(engine).check()).parts["ollama"]
            assert part.state == "down"
            assert part.last_good_at is not None, "though nobody had asked for health"
            server.start()
            await engine.load(model)
            assert [one.model for one in engine.overview().residents] == [model]
            server.stop()
            await until(lambda: not engine.overview().residents)
            store.flush()
            rows = store.rows("SELECT event, model, ok FROM model_events ORDER BY created_at")
        finally:
            await engine.close()
    assert [(row["event"], row["model"], row["ok"]) for row in rows] == [
        ("died", model, False),
        ("load", model, True),
        ("died", model, False),
    ]
