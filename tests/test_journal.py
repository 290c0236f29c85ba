"""A process that is killed while models answer leaves the answers, as far as they had come."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import EngineFactory
from tests.live import run_cli
from workbench import record, wire
from workbench.contention import Generations
from workbench.engine import build
from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers import guard
from workbench.providers.scripted import Schedule, steady
from workbench.record import journal_header, recover
from workbench.settings import Settings
from workbench.store import Store
from workbench.store.files import spool_of
from workbench.store.journal import Journal, drop_unread, interrupted
from workbench.store.search import Wanted, search
from workbench.types import ChatRequest, DoneEvent, Message, Options, TokenEvent, WarningEvent
from workbench.ui.history import found

KILLED = """
import asyncio
import os
from workbench.engine import build
from workbench.providers.scripted import Schedule, ScriptedProvider, steady
from workbench.settings import load_settings
from workbench.store import Store
from workbench.types import ChatRequest, Message, Options, TokenEvent

settings = load_settings(_env_file=None)

class Measured(ScriptedProvider):
    def pids(self, model):
        return [os.getpid()]

async def ask(engine, model):
    request = ChatRequest(model, (Message("user", f"of {model}"),), Options(max_tokens=100_000))
    print("begun", request.session_id, flush=True)
    async for event in engine.stream(request):
        if isinstance(event, TokenEvent) and event.seq % 5 == 0:
            print("tokens", request.session_id, event.seq, flush=True)

async def main():
    endless = Schedule(steady(100_000, first_s=0.01, gap_s=0.005))
    store = Store.open(settings.workbench_db)
    engine = build(settings, store, scripted=Measured({"endless": endless}))
    await asyncio.gather(*(ask(engine, "scripted/endless") for _ in range(3)))

