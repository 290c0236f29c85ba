"""Every load pattern, run against models that play schedules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench.conftest import Run, rows
from tests.conftest import EngineFactory
from workbench.bench.runner import Runner
from workbench.bench.spec import Spec
from workbench.client.roads import LocalRoad
from workbench.engine import Engine
from workbench.providers.scripted import Schedule, steady


async def test_users_run_side_by_side_but_no_more_than_there_are(run: Run, engine: Engine) -> None:
    outcome = await run(
        models=["scripted/long"],
        prompts={"count": 4, "output_tokens": 40},
        load={"pattern": "closed", "users": [1, 4], "requests": 12},
        repeats=1,
    )
    sql = (
        "SELECT c.load->>'$.users' AS users, max(o.n) AS most FROM benchmark_cells c JOIN ("
        "SELECT a.cell_id, a.trial, count(*) AS n FROM stream_sessions a JOIN stream_sessions b "
        "ON a.cell_id = b.cell_id AND b.sent_ns <= a.sent_ns AND a.sent_ns < b.end_ns "
        "WHERE a.trial IS NOT NULL AND b.trial IS NOT NULL GROUP BY ALL) o USING (cell_id) "
        "GROUP BY 1 ORDER BY 1"
    )
    assert await rows(engine, sql) == [{"users": "1", "most": 1}, {"users": "4", "most": 4}]
    speed = {cell["label"][:8]: cell["results"] for cell in outcome.cells.values()}
    assert speed["closed 4"]["throughput_tps"] > 2 * speed["closed 1"]["throughput_tps"]


async def test_a_conversation_carries_its_answers(run: Run, engine: Engine) -> None:
    await run(models=["scripted/a"], load={"pattern": "conversation", "turns": 3}, repeats=1)
    found = await rows(
        engine,
        "SELECT s.conversation_id, list(t.turn ORDER BY t.trial) AS turns, "
        "list(m.position ORDER BY m.position) AS places "
        "FROM benchmark_trials t JOIN stream_sessions s USING (session_id) "
        "JOIN messages m ON m.session_id = s.session_id AND m.role = 'user' GROUP BY 1",
    )
    assert [(row["turns"], row["places"]) for row in found] == [([0, 1, 2], [0, 2, 4])] * 3


async def test_a_share_is_stopped_on_purpose_and_fails_no_slo(run: Run, engine: Engine) -> None:
    outcome = await run(
        models=["scripted/long"],
        load={"pattern": "cancel", "share": 0.5, "after_tokens": [2, 5], "requests": 20},
        prompts={"count": 4, "output_tokens": 30},
        slo={"e2e_s": 60},
        repeats=1,
    )
    assert outcome.exit_code == 0
    found = await rows(
        engine,
        "SELECT t.cancelled_on_purpose AS meant, t.status, t.met, count(*) AS n, "
        "max(s.streamed_tokens) AS tokens, "
        "bool_and((t.details->>'$.stop_s')::DOUBLE >= 0) AS told FROM benchmark_trials t "
        "JOIN stream_sessions s USING (session_id) GROUP BY 1, 2, 3 ORDER BY 1",
    )
    whole, stopped = found
    assert (whole["status"], whole["met"], whole["tokens"]) == ("ok", True, 30)
    assert (stopped["status"], stopped["met"], stopped["told"]) == ("cancelled", None, True)
    assert stopped["tokens"] < 30
    assert whole["n"] + stopped["n"] == 20


async def test_cold_requests_load_and_warm_ones_do_not(run: Run, engine: Engine) -> None:
    await run(models=["scripted/a"], load={"pattern": "cold"}, repeats=1)
    found = await rows(
        engine,
        "SELECT c.load->>'$.variant' AS variant, bool_and(l.cold) AS every, bool_or(l.cold) AS any "
        "FROM latencies l JOIN benchmark_cells c USING (cell_id) WHERE l.trial IS NOT NULL "
        "GROUP BY 1 ORDER BY 1",
    )
    assert found == [
        {"variant": "cold", "every": True, "any": True},
        {"variant": "warm", "every": False, "any": False},
    ]


async def test_shared_prefixes_are_the_same_and_unique_ones_are_not(
    run: Run, engine: Engine
) -> None:
    await run(models=["scripted/a"], load={"pattern": "prefix", "prefix_tokens": 50})
    found = await rows(
        engine,
        "SELECT t.prefix, count(*) AS n, count(DISTINCT split_part(p.prompt, '.', 1)) AS kinds, "
        "min(len(string_split(split_part(p.prompt, '.', 1), ' '))) AS words "
        "FROM benchmark_trials t JOIN session_prompts p USING (session_id) GROUP BY 1 ORDER BY 1",
    )
    assert found == [
        {"prefix": "shared", "n": 6, "kinds": 1, "words": 50},
        {"prefix": "unique", "n": 6, "kinds": 6, "words": 50},
    ]


async def test_a_storm_and_a_trace_and_a_ramp_run(run: Run, engine: Engine, tmp_path: Path) -> None:
    assert (await run(load={"pattern": "storm", "users": 3})).exit_code == 0
    trace = tmp_path / "t.jsonl"
    trace.write_text('{"arrival_s": 5, "input_tokens": 20}\n{"arrival_s": 5.2, "prompt": "Hi"}')
    load: dict[str, Any] = {"pattern": "trace", "file": str(trace)}
    outcome = await run(models=["scripted/a"], prompts=None, load=load, repeats=1)
    (gap,) = await rows(
        engine,
        "SELECT max(intended_ns) - min(intended_ns) AS ns FROM stream_sessions "
        f"WHERE trial IS NOT NULL AND run_id = '{outcome.run_id}'",
    )
    assert gap["ns"] == pytest.approx(0.2e9, abs=1)
    load = {"pattern": "ramp", "from_per_s": 5, "to_per_s": 50, "duration_s": 0.5}
    outcome = await run(models=["scripted/a"], load=load, repeats=1)
    (cell,) = outcome.cells.values()
    assert cell["results"]["trials"] > 3


async def test_a_sweep_finds_the_knee_and_stops_there(make_engine: EngineFactory) -> None:
    # Three at a time, 0.25 s each: of four users one waits for that long in turn, of three nobody.
    # The limit is between the two by far, and what users do between two requests, during which they
    # do not keep others waiting, is short beside an answer: a slow machine finds the same.
    engine = make_engine({"a": Schedule(steady(4, first_s=0.1, gap_s=0.05))})
    provider = engine.router.providers["scripted"]
    provider.concurrency = 3  # type: ignore[misc]
    spec = Spec.of(
        {
            "name": "sweep",
            "models": ["scripted/a"],
            "repeats": 1,
            "prompts": {"count": 2},
            "load": {"pattern": "sweep", "most": 64, "refine": 3, "requests": 12},
            "slo": {"queue_s": 0.04, "share": 0.9},
        }
    )
    outcome = await Runner(LocalRoad(engine, "test"), engine.settings, spec).run()
    tried = await rows(
        engine,
        "SELECT (load->>'$.users')::INTEGER AS users, "
        "(results->>'$.slo_met')::BOOLEAN AS met FROM benchmark_cells ORDER BY position",
    )
    (knee,) = outcome.knees.values()
    points = [row["users"] for row in tried]
    assert points[:1] == [1]
    assert max(points) < 64
    assert knee in (1, 2, 3)
    assert knee == max((row["users"] for row in tried if row["met"]), default=None)
    assert outcome.slo_met is True
    (row,) = await rows(engine, "SELECT details FROM benchmark_runs")
    assert list(json.loads(row["details"])["knees"].values()) == [knee]
