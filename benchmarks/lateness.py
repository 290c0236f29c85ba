"""Whether a row tells when the event loop made its figures wrong, on answers whose truth is known.

    python -m benchmarks.lateness [--answers 60]

A scripted model starts after 100 ms and gives a token every 25 ms, so every error of TTFT and of
the time between first and last token is the event loop's. The loop is left alone, then shares its
cores with twice as many busy processes as there are, then is blocked at random for 20 to 200 ms as
a careless page would. A figure is wrong if it is off by more than 5 % and 1 ms; a row that marks it
(``ttft_spoilt``, ``speed_spoilt``) has told so. Then what the looking costs, in processor time.

Prints Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from statistics import median

from workbench import logs, metrics
from workbench.engine import Engine
from workbench.lag import LagSampler, Lateness
from workbench.providers.scripted import Schedule, ScriptedProvider, steady
from workbench.router import ModelRouter
from workbench.settings import Settings
from workbench.store import Store
from workbench.types import ChatRequest, DoneEvent, Message, StreamSession

FIRST_S, GAP_S, TOKENS = 0.1, 0.025, 20
TRUE_S = {"ttft": FIRST_S, "speed": GAP_S * (TOKENS - 1)}
"""What is timed, by what may be spoilt."""


@contextlib.contextmanager
def busy_processes() -> Iterator[None]:
    """Two for each core."""
    command = [sys.executable, "-c", "while True: pass"]
    running = [subprocess.Popen(command) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


@asynccontextmanager
async def alone() -> AsyncGenerator[None, None]:
    """Nothing beside it."""
    yield


@asynccontextmanager
async def shared() -> AsyncGenerator[None, None]:
    """Other processes want the cores."""
    with busy_processes():
        yield


@asynccontextmanager
async def blocked() -> AsyncGenerator[None, None]:
    """Something in the loop does not give it back for a while, about twice a second."""
    chance = random.Random(1)

    async def block() -> None:
        while True:
            await asyncio.sleep(chance.uniform(0.1, 0.9))
            time.sleep(chance.uniform(0.02, 0.2))  # noqa: ASYNC251 - that is the point

    task = asyncio.create_task(block())
    yield
    task.cancel()


CONDITIONS: dict[str, Callable[[], AbstractAsyncContextManager[None]]] = {
    "alone": alone,
    "two busy processes a core": shared,
    "blocked twice a second": blocked,
}


def errors(session: StreamSession) -> dict[str, float]:
    """By how much each figure is off, in seconds."""
    stamps = session.stamps
    assert stamps.first_any is not None
    assert stamps.last is not None
    assert stamps.sent is not None
    timed = {"ttft": stamps.first_any - stamps.sent, "speed": stamps.last - stamps.first_any}
    return {name: abs(ns / metrics.NS - TRUE_S[name]) for name, ns in timed.items()}


async def answers(engine: Engine, count: int) -> list[StreamSession]:
    """One after the other."""
    found = []
    for number in range(count):
        request = ChatRequest("scripted/known", (Message("user", f"{number}"),))
        async for event in engine.stream(request):
            if isinstance(event, DoneEvent):
                found.append(event.session)
    return found


def told(condition: str, sessions: list[StreamSession]) -> None:
    """Rows of the table."""
    for name, true_s in TRUE_S.items():
        bound_s = max(metrics.LAG_FLOOR_S, metrics.LAG_SHARE * true_s)
        off = [errors(session)[name] for session in sessions]
        marked = [metrics.spoilt(session)[f"{name}_spoilt"] for session in sessions]
        wrong = [error > bound_s for error in off]
        untold = [error for error, mark in zip(off, marked, strict=True) if not mark]
        silent = sum(bad and not mark for bad, mark in zip(wrong, marked, strict=True))
        print(
            f"| {condition} | {name} | {len(off)} | {median(off) * 1e3:.1f} ms, "
            f"{max(off) * 1e3:.0f} ms | {sum(wrong)} | {sum(marked)} | {silent} | "
            f"{max(untold, default=0) / true_s:.1%} |"
        )


async def costs() -> None:
    """Processor time of looking, and of each token."""

    async def share(sampler: LagSampler | None) -> float:
        if sampler is not None:
            sampler.start()
        began = time.process_time()
        await asyncio.sleep(5)
        spent = time.process_time() - began
        if sampler is not None:
            sampler.close()
        return spent / 5

    kinds = {
        "none": lambda: None,
        "nothing is timed": lambda: LagSampler(busy=lambda: False),
        "something is timed": LagSampler,
    }
    for name, make in kinds.items():
        print(f"- sampler, {name}: {await share(make()):.2%} of a core")
    sampler = LagSampler()
    sampler.start()
    await asyncio.sleep(1)
    lateness, count = Lateness(sampler, time.monotonic_ns()), 100_000
    began = time.process_time()
    for _ in range(count):
        lateness.token(time.monotonic_ns())
    print(f"- a token: {(time.process_time() - began) / count * 1e6:.1f} us")
    sampler.close()


async def measure(count: int, folder: Path) -> None:
    """All of it."""
    settings = Settings(workbench_db=folder / "log.duckdb")
    router, store = ModelRouter(settings), Store.open(settings.workbench_db)
    known = Schedule(steady(TOKENS, first_s=FIRST_S, gap_s=GAP_S))
    router.register_provider(ScriptedProvider({"known": known}))
    engine = Engine(settings, router, store)
    await answers(engine, 3)
    print(
        "| | figure | answers | off by, median and most | wrong | marked | wrong and not marked | "
        "most of an unmarked |\n|---|---|--:|--:|--:|--:|--:|--:|"
    )
    for condition, make in CONDITIONS.items():
        async with make():
            sessions = await answers(engine, count)
        told(condition, sessions)
    print()
    await costs()
    await engine.close()


def main() -> None:
    """The table, and the costs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--answers", type=int, default=60, help="in each condition")
    count = parser.parse_args().answers
    logs.configure("WARNING")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(count, Path(folder)))


if __name__ == "__main__":
    main()
