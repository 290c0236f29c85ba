"""What is logged comes back as it was."""

from __future__ import annotations

import ctypes
import datetime as dt
import json
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.conftest import make_session
from workbench.errors import ErrorCode, WorkbenchError
from workbench.store import Environment, MemorySample, ModelEvent, Store
from workbench.store.entries import Encoder, columns_in
from workbench.store.inserts import FEW, Inserter
from workbench.store.migrations import migrate
from workbench.store.rows import SessionItem, columns_of
from workbench.types import (
    Message,
    Options,
    ProviderWarning,
    Stamps,
    Status,
    StreamSession,
    TimingMode,
    TokenTimeline,
)

ASKED = (Message("system", "Be brief."), Message("user", "Name a   colour.\nAny."))


def row_of(store: Store, session: StreamSession) -> dict[str, Any]:
    rows = store.rows("FROM stream_sessions WHERE session_id = ?", [session.session_id])
    assert len(rows) == 1
    return rows[0]


def test_every_field_of_a_session_comes_back(store: Store) -> None:
    session = make_session(
        stamps=Stamps(
            queued=1,
            slot=2,
            sent=3,
            first_any=4,
            first_content=5,
            last=6,
            end=2**62,
            intended=0,
            load_ns=9,
        ),
        options=Options(max_tokens=9, temperature=0.1, stop=("a'b", 'c"d'), seed=2**31 - 1),
        seed=2**31 - 1,
        timing_mode=TimingMode.INTERLEAVED,
        status=Status.TIMEOUT,
        reasoning="hm",
        finish_reason="length",
        termination_reason="between_tokens",
        error=WorkbenchError(ErrorCode.TIMEOUT, "Too slow.", provider="scripted", details={"s": 3}),
        fallback_from="huggingface/x",
        warnings=(ProviderWarning("CUT", "prompt cut", {"by": 3}),),
        prompt_tokens=11,
        output_tokens=12,
        count_source="runtime",
        streamed_tokens=13,
        runtime_ns={"total": 1, "load": 2, "prompt_eval": 3, "eval": 4, "idle": 5},
        overlap_ns=17,
        mem_before_bytes=2**40,
        mem_peak_bytes=2**41,
        gpu_peak_bytes=0,
        digest="sha256:1",
        dtype="bf16",
        quantization="Q4_1",
        device="cpu",
        threads=2,
        cold=True,
        comparison_id="cmp",
        run_id="run",
        cell_id="cell",
        trial=0,
        details={"k": [1, None, {"n": "é"}]},
    )
    store.log_session(session, ASKED).result()
    row = row_of(store, session)

    elsewhere = {"stamps", "runtime_ns", "error", "text", "reasoning", "timeline"}
    converted = {"status", "timing_mode", "options", "warnings", "metrics", "details"}
    # All others, so that a field somebody adds to StreamSession must be logged too.
    for name in set(StreamSession.__dataclass_fields__) - elsewhere - converted:
        assert row[name] == getattr(session, name), name
    for name in ("queued", "slot", "sent", "first_any", "first_content", "last", "end", "intended"):
        assert row[f"{name}_ns"] == getattr(session.stamps, name), name
    assert row["load_ns"] == 9
    assert (row["status"], row["timing_mode"]) == ("timeout", "interleaved")
    assert (row["error_code"], row["error_message"]) == ("TIMEOUT", "Too slow.")
    assert Options.from_mapping(json.loads(row["options"])) == session.options
    assert json.loads(row["warnings"]) == [
        {"code": "CUT", "message": "prompt cut", "details": {"by": 3}}
    ]
    assert [row[f"runtime_{n}_ns"] for n in ("total", "load", "prompt_eval", "eval")] == [
        1,
        2,
        3,
        4,
    ]
    assert json.loads(row["details"]) == {"k": [1, None, {"n": "é"}], "runtime_ns": {"idle": 5}}
    assert json.loads(row["metrics"]) == session.metrics
    assert (row["text_chars"], row["reasoning_chars"]) == (len(session.text), 2)


