"""Runs in which something fails: a load that is too much, a model for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.bench.conftest import QUICK, Run, rows, spec_of
from workbench.bench.evidence import gather
from workbench.bench.runner import Runner
from workbench.bench.slo import kept
from workbench.client.roads import LocalRoad
from workbench.engine import Engine
from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.base import CancellationToken
from workbench.providers.scripted import Schedule, ScriptedProvider
from workbench.types import ChatRequest, ProviderEvent


class Weak(ScriptedProvider):
    """Answers at the first two loads that it is put under, and at no further one."""

    async def stream(
        self, request: ChatRequest, model: str, seed: int, cancel: CancellationToken
    ) -> AsyncGenerator[ProviderEvent, None]:
        loads = self.__dict__.setdefault("loads", [])
        if request.cell_id not in loads:
            loads.append(request.cell_id)
        if request.trial is not None and request.cell_id not in loads[:2]:
            raise WorkbenchError(ErrorCode.INTERNAL, "Too many at once.")
        async for event in super().stream(request, model, seed, cancel):
            yield event


@pytest.mark.parametrize("failures", [3, 99])
async def test_a_sweep_has_its_knee_below_a_load_at_which_everything_fails(
    engine: Engine, failures: int
) -> None:
    """Whether its requests all fail or it is given up after the first of them."""
    engine.router.providers["scripted"] = Weak({"a": QUICK})  # type: ignore[index]
    load = {"pattern": "sweep", "of": "users", "start": 1, "factor": 2, "most": 16, "refine": 0}
    spec = spec_of(models=["scripted/a"], load=load, slo={"e2e_s": 60}, stop={"failures": failures})
    outcome = await Runner(LocalRoad(engine, "test"), engine.settings, spec).run()
    assert set(outcome.knees.values()) == {2.0}
    assert (outcome.status, outcome.exit_code, outcome.failed) == ("ok", 0, ())
    assert any("4 users" in note and "counts as missed: " in note for note in outcome.notes)
    cells = await rows(engine, "SELECT status FROM benchmark_cells ORDER BY position")
    assert [cell["status"] for cell in cells] == ["ok", "ok", "error"]
    evidence = await asyncio.to_thread(gather, engine.store.query, outcome.run_id)
    (said,) = kept(evidence)
    assert "keeps the SLO up to 2 users at once; with 4 users at once only 0%" in said


@pytest.mark.parametrize(
    ("keys", "status", "left"),
    [
        # Given up after two trials: the other four are left.
        ({"warm_ups": 0, "stop": {"failures": 2}}, "ok", {"error": 2, "ok": 10}),
        # Given up before its first: all are left.
        ({"stop": {"failures": 2}}, "ok", {"ok": 12}),
        # None is left: what failed stays what it was.
        ({"warm_ups": 0, "stop": {"failures": 99}}, "partial", {"error": 6, "ok": 6}),
    ],
)
async def test_a_partial_run_goes_on_with_what_was_not_asked_yet(
    engine: Engine, run: Run, keys: dict[str, Any], status: str, left: dict[str, int]
) -> None:
    working = engine.router.providers["scripted"]
    broken = {"a": QUICK, "b": Schedule(QUICK.steps, error=ErrorCode.INTERNAL)}
    engine.router.providers["scripted"] = ScriptedProvider(broken)  # type: ignore[index]
    before = await run(**keys)
    assert before.status == "partial"
    first = await rows(engine, "SELECT session_id FROM benchmark_trials")
    engine.router.providers["scripted"] = working  # type: ignore[index]

    after = await (
        await Runner.resume(LocalRoad(engine, "test"), engine.settings, before.run_id)
    ).run()
    assert (after.run_id, after.status) == (before.run_id, status)
    trials = await rows(
        engine, "SELECT status, count(*)::INT AS n FROM benchmark_trials GROUP BY ALL ORDER BY ALL"
    )
    assert {row["status"]: row["n"] for row in trials} == left
    found = await rows(engine, "SELECT session_id FROM benchmark_trials")
    assert {row["session_id"] for row in first} <= {row["session_id"] for row in found}
    cells = await rows(engine, "SELECT status FROM benchmark_cells ORDER BY position")
    assert [cell["status"] for cell in cells] == ["ok", "ok" if status == "ok" else "error"]
