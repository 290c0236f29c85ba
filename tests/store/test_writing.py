"""Acknowledged means on disk; one bad item harms no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.store.conftest import make_session
from workbench.errors import ErrorCode, WorkbenchError
from workbench.store import ModelEvent, Store
from workbench.store import writer as writing
from workbench.store.database import Durability
from workbench.store.entries import Entry
from workbench.store.inserts import Inserter
from workbench.store.rows import Item, RowsItem
from workbench.store.writer import Writer
from workbench.types import Message

ASKED = [Message("user", "hi")]

KILLED = """
import sys
from tests.store.conftest import make_session
from workbench.store import Store
from workbench.types import Message

store = Store.open(sys.argv[1])
while True:
    sessions = [make_session() for _ in range(3)]
    futures = [store.log_session(s, [Message("user", "hi")]) for s in sessions]
    for session, future in zip(sessions, futures):
        future.result()
        print(session.session_id, flush=True)
"""


@pytest.mark.parametrize("acknowledged", [1, 50])
def test_what_was_acknowledged_survives_kill_9(path: Path, acknowledged: int) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert child.stdout is not None
    seen = [child.stdout.readline().strip() for _ in range(acknowledged)]
    child.send_signal(signal.SIGKILL)
    seen += [line.strip() for line in child.stdout.read().splitlines(keepends=True) if "\n" in line]
    child.stdout.close()
    child.wait()
    assert len(seen) >= acknowledged
    with Store.open(path) as store:
        stored = store.rows(
            "SELECT seq, s.session_id, t.session_id AS stream, m.session_id AS answer "
            "FROM stream_sessions s LEFT JOIN token_streams t USING (session_id) "
            "LEFT JOIN messages m ON m.session_id = s.session_id AND m.role = 'assistant' "
            "ORDER BY seq"
        )
        assert set(seen) <= {row["session_id"] for row in stored}
        # Nothing torn, nothing missing in between.
        assert all(row["stream"] == row["answer"] == row["session_id"] for row in stored)
        assert [row["seq"] for row in stored] == list(range(1, len(stored) + 1))


def test_many_producers_lose_nothing_and_the_sequence_has_no_gap(store: Store) -> None:
    def produce(_: int) -> list[str]:
        sessions = [make_session() for _ in range(25)]
        futures = [store.log_session(session, ASKED) for session in sessions]
        # A reader among the writers sees whole transactions only.
        whole = store.rows(
            "SELECT (SELECT count(*) FROM stream_sessions) AS s, "
            "(SELECT count(*) FROM token_streams) AS t"
        )[0]
        assert whole["s"] == whole["t"]
        for future in futures:
            future.result()
        return [session.session_id for session in sessions]

    with ThreadPoolExecutor(8) as pool:
        ids = {one for batch in pool.map(produce, range(8)) for one in batch}
    rows = store.rows("SELECT seq, session_id FROM stream_sessions ORDER BY seq")
    assert {row["session_id"] for row in rows} == ids
    assert [row["seq"] for row in rows] == list(range(1, 201))


def endless() -> dict[str, Any]:
    details: dict[str, Any] = {}
    details["again"] = details
    return details


def test_a_bad_item_fails_alone_and_leaves_no_trace(store: Store) -> None:
    good, doubled, last = make_session(), make_session(), make_session()
    items = [
        store.log_session(good, ASKED),
        store.log_session(doubled, ASKED),
        store.log_session(doubled, ASKED),
        store.insert("votes", {"vote_id": "v"}),
        store.insert("nowhere", {"a": 1}),
        store.insert("votes", {"nothing": 1}),
        store.log_session(make_session(details=endless()), ASKED),
        store.log_session(make_session(seed=2**70), ASKED),
        store.log_session(last, ASKED),
    ]
    outcomes = [future.exception() for future in items]
    assert [outcomes[i] for i in (0, 1, 8)] == [None, None, None]
    for i in (2, 3, 4, 5, 6, 7):
        error = outcomes[i]
        assert isinstance(error, WorkbenchError), i
        assert error.code is ErrorCode.INVALID_REQUEST, i
    assert "duplicate key" in str(outcomes[2]).lower()
    assert "no table 'nowhere'" in str(outcomes[4])
    assert "no column 'nothing'" in str(outcomes[5])
    rows = store.rows("SELECT seq, session_id FROM stream_sessions ORDER BY seq")
    assert [(row["seq"], row["session_id"]) for row in rows] == [
        (1, good.session_id),
        (2, doubled.session_id),
        (3, last.session_id),
    ]
    assert store.rows("SELECT count(*) AS n FROM messages") == [{"n": 6}]
    assert store.last_error is None


class Gate:
    """A log whose commit waits to be let through, and fails while told to."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.groups: list[int] = []
        self.entered = threading.Event()
        self.open = threading.Event()

    def encode(self, item: Item) -> Entry:
        return Entry(0, ())

    def spool(self, entries: Sequence[Entry]) -> None:
        pass

    def tend(self) -> float | None:
        return None

    def explain(self, error: Exception) -> WorkbenchError:
        return WorkbenchError(ErrorCode.DISK_FULL, str(error))

    def recovered(self, problem: WorkbenchError, seconds: float) -> Item:
        return ITEM

    def commit(self, items: Sequence[Entry]) -> None:
        self.entered.set()
        assert self.open.wait(30)
        if self.failure is not None:
            raise self.failure
        self.groups.append(len(items))


