"""The generator of large logs makes logs like real ones, and all that the page asks is asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import store_scale
from workbench.store import Store


def test_a_made_log_answers_and_can_be_made_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_scale, "ORIGINALS", 190)  # the others are copies
    path = tmp_path / "scale.duckdb"
    for sessions in (120, 200):
        store_scale.generate(path, sessions=sessions, events=10, samples=2, memory="1GiB")
    with Store.open(path) as store:
        (counts,) = store.rows(
            "SELECT count(*) AS sessions, count(DISTINCT session_id) AS ids, max(seq) AS last, "
            "avg(streamed_tokens) AS tokens, "
            "(SELECT sum(len(t_ns)) FROM token_streams) = sum(streamed_tokens) AS whole, "
            "(SELECT count(*) FROM memory_samples) AS samples, "
            "(SELECT max(n) FROM (SELECT count(*) AS n FROM stream_sessions "
            "GROUP BY comparison_id)) AS compared, "
            "(SELECT count(*) FROM errors e JOIN stream_sessions s "
            "ON e.session_id = s.session_id AND e.code = s.error_code) = "
            "count(error_code) AS errors FROM stream_sessions"
        )
        assert (counts["sessions"], counts["ids"], counts["last"]) == (200, 200, 200)
        assert counts["tokens"] == pytest.approx(10, rel=0.2)
        assert counts["whole"]
        assert counts["samples"] == 400
        assert (counts["compared"], counts["errors"]) == (2, True)
        assert all(check.status != "bad" for check in store.verify())
        (chosen,) = store.rows("SELECT session_id FROM stream_sessions WHERE seq = 150")
        answers = {
            name: len(ask())
            for name, ask in store_scale.queries(store, chosen["session_id"]).items()
        }
    assert {name for name, rows in answers.items() if not rows} == {
        *("load costs", "history: one model's failures"),  # there are none in so few
        *("history: a rare question", "history: a word that is nowhere"),
    }


def test_the_scratch_folder_is_left_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "x",
            "--sessions",
            "1100",
            "--events",
            "3",
            "--repeats",
            "0",
            "--only",
            "gaps",
            "--folder",
            str(tmp_path),
        ],
    )
    store_scale.main()
    assert not list(tmp_path.iterdir())
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["sessions"] == 1100
    assert list(result["queries"]) == ["token gaps of a session"]
    assert result["bytes_by_table"]["token_streams"] > 0
