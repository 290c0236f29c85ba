"""Many users for a long time: whether anything is lost, whether anything grows.

    python -m tests.reliability.soak --minutes 60      (make soak)

Users ask models of all runtimes in turns, some answers are 10,000 tokens long, and the budget holds
only some of the models, so that they push each other out all the time. What was asked is compared
with what was logged; memory, descriptors, threads and processes are sampled at rest, and what they
grow by in an hour is told with its interval.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from tests.reliability.stage import MODELS, OLLAMA, QUESTION, SERVER, Stage, grounds

LONG: Final = 10_000
"""Tokens of a long answer."""
SHARE: Final = 0.7
"""The budget, of what all models hold together."""
WARM: Final = 1 / 3
"""The part of a run that is not looked at: caches fill, allocators find their size."""


@dataclass(frozen=True)
class Sample:
    """What the server held when nothing ran, ``hours`` after the beginning."""

    hours: float
    rss_mb: float
    uss_mb: float
    fds: int
    threads: int
    processes: int
    asked: int


@dataclass
class Soak:
    """Users, for as long as it takes.

    Args:
        stage: what they use.
        minutes: how long.
        users: how many ask and ask again.
        long: models of whom somebody always wants a long answer.
        samples: how often everybody is kept away and the server is looked at.
        seed: of all choices.
    """

    stage: Stage
    minutes: float
    users: int = 8
    long: Sequence[str] = ("scripted/long", "huggingface/one", "ollama/a:135m")
    samples: int = 60
    seed: int = 1
    found: list[Sample] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    finished_long: int = 0
    tell: bool = False

    async def run(self) -> None:
        """All of it; what was found is in the fields."""
        self._began = time.monotonic()
        self._ends = self._began + 60 * self.minutes
        await self._sample()
        tasks = [asyncio.create_task(self._user(n)) for n in range(self.users)]
        tasks += [asyncio.create_task(self._reader(model)) for model in self.long]
        for number in range(1, self.samples + 1):
            due = self._began + 60 * self.minutes * number / self.samples
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if number < self.samples:
                await self._sample()
        await asyncio.gather(*tasks)
        await self._sample()

    async def _user(self, number: int) -> None:
        """Switches between models, answers of any length."""
        chance = random.Random(self.seed * 1000 + number)
        while time.monotonic() < self._ends:
            model = chance.choice(MODELS)
            async with self.stage.turns.take(shares=grounds(model)):
                told = await self.stage.users.ask(model, QUESTION, chance.choice((2, 8, 8, 32)))
            self._judge(told, model)
            await asyncio.sleep(chance.expovariate(20))

    async def _reader(self, model: str) -> None:
        """Wants one long answer after the other; is looked at while it is read, too."""
        while time.monotonic() < self._ends:
            told = await self.stage.users.ask(
                model, QUESTION, LONG, options={"num_ctx": 8192} if model in OLLAMA else {}
            )
            self._judge(told, model)
            self.finished_long += told.outcome == "ok"

    def _judge(self, told: Any, model: str) -> None:
        self.outcomes[f"{model} {told.outcome}"] += 1
        said = self.stage.said.get(model, "")
        same = min(len(said), len(told.text))
        if told.outcome != "ok" or told.text[:same] != said[:same]:
            self.problems.append(f"{model}: {told.outcome} {told.message} {told.text[:100]!r}")
            if self.tell:
                print("PROBLEM", self.problems[-1], file=sys.stderr, flush=True)

    async def _sample(self) -> None:
        """Users pause, long answers go on."""
        async with self.stage.turns.take((SERVER,)):
            process = psutil.Process(self.stage.server.pid)
            memory = await asyncio.to_thread(process.memory_full_info)
            sample = Sample(
                (time.monotonic() - self._began) / 3600,
                memory.rss / 1e6,
                memory.uss / 1e6,
                process.num_fds(),
                process.num_threads(),
                len(self.stage.family()),
                len(self.stage.users.asked),
            )
        self.found.append(sample)
        if self.tell:
            print(json.dumps({**vars(sample), "problems": len(self.problems)}),
                  file=sys.stderr, flush=True)  # fmt: skip

    def growth(self) -> dict[str, dict[str, float]]:
        """What each figure grows by in an hour, after the warm-up: Theil-Sen, 95 % interval."""
        from scipy.stats import theilslopes

        last = self.found[-1].hours
        later = [sample for sample in self.found if sample.hours >= WARM * last]
        hours = [sample.hours for sample in later]
        slopes = {}
        for name in ("uss_mb", "rss_mb", "fds", "threads", "processes"):
            values = [getattr(sample, name) for sample in later]
            slope, _, low, high = theilslopes(values, hours, 0.95)
            slopes[name] = {"per_hour": float(slope), "low": float(low), "high": float(high)}
        return slopes


async def squeezed(stage: Stage) -> int:
    """Start the server anew with a budget that holds only some of its models; MB of it."""
    await stage.warm()
    queue = await stage.users.get("/api/v1/queue")
    budget = int(SHARE * sum(queue["held_bytes"].values()))
    stage.server.environment["WORKBENCH_MEMORY_BUDGET"] = str(budget)
    await stage.stop(signal.SIGTERM)
    await stage.start()
    await stage.warm()
    return budget // 10**6


async def run(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One run on a stage of its own."""
    async with Stage(folder) as stage:
        budget_mb = await squeezed(stage)
        soak = Soak(stage, chosen.minutes, chosen.users, samples=chosen.samples, tell=True)
        await soak.run()
        level = await stage.at_rest()
        ((rows,),) = await stage.users.query(
            "SELECT count(*) FROM stream_sessions WHERE correlation_id LIKE 'rel-%'"
        )
        events = await stage.users.query(
            "SELECT event, count(*) FROM model_events GROUP BY event ORDER BY event"
        )
    return {
        "minutes": chosen.minutes,
        "users": chosen.users,
        "budget_mb": budget_mb,
        "requests": len(stage.users.asked),
        "rows": rows,
        "outcomes": dict(sorted(soak.outcomes.items())),
        "long_answers": soak.finished_long,
        "model_events": dict(map(tuple, events)),
        "grows_by_in_an_hour": soak.growth(),
        "at_rest": level,
        "problems": soak.problems[:20],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures as JSON; 1 if an answer was wrong or missing, or has no row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--samples", type=int, help="default: one a minute, ten at least")
    chosen = parser.parse_args(arguments)
    chosen.samples = chosen.samples or max(10, round(chosen.minutes))
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        found = asyncio.run(run(chosen, Path(name)))
    print(json.dumps(found, indent=1))
    return bool(found["problems"]) or found["rows"] != found["requests"]


if __name__ == "__main__":
    sys.exit(main())
