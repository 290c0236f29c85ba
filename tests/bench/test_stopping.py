"""A run stops when its question is answered, and looking often makes no difference of none."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from benchmarks import calibration
from tests.bench.conftest import Run, rows, spec_of
from tests.conftest import EngineFactory
from workbench.bench import enough, stopping
from workbench.bench.evidence import gather
from workbench.bench.findings import findings
from workbench.bench.runner import Runner
from workbench.client.roads import LocalRoad
from workbench.engine import Engine
from workbench.errors import WorkbenchError
from workbench.providers.scripted import Schedule, steady


def test_looks_double_and_end_at_the_end() -> None:
    assert stopping.looks(5, 40) == (5, 10, 20, 40)
    assert stopping.looks(5, 5) == (5,)
    assert stopping.looks(3, 13) == (3, 6, 12, 13)
    with pytest.raises(WorkbenchError):
        stopping.looks(0, 5)


def test_the_same_model_twice_is_called_different_in_at_most_five_of_a_hundred_runs() -> None:
    draw = np.random.default_rng(4)
    experiments = 150
    wrong = sum(
        calibration.by_decision(calibration.experiment(draw, effect=0.0, suits=0.0))[0]
        for _ in range(experiments)
    )
    assert wrong <= 0.05 * experiments + 3 * (experiments * 0.05 * 0.95) ** 0.5


def test_a_difference_is_found_and_the_run_ends_early() -> None:
    draw = np.random.default_rng(5)
    ended = [
        calibration.by_decision(calibration.experiment(draw, effect=0.1, suits=0.0))
        for _ in range(40)
    ]
    assert all(found for found, _ in ended)
    assert np.mean([repeats for _, repeats in ended]) < calibration.REPEATS / 2


def test_what_was_answered_stays_answered_and_the_rest_stays_open() -> None:
    draw = np.random.default_rng(6)
    clear, unclear = draw.normal(0.3, 0.05, 14).tolist(), draw.normal(0, 0.3, 14).tolist()
    first = stopping.decided({"clear": clear, "unclear": unclear, "few": clear[:5]}, looks=4)
    assert first.answers == {"clear": "b is higher"}
    assert first.open == ("unclear", "few")
    assert not first.stop
    assert first.level == pytest.approx(0.05 / 12)
    again = stopping.decided({"clear": unclear}, looks=4, earlier=first.answers)
    assert again.stop


def test_models_that_are_the_same_for_all_that_matters_are_told_so() -> None:
    alike = np.random.default_rng(7).normal(0, 0.02, 20).tolist()
    assert stopping.decided({"q": alike}, looks=3).open == ("q",)
    found = stopping.decided({"q": alike}, looks=3, margin=0.05)
    assert found.answers == {"q": "no more than the margin apart"}


def test_too_few_prompts_answer_nothing_however_clear() -> None:
    assert stopping.decided({"q": [1.0] * 6}, looks=4).open == ("q",)
    assert stopping.decided({"q": [1.0, 1.1] * 4}, looks=4).stop


def test_a_ratio_is_known_when_its_interval_is_narrow() -> None:
    draw = np.random.default_rng(8)
    wide, narrow = draw.normal(2, 0.5, 20).tolist(), draw.normal(2, 0.05, 20).tolist()
    assert stopping.known({"wide": wide, "narrow": narrow, "few": narrow[:5]}, 0.05) == (
        "wide",
        "few",
    )


def paired(**stop: Any) -> dict[str, Any]:
    """A run of two models on fourteen prompts, looked at after 2, 4 and 8 repeats."""
    return {
        "prompts": {"count": 14},
        "repeats": 8,
        "stop": {"decided": True, "min_repeats": 2, **stop},
    }


async def test_a_run_ends_when_it_is_decided_which_model_is_faster(
    make_engine: EngineFactory,
) -> None:
    engine = make_engine(
        {
            "quick": Schedule(steady(4, first_s=0.0, gap_s=0.002)),
            "slow": Schedule(steady(4, first_s=0.0, gap_s=0.02)),
        }
    )
    spec = spec_of(models=["scripted/quick", "scripted/slow"], **paired(metric="itl_p50_s"))
    outcome = await Runner(LocalRoad(engine, "test"), engine.settings, spec).run()
    assert "stopped after 2 repeats: itl_p50_s is decided" in outcome.notes
    assert not any("cannot be met" in note for note in outcome.notes)
    assert [cell["results"]["trials"] for cell in outcome.cells.values()] == [28, 28]
    evidence = await asyncio.to_thread(gather, engine.store.query, outcome.run_id)
    first = next(
        f for f in findings(evidence) if f.comparison and f.comparison.figure == "itl_p50_s"
    )
    assert first.strength == "clear", "what ended the run is what its report shows"
    assert "quick takes less time from token to token" in first.sentence


async def test_a_run_that_decides_nothing_says_so_and_goes_to_its_end(run: Run) -> None:
    outcome = await run(**{**paired(metric="e2e_s"), "prompts": {"count": 5}})
    assert outcome.notes[0] == (
        "stop.decided cannot be met, all repeats are run: it takes 7 independent prompts (pairs of "
        "cells: 1, looks: 3), and there are 5"
    )
    assert "e2e_s is not decided after all 8 repeats for 1 of 1 pairs of cells" in outcome.notes
    assert [cell["results"]["trials"] for cell in outcome.cells.values()] == [40, 40]


async def test_a_resumed_run_looks_at_what_it_had_looked_at(engine: Engine, run: Run) -> None:
    outcome = await run(prompts={"count": 3}, repeats=4)
    road = LocalRoad(engine, "test")
    cells = [row["cell_id"] for row in await rows(engine, "FROM benchmark_cells")]
    found = await enough.measured(road, outcome.run_id, "e2e_s", dict.fromkeys(cells, 6))
    assert [len(values) for cell in cells for values in found[cell].values()] == [2] * 6


def test_questions_of_a_family_are_no_independent_evidence() -> None:
    values = {
        "a": {("t", "f", str(i), 0): [1.0] for i in range(4)} | {("t", "g", "4", 0): [1.0]},
        "b": {("t", "f", str(i), 0): [2.0] for i in range(4)} | {("t", "g", "4", 0): [4.0]},
    }
    assert enough.logs(values, "a", "b") == pytest.approx([np.log(2), np.log(4)])
