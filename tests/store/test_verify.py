"""``workbench db verify`` tells a whole log from one that is not, and says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest
from typer.testing import CliRunner

from tests.store.conftest import make_session
from workbench.cli import app
from workbench.store import Store
from workbench.store.files import spool_of, wal_of
from workbench.types import Message

ASKED = [Message("user", "hi")]


@pytest.fixture
def log(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty sessions, closed."""
    with Store.open(path) as store:
        for _ in range(20):
            store.log_session(make_session(), ASKED)
    monkeypatch.setenv("WORKBENCH_DB", str(path))
    return path


def ask(*more: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["db", "verify", *more])
    return done.exit_code, done.output


def test_a_whole_log_is_said_to_be_whole_open_or_closed(log: Path) -> None:
    code, text = ask()
    assert code == 0, text
    assert "20 sessions, 1 to 20 without a gap" in text
    with Store.open(log) as store:
        store.log_session(make_session(), ASKED).result()
        checks = store.verify()
    assert {check.status for check in checks} == {"ok"}
    assert {"blocks", "tables", "sequence", "spool", "orphans", "rollup", "views"} == {
        check.check for check in checks
    }


@pytest.mark.parametrize(
    ("sql", "check", "words"),
    [
        ("DELETE FROM stream_sessions WHERE seq IN (4, 5, 9)", "sequence", "4 to 5, 9"),
        ("DELETE FROM token_streams WHERE rowid = 3", "orphans", "1 session without a timeline"),
        ("DROP VIEW latencies", "views", "missing"),
    ],
)
def test_what_is_not_whole_is_named_with_its_fix(
    log: Path, sql: str, check: str, words: str
) -> None:
    with duckdb.connect(str(log)) as connection:
        connection.execute(sql)
    code, text = ask("--json")
    assert code == 1
    verdict = json.loads(text)
    assert not verdict["ok"]
    bad = [item for item in verdict["checks"] if item["status"] == "bad"]
    assert any(item["check"] == check and words in item["message"] for item in bad)
    assert all(item["fix"] for item in bad)


def test_numbers_that_went_with_a_prune_are_no_finding(log: Path) -> None:
    with duckdb.connect(str(log)) as connection:
        for table in ("token_streams", "messages", "stream_sessions"):
            connection.execute(
                f"DELETE FROM {table} WHERE session_id IN "
                "(SELECT session_id FROM stream_sessions WHERE seq IN (1, 2, 7))"
            )
        connection.execute("INSERT INTO prunes VALUES (now(), '2026-03-02', 3)")
    code, text = ask()
    assert code == 0, text
    assert "17 sessions; 1 number pruned or deleted" in text


def test_a_flipped_bit_is_found_and_the_next_start_mends_it(log: Path) -> None:
    data = bytearray(log.read_bytes())
    data[len(data) - 60_000] ^= 1
    log.write_bytes(data)
    code, text = ask()
    assert code == 1
    assert "Not as written: block" in text
    assert "start it again" in text
    with Store.open(log) as store:
        assert store.repairs
        assert "damaged" in store.repairs[0].message


def test_a_log_that_cannot_be_opened_is_a_finding(log: Path) -> None:
    data = bytearray(log.read_bytes())
    data[4200] ^= 1
    data[8300] ^= 1
    log.write_bytes(data)
    code, text = ask()
    assert code == 1
    assert "Restart" in text


def test_sessions_of_the_spool_that_the_tables_lost_are_named(path: Path) -> None:
    with Store.open(path) as store:
        session = make_session()
        store.log_session(session, ASKED).stored.result()
        assert wal_of(path).stat().st_size != 0
        spool_of(path).mkdir(exist_ok=True)
        store._connection.execute("DELETE FROM stream_sessions")
        bad = [check for check in store.verify() if check.status == "bad"]
    assert any(session.session_id in check.message for check in bad if check.check == "spool")
