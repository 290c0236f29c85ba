"""The benchmark runner at scale, against models that play a schedule of no time at all.

* ``trials``: one run of many trials: memory as it goes on, time of a trial.
* ``rate``: an open loop of many requests a second: how late they start, how many end.
* ``engine``: the same over the engine and its log, where the log is what takes the time.

``trials`` and ``rate`` ask the scripted provider directly and write the trials' rows into a real
log: what is left is the runner. The time of the provider alone is measured beside it.

    python -m benchmarks.bench_scale trials --count 100000
    python -m benchmarks.bench_scale rate --per-s 2000 --seconds 10
    python -m benchmarks.bench_scale engine --count 3000

Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from workbench import logs
from workbench.bench.progress import Progress
from workbench.bench.runner import Runner
from workbench.bench.spec import Spec
from workbench.client.roads import LocalRoad
from workbench.engine import Engine
from workbench.metrics import NS
from workbench.providers.base import CancellationToken
from workbench.providers.scripted import Schedule, ScriptedProvider, steady
from workbench.record import with_tokens
from workbench.router import ModelRouter
from workbench.settings import Settings, load_settings
from workbench.store import Store
from workbench.store.outside import check_rows
from workbench.types import (
    ChatRequest,
    ProviderToken,
    Stamps,
    Status,
    StreamEvent,
    StreamSession,
)

SCHEDULES = {"none": Schedule(steady(4, first_s=0.0, gap_s=0.0))}
QUESTIONS = 1_000


class PlayedRoad:
    """The scripted provider without an engine; trials' rows go into a real log.

    Args:
        store: the log.
    """

    remote = False

    def __init__(self, store: Store) -> None:
        self._store = store
        self._provider = ScriptedProvider(SCHEDULES)
        self._cancel = CancellationToken()
        self.late_s: list[float] = []
        self.asking_s = 0.0
        """Time spent in the provider and in building its records."""

    async def check(self, model: str) -> None:
        """The schedules are there."""

    async def ask(
        self, request: ChatRequest, on_event: Callable[[StreamEvent], None]
    ) -> StreamSession:
        """Play the schedule."""
        begun = time.monotonic_ns()
        if request.intended_ns is not None:
            self.late_s.append((begun - request.intended_ns) / NS)
        tokens: list[ProviderToken] = []
        async for event in self._provider.stream(request, "none", 0, self._cancel):
            if isinstance(event, ProviderToken):
                tokens.append(event)
        end = time.monotonic_ns()
        session = StreamSession(
            session_id=request.session_id,
            conversation_id=request.conversation_id,
            correlation_id=request.correlation_id,
            requested_model=request.model,
            model=request.model,
            provider="scripted",
            status=Status.OK,
            created_at=dt.datetime.now(dt.UTC),
            stamps=Stamps(queued=begun, slot=begun, sent=begun, end=end),
            options=request.options,
            seed=0,
            timing_mode=request.timing_mode,
            source=request.source,
            output_tokens=len(tokens),
        )
        whole = with_tokens(session, tokens)
        self.asking_s += (time.monotonic_ns() - begun) / NS
        return whole

    async def cancel(self, session_id: str) -> None:
        """Nothing runs long enough."""

    async def unload(self, model: str) -> None:
        """Nothing to unload."""

    async def rows(self, sql: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Of the real log."""
        return await asyncio.to_thread(self._store.rows, sql, params)

    async def log(self, table: str, rows: Sequence[Mapping[str, Any]], mode: Any) -> None:
        """Into the real log."""
        await asyncio.wrap_future(self._store.submit(check_rows(table, rows, mode)))


def spec(load: Mapping[str, Any], repeats: int) -> Spec:
    """A spec of one model that takes no time."""
    return Spec.of(
        {
            "name": "scale",
            "models": ["scripted/none"],
            "repeats": repeats,
            "prompts": {"count": QUESTIONS, "input_tokens": 20, "output_tokens": 8},
            "load": load,
            "slo": {"e2e_eff_s": 1.0},
        }
    )