ITEM = RowsItem("votes", [{}])


def test_a_figure_that_its_column_cannot_hold_is_refused_before_it_is_acknowledged(
    path: Path,
) -> None:
    """A runtime said 2**40 tokens: the row was acknowledged, then dropped, and damage reported."""
    eager = Durability(checkpoint_bytes=1)
    with Store.open(path, durability=eager) as store:
        store.log_session(make_session(), ASKED).stored.result(30)
        receipt = store.log_session(make_session(prompt_tokens=2**40), ASKED)
        assert isinstance(receipt.exception(30), WorkbenchError), "never acknowledged"
    for _ in range(2):
        with Store.open(path, durability=eager) as store:
            assert store.repairs == []
            assert store._database is not None
            assert store._database.checkpoint(), "its number is no gap"
            assert all(check.status != "bad" for check in store.verify())
            assert store.rows("SELECT count(*) AS n FROM stream_sessions") == [{"n": 1}]


def test_what_queues_up_is_committed_in_groups() -> None:
    gate = Gate()
    writer = Writer(gate, next_n=1, max_queue=2000)
    first = writer.submit(ITEM)
    assert gate.entered.wait(30)
    rest = [writer.submit(ITEM) for _ in range(writing.TRANSACTION + 10)]
    assert not first.done()
    assert writer.depth == writing.TRANSACTION + 11
    gate.open.set()
    assert writer.flush(30)
    assert all(future.done() for future in rest)
    assert gate.groups[0] == 1
    assert sum(gate.groups) == writing.TRANSACTION + 11
    assert len(gate.groups) < 10
    assert max(gate.groups) <= writing.TRANSACTION
    assert writer.depth == 0
    writer.close()


def test_a_full_disk_keeps_what_waits_refuses_what_is_too_much_and_recovers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writing, "RETRY_S", 0.001)
    gate = Gate()
    gate.failure = duckdb.IOException("IO Error: No space left on device")
    writer = Writer(gate, next_n=1, max_queue=3)
    kept = [writer.submit(ITEM) for _ in range(3)]
    refused = writer.submit(ITEM).exception(timeout=0)
    assert isinstance(refused, WorkbenchError)
    assert refused.retry_after_s is not None
    gate.open.set()
    assert not writer.flush(0.1)
    assert writer.last_error is not None
    assert writer.submit(ITEM).exception(timeout=0) is writer.last_error
    assert not any(future.done() for future in kept)
    gate.failure = None
    assert writer.flush(30)
    assert [future.result(timeout=0) for future in kept] == [None] * 3
    assert writer.last_error is None
    writer.close()
    assert sum(gate.groups) == 4  # and the row that tells of it


