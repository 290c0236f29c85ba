"""Runs in which something fails: a load that is too much, a model for a while, a judge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
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
from workbench.providers.scripted import Schedule, ScriptedProvider, Step
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


def judging(text: str, error: ErrorCode | None = None) -> dict[str, Schedule]:
    return {"a": QUICK, "b": QUICK, "judge": Schedule((Step(0.0, text),), error=error)}


@pytest.mark.parametrize("failures", [2, 99])
@pytest.mark.parametrize(
    ("keys", "reply", "answers"),
    [
        ({"scorers": [{"scorer": "judge", "model": "scripted/judge"}]}, "GRADE: 4", 12),
        ({"pairwise": {"model": "scripted/judge"}}, "BETTER: TIE", 3),
    ],
)
async def test_a_judge_that_fails_is_told_of_and_asked_again_by_a_resumed_run(
    engine: Engine,
    run: Run,
    tmp_path: Path,
    keys: dict[str, Any],
    reply: str,
    answers: int,
    failures: int,
) -> None:
    """Whether it is given up or never answers the few times it is asked."""
    items = tmp_path / "items.csv"
    items.write_text("prompt\nWhy?\nHow?\nWho?\n")
    use = {"source": str(items), "scorers": keys.get("scorers", [])}
    given = {"datasets": [use], **{k: v for k, v in keys.items() if k == "pairwise"}}
    broken = ScriptedProvider(judging(reply, ErrorCode.INTERNAL))
    engine.router.providers["scripted"] = broken  # type: ignore[index]
    before = await run(prompts=None, stop={"failures": failures}, **given)
    assert (before.status, before.exit_code) == ("partial", 2)
    assert before.failed[0].startswith("judge scripted/judge: INTERNAL: ")
    assert [cell["results"]["ok"] for cell in before.cells.values()] == [6, 6]
    asked = await rows(engine, "FROM stream_sessions WHERE source = 'judge'")
    # Given up, those are asked that were on their way.
    assert len(asked) == answers if failures > answers else 2 <= len(asked) <= 5
    scores = "SELECT session_id, score FROM scores ORDER BY created_at"
    assert {row["score"] for row in await rows(engine, scores)} == {None}

    working = ScriptedProvider(judging(reply))
    engine.router.providers["scripted"] = working  # type: ignore[index]
    road = LocalRoad(engine, "test")
    after = await (await Runner.resume(road, engine.settings, before.run_id)).run()
    assert (after.status, after.exit_code, after.failed) == ("ok", 0, ())
    newest = {row["session_id"]: row["score"] for row in await rows(engine, scores)}
    assert len(newest) == answers
    assert None not in newest.values()
    if "scorers" in keys:
        for cell in after.cells.values():
            told = cell["results"]["scores"]["judge"]
            assert told == {"scored": 6, "unknown": 0, "mean": 0.75}


async def test_a_judge_that_is_not_there_is_told_before_anything_runs(
    engine: Engine, run: Run
) -> None:
    judge = {"pairwise": {"model": "scripted/nobody"}}
    with pytest.raises(WorkbenchError, match="nobody") as caught:
        await run(**judge)
    assert caught.value.details["key"] == "pairwise.model"
    assert await rows(engine, "FROM benchmark_runs") == []
    outcome = await run(**judge, absent_models="skip")
    assert outcome.status == "partial"
    assert outcome.notes[0].startswith("judge scripted/nobody: MODEL_NOT_FOUND")
    assert [cell["results"]["ok"] for cell in outcome.cells.values()] == [6, 6]


async def test_a_judge_that_only_items_name_is_looked_for_too(
    engine: Engine, run: Run, tmp_path: Path
) -> None:
    def judged(model: str) -> dict[str, str]:
        return {"scorer": "judge", "model": model}

    own = [judged("scripted/a"), "exact", judged("scripted/nobody"), judged("scripted/nobody")]
    items = tmp_path / "items.jsonl"
    lines = [
        {"id": f"i{place}", "prompt": "Why?", "expected": "a", "scorer": scorer}
        for place, scorer in enumerate(own)
    ]
    items.write_text("\n".join(json.dumps(line) for line in lines))
    others = (
        tmp_path / "others.jsonl"
    )  # whose items are scored otherwise: what they name is nothing
    others.write_text(json.dumps({**lines[2], "scorer": judged("scripted/unused")}))
    given = {
        "prompts": None,
        "datasets": [
            {"source": str(others), "scorers": ["exact"]},
            {"source": str(items), "scorers": ["exact", "item"]},
        ],
    }
    with pytest.raises(WorkbenchError, match="'nobody'") as caught:
        await run(**given)
    error = caught.value
    assert error.code is ErrorCode.MODEL_NOT_FOUND
    assert error.message.startswith("The judge of item 'i2': ")
    assert (error.details["key"], error.details["item"]) == ("datasets.1.scorers.1", "i2")
    assert await rows(engine, "FROM benchmark_runs") == []
    outcome = await run(**given, absent_models="skip")
    assert [note for note in outcome.notes if "nobody" in note] == [outcome.notes[0]]
