"""Health: every part with its reason, bounded in time, whatever hangs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from tests.conftest import EngineFactory
from workbench.engine import Engine
from workbench.errors import ErrorCode, WorkbenchError
from workbench.figures import escape
from workbench.observe import health
from workbench.observe.health import HealthMonitor
from workbench.providers.scripted import ScriptedProvider
from workbench.store.repair import Repair
from workbench.types import ModelInfo
from workbench.ui.health import parts

Answer = Callable[[], object]


class Runtime(ScriptedProvider):
    """A runtime that answers, fails or hangs as it is told."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.asked = 0
        self.problem: WorkbenchError | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    async def list_models(self) -> list[ModelInfo]:
        self.asked += 1
        await self.answers.wait()
        if self.problem is not None:
            raise self.problem
        return await super().list_models()


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    monkeypatch.setattr(health, "FRESH_S", 0.0)
    return Runtime("ollama")


@pytest.fixture
def patience_s() -> float:
    """More than a starved machine takes; a test in which a part hangs has less."""
    return 60.0


@pytest.fixture
def engine(make_engine: EngineFactory, runtime: Runtime, patience_s: float) -> Engine:
    built = make_engine(
        workbench_health_timeout_s=patience_s, workbench_low_memory=0, workbench_low_disk=0
    )
    built.router.register_provider(runtime)
    return built


def gone(name: str = "ollama") -> WorkbenchError:
    return WorkbenchError(ErrorCode.OLLAMA_UNREACHABLE, f"{name} is away.", fix="Start it.")


async def test_all_well(engine: Engine) -> None:
    found = await HealthMonitor(engine).check()
    assert found.state == "ok", found.to_dict()
    assert {"scripted", "ollama", "store", "memory", "disk", "event_loop"} == found.parts.keys()
    for part in found.to_dict()["parts"].values():
        assert part["last_good_age_s"] < 60
    figures = found.to_dict()["parts"]["disk"]
    assert figures["log_free_bytes"] > 0
    assert figures["models_total_bytes"] > 0


async def test_degraded_is_not_down(engine: Engine, runtime: Runtime) -> None:
    other = Runtime("huggingface")
    engine.router.register_provider(other)
    monitor = HealthMonitor(engine)
    before = (await monitor.check()).parts["ollama"]
    runtime.problem = gone()
    found = await monitor.check()
    part = found.parts["ollama"]
    assert (found.state, found.ready, part.state) == ("degraded", True, "down")
    assert part.reason == "OLLAMA_UNREACHABLE: ollama is away. Start it."
    assert part.last_good_at == before.last_good_at, "when it was well is remembered"
    assert part.last_good_age_s is not None
    other.problem = gone("huggingface")
    found = await monitor.check()
    assert (found.state, found.ready) == ("down", False), "nothing can be served"
    runtime.problem = other.problem = None
    assert (await monitor.check()).state == "ok", "well again without a restart"


async def test_a_defect_of_a_provider_is_told_and_ends_no_server(
    engine: Engine, runtime: Runtime
) -> None:
    runtime.problem = SystemExit(3)  # type: ignore[assignment]
    part = (await HealthMonitor(engine).check()).parts["ollama"]
    assert part.state == "down"
    assert "A defect of the provider ollama: it raised SystemExit: 3." in str(part.reason)


@pytest.mark.parametrize("patience_s", [0.1])
async def test_a_hanging_runtime_hangs_nothing(engine: Engine, runtime: Runtime) -> None:
    monitor = HealthMonitor(engine)
    runtime.answers.clear()
    # It comes back at all; on a busy machine the others may need more than one look.
    while (found := await monitor.check()).parts["store"].state != "ok":
        assert found.parts["ollama"].state == "down"
    part = found.parts["ollama"]
    assert part.state == "down"
    assert part.reason is not None
    assert part.reason.startswith("No answer for")
    await engine.runtimes.look()
    assert (await monitor.check()).parts["ollama"].last_good_at is None, "nobody answered"
    assert (await monitor.check()).parts["ollama"].state == "down"
    assert runtime.asked == 1, "one that hangs is not asked again"
    runtime.answers.set()
    while (await monitor.check()).parts["ollama"].state != "ok":
        await asyncio.sleep(0.01)


async def test_many_who_ask_cost_one_look(
    engine: Engine, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "FRESH_S", 60.0)
    monitor = HealthMonitor(engine)
    answers = await asyncio.gather(*(monitor.check() for _ in range(50)))
    answers += [await monitor.check() for _ in range(50)]
    assert {answer.state for answer in answers} == {"ok"}
    assert runtime.asked == 1


async def test_store_and_limits_give_their_reasons(
    make_engine: EngineFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(workbench_low_memory=2**60, workbench_low_disk=2**60)
    monkeypatch.setattr(
        type(engine.store),
        "last_error",
        WorkbenchError(ErrorCode.DISK_FULL, "The disk is full.", fix="Make room."),
    )
    found = await HealthMonitor(engine).check()
    assert found.parts["store"].state == "down"
    assert "disk is full" in (found.parts["store"].reason or "")
    assert "WORKBENCH_LOW_MEMORY" in (found.parts["memory"].fix or "")
    assert "WORKBENCH_LOW_DISK" in (found.parts["disk"].fix or "")
    assert (found.state, found.ready) == ("degraded", True), "answers go on without the log"


@pytest.mark.parametrize("lost", [[], ["2 of 40 sessions"]])
async def test_a_repair_is_told_and_only_one_that_lost_something_is_not_well(
    engine: Engine, lost: list[str]
) -> None:
    repair = Repair(engine.store.path, happened=["The file was damaged."], lost=lost)
    repair.write()
    Repair(engine.store.path, happened=["The write-ahead log, too."]).write()
    found = await HealthMonitor(engine).check()
    part = found.parts["store"]
    assert part.state == found.state == ("degraded" if lost else "ok")
    assert ("2 of 40 sessions" if lost else "Nothing is known to be lost") in (part.reason or "")
    assert "Delete that folder" in (part.fix or "")
    assert escape("Delete that folder") in parts.render(found)


async def test_a_stopping_server_is_not_ready(engine: Engine) -> None:
    monitor = HealthMonitor(engine)
    monitor.stop()
    found = await monitor.check()
    assert (found.ready, found.to_dict()["parts"]["server"]["status"]) == (False, "down")


async def test_lag_sees_what_blocks_the_loop(engine: Engine) -> None:
    heard: list[float] = []
    sampler = engine.lag
    sampler.on_sample = heard.append
    sampler.start()
    async with asyncio.timeout(20):
        while not heard:
            await asyncio.sleep(0.01)
        time.sleep(0.5)  # noqa: ASYNC251 - the block that is to be seen
        while sampler.lag.max_s < 0.3:
            await asyncio.sleep(0.01)
    found = await HealthMonitor(engine).check()
    assert found.parts["event_loop"].state == "degraded"
    assert max(heard) == sampler.lag.max_s
    assert sampler.lag.p50_s <= sampler.lag.p99_s <= sampler.lag.max_s