class Refusing(Gate):
    """A log that stores, and cannot make a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.spooled = 0
        self.ahead = threading.Event()

    def tend(self) -> float | None:
        raise WorkbenchError(ErrorCode.DISK_FULL, "No room for a checkpoint.")

    def spool(self, entries: Sequence[Entry]) -> None:
        self.spooled += len(entries)
        if self.spooled > 4:
            self.ahead.set()


def test_a_checkpoint_that_is_refused_lets_nobody_read_before_what_was_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever asked did not wait, and the spool went ahead of the database without a limit."""
    monkeypatch.setattr(writing, "RETRY_S", 0.001)
    monkeypatch.setattr(writing, "AHEAD", 2)
    monkeypatch.setattr(writing, "GROUP", 1)
    log = Refusing()
    log.open.set()
    writer = Writer(log, next_n=1, max_queue=100)
    assert writer.submit(ITEM).stored.result(30) is None
    while writer.last_error is None:
        pass
    log.open.clear()
    log.entered.clear()
    receipts = [writer.submit(ITEM) for _ in range(20)]
    assert log.entered.wait(30)
    asking = threading.Thread(target=writer.catch_up, args=[60])
    asking.start()
    asking.join(0.2)
    assert asking.is_alive()
    assert not log.ahead.is_set()
    log.open.set()
    asking.join(60)
    assert [receipt.result(60) for receipt in receipts] == [None] * 20
    writer.close()


def test_closing_with_a_full_disk_fails_what_waits() -> None:
    gate = Gate()
    gate.failure = duckdb.IOException("IO Error: No space left on device")
    gate.open.set()
    writer = Writer(gate, next_n=1, max_queue=10)
    waiting = [writer.submit(ITEM) for _ in range(5)]
    writer.close()
    assert all(isinstance(future.exception(timeout=0), WorkbenchError) for future in waiting)
    assert writer.depth == 0


def test_a_store_that_cannot_write_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = True
    commit = Inserter.commit

    def flaky(self: Inserter, entries: Sequence[Entry]) -> None:
        if failing:
            raise duckdb.IOException("IO Error: Could not write: No space left on device")
        commit(self, entries)

    monkeypatch.setattr(writing, "RETRY_S", 0.001)
    monkeypatch.setattr(Inserter, "commit", flaky)
    event = store.log_model_event(ModelEvent("scan", "ollama", 1))
    with pytest.raises(WorkbenchError, match="DISK_FULL: No space left") as caught:
        store.flush(0.1)
    assert caught.value is store.last_error
    assert store.queue_depth == 1
    failing = False
    event.result()
    store.flush()
    assert store.last_error is None
    assert len(store.rows("FROM model_events")) == 1
    (told,) = store.rows("FROM errors")
    assert told["code"] == "DISK_FULL"
    assert "what waited has been written now" in told["message"]


def test_a_cancelled_waiter_does_not_unlog_anything(store: Store) -> None:
    future = store.log_session(make_session(), ASKED)
    assert not future.cancel()
    future.result()
    assert len(store.rows("FROM stream_sessions")) == 1


def test_closing_writes_what_is_queued_and_may_be_repeated(path: Path) -> None:
    store = Store.open(path)
    futures = [store.log_session(make_session(), ASKED) for _ in range(20)]
    store.close()
    store.close()
    assert all(future.exception(timeout=0) is None for future in futures)
    assert not path.with_name(f"{path.name}.wal").exists()
    late = store.log_session(make_session(), ASKED).exception(timeout=0)
    assert isinstance(late, WorkbenchError)
    assert late.code is ErrorCode.STORE_UNAVAILABLE
    with pytest.raises(WorkbenchError, match="closed"):
        store.query("SELECT 1")
    with Store.open(path) as again:
        assert len(again.rows("FROM stream_sessions")) == 20