async def trials(store: Store, settings: Settings, count: int) -> dict[str, Any]:
    """One run of many trials, eight users."""
    road, process = PlayedRoad(store), psutil.Process()
    shown: list[Progress] = []
    load = {"pattern": "closed", "users": 8, "requests": QUESTIONS}
    runner = Runner(road, settings, spec(load, count // QUESTIONS), on_start=shown.append)
    begun, cpu = time.perf_counter(), time.process_time()
    running = asyncio.create_task(runner.run())
    memory: dict[int, int] = {}
    while not running.done():
        await asyncio.sleep(0.2)
        if shown and shown[0].done * 10 // count not in memory:
            memory[shown[0].done * 10 // count] = process.memory_info().rss
    outcome = await running
    wall_s, cpu_s = time.perf_counter() - begun, time.process_time() - cpu
    (cell,) = outcome.cells.values()
    return {
        "trials": cell["results"]["trials"],
        "wall_s": wall_s,
        "trials_per_s": cell["results"]["trials"] / wall_s,
        "ms_per_trial": wall_s / count * 1e3,
        "cpu_ms_per_trial_log_included": cpu_s / count * 1e3,
        "rss_mib_by_tenth": {tenth: round(size / 2**20) for tenth, size in memory.items()},
    }


async def rate(store: Store, settings: Settings, per_s: float, seconds: float) -> dict[str, Any]:
    """An open loop; lateness is from the moment that was meant to the request's start."""
    road = PlayedRoad(store)
    load = {"pattern": "open", "rate_per_s": per_s, "duration_s": seconds}
    outcome = await Runner(road, settings, spec(load, 1)).run()
    (cell,) = outcome.cells.values()
    late = sorted(road.late_s)
    return {
        "offered_per_s": per_s,
        "trials": cell["results"]["trials"],
        "late_p50_ms": late[len(late) // 2] * 1e3,
        "late_p99_ms": late[int(len(late) * 0.99)] * 1e3,
        "late_max_ms": late[-1] * 1e3,
        "client_lag_p99_ms": cell["results"]["client_lag_p99_s"] * 1e3,
        "started_within_10_ms": sum(one <= 0.01 for one in late) / len(late),
    }


async def over_engine(store: Store, settings: Settings, count: int) -> dict[str, Any]:
    """The runner over engine and log, and the engine asked without a runner, in turns."""
    router = ModelRouter()
    router.register_provider(ScriptedProvider(SCHEDULES))
    engine = Engine(settings, router, store)
    road = LocalRoad(engine, "bench")
    load = {"pattern": "closed", "users": 32, "requests": count}
    found: dict[str, Any] = {"trials": count, "users": 32}
    for turn in range(2):
        cpu, begun = time.process_time(), time.perf_counter()
        await _plain(road, count)
        found[f"plain_{turn}"] = _spent(cpu, begun, count)
        cpu, begun = time.process_time(), time.perf_counter()
        await Runner(road, settings, spec(load, 1)).run()
        found[f"runner_{turn}"] = _spent(cpu, begun, count)
    await engine.close()
    return found


async def _plain(road: LocalRoad, count: int) -> None:
    from workbench.types import Message, Options

    left = iter(range(count))

    async def user() -> None:
        for number in left:
            request = ChatRequest(
                "scripted/none", (Message("user", f"Question {number}"),), Options(max_tokens=8)
            )
            await road.ask(request, lambda event: None)

    await asyncio.gather(*(user() for _ in range(32)))


def _spent(cpu: float, begun: float, count: int) -> dict[str, float]:
    wall_s = time.perf_counter() - begun
    return {
        "per_s": count / wall_s,
        "ms": wall_s / count * 1e3,
        "cpu_ms": (time.process_time() - cpu) / count * 1e3,
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["trials", "rate", "engine"])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--per-s", type=float, default=2_000)
    parser.add_argument("--seconds", type=float, default=10)
    given = parser.parse_args()
    logs.configure("ERROR")
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(
            workbench_db=Path(folder) / "scale.duckdb",
            workbench_max_queue=100_000,
            workbench_max_queue_per_model=100_000,
        )
        with Store.open(settings.workbench_db) as store:
            if given.what == "trials":
                done = asyncio.run(trials(store, settings, given.count))
            elif given.what == "rate":
                done = asyncio.run(rate(store, settings, given.per_s, given.seconds))
            else:
                done = asyncio.run(over_engine(store, settings, given.count))
    print(json.dumps(done))


if __name__ == "__main__":
    main()