def test_what_was_never_reached_is_null(store: Store) -> None:
    session = make_session(
        status=Status.REJECTED,
        stamps=Stamps(queued=1, end=2),
        text="",
        output_tokens=None,
        timeline=TokenTimeline(),
    )
    store.log_session(session, ASKED).result()
    row = row_of(store, session)
    nulls = {name for name, value in row.items() if value is None}
    stamps = {"slot_ns", "sent_ns", "first_any_ns", "first_content_ns", "last_ns", "intended_ns"}
    assert stamps | {"output_tokens", "dtype", "trial", "runtime_total_ns", "error_code"} <= nulls
    (stream,) = store.rows("FROM token_streams")
    assert stream["t_ns"] == stream["n_tokens"] == stream["n_chars"] == stream["channels"] == []
    assert store.rows("SELECT role FROM messages ORDER BY position") == [
        {"role": "system"},
        {"role": "user"},
    ]


@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=40), note=st.text(max_size=20))
def test_any_text_is_kept_to_the_letter(shared_store: Store, text: str, note: str) -> None:
    session = make_session(text=text, details={"note": note, note: None})
    shared_store.log_session(session, [Message("user", text)]).result()
    rows = shared_store.rows(
        "SELECT content FROM messages WHERE conversation_id = ? ORDER BY position",
        [session.conversation_id],
    )
    assert [row["content"] for row in rows] == [text, text]
    assert json.loads(row_of(shared_store, session)["details"]) == {"note": note, note: None}


def test_half_an_emoji_and_a_number_that_is_none_do_not_lose_the_session(store: Store) -> None:
    session = make_session(
        text="half \ud83d, whole \ud83d\ude00",
        details={"x": float("nan"), "y": [float("inf"), 1.5]},
    )
    store.log_session(session, [Message("user", "\udc80")]).result()
    assert store.rows("SELECT content FROM messages ORDER BY position") == [
        {"content": "\ufffd"},
        {"content": "half \ufffd, whole 😀"},
    ]
    assert json.loads(row_of(store, session)["details"]) == {"x": None, "y": [None, 1.5]}


def test_the_history_is_stored_once_and_each_question_with_its_session(store: Store) -> None:
    """An edited message is kept beside the original, a repeated question beside the first."""
    first = make_session(text="Red.", reasoning="A colour...")
    store.log_session(first, ASKED).result()
    told = (*ASKED, Message("assistant", "Red."), Message("user", "Another?"))
    second = make_session(text="Blue.", conversation_id=first.conversation_id)
    # The same again in the same group of commits: a turn that was regenerated.
    third = make_session(text="Green.", conversation_id=first.conversation_id)
    futures = [store.log_session(second, told), store.log_session(third, told)]
    edited = (ASKED[0], Message("user", "Name a fruit."))
    fourth = make_session(text="Fig.", conversation_id=first.conversation_id)
    futures.append(store.log_session(fourth, edited))
    for future in futures:
        future.result()
    rows = store.query("SELECT position, role, content, session_id, reasoning FROM messages").values
    stored = sorted((row[0], row[1], row[2], row[3] == row[3] and row[3]) for row in rows)
    assert stored == [
        (0, "system", "Be brief.", False),
        (1, "user", "Name a   colour.\nAny.", first.session_id),
        (1, "user", "Name a fruit.", fourth.session_id),
        (2, "assistant", "Fig.", fourth.session_id),
        (2, "assistant", "Red.", first.session_id),
        *sorted((3, "user", "Another?", again.session_id) for again in (second, third)),
        (4, "assistant", "Blue.", second.session_id),
        (4, "assistant", "Green.", third.session_id),
    ]
    assert store.rows("SELECT title, source FROM conversations") == [
        {"title": "Name a colour. Any.", "source": "test"}
    ]
    assert store.rows("SELECT reasoning FROM messages WHERE reasoning IS NOT NULL") == [
        {"reasoning": "A colour..."}
    ]


