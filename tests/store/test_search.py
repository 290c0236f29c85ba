"""Sessions are found by columns, words and ids, page by page; and deleted with all they left."""

from __future__ import annotations

import datetime as dt

import pytest

from tests.store.conftest import make_session
from workbench.errors import WorkbenchError
from workbench.store import MemorySample, Store
from workbench.store import search as searching
from workbench.store.rows import columns_of
from workbench.store.search import Wanted, facets, search
from workbench.types import Message, Status

BEGAN = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
QUESTIONS = ("Why is the sky blue?", "Name a COLOUR.", "What is 17 * 23?", "Straße 100% _x_")


def fill(store: Store, count: int = 40) -> list[str]:
    """Sessions a minute apart; returns their ids, the oldest first."""
    ids = []
    for n in range(count):
        session = make_session(
            session_id=f"ses_{n:04d}",
            conversation_id=f"con_{n // 2:04d}",
            created_at=BEGAN + dt.timedelta(minutes=n),
            model=f"scripted/{'ab'[n % 2]}",
            provider="scripted",
            status=Status.ERROR if n % 10 == 0 else Status.OK,
            text=f"Answer number {n}.",
        )
        store.log_session(session, (Message("user", QUESTIONS[n % len(QUESTIONS)]),))
        ids.append(session.session_id)
    store.flush()
    return ids


def ids_of(store: Store, wanted: Wanted, **kwargs: object) -> list[str]:
    page = search(store, wanted, within_s=5, **kwargs)  # type: ignore[arg-type]
    return [row["session_id"] for row in page.rows]


def test_pages_hold_every_session_once(store: Store) -> None:
    ids = fill(store)
    for words in ("", "answer"):
        seen, cursor = list[str](), None
        while True:
            page = search(store, Wanted(words=words), limit=7, cursor=cursor, within_s=5)
            seen += [row["session_id"] for row in page.rows]
            if (cursor := page.next) is None:
                break
        assert seen == ids[::-1], words


FOUND = {
    "colour": 10,
    "SKY blue": 10,
    '"sky blue"': 10,
    '"blue sky"': 0,
    "sky 36": 1,  # one word in the question, one in the answer
    "100%": 10,
    "_x_": 10,
    "STRASSE": 0,
    "straße": 10,
    "ses_0003": 1,
    "con_0003": 2,
    "con_0003 what": 1,
    "nowhere": 0,
}


def test_words_are_found_in_question_and_answer(store: Store) -> None:
    fill(store)
    pages = {words: search(store, Wanted(words=words), within_s=5) for words in FOUND}
    assert {words: len(page.rows) for words, page in pages.items()} == FOUND
    assert {page.reached for page in pages.values()} == {None}


def test_filters_go_together_with_words_and_time(store: Store) -> None:
    ids = fill(store)
    assert ids_of(store, Wanted({"model": "scripted/a", "status": "error"})) == ids[30::-10]
    assert ids_of(store, Wanted({"model": "scripted/b"}, "seventeen")) == []
    soon = BEGAN + dt.timedelta(minutes=8)
    assert ids_of(store, Wanted({}, "sky", until=soon)) == [ids[4], ids[0]]
    assert search(store, Wanted({"status": "ok"}), within_s=5).sessions == 36
    assert facets(store)["model"] == ["scripted/a", "scripted/b"]
    with pytest.raises(WorkbenchError, match="no filter"):
        search(store, Wanted({"1=1; --": "x"}), within_s=5)
    with pytest.raises(WorkbenchError, match="words are looked for"):
        search(store, Wanted(words="a " * 50), within_s=5)


def test_a_search_that_runs_out_of_time_says_how_far_it_came_and_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = fill(store)
    monkeypatch.setattr(searching, "_FIRST", 10)
    monkeypatch.setattr(searching, "_LARGEST", 10)
    clock = iter(range(1000))
    monkeypatch.setattr("workbench.store.search.time.monotonic", lambda: float(next(clock)))
    first = search(store, Wanted(words="sky"), within_s=3)
    assert [row["session_id"] for row in first.rows] == [ids[36], ids[32]]
    assert first.reached == BEGAN + dt.timedelta(minutes=30)
    rest = search(store, Wanted(words="sky"), cursor=first.next, within_s=100)
    assert [row["session_id"] for row in rest.rows] == ids[28::-4]


def test_deleted_sessions_leave_nothing_and_the_log_is_whole(store: Store) -> None:
    ids = fill(store, 12)
    sample = MemorySample(t_ns=1, scope="host", session_id=ids[3])
    store.insert("memory_samples", columns_of(sample)).result()
    gone = [ids[3], ids[4], ids[11], "ses_none"]
    counted = store.delete_sessions(gone, dry_run=True)
    assert (counted["stream_sessions"], counted["messages"]) == (3, 6)
    assert len(ids_of(store, Wanted())) == 12
    assert store.delete_sessions(gone, dry_run=False) == counted
    left = [one for one in ids if one not in gone]
    assert ids_of(store, Wanted()) == left[::-1]
    for table in ("messages", "token_streams", "memory_samples"):
        rows = store.rows(
            f"SELECT count(*) AS n FROM {table} WHERE list_contains($gone, session_id)",
            {"gone": gone},
        )
        assert rows == [{"n": 0}], table
    assert {check.status for check in store.verify()} == {"ok"}

    # Numbers are not given again, and another start finds the log whole too.
    path = store.path
    store.close()
    with Store.open(path) as again:
        again.log_session(make_session(session_id="ses_new"), (Message("user", "hi"),)).result()
        (row,) = again.rows("SELECT seq FROM stream_sessions WHERE session_id = 'ses_new'")
        assert row["seq"] == 13
        assert {check.status for check in again.verify()} == {"ok"}
        assert len(ids_of(again, Wanted())) == 10
