"""A runtime that stands still for ten seconds: an open loop sees it, a closed one hides it.

Ten requests a second for 80 s, constant arrivals, to a scripted model whose answers take no time;
20 s in it does nothing for 10 s. The same with one user who waits for answers, as many requests.

    python -m benchmarks.stall [--seconds 80] [--stall 10]

Prints one line of JSON. What must come of it: the hundred requests that arrive in those ten seconds
wait for what is left of them, 10, 9.9, ... 0.1 s. The 99th percentile of n = 800 requests is
therefore near the n/100-th longest of these waits: 9.2 s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from workbench import logs
from workbench.bench.runner import Runner
from workbench.bench.spec import Spec
from workbench.client.roads import LocalRoad
from workbench.engine import Engine
from workbench.metrics import quantile
from workbench.providers.base import CancellationToken
from workbench.providers.scripted import Schedule, ScriptedProvider, steady
from workbench.router import ModelRouter
from workbench.settings import load_settings
from workbench.store import Store
from workbench.types import ChatRequest, ProviderEvent

SCHEDULES = {"a": Schedule(steady(2, first_s=0.0, gap_s=0.0))}
PER_S = 10


class Stalling(ScriptedProvider):
    """A runtime that does nothing at all for a while, as in a garbage collection.

    It begins when the first trial with that number or a later one comes.
    """

    stall_s = 1.0
    first = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        self._ends: float | None = None

    async def stream(
        self, request: ChatRequest, model: str, seed: int, cancel: CancellationToken
    ) -> AsyncGenerator[ProviderEvent, None]:
        """As the schedule says, but for the stall."""
        if request.trial is not None and request.trial >= self.first:
            self._ends = self._ends or time.monotonic() + self.stall_s
            await asyncio.sleep(max(0.0, self._ends - time.monotonic()))
        async for event in super().stream(request, model, seed, cancel):
            yield event


async def measured(
    log: Path, load: Mapping[str, Any], stall_s: float, first: int
) -> dict[str, Any]:
    """The p99 of both figures, and how many requests waited, under one load."""
    router = ModelRouter()
    provider = Stalling(SCHEDULES)
    provider.stall_s, provider.first = stall_s, first
    router.register_provider(provider)
    settings = load_settings(workbench_max_queue=10_000, workbench_max_queue_per_model=10_000)
    store = Store.open(log)
    engine = Engine(settings, router, store)
    spec = Spec.of(
        {
            "name": "stall",
            "models": ["scripted/a"],
            "repeats": 1,
            "prompts": {"count": 10},
            "load": load,
        }
    )
    outcome = await Runner(LocalRoad(engine, "bench"), settings, spec).run()
    rows = await asyncio.to_thread(
        store.rows,
        "SELECT e2e_s, e2e_eff_s FROM latencies WHERE run_id = $run AND trial IS NOT NULL",
        {"run": outcome.run_id},
    )
    await engine.close()
    late = [row["e2e_eff_s"] for row in rows]
    return {
        "requests": len(rows),
        "e2e_p99_s": quantile([row["e2e_s"] for row in rows], 0.99),
        "e2e_eff_p99_s": quantile(late, 0.99),
        "longest_s": max(late),
        "waited_more_than_0.1_s": sum(value > 0.1 for value in late),
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=80)
    parser.add_argument("--stall", type=float, default=10)
    given = parser.parse_args()
    logs.configure("ERROR")
    count = round(given.seconds * PER_S)
    open_loop = {"pattern": "open", "arrivals": "constant", "rate_per_s": PER_S, "requests": count}
    closed = {"pattern": "closed", "users": 1, "requests": count}
    # A closed loop is through its requests in a second or two: its stall comes at once.
    waits = sorted((given.stall - i / PER_S for i in range(int(given.stall * PER_S))), reverse=True)
    due = quantile([*waits, *[0.0] * (count - len(waits))], 0.99)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.duckdb"
        found = {
            "due_e2e_eff_p99_s": due,
            "open": asyncio.run(measured(log, open_loop, given.stall, count // 4)),
            "closed": asyncio.run(measured(log, closed, given.stall, 1)),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