def test_an_answer_is_not_stored_again_when_the_next_turn_is_in_the_same_group() -> None:
    first = make_session(text="Red.")
    told = (*ASKED, Message("assistant", "Red."), Message("user", "Another?"))
    second = make_session(text="Blue.", conversation_id=first.conversation_id)
    with duckdb.connect() as connection:
        migrate(connection, path="memory")
        columns = columns_in(connection)
        items = SessionItem(first, ASKED), SessionItem(second, told)
        Inserter(connection, columns).commit([Encoder(columns).encode(item) for item in items])
        rows = connection.execute("SELECT content FROM messages ORDER BY position").fetchall()
    assert [row[0] for row in rows] == [
        "Be brief.",
        "Name a   colour.\nAny.",
        "Red.",
        "Another?",
        "Blue.",
    ]


@pytest.mark.parametrize("others", [0, 2 * FEW])
def test_a_conversation_that_goes_on_keeps_its_beginning_however_many_are_stored_with_it(
    others: int,
) -> None:
    first = make_session(text="Red.")
    told = (*ASKED, Message("assistant", "Red."), Message("user", "Another?"))
    second = make_session(text="Blue.", conversation_id=first.conversation_id)
    besides = [make_session(conversation_id=f"other-{number}") for number in range(others)]
    with duckdb.connect() as connection:
        migrate(connection, path="memory")
        columns = columns_in(connection)
        encoder, inserter = Encoder(columns), Inserter(connection, columns)
        inserter.commit([encoder.encode(SessionItem(first, ASKED))])
        later = [SessionItem(second, told), *(SessionItem(one, told[-1:]) for one in besides)]
        inserter.commit([encoder.encode(item) for item in later])
        titles = connection.execute(
            "SELECT title FROM conversations ORDER BY conversation_id NOT LIKE 'other-%' DESC"
        ).fetchall()
        contents = connection.execute(
            "SELECT content FROM messages WHERE conversation_id = ? ORDER BY position",
            [first.conversation_id],
        ).fetchall()
    assert [row[0] for row in titles] == ["Name a colour. Any.", *["Another?"] * others]
    assert [row[0] for row in contents] == [
        "Be brief.",
        "Name a   colour.\nAny.",
        "Red.",
        "Another?",
        "Blue.",
    ]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc 2.33 counts")
def test_answers_that_are_logged_one_by_one_leave_next_to_nothing_in_memory(store: Store) -> None:
    def log(count: int) -> None:
        for number in range(count):
            session = make_session(conversation_id=f"{count}-{number}")
            store.log_session(session, ASKED).stored.result()  # in a transaction of its own

    log(100)  # caches fill
    before = allocated_bytes()
    log(200)
    assert (allocated_bytes() - before) / 200 < 4096


