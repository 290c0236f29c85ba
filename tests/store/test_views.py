"""The views compute what metrics.py computes."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.conftest import MS, make_session
from workbench.errors import ErrorCode, WorkbenchError
from workbench.metrics import PHASES
from workbench.store import MemorySample, Store
from workbench.store.rows import columns_of
from workbench.types import Message, Stamps, Status, StreamSession, TokenTimeline

ASKED = [Message("user", "hi")]
LATE = st.none() | st.integers(0, 3 * MS) | st.integers(0, 10**10)


@st.composite
def sessions(draw: st.DrawFn) -> StreamSession:
    """Sessions that ended at any point, with any timeline; stamps in order, some never reached."""
    steps = st.integers(0, 3) | st.integers(0, 10**11)
    points = [draw(st.integers(0, 10**14))]
    for _ in range(6):
        points.append(points[-1] + draw(steps))
    queued, slot, sent, first_any, first_content, last, end = points
    reached = draw(st.integers(0, 5))
    keep = draw(st.booleans())  # a thinking model may be cut off before its answer
    stamps = Stamps(
        queued=queued,
        end=end,
        intended=draw(
            st.none() | st.integers(queued - 10**9, queued) if queued > 10**9 else st.none()
        ),
        slot=slot if reached >= 1 else None,
        sent=sent if reached >= 2 else None,
        first_any=first_any if reached >= 3 else None,
        first_content=first_content if reached >= 4 and keep else None,
        last=last if reached >= 3 else None,
        load_ns=draw(st.integers(0, 10**10)),
        retry_ns=draw(st.just(0) | st.integers(0, 10**10)),
    )
    gaps = draw(st.lists(st.integers(0, 10**9), max_size=12)) if reached >= 3 else []
    n = len(gaps)
    t_ns = tuple(first_any + sum(gaps[: i + 1]) for i in range(n))
    timeline = TokenTimeline(
        t_ns=t_ns,
        n_tokens=tuple(draw(st.lists(st.integers(0, 8), min_size=n, max_size=n))),
        n_chars=(1,) * n,
        channels=("content",) * n,
    )
    return make_session(
        stamps=stamps,
        timeline=timeline,
        text="x" * draw(st.integers(0, 50)),
        output_tokens=draw(st.none() | st.integers(0, 3) | st.integers(0, 100)),
        mem_before_bytes=draw(st.none() | st.integers(0, 2**45)),
        mem_peak_bytes=draw(st.none() | st.integers(0, 2**45)),
        overlap_ns=draw(st.integers(0, 2) | st.integers(0, 10**10)),
        ttft_late_ns=draw(LATE),
        speed_late_ns=draw(LATE),
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(sessions(), min_size=1, max_size=12))
def test_latencies_equal_the_python_figures(shared_store: Store, made: list[StreamSession]) -> None:
    for future in [shared_store.log_session(session, ASKED) for session in made]:
        future.result()
    rows = shared_store.rows(
        "FROM latencies WHERE session_id IN (SELECT unnest(?))", [[s.session_id for s in made]]
    )
    by_id = {row["session_id"]: row for row in rows}
    for session in made:
        row = by_id[session.session_id]
        for name, figure in session.metrics.items():
            computed = row[name]
            if figure is None:
                assert computed is None, name
            else:
                assert computed is not None, name
                assert math.isclose(computed, figure, rel_tol=1e-9, abs_tol=1e-9), name
        assert row["contended"] is (session.overlap_ns > 0)
        assert math.isclose(
            sum(row[name] for name in PHASES), row["wall_s"], rel_tol=1e-9, abs_tol=1e-9
        )


def test_a_known_session_has_the_figures_of_its_schedule(store: Store) -> None:
    store.log_session(make_session(), ASKED).result()
    (row,) = store.rows("FROM latencies")
    figures = {
        "queue_s": 0.01,
        "ttft_s": 0.03,
        "tpot_s": 0.02,
        "itl_p50_s": 0.02,
        "decode_tps": 50.0,
        "wall_s": 0.101,
        "e2e_s": 0.091,
        "finish_s": 0.001,
        "chars_per_s": 22 / 0.06,
    }
    assert {name: row[name] for name in figures} == pytest.approx(figures, rel=1e-12)


def test_the_median_gap_of_the_row_is_that_of_the_stored_tokens(store: Store) -> None:
    """It is the one figure of the view that is not computed from stamps."""
    uneven = TokenTimeline(
        (0, 10 * MS, 40 * MS, 100 * MS), (1, 1, 2, 0), (1,) * 4, ("content",) * 4
    )
    for session in (make_session(), make_session(timeline=uneven)):
        store.log_session(session, ASKED).result()
    rows = store.rows(
        "SELECT any_value(itl_p50_s) AS kept_s, median(gap_s / n_tokens) AS p50_s FROM ("
        "  FROM token_events, range(8) each(token) WHERE token < n_tokens AND gap_s IS NOT NULL"
        ") JOIN latencies USING (session_id) GROUP BY session_id"
    )
    assert sorted(row["kept_s"] for row in rows) == pytest.approx([0.015, 0.02])
    assert all(row["kept_s"] == pytest.approx(row["p50_s"]) for row in rows)


def test_a_session_without_a_timeline_row_still_has_latencies(store: Store) -> None:
    session = make_session(timeline=TokenTimeline())
    store.log_session(session, ASKED).result()
    assert store.rows("SELECT itl_p50_s, ttft_s FROM latencies") == [
        {"itl_p50_s": None, "ttft_s": 0.03}
    ]


def test_token_events_have_the_gap_to_the_event_before(store: Store) -> None:
    for _ in range(2):
        store.log_session(make_session(), ASKED).result()
    rows = store.rows(
        "SELECT position, n_chars, channel, gap_s FROM token_events ORDER BY session_id, position"
    )
    one = [
        {"position": i, "n_chars": n, "channel": "content", "gap_s": 0.02 if i else None}
        for i, n in enumerate((5, 7, 6, 4))
    ]
    assert rows == one + one


def _steady(gap_ms: int, **changes: Any) -> StreamSession:
    base = make_session()
    first = base.stamps.first_any or 0
    last = first + 3 * gap_ms * MS
    stamps = Stamps(
        queued=base.stamps.queued,
        slot=base.stamps.slot,
        sent=base.stamps.sent,
        first_any=first,
        first_content=first,
        last=last,
        end=last,
    )
    return make_session(stamps=stamps, **changes)


def test_the_leaderboard_takes_speed_from_ok_uncontended_answers_of_the_model_itself(
    store: Store,
) -> None:
    slow = "scripted/slow"
    for session in (
        _steady(10),
        _steady(20),
        _steady(30),
        _steady(500, overlap_ns=1),
        _steady(500, speed_late_ns=76 * MS),
        _steady(500, speed_late_ns=74 * MS, status=Status.ERROR),
        _steady(500, status=Status.CANCELLED),
        _steady(500, fallback_from=slow, requested_model=slow),
        _steady(40, model=slow, requested_model=slow, dtype="bf16"),
    ):
        store.log_session(session, ASKED).result()
    rows = {row["model"]: row for row in store.rows("FROM model_leaderboard")}
    steady = rows["scripted/steady"]
    assert steady["tpot_p50_s"] == pytest.approx(0.02)
    assert steady["decode_tps_p50"] == pytest.approx(50)
    counts = "sessions", "sessions_ok", "sessions_uncontended", "sessions_as_fallback"
    assert [steady[name] for name in counts] == [8, 6, 4, 1]
    assert rows[slow]["tpot_p50_s"] == pytest.approx(0.04)
    assert [rows[slow][name] for name in counts] == [1, 1, 1, 0]
    assert rows[slow]["dtype"] == "bf16"


def test_what_never_came_to_its_model_counts_in_the_row_of_the_form_used_last(
    store: Store,
) -> None:
    base, never = make_session(), "scripted/never"

    def at(day: int, **changes: Any) -> StreamSession:
        return make_session(created_at=base.created_at + dt.timedelta(days=day), **changes)

    for session in (
        at(0, quantization="q4", device="cpu"),
        at(1, quantization="q8", device="cpu"),
        at(2, quantization="q8", device="cpu", status=Status.TIMEOUT),
        at(0, status=Status.ERROR),
        at(3, status=Status.REJECTED),
        at(3, status=Status.ERROR, model=never, requested_model=never),
    ):
        store.log_session(session, ASKED).result()
    rows = store.rows(
        "SELECT model, quantization, device, sessions, sessions_ok, last_used_at "
        "FROM model_leaderboard ORDER BY ALL"
    )
    assert [tuple(row.values())[:5] for row in rows] == [
        (never, None, None, 1, 0),
        (base.model, "q4", "cpu", 1, 1),
        (base.model, "q8", "cpu", 4, 1),
    ]
    assert rows[2]["last_used_at"] == base.created_at + dt.timedelta(days=3)


def test_p90_is_null_below_64_samples(store: Store) -> None:
    futures = [store.log_session(_steady(i + 1), ASKED) for i in range(63)]
    for future in futures:
        future.result()
    assert store.rows("SELECT tpot_p90_s FROM model_leaderboard") == [{"tpot_p90_s": None}]
    store.log_session(_steady(64), ASKED).result()
    (row,) = store.rows("SELECT tpot_p90_s, ttft_p90_s FROM model_leaderboard")
    assert row["tpot_p90_s"] == pytest.approx(0.0577)  # 1..64 ms: 1 + 0.9 * 63
    assert row["ttft_p90_s"] == pytest.approx(0.03)


def test_memory_by_session_adds_up_the_processes_of_one_reading(store: Store) -> None:
    session = make_session()

    def sample(t_ns: int, pid: int, pss: int) -> MemorySample:
        return MemorySample(t_ns, "worker", session.session_id, pid=pid, pss_bytes=pss)

    host = MemorySample(10, "host", session.session_id, pss_bytes=999, host_available_bytes=7)
    samples = [sample(10, 1, 5), sample(10, 2, 6), sample(30, 1, 20), sample(20, 1, 2), host]
    store.log_session(session, ASKED, samples).result()
    alone = MemorySample(1, "host", pss_bytes=1)
    store.insert("memory_samples", columns_of(alone)).result()
    (row,) = store.rows("FROM memory_by_session")
    assert row["session_id"] == session.session_id
    names = "readings", "pss_peak_bytes", "pss_min_bytes", "pss_first_bytes", "pss_last_bytes"
    assert [row[name] for name in names] == [3, 20, 2, 11, 20]
    assert row["pss_mean_bytes"] == pytest.approx(11)
    assert row["host_available_min_bytes"] == 7


def test_error_rates_count_what_failed_against_what_was_tried(store: Store) -> None:
    def failure(code: ErrorCode) -> WorkbenchError:
        return WorkbenchError(code, "failed")

    for _ in range(3):
        store.log_session(make_session(), ASKED).result()
    timeout = make_session(status=Status.TIMEOUT, error=failure(ErrorCode.TIMEOUT))
    store.log_session(timeout, ASKED).result()
    # The model of this request failed and another one answered well.
    helped = make_session(model="scripted/other", fallback_from="scripted/steady")
    store.log_session(helped, ASKED).result()
    store.log_error(
        failure(ErrorCode.HF_PIPELINE_ERROR), model="scripted/steady", session_id=helped.session_id
    ).result()
    store.log_error(failure(ErrorCode.INTERNAL)).result()
    rows = store.rows(
        "SELECT model, error_code, errors, sessions, error_rate FROM error_rates "
        "ORDER BY error_code"
    )
    assert rows == [
        {
            "model": "scripted/steady",
            "error_code": code,
            "errors": 1,
            "sessions": 5,
            "error_rate": 0.2,
        }
        for code in ("HF_PIPELINE_ERROR", "TIMEOUT")
    ]
