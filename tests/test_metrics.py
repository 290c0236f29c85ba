"""The definitions of every figure, on numbers worked out by hand."""

from __future__ import annotations

import pytest

from tests.store.conftest import make_session
from workbench import metrics
from workbench.types import Stamps, StreamSession, TokenTimeline

MS, NS = 1_000_000, 10**9


def figures(stamps: Stamps, timeline: TokenTimeline, n: int | None, chars: int = 0) -> dict:  # type: ignore[type-arg]
    return metrics.session_metrics(stamps, timeline, output_tokens=n, content_chars=chars)


def test_a_request_worked_out_by_hand() -> None:
    stamps = Stamps(
        intended=0,
        queued=10 * MS,
        slot=60 * MS,
        load_ns=30 * MS,
        retry_ns=15 * MS,
        sent=61 * MS,
        first_any=161 * MS,
        first_content=181 * MS,
        last=261 * MS,
        end=271 * MS,
    )
    timeline = TokenTimeline(
        t_ns=(161 * MS, 181 * MS, 221 * MS, 261 * MS),
        n_tokens=(1, 1, 2, 1),
        n_chars=(3, 3, 6, 3),
        channels=("reasoning", "content", "content", "content"),
    )
    found = figures(stamps, timeline, n=5, chars=12)
    expected = {
        "retry_s": 0.015,
        "queue_s": 0.005,
        "load_s": 0.030,
        "dispatch_s": 0.001,
        "prefill_s": 0.100,
        "think_s": 0.020,
        "answer_s": 0.080,
        "finish_s": 0.010,
        "ttft_s": 0.100,
        "ttfo_s": 0.120,
        "tpot_s": 0.025,
        "itl_p50_s": 0.020,
        "e2e_s": 0.210,
        "e2e_eff_s": 0.271,
        "wall_s": 0.261,
        "output_tps": 5 / 0.210,
        "decode_tps": 40.0,
        "chars_per_s": 120.0,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name


def test_eight_tokens_at_once_are_not_eight_times_faster() -> None:
    timeline = TokenTimeline((0, 80 * MS), (8, 8), (1, 1), ("content", "content"))
    assert metrics.inter_token_latencies(timeline) == pytest.approx([0.010] * 8)


def test_text_held_back_is_not_a_token() -> None:
    timeline = TokenTimeline((0, 5 * MS, 10 * MS), (1, 0, 1), (0, 2, 1), ("content",) * 3)
    assert metrics.inter_token_latencies(timeline) == pytest.approx([0.010])


@pytest.mark.parametrize("n", [None, 0, 1])
def test_one_token_has_no_time_per_output_token(n: int | None) -> None:
    stamps = Stamps(queued=0, slot=0, sent=0, first_any=5, first_content=5, last=5, end=6)
    found = figures(stamps, TokenTimeline(), n)
    assert found["tpot_s"] is None
    assert found["decode_tps"] is None


def test_two_tokens_have_one() -> None:
    stamps = Stamps(
        queued=0, slot=0, sent=0, first_any=5 * MS, first_content=5 * MS, last=25 * MS, end=30 * MS
    )
    assert figures(stamps, TokenTimeline(), 2)["tpot_s"] == pytest.approx(0.020)


def test_request_that_never_left_the_queue() -> None:
    found = figures(Stamps(queued=0, end=50 * MS), TokenTimeline(), None)
    assert found["queue_s"] == pytest.approx(0.05)
    assert [found[name] for name in ("ttft_s", "e2e_s", "output_tps")] == [None, None, None]


def test_quantiles_are_refused_below_their_sample_size() -> None:
    assert metrics.quantile([1.0, 2.0, 4.0], 0.5) == 2.0
    assert metrics.quantile([1.0, 2.0], 0.5) == 1.5
    assert metrics.quantile([1.0] * 63, 0.9) is None
    assert metrics.quantile([1.0] * 64, 0.9) == 1.0
    assert metrics.quantile([1.0] * 661, 0.99) is None
    assert metrics.quantile([], 0.5) is None


@pytest.mark.parametrize(
    ("others", "overlap"),
    [
        ([], 0),
        ([(0, 100)], 0),
        ([(100, 150)], 50),
        ([(50, 150), (120, 180)], 80),
        ([(110, 120), (115, 118), (190, 300)], 20),
        ([(0, 1000)], 100),
    ],
)
def test_overlap_counts_no_moment_twice(others: list[tuple[int, int]], overlap: int) -> None:
    assert metrics.overlap_ns(100, 200, others) == overlap


@pytest.mark.parametrize("reached", [{}, {"first_any": 3}, {"last": 3}])
def test_what_was_not_reached_has_no_figure(reached: dict[str, int]) -> None:
    found = figures(Stamps(queued=0, end=9, **reached), TokenTimeline(), n=3, chars=3)
    rates = ("tpot_s", "decode_tps", "chars_per_s", "output_tps", "itl_p50_s")
    assert [found[name] for name in rates] == [None] * 5
    assert [found[name] for name in ("ttft_s", "ttfo_s", "e2e_s")] == [None] * 3


def test_an_answer_that_took_no_time_has_no_speed() -> None:
    at_once = Stamps(queued=1, slot=1, sent=1, first_any=1, first_content=1, last=1, end=1)
    found = figures(at_once, TokenTimeline(), n=2, chars=2)
    assert [found[name] for name in ("output_tps", "decode_tps", "chars_per_s")] == [None] * 3
    assert found["tpot_s"] == 0


def test_a_timeline_of_unequal_lists_gives_no_wrong_figure() -> None:
    with pytest.raises(ValueError, match="zip"):
        metrics.inter_token_latencies(TokenTimeline((0, 5, 9), (1, 1)))


def test_one_sample_is_its_own_quantile_and_the_bounds_are_inclusive() -> None:
    assert metrics.quantile([3.0], 0.5) == 3.0
    assert metrics.quantile([*map(float, range(662))], 0.99) == pytest.approx(654.39)


def timed(ttft_ns: int | None, speed_ns: int | None, **reached: int | None) -> StreamSession:
    """An answer with a TTFT of 0.1 s, whose tokens took 2 s."""
    stamps = {"sent": 0, "first_any": NS // 10, "last": 21 * NS // 10, "end": 3 * NS} | reached
    return make_session(
        stamps=Stamps(queued=0, **stamps), ttft_late_ns=ttft_ns, speed_late_ns=speed_ns
    )


@pytest.mark.parametrize(
    ("session", "wrong"),
    [
        (timed(None, None), (False, False)),
        (timed(5 * MS, 100 * MS), (False, False)),  # 5 % is what is allowed
        (timed(5 * MS + 1, 100 * MS), (True, False)),
        (timed(5 * MS, 100 * MS + 1), (False, True)),
        (timed(1 * MS, 1 * MS, first_any=10 * MS, last=20 * MS), (False, False)),
        (timed(1 * MS + 1, 1 * MS + 1, first_any=10 * MS, last=20 * MS), (True, True)),
        (timed(NS, NS, last=NS // 10), (True, False)),  # one token has no speed
        (timed(NS, NS, first_any=None), (False, False)),
        (timed(NS, NS, sent=None), (False, False)),
        (timed(NS, NS, last=None), (False, False)),
    ],
)
def test_a_late_event_loop_spoils_what_it_may_move_by_five_percent(
    session: StreamSession, wrong: tuple[bool, bool]
) -> None:
    assert tuple(metrics.spoilt(session).values()) == wrong
