"""The rotation under real load: four real models where two fit, bursts, and an idle scheduler.

    python -m benchmarks.rotation_load            # all three parts, as JSON

Two random Hugging Face models (each in a worker process of its own) and two names of the Ollama
stand-in with weights of their own (each in a llama.cpp process), in one engine of this process. The
budget is set between what the two largest take and what the three smallest take, both measured, so
that any two fit and no three. The memory that is compared with it is measured by a thread of this
script every 50 ms: PSS of all workers and runners, whatever the engine believes.

- ``rotate``: 200 requests from 8 clients, each for a model drawn at random.
- ``burst``: rapid switching beside two long answers, then six times 500 requests at once against a
  queue of 64 that nothing leaves, as one request runs alone.
- ``idle``: the scheduler with two models in memory, with nobody waiting and with 64 waiting.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

import psutil

from workbench.engine import Engine, build
from workbench.memory import read_tree
from workbench.providers.scripted import Schedule, ScriptedProvider, steady
from workbench.settings import Settings, load_settings
from workbench.store import Store
from workbench.types import (
    ChatRequest,
    DoneEvent,
    ErrorEvent,
    Message,
    Options,
    StreamSession,
    TimingMode,
)
from workbench.upkeep import collect

ROOT: Final = Path(__file__).resolve().parent.parent
GGUF: Final = ROOT / "data/models/huggingface/SmolLM2-135M-Instruct-GGUF"
QUEUE: Final = 64
ALLOWED: Final = 1.05
"""Of the budget, for what is measured: a reading is not the instant of a peak."""


class Sampler(threading.Thread):
    """Measures what workers and runners hold together, from outside the engine.

    Args:
        runners: the process whose children are the llama.cpp runners.
    """

    def __init__(self, runners: int) -> None:
        super().__init__(daemon=True)
        self._runners = runners
        self._stopping = threading.Event()
        self.peak_bytes = 0
        self.at_peak: list[tuple[str, int]] = []
        """What each process held then, with its command."""
        self.most_models = 0
        self.samples = 0

    def roots(self) -> list[int]:
        """Process ids of all workers and runners now."""
        found: list[int] = []
        with suppress(psutil.Error):
            found += [child.pid for child in psutil.Process(self._runners).children()]
            for child in psutil.Process().children():
                with suppress(psutil.Error):
                    if "workbench.hf.zygote" in " ".join(child.cmdline()):
                        found += [worker.pid for worker in child.children()]
        return found

    def now(self) -> list[tuple[str, int]]:
        """PSS and GPU memory of each of them, with its kind."""
        found = []
        for pid in self.roots():
            with suppress(psutil.Error):
                kind = "worker" if "zygote" in " ".join(psutil.Process(pid).cmdline()) else "runner"
                if (reading := read_tree([pid])) is not None:
                    found.append((kind, reading.pss_bytes + reading.gpu_bytes))
        return found

    def now_bytes(self) -> int:
        """All of them together."""
        return sum(size for _, size in self.now())

    def run(self) -> None:
        """Keep the peak."""
        while not self._stopping.wait(0.05):
            found = self.now()
            self.samples += 1
            self.most_models = max(self.most_models, len(found))
            if (total := sum(size for _, size in found)) > self.peak_bytes:
                self.peak_bytes, self.at_peak = total, found

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopping.set()
        self.join()


@dataclass(frozen=True, slots=True)
class Stage:
    """An engine with four models; ``runners`` is the process id of the Ollama stand-in."""

    engine: Engine
    models: tuple[str, ...]
    runners: int
    budget_bytes: int | None = None
    alone_bytes: dict[str, int] = field(default_factory=dict)
    """What each model held when it was the only one."""


@asynccontextmanager
async def stage(folder: Path, **changes: Any) -> AsyncIterator[Stage]:
    """Four models, two of each runtime, and an engine over them; ``changes`` are of settings."""
    from tests.hf import tiny
    from tests.ollama_standin.fixture import StandIn

    models = folder / "models"
    if not models.exists():
        for seed, name in enumerate(("one", "two")):
            # Weights enough that what a worker shares with others is the smaller part of it.
            tiny.save_model(models / name, seed=seed, layers=6, hidden=384)
    gguf = sorted(GGUF.glob("*.gguf"))[0]
    other = folder / "other.gguf"
    if not other.exists():
        shutil.copyfile(gguf, other)
        with other.open("ab") as file:
            file.write(b"\0")  # another digest, so another runner
    with StandIn(gguf, "--models", f"three:135m,four:135m={other}") as standin:
        settings = _settings(folder, ollama_host=standin.url, **changes)
        hold = Schedule(steady(100_000, first_s=0.01, gap_s=1.0))
        scripted = ScriptedProvider({"hold": hold})
        engine = build(settings, Store.open(settings.workbench_db), scripted=scripted)
        try:
            names = ("huggingface/one", "huggingface/two", "ollama/three:135m", "ollama/four:135m")
            yield Stage(engine, names, standin.pid)
        finally:
            await engine.close()


def _settings(folder: Path, **changes: Any) -> Settings:
    settings = load_settings(
        _env_file=None,
        hf_model_path=folder / "models",
        workbench_db=folder / f"log-{time.monotonic_ns()}.duckdb",
        workbench_hub_cache=False,
        workbench_offline=True,
        workbench_threads=1,
        workbench_max_queue=QUEUE,
        workbench_max_queue_per_model=QUEUE,
        hf_max_cached_models=4,
    )
    return settings.model_copy(update=changes)


@asynccontextmanager
async def tight(folder: Path) -> AsyncIterator[Stage]:
    """A stage whose budget holds any two of its models, and no three."""
    alone: dict[str, int] = {}
    async with stage(folder) as wide:
        with Sampler(wide.runners) as sampler:
            for model in wide.models:
                sampler.peak_bytes = 0
                await ask(wide, model)
                await asyncio.sleep(0.2)  # a sample or two more
                alone[model] = max(sampler.peak_bytes, sampler.now_bytes())
                await wide.engine.unload(model)
        log = wide.engine.settings.workbench_db
    sizes = sorted(alone.values())
    two, three = sum(sizes[-2:]), sum(sizes[:3])
    assert 1.05 * two < three, f"no budget holds every two but no three: {alone}"
    budget = int((two + three) / 2)
    # The log is kept: predictions come from measured loads.
    async with stage(folder, workbench_memory_budget=budget, workbench_db=log) as narrow:
        yield replace(narrow, budget_bytes=budget, alone_bytes=alone)


def _request(model: str, n_tokens: int, **more: Any) -> ChatRequest:
    options = Options(max_tokens=n_tokens, temperature=0.0, num_ctx=512)
    return ChatRequest(model, (Message("user", "Count."),), options, source="benchmark", **more)


async def ask(
    stage: Stage, model: str, n_tokens: int = 8, request: ChatRequest | None = None
) -> StreamSession:
    """One request to its end."""
    async for event in stage.engine.stream(request or _request(model, n_tokens)):
        last = event
    assert isinstance(last, DoneEvent | ErrorEvent)
    return last.session


async def until(true: Callable[[], bool]) -> None:
    """Return when a condition holds."""
    while not true():  # noqa: ASYNC110 (nothing tells of it)
        await asyncio.sleep(0.01)


class Alone:
    """A request that runs alone until it is told to end: meanwhile nobody leaves the queue."""

    def __init__(self, stage: Stage) -> None:
        self._engine = stage.engine
        self._request = _request("scripted/hold", 100_000, timing_mode=TimingMode.ISOLATED)
        self._task = asyncio.create_task(ask(stage, "", request=self._request))

    async def begun(self) -> None:
        """Return when it runs."""
        await until(lambda: bool(self._engine.rotation.running))

    async def end(self) -> None:
        """Stop it."""
        self._engine.cancel(self._request.session_id, "benchmark")
        await self._task


def _outcomes(sessions: Sequence[StreamSession]) -> dict[str, int]:
    return dict(Counter(s.error.code if s.error else s.status.value for s in sessions))


# -- 1: two of four --------------------------------------------------------------------------------


async def rotate(stage: Stage, requests: int, clients: int = 8, seed: int = 1) -> dict[str, Any]:
    """Requests for models drawn at random; all must be answered within the budget."""
    rng = random.Random(seed)
    wanted = [rng.choice(stage.models) for _ in range(requests)]
    sessions: list[StreamSession] = []

    async def client(mine: Sequence[str]) -> None:
        for model in mine:
            sessions.append(await ask(stage, model))

    started = time.monotonic()
    with Sampler(stage.runners) as sampler:
        await asyncio.gather(*(client(wanted[i::clients]) for i in range(clients)))
    store = stage.engine.store
    events = await asyncio.to_thread(
        store.rows,
        "SELECT event, ok, leak, recovered_share, reason FROM model_events "
        "WHERE event IN ('load', 'unload', 'evict', 'refuse') ORDER BY t_ns",
    )
    gone = [event for event in events if event["event"] in ("unload", "evict")]
    waits = sorted(s.metrics["queue_s"] or 0.0 for s in sessions)
    return {
        "requests": requests,
        "outcomes": _outcomes(sessions),
        "seconds": round(time.monotonic() - started, 1),
        "budget_mb": round((stage.budget_bytes or 0) / 1e6),
        "alone_mb": {model: round(size / 1e6) for model, size in stage.alone_bytes.items()},
        "peak_mb": round(sampler.peak_bytes / 1e6),
        "peak_share": round(sampler.peak_bytes / (stage.budget_bytes or 1), 3),
        "at_peak_mb": [f"{kind} {size / 1e6:.0f}" for kind, size in sampler.at_peak],
        "most_processes": sampler.most_models,
        "samples": sampler.samples,
        "loads": sum(e["event"] == "load" and e["ok"] for e in events),
        "evictions": len(gone),
        "with_receipt": sum(e["recovered_share"] is not None for e in gone),
        "leaks": sum(bool(e["leak"]) for e in gone),
        "without_reason": sum(not e["reason"] for e in events),
        "queue_s_median": round(waits[len(waits) // 2], 2),
        "queue_s_most": round(waits[-1], 2),
    }


# -- 2: bursts -------------------------------------------------------------------------------------


async def burst(
    stage: Stage, size: int = 500, bursts: int = 6, switches: int = 24, n_long: int = 400
) -> dict[str, Any]:
    """Switch rapidly beside long answers, then ask far more than the queue takes, at once."""
    engine, models = stage.engine, stage.models
    long = [asyncio.create_task(ask(stage, models[0], n_long)) for _ in range(2)]
    switched = [await ask(stage, models[1 + i % (len(models) - 1)], 2) for i in range(switches)]
    switched += await asyncio.gather(*long)
    memory, results = [_own_mb()], []
    for number in range(bursts):
        # While it runs alone nobody else goes on, so the queue fills up exactly.
        alone = Alone(stage)
        await alone.begun()
        started = time.monotonic()
        asked = [asyncio.create_task(ask(stage, models[i % len(models)], 2)) for i in range(size)]
        await until(lambda: sum(task.done() for task in asked) >= size - QUEUE)  # noqa: B023
        refused_s = time.monotonic() - started
        most_waiting = len(engine.rotation.queue)
        await alone.end()
        sessions = await asyncio.gather(*asked)
        retry = [s.error.retry_after_s for s in sessions if s.error and s.error.retry_after_s]
        results.append(
            {
                "burst": number + 1,
                "outcomes": _outcomes(sessions),
                "most_waiting": most_waiting,
                "refused_after_s": round(refused_s, 2),
                "retry_after_s": [min(retry, default=0), max(retry, default=0)],
                "seconds": round(time.monotonic() - started, 1),
            }
        )
        for model in models:
            await engine.unload(model)
        memory.append(_own_mb())
    collect()
    return {
        "switching": _outcomes(switched),
        "bursts": results,
        "engine_uss_mb_before_and_after_each": memory,
        "engine_uss_mb_free_memory_given_back": _own_mb(),
        "left_waiting": len(engine.rotation.queue),
        "left_running": len(engine.rotation.running),
        "left_held_mb": round(Sampler(stage.runners).now_bytes() / 1e6),
    }


def _own_mb() -> int:
    """Memory of this process alone, what its allocators keep free included."""
    return round(psutil.Process().memory_full_info().uss / 1e6)


# -- 3: idle ---------------------------------------------------------------------------------------


async def idle(stage: Stage, seconds: float = 20.0) -> dict[str, Any]:
    """What the scheduler costs while nothing happens, in shares of a core."""
    engine, models = stage.engine, stage.models
    for model in (models[0], models[2]):
        await ask(stage, model)
    await asyncio.sleep(2.0)  # what follows an answer is over
    quiet = await _cost(seconds)
    alone = Alone(stage)
    await alone.begun()
    waiting = [asyncio.create_task(ask(stage, models[1], 2)) for _ in range(QUEUE)]
    await until(lambda: len(engine.rotation.queue) == QUEUE)
    started = time.perf_counter()
    rounds = 20
    for _ in range(rounds):
        engine.rotation.memory_changed()
    per_decision_ms = 1e3 * (time.perf_counter() - started) / rounds
    await alone.end()
    await asyncio.gather(*waiting)
    return {
        "event_loop_share_idle": round(quiet[0], 5),
        "process_share_idle": round(quiet[1], 5),
        "decision_with_64_waiting_ms": round(per_decision_ms, 2),
        "seconds": seconds,
    }


async def _cost(seconds: float) -> tuple[float, float]:
    """CPU time of the event loop's thread and of the whole process, per second."""
    loop_s, process_s, started = time.thread_time(), time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - started
    return (time.thread_time() - loop_s) / took, (time.process_time() - process_s) / took


async def main_async(requests: int, parts: Sequence[str]) -> dict[str, Any]:
    """The chosen parts, on one stage."""
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="rotation-load-") as name:
        async with tight(Path(name)) as narrow:
            if "rotate" in parts:
                result["rotate"] = await rotate(narrow, requests)
            if "burst" in parts:
                result["burst"] = await burst(narrow)
            if "idle" in parts:
                result["idle"] = await idle(narrow)
    return result


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--parts", default="rotate,burst,idle")
    arguments = parser.parse_args()
    result = asyncio.run(main_async(arguments.requests, arguments.parts.split(",")))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