def allocated_bytes() -> int:
    """What this process has from malloc; DuckDB is among those who ask it."""

    class Figures(ctypes.Structure):
        _fields_ = [(name, ctypes.c_size_t) for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd",
            "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )]  # fmt: skip

    call = ctypes.CDLL(None).mallinfo2
    call.restype = Figures
    figures = call()
    return int(figures.uordblks + figures.hblkhd)


def test_a_cancelled_turn_keeps_its_partial_text_and_an_error_gets_its_own_row(
    store: Store,
) -> None:
    cancelled = make_session(status=Status.CANCELLED, text="half an ans")
    error = WorkbenchError(
        ErrorCode.HF_GENERATION_FAILED,
        "It broke.",
        fix="Mend it.",
        operation="stream",
        provider="huggingface",
        details={"step": 3},
    )
    failed = make_session(status=Status.ERROR, error=error, text="", model="huggingface/x")
    store.log_session(cancelled, ASKED).result()
    store.log_session(failed, ASKED).result()

    assert store.rows("SELECT content FROM messages WHERE role = 'assistant'") == [
        {"content": "half an ans"}
    ]
    (row,) = store.rows("FROM errors")
    assert json.loads(row.pop("details")) == {"step": 3}
    assert row.pop("error_id").startswith("err_")
    assert row == {
        "created_at": error.at,
        "code": "HF_GENERATION_FAILED",
        "message": "It broke.",
        "fix": "Mend it.",
        "operation": "stream",
        "provider": "huggingface",
        "model": "huggingface/x",
        "session_id": failed.session_id,
        "correlation_id": failed.correlation_id,
    }


def test_memory_samples_and_model_events_come_back(store: Store) -> None:
    at = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.timezone(dt.timedelta(hours=5)))
    session = make_session()
    sample = MemorySample(
        t_ns=2**60,
        scope="worker",
        session_id=session.session_id,
        model="m",
        pid=1,
        pss_bytes=2**40,
        rss_bytes=3,
        gpu_bytes=0,
        at=at,
    )
    idle = MemorySample(t_ns=1, scope="host", host_available_bytes=5, at=at)
    event = ModelEvent(
        "evict",
        "ollama",
        3,
        ok=False,
        model="ollama/x:latest",
        reason="room",
        before_bytes=4,
        after_bytes=0,
        duration_s=0.25,
        expected_bytes=100,
        recovered_bytes=90,
        recovered_share=0.9,
        leak=True,
        host_before_bytes=2**41,
        host_after_bytes=2**42,
        details={"a": 1},
        at=at,
    )
    store.log_session(session, ASKED, [sample]).result()
    store.insert("memory_samples", columns_of(idle)).result()
    store.log_model_event(event).result()

    first, second = store.rows("FROM memory_samples ORDER BY t_ns DESC")
    assert first == {
        "session_id": session.session_id,
        "created_at": at,
        "t_ns": 2**60,
        "scope": "worker",
        "model": "m",
        "pid": 1,
        "pss_bytes": 2**40,
        "rss_bytes": 3,
        "gpu_bytes": 0,
        "host_available_bytes": None,
    }
    assert (second["session_id"], second["host_available_bytes"]) == (None, 5)
    (row,) = store.rows("FROM model_events")
    assert json.loads(row.pop("details")) == {"a": 1}
    assert row == {
        "event_id": event.event_id,
        "created_at": at,
        "t_ns": 3,
        "model": "ollama/x:latest",
        "provider": "ollama",
        "event": "evict",
        "ok": False,
        "reason": "room",
        "before_bytes": 4,
        "after_bytes": 0,
        "duration_s": 0.25,
        "expected_bytes": 100,
        "recovered_bytes": 90,
        "recovered_share": 0.9,
        "leak": True,
        "host_before_bytes": 2**41,
        "host_after_bytes": 2**42,
        "correlation_id": None,
        "source": None,
        "client": None,
    }


def test_an_environment_is_stored_once_and_named_by_the_sessions_after_it(store: Store) -> None:
    here = Environment(
        cpu="c", cores=2, ram_bytes=2**34, os="Linux", python="3.11", packages={"a": "1"}
    )
    elsewhere = Environment(cpu="c", cores=4, ram_bytes=2**34, os="Linux", python="3.11")
    before, after = make_session(), make_session()
    store.log_session(before, ASKED).result()
    for environment in (elsewhere, here, here):
        store.set_environment(environment).result()
    store.log_session(after, ASKED).result()
    assert row_of(store, before)["environment_id"] is None
    rows = store.rows(
        "SELECT cores, content->>'$.packages.a' AS a FROM environments e "
        "JOIN stream_sessions s USING (environment_id)"
    )
    assert rows == [{"cores": 2, "a": "1"}]
    assert store.rows("SELECT count(*) AS n FROM environments") == [{"n": 2}]


def test_rows_of_any_table_can_be_logged_and_replaced(store: Store) -> None:
    run: dict[str, Any] = {
        "run_id": "r",
        "created_at": dt.datetime.now(dt.UTC),
        "name": "n",
        "status": "active",
        "timing_mode": "isolated",
        "spec": {"models": ["a"]},
    }
    store.insert("benchmark_runs", run).result()
    store.insert("benchmark_runs", {**run, "status": "ok"}, mode="replace").result()
    assert store.rows("SELECT status, spec->>'$.models[0]' AS m FROM benchmark_runs") == [
        {"status": "ok", "m": "a"}
    ]
