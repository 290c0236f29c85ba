"""Figures from stamps: what a schedule makes of a request, worked out from the schedule alone."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import times
from workbench import metrics
from workbench.record import with_tokens
from workbench.types import (
    Channel,
    Options,
    ProviderToken,
    Stamps,
    Status,
    StreamSession,
    TimingMode,
    TokenTimeline,
)

DURATION_NS = st.integers(0, 10**10)
TIMES_BY_NAME = [name for name in metrics.DEFINITIONS if name.endswith("_s")]
RATES = ["output_tps", "decode_tps", "chars_per_s"]


@dataclass(frozen=True)
class Played:
    """What really happened, in durations (ns): the other side of the stamps."""

    begins: int
    early: int
    retry: int
    queue: int
    load: int
    dispatch: int
    gaps: tuple[int, ...]
    """To the first text, then from text to text."""
    texts: tuple[tuple[str, int, Channel], ...]
    """Text, tokens and channel of each."""
    finish: int

    def session(self, *, later: int = 0, slower: int = 1) -> StreamSession:
        """The record of it, as the engine builds it.

        Args:
            later: ns by which all of it is shifted.
            slower: factor of all durations.
        """
        queued = self.begins + later
        slot = queued + (self.retry + self.queue + self.load) * slower
        sent = slot + self.dispatch * slower
        at = itertools.accumulate((gap * slower for gap in self.gaps), initial=sent)
        next(at)
        tokens = [
            ProviderToken(text, t_ns, n, channel)
            for t_ns, (text, n, channel) in zip(at, self.texts, strict=True)
        ]
        end = sent + (sum(self.gaps) + self.finish) * slower
        stamps = Stamps(
            queued=queued,
            intended=queued - self.early * slower,
            slot=slot,
            sent=sent,
            end=end,
            load_ns=self.load * slower,
            retry_ns=self.retry * slower,
        )
        bare = StreamSession(
            session_id="ses_1",
            conversation_id="con_1",
            correlation_id="cor_1",
            requested_model="scripted/a",
            model="scripted/a",
            provider="scripted",
            status=Status.OK,
            created_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
            stamps=stamps,
            options=Options(),
            seed=1,
            timing_mode=TimingMode.CONCURRENT,
            source="python",
        )
        return with_tokens(bare, tokens)


@st.composite
def played(draw: st.DrawFn) -> Played:
    texts = draw(
        st.lists(
            st.tuples(
                st.text(max_size=5),
                st.integers(0, 8),
                st.sampled_from(("content", "content", "reasoning")),
            ),
            max_size=12,
        )
    )
    return Played(
        begins=draw(st.integers(10**12, 10**15)),
        early=draw(DURATION_NS),
        retry=draw(DURATION_NS),
        queue=draw(DURATION_NS),
        load=draw(DURATION_NS),
        dispatch=draw(DURATION_NS),
        gaps=tuple(draw(st.tuples(*[st.integers(1, 10**10)] * len(texts)))),
        texts=tuple(texts),
        finish=draw(DURATION_NS),
    )


def seconds(ns: float) -> float:
    return ns / 1e9


@given(played())
@times(2)
def test_every_figure_is_what_the_schedule_says(request: Played) -> None:
    found = request.session().metrics
    at = list(itertools.accumulate(request.gaps))
    counted = [(t_ns, n) for t_ns, (_, n, _) in zip(at, request.texts, strict=True) if n]
    shown = [
        (t_ns, text)
        for t_ns, (text, _, channel) in zip(at, request.texts, strict=True)
        if channel == "content" and text
    ]
    n_out, chars = sum(n for _, n in counted), sum(len(text) for _, text in shown)
    streaming = counted[-1][0] - counted[0][0] if counted else 0
    e2e = sum(request.gaps) + request.finish
    waited = request.retry + request.queue + request.load
    expected: dict[str, float | None] = {
        "retry_s": seconds(request.retry),
        "queue_s": seconds(request.queue),
        "load_s": seconds(request.load),
        "dispatch_s": seconds(request.dispatch),
        "ttft_s": seconds(counted[0][0]) if counted else None,
        "ttfo_s": seconds(shown[0][0]) if shown else None,
        "tpot_s": seconds(streaming) / (n_out - 1) if n_out > 1 else None,
        "e2e_s": seconds(e2e),
        "wall_s": seconds(waited + request.dispatch + e2e),
        "e2e_eff_s": seconds(request.early + waited + request.dispatch + e2e),
        "output_tps": n_out / seconds(e2e) if request.texts and e2e else None,
        "decode_tps": (n_out - 1) / seconds(streaming) if n_out > 1 and streaming else None,
        "chars_per_s": chars / seconds(streaming) if streaming and chars else None,
    }
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-9), name
    assert request.session().output_tokens == (n_out if request.texts else None)


@given(played())
def test_gaps_between_tokens_pooled_are_the_time_of_the_stream(request: Played) -> None:
    session = request.session()
    samples = metrics.inter_token_latencies(session.timeline)
    counts = [n for _, n, _ in request.texts if n]
    assert len(samples) == sum(counts[1:]), "one sample per token after the first event"
    streaming_s = 0.0
    if session.stamps.last is not None:
        assert session.stamps.first_any is not None
        streaming_s = seconds(session.stamps.last - session.stamps.first_any)
    assert sum(samples) == pytest.approx(streaming_s, rel=1e-9, abs=1e-9)
    median = session.metrics["itl_p50_s"]
    assert median == pytest.approx(np.median(samples)) if samples else median is None


@given(played(), st.integers(-(10**11), 10**15))
def test_when_it_happened_makes_no_difference(request: Played, later: int) -> None:
    assert request.session(later=later).metrics == request.session().metrics


@given(played(), st.integers(2, 9))
def test_all_that_takes_longer_is_slower_by_as_much(request: Played, slower: int) -> None:
    before, after = request.session().metrics, request.session(slower=slower).metrics
    for name in [*TIMES_BY_NAME, *RATES]:
        was, now = before[name], after[name]
        assert (was is None) == (now is None), name
        if was is not None and now is not None:
            factor = 1 / slower if name in RATES else slower
            assert now == pytest.approx(was * factor, rel=1e-9, abs=1e-9), name


ORDERED = st.lists(st.integers(0, 10**12), min_size=7, max_size=7).map(sorted)


@given(
    ORDERED,
    st.lists(st.booleans(), min_size=5, max_size=5),
    st.integers(0, 10**12),
    st.integers(0, 10**12),
)
@times(3)
def test_phases_add_up_whatever_was_reached(
    moments: list[int], reached: list[bool], load_ns: int, retry_ns: int
) -> None:
    queued, *inner, end = moments
    names = ("slot", "sent", "first_any", "first_content", "last")
    known = {n: t if r else None for n, t, r in zip(names, inner, reached, strict=True)}
    stamps = Stamps(queued=queued, end=end, load_ns=load_ns, retry_ns=retry_ns, **known)
    parts = metrics.phases(stamps)
    assert tuple(parts) == metrics.PHASES
    assert sum(parts.values()) == pytest.approx((end - queued) / metrics.NS, abs=1e-6)
    assert min(parts.values()) >= 0
    # What a phase is: the way to its own stamp, from the last one before it that was reached.
    at = [queued, *(known[name] for name in names), end]
    for name, before, after in zip(
        ("dispatch_s", "prefill_s", "think_s", "answer_s", "finish_s"),
        at[1:-1],
        at[2:],
        strict=True,
    ):
        if before is not None and after is not None:
            assert parts[name] == pytest.approx((after - before) / metrics.NS, abs=1e-9), name


SAMPLES = st.lists(st.floats(0, 1e6), min_size=1, max_size=80)
SHOWN = [q for q in (0.0, 0.25, 0.5, 0.75, 1.0) if q not in metrics.MIN_SAMPLES]


@given(SAMPLES, st.sampled_from((*SHOWN, 0.9)), st.randoms())
@times(3)
def test_a_quantile_is_numpys_and_knows_no_order(
    values: list[float], q: float, chance: random.Random
) -> None:
    found = metrics.quantile(values, q)
    if len(values) < metrics.MIN_SAMPLES.get(q, 1):
        assert found is None
        return
    assert found is not None
    assert min(values) <= found <= max(values) or math.isclose(found, max(values))
    assert found == pytest.approx(float(np.quantile(values, q)), rel=1e-9, abs=1e-9)
    shuffled = list(values)
    chance.shuffle(shuffled)
    assert metrics.quantile(shuffled, q) == found


SPAN = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted).map(tuple)


@given(SPAN, st.lists(SPAN, max_size=6))
@times(3)
def test_overlap_counts_each_moment_once(
    own: tuple[int, int], others: list[tuple[int, int]]
) -> None:
    start, end = own
    moments = {t for low, high in others for t in range(low, high)} & set(range(start, end))
    assert metrics.overlap_ns(start, end, others) == len(moments)
    assert metrics.overlap_ns(start, end, [*reversed(others), *others]) == len(moments)


@given(played(), st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 10**10))
def test_memory_overlap_and_lateness_are_passed_on(
    request: Played, before: int, peak: int, overlap: int
) -> None:
    session = request.session()
    found = metrics.session_metrics(
        session.stamps,
        TokenTimeline(),
        output_tokens=None,
        content_chars=0,
        mem_before_bytes=before,
        mem_peak_bytes=peak,
        overlap_ns=overlap,
        ttft_late_ns=overlap // 2,
        speed_late_ns=overlap,
    )
    assert (found["mem_peak_bytes"], found["mem_delta_bytes"]) == (peak, peak - before)
    assert found["overlap_s"] == found["speed_late_s"] == seconds(overlap)
    assert found["ttft_late_s"] == seconds(overlap // 2)
    assert found.keys() == metrics.DEFINITIONS.keys() | set(metrics.PHASES)
    unknown = metrics.session_metrics(
        replace(session.stamps, intended=None),
        TokenTimeline(),
        output_tokens=None,
        content_chars=0,
        mem_peak_bytes=peak,
    )
    assert unknown["mem_delta_bytes"] is None
    assert unknown["e2e_eff_s"] == unknown["wall_s"]
    assert unknown["overlap_s"] == 0
    assert unknown["ttft_late_s"] is unknown["speed_late_s"] is None
