"""A run's rows become sentences whose figures are right, and caveats that say what they are not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bench.logged import MACHINE, Model, log_run
from workbench.bench import evidence as evidences
from workbench.bench.comparisons import compare
from workbench.bench.evidence import Evidence
from workbench.bench.findings import caveats, findings
from workbench.bench.report.cells import cells
from workbench.bench.report.summary import summary
from workbench.errors import WorkbenchError
from workbench.procfs import this_process
from workbench.record import recover_runs
from workbench.store import Store

FAST = Model("ollama/fast:latest", ttft_s=0.05, tpot_s=0.02, right=0.9)
SLOW = Model("huggingface/org/slow", ttft_s=0.1, tpot_s=0.04, right=0.3)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("findings") / "log.duckdb") as store:
        yield store


def run(log: Store, *models: Model, **more: Any) -> Evidence:
    return evidences.gather(log.query, log_run(log, models, **more))


def said(evidence: Evidence) -> str:
    return "\n".join(finding.sentence for finding in findings(evidence))


def warned(evidence: Evidence) -> str:
    return "\n".join(f"{', '.join(c.cells)}: {c.text}" for c in caveats(evidence))


def test_a_clear_difference_is_said_with_its_size_and_interval(log: Store) -> None:
    evidence = run(log, FAST, SLOW, scorer="exact")
    by_figure = {one.figure: one for one in compare(evidence.cells)}
    assert by_figure["ttft_s"].ratio is not None
    assert by_figure["ttft_s"].ratio.value == pytest.approx(2, rel=0.02)
    assert by_figure["tpot_s"].ratio is not None
    assert by_figure["tpot_s"].ratio.value == pytest.approx(2, rel=0.02)
    assert by_figure["exact"].difference.value == pytest.approx(-0.6, abs=0.15)
    text = said(evidence)
    assert "ollama/fast:latest answers first, by 5" in text
    assert "huggingface/slow takes 2.0" in text
    assert "times [1.9" in text or "times [2.0" in text
    assert "exact: ollama/fast:latest is right more often than huggingface/slow" in text
    assert all(finding.strength == "clear" for finding in findings(evidence))
    assert not warned(evidence)


def test_no_difference_is_said_with_what_could_have_been_shown(log: Store) -> None:
    evidence = run(
        log, FAST, Model("ollama/twin:latest", ttft_s=0.05, tpot_s=0.02, right=0.9), seed=3
    )
    found = findings(evidence)
    assert {finding.strength for finding in found} == {"open"}
    first = next(f for f in found if f.comparison and f.comparison.figure == "ttft_s")
    assert "No difference in time to first token was shown" in first.sentence
    assert "so many show 1.0" in first.sentence
    assert "would be needed" in first.sentence


def test_few_prompts_give_no_interval(log: Store) -> None:
    text = said(run(log, FAST, SLOW, prompts=5, repeats=8))
    assert "huggingface/slow / ollama/fast:latest = 2.0" in text
    assert "an interval needs 6" in text


def test_too_few_prompts_for_so_many_comparisons_are_named(log: Store) -> None:
    """Twice the time on six prompts is no proof where three figures are compared at once."""
    text = said(run(log, FAST, SLOW, prompts=6, repeats=8))
    assert "which are too few to show any difference among so many" in text
    assert "that takes 7" in text
    assert "answers first, by 5" in said(run(log, FAST, SLOW, prompts=8, repeats=8))


def test_models_of_other_tokenizers_are_compared_by_characters(log: Store) -> None:
    wordy = Model("ollama/wordy:latest", changes={"text": "abcdefghij " * 20})
    evidence = run(log, Model("ollama/plain:latest"), wordy)
    text = said(evidence)
    assert "ollama/wordy:latest writes 2.2" in text
    assert "time per output token" not in text


def test_options_and_variants_of_one_model_are_compared_too(log: Store) -> None:
    load = {"pattern": "prefix"}
    shared, unique = (
        Model("ollama/m:latest", ttft_s=t, load={**load, "variant": v})
        for t, v in ((0.02, "shared"), (0.2, "unique"))
    )
    evidence = run(log, shared, unique)
    assert [evidence.label(cell) for cell in evidence.cells] == [
        "ollama/m:latest, shared",
        "ollama/m:latest, unique",
    ]
    assert "ollama/m:latest, shared answers first" in said(evidence)
    hot = Model("ollama/m:latest", options={"temperature": 1.0})
    cells = run(log, Model("ollama/m:latest"), hot, Model("ollama/n:latest")).cells
    axes = {(one.a.position, one.b.position): one.axis for one in compare(cells)}
    assert axes == {(0, 1): "options", (0, 2): "model"}, "not two things at once"


def test_a_sweep_opens_with_its_knee_and_other_loads_with_their_slo(log: Store) -> None:
    slo = {"ttft_s": 2.0, "share": 0.9}

    def told(pattern: str, shares: dict[int, float]) -> str:
        models = [
            Model(
                "ollama/m:latest",
                load={"pattern": pattern, "users": users},
                results={"goodput_share": share, "slo_met": share >= 0.9},
            )
            for users, share in shares.items()
        ]
        spec = {"name": "x", "load": {"pattern": pattern, "of": "users"}, "slo": slo}
        return said(run(log, *models, prompts=2, repeats=1, spec=spec)).splitlines()[0]

    assert told("sweep", {1: 1.0, 2: 0.95, 4: 0.5, 3: 0.92}) == (
        "ollama/m:latest keeps the SLO up to 3 users at once; with 4 users at once only 50% of "
        "requests do: TTFT ≤ 2.00 s for 90% of all requests."
    )
    assert "up to 2 users at once, the most tried" in told("sweep", {1: 1.0, 2: 1.0})
    assert "keeps the SLO at no load; with 1 user at once only 10%" in told("sweep", {1: 0.1})
    assert told("closed", {1: 1.0, 2: 1.0}).startswith("SLO kept by all 2 cells: TTFT")
    assert "SLO missed by ollama/m:latest, 2 users (50%), of 2 cells" in told(
        "closed", {1: 1.0, 2: 0.5}
    )


def test_trials_that_failed_or_were_answered_by_another_do_not_count(log: Store) -> None:
    failed: list[str] = []

    def edit(row: dict[str, Any]) -> dict[str, Any]:
        if row["trial"] == 3:
            failed.append(row["session_id"])
            return row | {"status": "error"}
        return row

    evidence = run(log, FAST, SLOW, edit=edit)
    assert len(failed) == 2
    assert all(len(cell.good) == len(cell.trials) - 1 for cell in evidence.cells)
    assert "1 of 60 trials failed" in warned(evidence)
    other = run(log, Model("ollama/m:latest", changes={"fallback_from": "ollama/x:latest"}))
    assert not len(other.cells[0].good)
    assert "another model answered 60 trials" in warned(other)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"overlap_ns": 10_000_000}, "100% of its answers ran beside other work"),
        ({"cold": True}, "100% of its answers waited for a load"),
    ],
)
def test_answers_that_were_held_up_are_named(
    log: Store, changes: dict[str, Any], text: str
) -> None:
    assert text in warned(run(log, Model("ollama/m:latest", changes=changes)))


def test_failures_are_told_with_code_and_fix_and_what_a_limit_of_ours_refused_is_no_miss(
    log: Store,
) -> None:
    refusal = {"code": "RATE_LIMITED", "message": "It holds 256.", "fix": "Close some."}

    def edit(row: dict[str, Any]) -> dict[str, Any]:
        if row["trial"] >= 10:
            return row
        details = row["details"] | {"error": refusal}
        return row | {"session_id": None, "status": "rejected", "details": details}

    results = {"goodput_share": 0.5, "slo_met": False, "refused": 10, "saturated": True}
    spec = {"repeats": 5, "load": {"pattern": "open"}, "slo": {"ttft_s": 1}}
    evidence = run(log, Model("ollama/m:latest", results=results), edit=edit, spec=spec)
    text = warned(evidence)
    assert "10 of 60 trials failed (RATE_LIMITED: It holds 256. Close some.)" in text
    assert "a limit of the workbench refused some" in text
    assert "10 of 60 requests never reached a model" in said(evidence)


def test_a_scorer_that_told_nothing_is_named_with_its_reason_and_keeps_its_column(
    log: Store,
) -> None:
    run_id = log_run(log, [FAST], repeats=1, scorer="judge")
    evidence = evidences.gather(log.query, run_id)
    evidence.cells[0].scores["score"] = float("nan")
    evidence.cells[0].scores["details"] = '{"reason": "the judge gave no grade"}'
    assert "judge: 12 of 12 answers could not be scored and count nowhere (the judge gave" in (
        warned(evidence)
    )
    columns, (row,) = cells(summary(evidence))
    assert row[[column.head for column in columns].index("judge")] == "–"


def test_answers_beside_another_run_are_counted(log: Store) -> None:
    alone = log_run(log, [FAST], hour=-5)
    log_run(log, [FAST], hour=-7, repeats=1)
    assert "overlapped" not in warned(evidences.gather(log.query, alone))
    shared = log_run(log, [FAST], hour=-10)
    log_run(log, [FAST], hour=-10, repeats=1)  # for as long as its 12 prompts of the other's 60
    (caveat,) = caveats(evidences.gather(log.query, shared))
    assert "12 of 60 answers overlapped requests that were not of this run" in caveat.text
    assert caveat.urgent


def test_a_run_without_trials_says_why(log: Store) -> None:
    failed = {"failed": ["ollama/m:latest: OLLAMA_MODEL_NOT_FOUND: It is not there."]}
    run_id = log_run(log, [], status="error", details=failed)
    with pytest.raises(WorkbenchError, match="no trials: ollama/m:latest: OLLAMA_MODEL_NOT_FOUND"):
        evidences.gather(log.query, run_id)
    killed = log_run(log, [], status="active")
    with pytest.raises(WorkbenchError, match="status is interrupted"):
        evidences.gather(log.query, killed)


def test_the_next_start_writes_what_became_of_a_killed_run(log: Store) -> None:
    killed = log_run(log, [FAST], repeats=1, status="active")
    mine = log_run(log, [FAST], repeats=1, status="active", details={"process": this_process()})
    before = log.rows("FROM benchmark_runs WHERE run_id = ?", [killed])
    assert recover_runs(log) >= 1
    (row,) = log.rows("FROM benchmark_runs WHERE run_id = ?", [killed])
    assert row["status"] == "interrupted"
    assert [row | {"status": "active"}] == before
    (other,) = log.rows("SELECT status FROM benchmark_runs WHERE run_id = ?", [mine])
    assert other["status"] == "active"
    assert recover_runs(log) == 0


def test_what_must_not_be_compared_is_named(log: Store) -> None:
    lagging = Model("ollama/m:latest", results={"client_lag": True, "saturated": True})
    text = warned(run(log, lagging, repeats=2))
    assert "the client was late" in text
    assert "did not keep up" in text
    assert "Repeats: 2" in text

    other_form = Model(
        "ollama/q:latest", changes={"quantization": "Q4_1", "dtype": None}, tokens=40
    )
    text = warned(run(log, Model("ollama/m:latest"), other_form))
    assert "Answers are not of the same length" in text
    assert "form of their weights as well: ollama/m:latest: float32; ollama/q:latest: Q4_1" in text

    text = warned(run(log, Model("ollama/m:latest"), edit=lambda row: row | {"prefix": "none"}))
    assert "a prompt cache may have shortened" in text
    assert "status is interrupted" in warned(run(log, FAST, status="interrupted"))
    assert "status is interrupted" in warned(run(log, FAST, status="active"))  # by no process


def test_a_model_or_a_machine_that_changed_while_it_ran_is_named(log: Store) -> None:
    newer = dataclasses.replace(MACHINE, python="3.12")
    log.set_environment(newer).result()
    evidence = run(log, FAST, environment_id=newer.environment_id)
    assert len(evidence.environments) == 2
    assert "The environment changed while it ran" in warned(evidence)
    trials = evidence.cells[0].trials
    trials.loc[trials.index[:5], "digest"] = "sha256:another"
    assert "digest changed while it ran" in warned(evidence)


def test_runs_are_found_by_id_its_beginning_name_and_last(log: Store) -> None:
    run_id = log_run(log, [FAST], run_id="run_0123456789", name="nightly")
    for name in (run_id, "run_01234", "nightly"):
        assert evidences.gather(log.query, name).run_id == run_id
    assert evidences.gather(log.query, "last").name
    with pytest.raises(WorkbenchError, match="no run 'nothing'"):
        evidences.gather(log.query, "nothing")


def test_findings_need_no_frames_of_whole_logs(tmp_path: Path) -> None:
    """A run of one cell has nothing to compare and still can be told about."""
    with Store.open(tmp_path / "log.duckdb") as store:
        evidence = run(store, FAST)
        assert findings(evidence) == []
        assert evidence.cells[0].median("ttft_s") == pytest.approx(0.05, rel=0.2)
