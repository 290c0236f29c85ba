"""Two runs: what changed between them, what got worse, and when they must not be compared."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.bench.logged import MACHINE, Model, log_run
from workbench.bench.diff import Diff, diff
from workbench.bench.evidence import gather
from workbench.errors import WorkbenchError
from workbench.store import Store

MODEL = Model("ollama/m:latest", ttft_s=0.1, right=0.9)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("diff") / "log.duckdb") as store:
        yield store


def between(log: Store, model: Model, *, tolerance: float = 0.05, **after: Any) -> Diff:
    runs = (
        log_run(log, [MODEL], scorer="exact"),
        log_run(log, [model], **{"scorer": "exact", "seed": 2, **after}),
    )
    old, new = (gather(log.query, run) for run in runs)
    return diff(old, new, tolerance=tolerance)


def test_the_same_again_is_no_regression(log: Store) -> None:
    found = between(log, MODEL)
    assert not found.reasons
    assert not found.changes
    assert not found.regressions
    assert {d.comparison.figure for d in found.differences} >= {"ttft_s", "tpot_s", "exact"}


def test_what_got_worse_is_named_with_its_interval(log: Store) -> None:
    found = between(log, dataclasses.replace(MODEL, ttft_s=0.13, right=0.3))
    assert {d.comparison.figure for d in found.regressions} >= {"ttft_s", "exact"}
    told = json.loads(json.dumps(found.to_dict()))
    ttft = next(f for f in told["figures"] if f["figure"] == "ttft_s")
    assert ttft["worse"]
    assert ttft["low"] < 1.3 < ttft["high"] * 1.1
    assert {"ollama/m:latest: ttft_s", "ollama/m:latest: exact"} <= set(told["regressions"])
    assert "ollama/m:latest: tpot_s" not in told["regressions"]


def test_what_got_better_and_what_is_tolerated_are_none(log: Store) -> None:
    better = between(log, dataclasses.replace(MODEL, ttft_s=0.05, right=1.0))
    assert any(d.comparison.clear for d in better.differences)
    assert not better.regressions
    tolerated = between(log, dataclasses.replace(MODEL, ttft_s=0.13), tolerance=0.5)
    assert not tolerated.regressions
    with pytest.raises(WorkbenchError):
        between(log, MODEL, tolerance=5)


def test_new_software_and_weights_are_named_but_may_be_compared(log: Store) -> None:
    newer = dataclasses.replace(MACHINE, packages={"torch": "2.12"}, git_revision="def")
    model = dataclasses.replace(MODEL, changes={"digest": "sha256:new", "threads": 4})
    found = between(log, model, environment=newer)
    assert not found.reasons
    assert {(c.kind, c.what, c.before, c.after) for c in found.changes} == {
        ("software", "torch", "2.11", "2.12"),
        ("software", "git_revision", "abc", "def"),
        ("model", "ollama/m:latest: digest", "sha256:ollama/m:latest", "sha256:new"),
        ("model", "ollama/m:latest: threads", "2", "4"),
    }


@pytest.mark.parametrize(
    ("after", "why"),
    [
        ({"environment": dataclasses.replace(MACHINE, cpu="Another")}, "cpu: A CPU → Another"),
        ({"spec": {"name": "a run", "repeats": 5, "seed": 7}}, "seed"),
        ({"spec": {"name": "a run", "timing_mode": "concurrent"}}, "timing_mode"),
    ],
)
def test_another_machine_or_other_questions_are_not_compared(
    log: Store, after: dict[str, Any], why: str
) -> None:
    found = between(log, MODEL, **after)
    assert any(why in reason for reason in found.reasons)
    assert found.to_dict()["comparable"] is False


def test_other_options_or_other_models_are_not_compared(log: Store) -> None:
    warm = between(log, dataclasses.replace(MODEL, options={"temperature": 1}))
    assert any("options" in reason for reason in warm.reasons)
    other = between(log, Model("ollama/other:latest"))
    assert "no cell of one run is in the other" in other.reasons
    assert {(c.kind, c.what) for c in other.changes} == {
        ("cells", "ollama/m:latest"),
        ("cells", "ollama/other:latest"),
    }
    assert not other.differences
