"""A run asks everything once, writes it down at once, and goes on where it was."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench_scale
from tests.bench.conftest import Run, rows, spec_of
from tests.conftest import EngineFactory
from workbench.bench.comparisons import compare
from workbench.bench.evidence import gather
from workbench.bench.findings import caveats
from workbench.bench.progress import Progress
from workbench.bench.runner import Runner
from workbench.client.roads import LocalRoad
from workbench.engine import Engine
from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.huggingface import HuggingFaceProvider
from workbench.providers.scripted import Schedule, steady
from workbench.settings import Settings
from workbench.store import Store

PAIRS = """
SELECT task, item, repeat, turn, count(DISTINCT cell_id) AS cells, count(*) AS rows
FROM benchmark_trials GROUP BY ALL
"""


async def test_everything_is_asked_once_and_warm_ups_do_not_count(run: Run, engine: Engine) -> None:
    outcome = await run(warm_ups=2)
    assert (outcome.status, outcome.exit_code, outcome.slo_met) == ("ok", 0, None)
    pairs = await rows(engine, PAIRS)
    assert len(pairs) == 6
    assert all((pair["cells"], pair["rows"]) == (2, 2) for pair in pairs)
    sessions = await rows(
        engine, "SELECT trial, source, timing_mode, run_id, options FROM stream_sessions"
    )
    assert len(sessions) == 12 + 4 - 2  # a warm-up that went well is enough
    assert sum(session["trial"] is None for session in sessions) == 2
    assert {session["timing_mode"] for session in sessions} == {"isolated"}
    assert {(s["source"], s["run_id"]) for s in sessions} == {("bench", outcome.run_id)}
    joined = await rows(
        engine,
        "SELECT count(*) AS n FROM benchmark_trials t JOIN stream_sessions s USING (session_id) "
        "WHERE s.cell_id = t.cell_id AND s.trial = t.trial AND s.intended_ns <= s.queued_ns",
    )
    assert joined == [{"n": 12}]
    (row,) = await rows(engine, "FROM benchmark_runs")
    assert (row["status"], row["environment_id"]) == ("ok", engine.store.environment_id)
    cells = await rows(engine, "FROM benchmark_cells ORDER BY position")
    assert [(cell["status"], cell["trials"]) for cell in cells] == [("ok", 6)] * 2
    assert json.loads(cells[0]["results"])["ok"] == 6


async def test_models_are_asked_the_same_with_the_same_seed_but_another_prefix(
    run: Run, engine: Engine
) -> None:
    await run(repeats=1)
    found = await rows(
        engine,
        "SELECT t.item, list(p.prompt_untagged) AS asked, list(DISTINCT p.prompt) AS sent, "
        "list(DISTINCT s.seed) AS seeds FROM benchmark_trials t "
        "JOIN session_prompts p USING (session_id) JOIN stream_sessions s USING (session_id) "
        "GROUP BY t.item",
    )
    assert len(found) == 3
    for item in found:
        assert len(item["asked"]) == len(item["sent"]) == 2
        assert len(set(item["asked"])) == 1
        assert len(item["seeds"]) == 1


async def test_models_may_have_options_of_their_own_and_are_compared_all_the_same(
    run: Run, engine: Engine
) -> None:
    warm = {"model": "scripted/a", "options": {"temperature": 1.5}}
    outcome = await run(models=["scripted/a", warm, "scripted/b"], options={"temperature": 0})
    found = await rows(
        engine,
        "SELECT c.position, s.options->>'$.temperature' AS t, count(*) AS n "
        "FROM benchmark_cells c JOIN stream_sessions s USING (cell_id) WHERE s.trial IS NOT NULL "
        "GROUP BY ALL ORDER BY 1",
    )
    assert [(row["position"], float(row["t"]), row["n"]) for row in found] == [
        (0, 0.0, 6),
        (1, 1.5, 6),
        (2, 0.0, 6),
    ]
    evidence = await asyncio.to_thread(gather, engine.store.query, outcome.run_id)
    pairs = {(one.a.position, one.b.position, one.axis) for one in compare(evidence.cells)}
    assert pairs == {(0, 1, "model"), (0, 2, "model"), (1, 2, "model")}
    told = [caveat.text for caveat in caveats(evidence)]
    assert any("options of their own: " in text and "temperature 1.5" in text for text in told)


async def test_a_model_that_fails_is_given_up_and_the_others_go_on(
    run: Run, engine: Engine
) -> None:
    outcome = await run(
        models=["scripted/broken", "scripted/nowhere", "scripted/a"],
        stop={"failures": 2},
        absent_models="skip",
        slo={"e2e_s": 10},
    )
    assert (outcome.status, outcome.exit_code) == ("partial", 2)
    assert outcome.slo_met is False, "of those that were given up no request kept it"
    assert any("MODEL_NOT_FOUND" in note for note in outcome.notes)
    assert len(outcome.failed) == 2
    assert [cell["model"] for cell in outcome.cells.values()] == ["scripted/a"]
    cells = await rows(engine, "FROM benchmark_cells ORDER BY position")
    assert [cell["status"] for cell in cells] == ["error", "error", "ok"]
    assert json.loads(cells[1]["details"])["error"]["code"] == "MODEL_NOT_FOUND"
    done = await rows(engine, "SELECT count(*) AS n FROM benchmark_trials WHERE status = 'ok'")
    assert done == [{"n": 6}]


@pytest.mark.parametrize(
    ("keys", "said", "key"),
    [
        ({"models": ["scripted/a", "scripted/nowhere"]}, "absent_models", "models.1"),
        (
            {"models": ["scripted/nowhere", "scripted/gone"], "absent_models": "skip"},
            "nowhere",
            "models.0",
        ),
        (
            {"models": ["scripted/a", "huggingface/some?quantization=int3"]},
            "int3",
            "models.1",
        ),
    ],
)
async def test_models_that_cannot_be_are_told_before_anything_runs(
    engine: Engine, keys: dict[str, Any], said: str, key: str
) -> None:
    engine.router.register_provider(HuggingFaceProvider(engine.settings))
    road = LocalRoad(engine, "test")
    with pytest.raises(WorkbenchError, match=said) as caught:
        await Runner(road, engine.settings, spec_of(**keys)).run()
    assert caught.value.details["key"] == key
    assert await rows(engine, "FROM benchmark_runs") == []


async def test_trials_that_fail_are_counted_and_too_many_end_the_cell(
    run: Run, engine: Engine
) -> None:
    outcome = await run(models=["scripted/broken"], warm_ups=0, stop={"failures": 4})
    assert (outcome.status, outcome.exit_code) == ("error", 2)
    found = await rows(engine, "SELECT status, met FROM benchmark_trials")
    assert found == [{"status": "error", "met": None}] * 4


@pytest.mark.parametrize(
    ("models", "load", "status"),
    [
        (["scripted/broken"], {}, "error"),
        (["scripted/broken", "scripted/a"], {}, "partial"),
        (["scripted/broken"], {"pattern": "sweep", "most": 2}, "error"),
    ],
)
async def test_a_run_whose_cell_has_no_answer_does_not_end_well(
    run: Run, engine: Engine, models: list[str], load: dict[str, Any], status: str
) -> None:
    """Too few failures to give the cell up."""
    slo = {"slo": {"e2e_s": 9}} if load else {}
    outcome = await run(
        models=models,
        load=load,
        warm_ups=0,
        repeats=1,
        prompts={"count": 2},
        stop={"failures": 9},
        **slo,
    )
    assert (outcome.status, outcome.exit_code) == (status, 2)
    assert "every request failed: INTERNAL" in outcome.failed[0]
    (found,) = await rows(engine, "SELECT status FROM benchmark_runs")
    assert found["status"] == status
    cells = await rows(engine, "SELECT status FROM benchmark_cells ORDER BY position")
    assert cells[0]["status"] == "error"


@pytest.mark.parametrize(("limit", "code", "share"), [(10.0, 0, 1.0), (1e-6, 1, 0.0)])
async def test_the_exit_code_says_whether_the_slo_was_kept(
    run: Run, limit: float, code: int, share: float
) -> None:
    outcome = await run(slo={"e2e_s": limit})
    assert outcome.exit_code == code
    assert {cell["results"]["goodput_share"] for cell in outcome.cells.values()} == {share}


async def test_a_figure_that_is_missing_keeps_no_slo(engine: Engine, run: Run) -> None:
    outcome = await run(slo={"tpot_s": 10}, prompts={"count": 2, "output_tokens": 1})
    assert outcome.slo_met is False


async def test_a_stopped_run_goes_on_where_it_was(engine: Engine) -> None:
    road = LocalRoad(engine, "test")
    seen: list[Progress] = []
    runner = Runner(
        road,
        engine.settings,
        spec_of(repeats=10, slo={"e2e_s": 9}),
        on_start=seen.append,
    )
    running = asyncio.create_task(runner.run())
    while not seen or seen[0].done < 20:
        await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    before = await rows(engine, "SELECT cell_id, trial, session_id FROM benchmark_trials")
    assert 20 <= len(before) < 60
    (row,) = await rows(engine, "FROM benchmark_runs")
    assert row["status"] == "cancelled"
    assert json.loads(row["details"])["slo_met"] is None, "what is left may miss it"
    assert {r["status"] for r in await rows(engine, "FROM benchmark_cells")} == {"cancelled"}

    rest = await Runner.resume(road, engine.settings, "x", on_start=seen.append)
    outcome = await rest.run()
    assert (outcome.run_id, outcome.exit_code) == (row["run_id"], 0)
    assert (seen[1].skipped, seen[1].done, seen[1].total) == (len(before), 60, 60)
    after = await rows(engine, "SELECT cell_id, trial, session_id FROM benchmark_trials")
    assert len(after) == 60
    assert {tuple(r.values()) for r in before} <= {tuple(r.values()) for r in after}
    pairs = await rows(engine, PAIRS)
    assert len(pairs) == 30
    assert all((pair["cells"], pair["rows"]) == (2, 2) for pair in pairs)
    with pytest.raises(WorkbenchError, match="is done"):
        await Runner.resume(road, engine.settings, row["run_id"])
    with pytest.raises(WorkbenchError, match="no run 'y'"):
        await Runner.resume(road, engine.settings, "y")


async def test_a_run_under_way_is_not_resumed(engine: Engine) -> None:
    road = LocalRoad(engine, "test")
    running = asyncio.create_task(Runner(road, engine.settings, spec_of(repeats=1_000)).run())
    while not await rows(engine, "FROM benchmark_runs"):
        await asyncio.sleep(0.001)
    with pytest.raises(WorkbenchError, match="under way"):
        await Runner.resume(road, engine.settings, "x")
    running.cancel()
    await asyncio.wait([running])


async def test_the_time_that_a_spec_allows_ends_a_run_with_what_it_has(
    run: Run, engine: Engine
) -> None:
    outcome = await run(repeats=100_000, stop={"max_s": 0.5})
    assert outcome.status == "ok"
    assert any("max_s" in note for note in outcome.notes)
    assert all(cell["results"]["ok"] > 0 for cell in outcome.cells.values())


async def test_what_warming_up_takes_is_not_of_that_time_and_no_trial_is_no_success(
    make_engine: EngineFactory,
) -> None:
    slow = Schedule(steady(2, first_s=0.3, gap_s=0.0))
    engine = make_engine({"a": slow, "b": slow, "c": slow})
    models = ["scripted/a", "scripted/b", "scripted/c"]
    road = LocalRoad(engine, "test")
    for max_s, code in ((0.6, 0), (0.01, 2)):  # three warm-ups take 0.9 s
        spec = spec_of(models=models, repeats=50, stop={"max_s": max_s})
        outcome = await Runner(road, engine.settings, spec).run()
        assert outcome.exit_code == code
        trials = sum(cell["results"]["trials"] for cell in outcome.cells.values())
        assert (trials > 0) is (code == 0)


async def test_a_run_stops_when_its_ratios_are_known_well_enough(run: Run, engine: Engine) -> None:
    outcome = await run(
        prompts={"count": 6},
        repeats=1_000,
        stop={"within": 0.9, "metric": "e2e_s", "min_repeats": 2},
    )
    assert any("e2e_s is known to 90%" in note for note in outcome.notes)
    (found,) = await rows(engine, "SELECT max(repeat) AS last FROM benchmark_trials")
    assert 1 <= found["last"] < 100


DATASET = [
    {"id": "1", "prompt": "Say the.", "expected": "The quick"},
    {"id": "2", "prompt": "Say something else.", "expected": "no such text", "cluster": "odd"},
]


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    path = tmp_path / "small.jsonl"
    path.write_text("\n".join(json.dumps(item) for item in DATASET))
    return str(path)


async def test_answers_are_scored_after_the_trials(run: Run, engine: Engine, dataset: str) -> None:
    outcome = await run(
        prompts=None, datasets=[{"source": dataset, "scorers": ["contains"]}], repeats=2
    )
    for cell in outcome.cells.values():
        assert cell["results"]["scores"]["contains"] == {"scored": 4, "unknown": 0, "mean": 0.5}
    found = await rows(
        engine,
        "SELECT c.item, c.family, c.task, c.passed, count(*) AS n FROM scores c "
        "JOIN benchmark_trials t ON t.session_id = c.session_id AND t.item = c.item "
        "GROUP BY ALL ORDER BY 1",
    )
    assert found == [
        {"item": "1", "family": "1", "task": "small", "passed": True, "n": 4},
        {"item": "2", "family": "odd", "task": "small", "passed": False, "n": 4},
    ]
    prompts = await rows(engine, "SELECT DISTINCT prompt FROM session_prompts ORDER BY 1")
    assert [row["prompt"] for row in prompts] == ["Say something else.", "Say the."]


async def test_a_defect_of_a_scorer_costs_its_score_and_not_the_run(
    run: Run, engine: Engine, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(text: str) -> str:
        raise ZeroDivisionError("by a scorer")

    monkeypatch.setattr("workbench.bench.scorers.text.folded", breaks)
    outcome = await run(prompts=None, datasets=[{"source": dataset, "scorers": ["exact"]}])
    assert outcome.status == "ok"
    for cell in outcome.cells.values():
        assert cell["results"]["scores"]["exact"]["scored"] == 0
        assert cell["results"]["scores"]["exact"]["unknown"] == 4
    (found,) = await rows(engine, "SELECT DISTINCT details->>'$.reason' AS why FROM scores")
    assert found["why"] == "ZeroDivisionError: by a scorer"


async def test_a_run_that_broke_after_its_last_trial_is_resumed_to_its_end(
    engine: Engine, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    road = LocalRoad(engine, "test")
    spec = spec_of(prompts=None, datasets=[{"source": dataset, "scorers": ["contains"]}])
    with monkeypatch.context() as broken:
        broken.setattr("workbench.bench.results.of_cell", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await Runner(road, engine.settings, spec, run_id="run_broken").run()
    outcome = await (await Runner.resume(road, engine.settings, "run_broken")).run()
    assert outcome.exit_code == 0
    assert len(outcome.cells) == 2
    for cell in outcome.cells.values():
        assert cell["results"]["scores"]["contains"]["unknown"] == 0
        assert cell["results"]["trials"] == 2 * spec.repeats
    cells = await rows(engine, "SELECT status FROM benchmark_cells")
    assert [cell["status"] for cell in cells] == ["ok", "ok"]


async def test_a_sweep_goes_on_at_the_point_where_it_was_stopped(engine: Engine) -> None:
    road = LocalRoad(engine, "test")
    load = {"pattern": "sweep", "of": "users", "start": 1, "factor": 2, "most": 4, "refine": 0}
    spec = spec_of(models=["scripted/a"], load=load, slo={"e2e_s": 60}, repeats=3)
    first = asyncio.create_task(Runner(road, engine.settings, spec, run_id="run_swept").run())
    while len(await rows(engine, "FROM benchmark_cells")) < 2:
        await asyncio.sleep(0.001)
    first.cancel()
    await asyncio.wait([first])
    outcome = await (await Runner.resume(road, engine.settings, "run_swept")).run()
    assert outcome.exit_code == 0
    assert [cell["results"]["trials"] for cell in outcome.cells.values()] == [12, 24, 48]
    assert set(outcome.knees.values()) == {4.0}


async def test_a_scorer_that_does_not_exist_is_told_before_anything_runs(
    run: Run, engine: Engine, dataset: str
) -> None:
    with pytest.raises(WorkbenchError, match="no scorer 'guess'"):
        await run(prompts=None, datasets=[{"source": dataset, "scorers": ["guess"]}])
    assert await rows(engine, "FROM benchmark_runs") == []


async def test_items_that_cannot_be_scored_are_told_before_anything_runs(
    run: Run, engine: Engine, tmp_path: Path
) -> None:
    path = tmp_path / "bare.jsonl"
    path.write_text('{"prompt": "hello"}\n{"prompt": "and?"}\n')
    wanted = {"source": str(path), "scorers": ["exact", "numeric"]}
    with pytest.raises(WorkbenchError, match=r"No item of bare has expected.*'exact'") as caught:
        await run(prompts=None, datasets=[wanted])
    assert caught.value.details["key"] == "datasets.0.scorers.0"
    assert await rows(engine, "FROM benchmark_runs") == []
    path.write_text('{"prompt": "hello"}\n{"prompt": "and?", "expected": "no"}\n')
    outcome = await run(prompts=None, repeats=1, datasets=[{**wanted, "scorers": ["contains"]}])
    assert "1 of 2 items of bare have no expected" in outcome.notes[0]


async def test_a_dataset_that_changed_is_not_resumed(
    run: Run, engine: Engine, dataset: str
) -> None:
    keys: dict[str, Any] = {"prompts": None, "datasets": [{"source": dataset}], "repeats": 10_000}
    road = LocalRoad(engine, "test")
    running = asyncio.create_task(Runner(road, engine.settings, spec_of(**keys)).run())
    while not await rows(engine, "FROM benchmark_trials"):
        await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.wait([running])
    Path(dataset).write_text(json.dumps(DATASET[0]))  # noqa: ASYNC240
    rest = await Runner.resume(road, engine.settings, "x")
    with pytest.raises(WorkbenchError, match="not what it was"):
        await rest.run()


async def test_a_log_that_takes_nothing_any_more_ends_the_run_with_its_reason(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    road = LocalRoad(engine, "test")
    real = road.log

    async def full(table: str, written: Any, mode: Any) -> None:
        if table == "benchmark_trials":
            raise WorkbenchError(ErrorCode.DISK_FULL, "The disk is full.")
        await real(table, written, mode)

    monkeypatch.setattr(road, "log", full)
    with pytest.raises(WorkbenchError, match="The disk is full"):
        await Runner(road, engine.settings, spec_of(repeats=100_000)).run()


async def test_the_benchmark_of_many_trials_still_runs(store: Store, settings: Settings) -> None:
    found = await bench_scale.trials(store, settings, bench_scale.QUESTIONS)
    assert found["trials"] == bench_scale.QUESTIONS
    rate = await bench_scale.rate(store, settings, per_s=100, seconds=0.2)
    assert rate["trials"] > 0