asyncio.run(main())
"""


@pytest.fixture
def killed(settings: Settings) -> set[str]:
    """Three endless answers, killed after each has come to its 15th token; their ids."""
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": ".", "WORKBENCH_JOURNAL_MS": "20"},
    )
    assert child.stdout is not None
    begun: set[str] = set()
    far: set[str] = set()
    for line in child.stdout:
        match line.split():
            case ["begun", session_id]:
                begun.add(session_id)
            case ["tokens", session_id, count] if int(count) >= 15:
                far.add(session_id)
        if len(far) == 3:
            break
    # The journal looks every 20 ms: what it has by now is what the test asks for.
    folder = spool_of(settings.workbench_db) / "streams"

    def looks() -> list[int]:
        return [path.read_bytes().count(b"\n") for path in folder.glob("*")]

    wait_until(lambda: len(looks()) == 3 and min(looks()) >= 4)
    child.send_signal(signal.SIGKILL)
    child.stdout.close()
    child.wait()
    return begun


async def test_killed_answers_are_logged_as_interrupted(
    killed: set[str], settings: Settings
) -> None:
    left = {item.state["session_id"]: item for item in interrupted(settings.workbench_db)}
    assert left.keys() == killed
    store = Store.open(settings.workbench_db)
    engine = build(settings, store)
    rows = store.rows(
        "SELECT session_id, status, termination_reason, source, output_tokens, count_source, "
        "text_chars, ttft_s, decode_tps, len(t_ns) AS events, content, wall_s, answer_s "
        "FROM latencies JOIN token_streams USING (session_id) "
        "JOIN messages USING (session_id) JOIN (SELECT session_id FROM stream_sessions) "
        "USING (session_id) WHERE role = 'assistant'"
    )
    assert {row["session_id"] for row in rows} == killed
    for row in rows:
        journaled = left[row["session_id"]]
        assert row["status"] == "interrupted"
        assert row["termination_reason"] == "process killed"
        assert row["events"] == len(journaled.tokens) > 0
        assert row["content"] == "".join(token[0] for token in journaled.tokens)
        assert row["output_tokens"] == sum(token[2] for token in journaled.tokens)
        assert row["count_source"] == "stream"
        assert row["ttft_s"] > 0
        assert row["decode_tps"] > 0
    asked = store.rows("SELECT content FROM messages WHERE role = 'user'")
    assert [row["content"] for row in asked] == ["of scripted/endless"] * 3
    (memory,) = store.rows(
        "SELECT count(DISTINCT session_id) AS sessions, count(*) AS n FROM memory_samples "
        "WHERE scope = 'worker' AND pss_bytes > 0"
    )
    assert memory["sessions"] == 3
    assert memory["n"] == sum(len(item.memory) for item in left.values())
    shown = found.render(search(store, Wanted(), within_s=5).rows)
    assert shown.count('data-status="interrupted"') == 3
    assert {check.status for check in store.verify()} == {"ok"}
    await engine.close()
    sql = "SELECT status, count(*) AS n FROM latencies GROUP BY status"
    told = await asyncio.to_thread(run_cli, "db", "query", sql)
    assert "interrupted" in told.stdout, told.stderr
    again = Store.open(settings.workbench_db)
    engine = build(settings, again)
    assert again.rows("SELECT count(*) AS n FROM stream_sessions") == [{"n": 3}]
    await engine.close()
    assert list(interrupted(settings.workbench_db)) == []


async def test_an_answer_that_the_log_cannot_hold_ends_its_journal_and_stops_no_start(
    make_engine: EngineFactory, settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file grew for ever, and the next start failed over it."""
    # A starved machine takes longer to refuse a row than anybody is to wait for one.
    monkeypatch.setattr(record, "_STORE_WAIT_S", 120.0)
    monkeypatch.setattr(record, "_PATIENCE_S", 120.0)
    # Such a count is refused as it comes; this is for what is overlooked.
    monkeypatch.setattr(guard, "MOST_TOKENS", 2**50)
    endless = Schedule(steady(3, first_s=0.01, gap_s=0.01), prompt_tokens=2**40)
    engine = make_engine({"absurd": endless}, workbench_journal_ms=20)
    request = ChatRequest("scripted/absurd", (Message("user", "Hi"),))
    told = [event async for event in engine.stream(request)]
    (warning,) = [event for event in told if isinstance(event, WarningEvent)][-1:]
    assert warning.code == "INVALID_REQUEST"
    assert "cannot be logged" in warning.message
    await engine.close()
    assert list(interrupted(settings.workbench_db)) == []

    # Killed between its last word and its row, such an answer is in the journal.
    ended = next(event.session for event in told if isinstance(event, DoneEvent))
    assert ended.warnings[-1].message == warning.message, "programs read the session"
    journal = Journal(settings.workbench_db, 0.01)
    state = wire.encode_session(ended)
    journal.begin("absurd", journal_header(request.messages, None), lambda *_: (state, [], []))
    wait_until(lambda: any(interrupted(settings.workbench_db)))
    (left,) = interrupted(settings.workbench_db)
    body = left.path.read_bytes()
    journal.end("absurd")
    journal.close()
    left.path.parent.mkdir()
    left.path.write_bytes(body)
    with Store.open(settings.workbench_db) as again:
        assert recover(again) == 0
    assert list(interrupted(settings.workbench_db)) == []


async def test_an_answer_that_waits_for_the_log_is_told_what_the_log_waits_for(
    make_engine: EngineFactory, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "_STORE_WAIT_S", 600.0)  # not with a log that says why
    full = WorkbenchError(ErrorCode.DISK_FULL, "No room.", fix="Make room.")
    stuck: Future[None] = Future()
    monkeypatch.setattr(
        Store,
        "log_session",
        lambda *_: SimpleNamespace(
            stored=stuck, done=lambda: False, add_done_callback=lambda _: None
        ),
    )
    monkeypatch.setattr(Store, "last_error", full)
    engine = make_engine({"a": Schedule(steady(2, first_s=0.01, gap_s=0.01))})
    request = ChatRequest("scripted/a", (Message("user", "Hi"),))
    (ended,) = [e.session async for e in engine.stream(request) if isinstance(e, DoneEvent)]
    assert [warning.code for warning in ended.warnings] == ["DISK_FULL"]
    assert "not in the log yet: DISK_FULL: No room. Make room." in ended.warnings[0].message


