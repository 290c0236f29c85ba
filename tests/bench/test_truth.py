"""The measuring is measured: known schedules, a stall, a late client, a step of the clock.

Tests share their cores, so of some trials the least disturbed counts.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import pytest

from benchmarks.stall import Stalling
from tests.bench.conftest import rows, spec_of
from tests.conftest import EngineFactory
from workbench.bench import recording
from workbench.bench.runner import Runner
from workbench.bench.spec import Spec
from workbench.client.roads import LocalRoad
from workbench.engine import Engine
from workbench.metrics import PHASES
from workbench.providers.base import CancellationToken
from workbench.providers.scripted import Schedule, ScriptedProvider, Step, steady
from workbench.types import ChatRequest, ProviderEvent

SCHEDULES = {
    "one": Schedule(steady(20, first_s=0.05, gap_s=0.01)),
    "two": Schedule(steady(10, first_s=0.05, gap_s=0.02, chunk=2)),
    "eight": Schedule(steady(4, first_s=0.05, gap_s=0.08, chunk=8)),
    "thinking": Schedule(
        steady(5, first_s=0.04, gap_s=0.01, channel="reasoning")
        + steady(10, first_s=0.03, gap_s=0.01)
    ),
    "stalled": Schedule(
        (
            *steady(5, first_s=0.03, gap_s=0.01),
            Step(0.3, "late "),
            *steady(5, first_s=0.01, gap_s=0.01),
        )
    ),
}


def due(schedule: Schedule) -> dict[str, float]:
    """The figures that a schedule must give, from its delays alone."""
    times, now = [], 0.0
    for step in schedule.steps:
        now += step.delay_s
        times.append(now)
    tokens = sum(step.n_tokens for step in schedule.steps)
    content = next(
        t for t, step in zip(times, schedule.steps, strict=True) if step.channel == "content"
    )
    gaps = sorted(
        gap for step in schedule.steps[1:] for gap in [step.delay_s / step.n_tokens] * step.n_tokens
    )
    middle = len(gaps) // 2
    return {
        "ttft_s": times[0],
        "ttfo_s": content,
        "tpot_s": (times[-1] - times[0]) / (tokens - 1),
        "itl_p50_s": (gaps[middle] + gaps[~middle]) / 2,
        "e2e_s": times[-1],
    }


async def ran(engine: Engine, spec: Spec) -> None:
    outcome = await Runner(LocalRoad(engine, "test"), engine.settings, spec).run()
    assert outcome.exit_code == 0, outcome.failed


@pytest.mark.alone  # to within a hundredth
async def test_known_schedules_are_measured_as_they_are(make_engine: EngineFactory) -> None:
    engine = make_engine(SCHEDULES)
    models = [f"scripted/{name}" for name in SCHEDULES]
    await ran(engine, spec_of(models=models, prompts={"count": 5, "output_tokens": 100}, repeats=1))
    found = await rows(
        engine, "SELECT l.* FROM latencies l JOIN benchmark_trials t USING (session_id)"
    )
    for name, schedule in SCHEDULES.items():
        own = [row for row in found if row["model"] == f"scripted/{name}"]
        assert len(own) == 5
        for figure, wanted in due(schedule).items():
            off = [row[figure] - wanted for row in own]
            if figure in ("ttft_s", "e2e_s"):
                assert min(off) >= -1e-4, f"{name}: {figure} is earlier than it can be"
            best = min(map(abs, off))
            assert best <= max(0.001, 0.01 * wanted), f"{name}: {figure} is off by {best:.4f} s"
        for row in own:
            assert sum(row[phase] for phase in PHASES) == pytest.approx(row["wall_s"], abs=1e-6)


@pytest.fixture
def stalling(make_engine: EngineFactory) -> Engine:
    schedule = {"a": Schedule(steady(2, first_s=0.0, gap_s=0.0))}
    engine = make_engine(schedule)
    engine.router.providers["scripted"] = Stalling(schedule)
    return engine


ONE = {"models": ["scripted/a"], "repeats": 1, "prompts": {"count": 1}}


async def test_an_open_loop_sees_a_stall_and_a_closed_loop_would_hide_it(stalling: Engine) -> None:
    load: dict[str, Any] = {"pattern": "open", "arrivals": "constant", "rate_per_s": 40}
    await ran(stalling, spec_of(**ONE, load={**load, "requests": 80}))
    sql = "SELECT e2e_eff_s FROM latencies WHERE trial IS NOT NULL ORDER BY trial"
    found = [row["e2e_eff_s"] for row in await rows(stalling, sql)]
    assert len(found) == 80
    # Each that comes while it lasts waits for what is left of it, on a slow machine longer.
    for since, value in enumerate(found[Stalling.first : Stalling.first + 40]):
        assert value >= Stalling.stall_s - since / 40 - 0.001
    long = sum(value >= Stalling.stall_s / 2 for value in found)
    assert long >= 20
    before = sorted(found[: Stalling.first])
    assert before[len(before) // 2] < Stalling.stall_s / 2


async def test_a_closed_loop_meets_the_stall_once(stalling: Engine) -> None:
    load = {"pattern": "closed", "users": 1, "requests": 80}
    await ran(stalling, spec_of(**ONE, load=load))
    sql = (
        "SELECT count(*) AS n FROM latencies WHERE trial IS NOT NULL "
        f"AND e2e_eff_s >= {Stalling.stall_s} - 0.001"
    )
    assert await rows(stalling, sql) == [{"n": 1}]


class Hogging(ScriptedProvider):
    """Its twentieth trial keeps the whole process from running for half a second."""

    until_ns = 0

    async def stream(
        self, request: ChatRequest, model: str, seed: int, cancel: CancellationToken
    ) -> AsyncGenerator[ProviderEvent, None]:
        if request.trial == 20:
            time.sleep(0.5)  # noqa: ASYNC251 (no other request gets on)
            self.until_ns = time.monotonic_ns()
        async for event in super().stream(request, model, seed, cancel):
            yield event


async def test_a_client_that_is_late_hides_nothing_and_is_told_of(
    make_engine: EngineFactory,
) -> None:
    schedule = {"a": Schedule(steady(2, first_s=0.0, gap_s=0.0))}
    engine = make_engine(schedule)
    engine.router.providers["scripted"] = hogging = Hogging(schedule)
    load = {"pattern": "open", "arrivals": "constant", "rate_per_s": 20, "requests": 50}
    runner = Runner(LocalRoad(engine, "test"), engine.settings, spec_of(**ONE, load=load))
    outcome = await runner.run()
    found = await rows(
        engine,
        "SELECT e2e_s, e2e_eff_s, intended_ns, sent_ns "
        "FROM latencies JOIN stream_sessions USING (session_id) "
        "WHERE latencies.trial IS NOT NULL ORDER BY latencies.trial",
    )
    # What was due in that time was asked only afterwards, and the wait is in the one figure alone.
    until = hogging.until_ns
    late = [row for row in found if row["intended_ns"] < until <= row["sent_ns"]]
    hidden = [row["e2e_eff_s"] - row["e2e_s"] for row in late]
    for row, wait_s in zip(late, hidden, strict=True):
        assert wait_s >= (until - row["intended_ns"]) / 1e9 - 1e-6
    assert max(hidden) > 0.4
    span_ns = found[-1]["intended_ns"] - found[0]["intended_ns"]
    assert span_ns == pytest.approx(49 / 20 * 1e9, rel=1e-6)  # no gap was stretched
    (cell,) = outcome.cells.values()
    assert cell["results"]["client_lag_p99_s"] > 0.1
    assert cell["results"]["client_lag"] is True
    assert any("the client was late" in note for note in outcome.notes)


async def test_a_step_of_the_clock_changes_no_figure(
    make_engine: EngineFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine({"a": Schedule(steady(3, first_s=0.02, gap_s=0.01))})
    steps = clock()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(steps))
    monkeypatch.setattr(recording, "now", lambda: dt.datetime.fromtimestamp(time.time(), dt.UTC))
    await ran(engine, spec_of(**{**ONE, "repeats": 10}))
    found = await rows(engine, "SELECT * FROM latencies WHERE trial IS NOT NULL")
    assert len(found) == 10
    for row in found:
        assert 0.02 - 1e-4 <= row["ttft_s"] < 5
        assert 0.04 - 1e-4 <= row["e2e_s"] <= row["e2e_eff_s"] < 5
    times = await rows(engine, "SELECT created_at FROM benchmark_trials ORDER BY trial")
    assert max(r["created_at"] for r in times) - min(r["created_at"] for r in times) > dt.timedelta(
        minutes=50
    )


def clock() -> Iterator[float]:
    """An hour forward and back again, over and over."""
    while True:
        yield 0.0
        yield 3600.0


def test_the_schedule_of_a_test_is_what_it_says() -> None:
    found = due(SCHEDULES["eight"])
    assert found["tpot_s"] == pytest.approx(0.24 / 31)
    assert found["itl_p50_s"] == pytest.approx(0.01)
    check: Callable[[str], float] = lambda name: due(SCHEDULES["thinking"])[name]  # noqa: E731
    assert check("ttft_s") == pytest.approx(0.04)
    assert check("ttfo_s") == pytest.approx(0.11)
