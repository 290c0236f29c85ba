"""The time ledger: parts that add up, on sessions whose durations are known."""

from __future__ import annotations

import pytest

from tests.analysis.conftest import START, answer, log
from workbench.analysis import plot_time_ledger, time_ledger
from workbench.analysis.timing import PARTS
from workbench.store import Store

MS = 1_000_000


def test_every_runtime_is_told_on_one_scale_and_the_parts_add_up(store: Store) -> None:
    # Sent to end: 100 ms to the first token, 3 gaps of 20 ms, 1 ms to the end: 161 ms.
    ours = answer(
        0.1,
        model="huggingface/x",
        comparison_id="cmp_1",
        session_id="ses_a",
        runtime_ns={
            "total": 158 * MS,
            "tokenize": 2 * MS,
            "wait": 1 * MS,
            "prefill": 93 * MS,
            "decode": 61 * MS,
        },
    )
    theirs = answer(
        0.1,
        model="ollama/x:latest",
        comparison_id="cmp_1",
        session_id="ses_b",
        start=START + 10**9,
        runtime_ns={"total": 150 * MS, "load": 10 * MS, "prompt_eval": 70 * MS, "eval": 65 * MS},
    )
    silent = answer(
        0.1, model="scripted/x", comparison_id="cmp_1", session_id="ses_c", start=START - 10**9
    )
    log(store, ours, theirs, silent)
    found = time_ledger(store.query, "cmp_1")
    assert list(found["model"]) == ["scripted/x", "huggingface/x", "ollama/x:latest"], (
        "as they were asked"
    )
    rows = {row["model"]: row for row in found.to_dict("records")}
    for row in rows.values():
        parts = [row[name] for name in PARTS if row[name] == row[name]]
        assert sum(parts) == pytest.approx(row["wall_s"])
    assert rows["huggingface/x"]["tokenise_s"] == pytest.approx(0.002)
    assert rows["huggingface/x"]["prompt_s"] == pytest.approx(0.093)
    assert rows["huggingface/x"]["transport_s"] == pytest.approx(0.003)
    assert rows["huggingface/x"]["runtime_wait_s"] == pytest.approx(0.002), "wait, and the rest"
    assert rows["ollama/x:latest"]["runtime_wait_s"] == pytest.approx(0.015), (
        "its load and its queue"
    )
    assert rows["ollama/x:latest"]["decode_s"] == pytest.approx(0.065)
    assert rows["ollama/x:latest"]["runtime_decode_tps"] == pytest.approx(3 / 0.065)
    assert rows["scripted/x"]["unaccounted_s"] == pytest.approx(0.161)
    bars = plot_time_ledger(found)
    assert len({name for trace in bars.data for name in trace.y}) == 3


def test_no_answers_make_an_empty_ledger(store: Store) -> None:
    assert time_ledger(store.query, "cmp_none").empty
    assert "no answer" in plot_time_ledger(time_ledger(store.query, "x")).layout.annotations[0].text