async def test_an_answer_that_ended_leaves_no_journal(
    make_engine: EngineFactory, store: Store
) -> None:
    slow = Schedule(steady(20, first_s=0.01, gap_s=0.02))
    engine = make_engine({"slow": slow}, workbench_journal_ms=20)
    request = ChatRequest("scripted/slow", (Message("user", "hi"),), Options(max_tokens=20))
    seen = 0
    async for event in engine.stream(request):
        if isinstance(event, TokenEvent) and event.seq >= 10:
            seen = max(seen, len(list(interrupted(store.path))))
        if isinstance(event, DoneEvent):
            assert event.session.text
    assert seen == 1
    folder = spool_of(store.path) / "streams"
    await engine.close()
    assert not folder.exists()


async def test_a_row_that_came_before_the_kill_is_not_written_twice(
    killed: set[str], settings: Settings, tmp_path: Path
) -> None:
    (first, *_) = interrupted(settings.workbench_db)
    body = first.path.read_bytes()
    store = Store.open(settings.workbench_db)
    engine = build(settings, store)
    first.path.write_bytes(body)
    build(settings, store)
    assert store.rows("SELECT count(*) AS n FROM stream_sessions") == [{"n": 3}]
    assert not first.path.exists()
    await engine.close()


def written(log: Path, header: str) -> bool:
    return any(item.header == {"name": header} for item in interrupted(log))


def test_a_look_that_fails_does_not_end_the_journal_of_the_others(tmp_path: Path) -> None:
    log = tmp_path / "log.duckdb"
    journal = Journal(log, 0.01)

    def failing(position: int, _: int) -> tuple[dict[str, int], list[list[int]], list[list[int]]]:
        raise RuntimeError("dictionary changed size during iteration")

    journal.begin("ses_1", {"name": "bad"}, failing)
    journal.begin("ses_2", {"name": "good"}, lambda position, _: ({}, [[position]], []))
    wait_until(lambda: written(log, "good"))
    journal.begin("ses_3", {"name": "later"}, lambda position, _: ({}, [[position]], []))
    wait_until(lambda: written(log, "later"))
    journal.close()


def test_what_a_write_that_failed_has_left_spoils_no_later_one(tmp_path: Path) -> None:
    log = tmp_path / "log.duckdb"
    journal = Journal(log, 0.01)
    journal.begin("ses_1", {}, lambda position, _: ({}, [[position]], []))
    wait_until(lambda: any(interrupted(log)))
    (found,) = interrupted(log)
    with found.path.open("ab") as file:
        file.write(b'{"crc":"0123')
    count = len(found.tokens) + 3
    wait_until(lambda: any(len(item.tokens) >= count for item in interrupted(log)))
    (found,) = interrupted(log)
    assert found.tokens == [[position] for position in range(len(found.tokens))]
    journal.close()


def test_reading_removes_nothing_and_a_start_what_nobody_wrote_to(tmp_path: Path) -> None:
    """Who reads may come between the making of a file and its first line."""
    log = tmp_path / "log.duckdb"
    folder = spool_of(log) / "streams"
    folder.mkdir(parents=True)
    (folder / "begun.ndjson").touch()
    assert list(interrupted(log)) == []
    assert [path.name for path in folder.iterdir()] == ["begun.ndjson"]
    drop_unread(log)
    assert list(folder.iterdir()) == []


def test_generations_may_be_looked_at_from_another_thread() -> None:
    """The journal does, while the event loop begins and ends others."""
    generations = Generations()
    generations.begin("mine", 0)
    stop, looks = threading.Event(), 0

    def begin_and_end() -> None:
        number = 0
        while not stop.is_set():
            number = (number + 1) % 300
            generations.begin(f"ses_{number}", time.monotonic_ns())
            generations.end(f"ses_{(number + 150) % 300}", time.monotonic_ns())

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    other = threading.Thread(target=begin_and_end)
    other.start()
    try:
        while looks < 2000:
            generations.overlap("mine", 0, time.monotonic_ns())
            looks += 1
    finally:
        stop.set()
        other.join()
        sys.setswitchinterval(before)


def wait_until(condition: Callable[[], bool], patience_s: float = 120) -> None:
    until = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)
