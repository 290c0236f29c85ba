"""What the analysis says of a log whose content is known."""

from __future__ import annotations

import datetime as dt

import pandas as pd
import pytest

from tests.analysis.conftest import START, answer, log
from tests.store.conftest import MS
from workbench import analysis
from workbench.errors import ErrorCode, WorkbenchError
from workbench.store import MemorySample, ModelEvent, Store
from workbench.types import Message, Stamps, Status

A, B = "huggingface/a", "ollama/b:latest"


def test_percentiles_are_nan_below_their_sample_sizes(store: Store) -> None:
    log(store, *(answer((i + 1) / 1e3) for i in range(63)))
    (row,) = analysis.latency_percentiles(store.query).to_dict("records")
    assert row["ttft_p50_s"] == pytest.approx(0.032)
    assert pd.isna(row["ttft_p90_s"])
    log(store, *(answer((i + 64) / 1e3) for i in range(598)))
    (row,) = analysis.latency_percentiles(store.query).to_dict("records")
    assert row["sessions"] == 661
    assert row["ttft_p90_s"] == pytest.approx(0.595)
    assert pd.isna(row["ttft_p99_s"])
    log(store, answer(0.662))
    (row,) = analysis.latency_percentiles(store.query).to_dict("records")
    assert row["ttft_p99_s"] == pytest.approx((1 + 0.99 * 661) / 1e3)


def test_percentiles_leave_contended_failed_and_foreign_answers_out(store: Store) -> None:
    log(
        store,
        answer(0.1),
        answer(0.9, overlap_ns=1),
        answer(0.9, status=Status.CANCELLED),
        answer(0.9, fallback_from="scripted/x"),
    )
    (row,) = analysis.latency_percentiles(store.query).to_dict("records")
    assert (row["sessions"], row["ttft_p50_s"]) == (1, pytest.approx(0.1))
    (row,) = analysis.latency_percentiles(store.query, contended=True).to_dict("records")
    assert (row["sessions"], row["ttft_p50_s"]) == (2, pytest.approx(0.5))


def test_percentiles_are_by_form_mode_and_class_of_prompt_length(store: Store) -> None:
    lengths = [0, 15, 16, 63, 64, 255, 256, 1_024, None]
    log(store, *(answer(0.1, prompt_tokens=n) for n in lengths), answer(0.1, dtype="bfloat16"))
    found = analysis.latency_percentiles(store.query)
    plain = found[found["dtype"].isna()]
    classes = list(
        plain[["prompt_tokens_from", "prompt_tokens_below", "sessions"]]
        .astype(object)
        .where(plain["prompt_tokens_from"].notna(), None)
        .itertuples(index=False, name=None)
    )
    known = [row for row in classes if row[0] is not None]
    assert known == [(0, 16, 2), (16, 64, 2), (64, 256, 2), (256, 1024, 1), (1024, 4096, 1)]
    assert len(found) == len(known) + 2


def test_what_a_longer_prompt_costs(store: Store) -> None:
    log(
        store,
        *(answer(0.05 + n * 0.0002, prompt_tokens=n) for n in range(100, 900, 40)),
        answer(9.0, prompt_tokens=500),
        answer(0.1, model=A, prompt_tokens=5),
    )
    fits = analysis.ttft_fits(analysis.ttft_by_prompt(store.query)).set_index("model")
    line = fits.loc["scripted/steady"]
    assert line["ms_per_1000_tokens"] == pytest.approx(200, rel=0.01)
    assert line["intercept_s"] == pytest.approx(0.05, rel=0.01)
    assert line["ms_per_1000_tokens_low"] <= 200.001
    assert line["ms_per_1000_tokens_high"] >= 199.999
    assert (line["prompt_tokens_min"], line["prompt_tokens_max"]) == (100, 860)
    assert pd.isna(fits.loc[A, "intercept_s"]), "one point is no line"


def test_gaps_and_memory_of_a_session_are_those_of_its_comparison(store: Store) -> None:
    one = answer(0.03, model=A, comparison_id="cmp_1")
    other = answer(0.05, model=B, comparison_id="cmp_1", start=START + 500 * MS)
    log(store, one, other, answer(0.07, comparison_id="cmp_2"))
    for id in ("cmp_1", one.session_id):
        gaps = analysis.token_gaps(store.query, id)
        assert list(gaps["model"]) == [A] * 4 + [B] * 4
        assert gaps["gap_s"].tolist()[1:4] == pytest.approx([0.02] * 3)
        assert gaps["since_sent_s"].iloc[0] == pytest.approx(0.03)
        phases = analysis.phase_spans(store.query, id)
        assert set(phases["session_id"]) == {one.session_id, other.session_id}
    assert list(analysis.phase_spans(store.query, other.session_id)["start_s"])[4] == 0.5


def test_phases_follow_each_other_on_the_clock_of_the_memory(store: Store) -> None:
    session = answer(0.03, model=A)
    stamps = session.stamps
    samples = [
        MemorySample(stamps.queued + ms * MS, "worker", session.session_id, A, pid, pss_bytes=size)
        for ms, pid, size in ((0, 1, 5), (0, 2, 6), (40, 1, 20))
    ]
    host = MemorySample(stamps.queued, "host", session.session_id, host_available_bytes=7)
    store.log_session(session, [Message("user", "hi")], [*samples, host]).result()
    memory = analysis.memory_timeline(store.query, session.session_id)
    assert memory["pss_bytes"].tolist() == [11, 20]
    assert memory["since_start_s"].tolist() == [0, 0.04]
    assert memory["host_available_bytes"].iloc[0] == 7
    phases = analysis.phase_spans(store.query, session.session_id)
    assert phases["phase"].tolist() == ["queued", "prompt", "answering", "done"]
    assert phases["start_s"].tolist() == pytest.approx([0, 0.01, 0.04, 0.1])
    assert phases["end_s"].iloc[-1] == pytest.approx(0.101)
    figure = analysis.plot_memory(memory, phases)
    assert len(figure.layout.shapes) == 4, "a band a phase"


def test_token_efficiency_ranks_by_text_not_by_tokens(store: Store) -> None:
    log(
        store,
        answer(0.1, 0.01, 11, model=A, text="ab" * 11),
        answer(0.1, 0.02, 11, model=B, text="abcdefgh" * 11),
    )
    found = analysis.token_efficiency(store.query)
    assert found["model"].tolist() == [B, A]
    assert found["chars_per_token"].tolist() == [8, 2]
    assert found["decode_tps_p50"].tolist() == pytest.approx([50, 100])
    assert found["chars_per_s_p50"].tolist() == pytest.approx([440, 220])


def test_costs_and_order_of_loads_and_evictions(store: Store) -> None:
    begin = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    happened = [
        ("load", A, 1.0, True, None),
        ("load", A, 3.0, True, None),
        ("load", A, 9.0, False, "no memory"),
        ("evict", A, 0.5, True, "room for b"),
        ("load", B, 0.1, True, None),
    ]
    for second, (event, model, duration, ok, reason) in enumerate(happened):
        store.log_model_event(
            ModelEvent(
                event,  # type: ignore[arg-type]
                model.partition("/")[0],
                second,
                ok=ok,
                model=model,
                reason=reason,
                duration_s=duration,
                recovered_bytes=5 if event == "evict" else None,
                at=begin + dt.timedelta(seconds=10 * second),
            )
        )
    store.insert(
        "model_events",
        {
            "event_id": "x",
            "created_at": begin,
            "t_ns": 0,
            "provider": "p",
            "event": "scan",
            "ok": True,
            "details": {},
        },
    ).result()
    costs = analysis.load_costs(store.query).set_index("model")
    names = ["loads", "loads_failed", "evictions", "load_p50_s", "load_max_s", "spent_s"]
    assert costs.loc[A, names].tolist() == [2, 1, 1, 2.0, 3.0, 13.5]
    assert costs.index.tolist() == [A, B]
    events = analysis.model_events(store.query)
    assert events["event"].tolist() == ["load", "load", "load", "evict", "load"]
    assert events["since_start_s"].tolist() == pytest.approx([0, 8, 12, 30.5, 40.9])
    assert events["reason"].iloc[3] == "room for b"
    later = analysis.model_events(store.query, since=begin + dt.timedelta(seconds=25))
    assert later["event"].tolist() == ["evict", "load"]
    assert len(analysis.model_events(store.query, limit=1)) == 1


def test_a_model_that_never_failed_has_an_error_rate_with_an_upper_bound(store: Store) -> None:
    error = WorkbenchError(ErrorCode.TIMEOUT, "late")
    log(
        store,
        *(answer(0.1, model=A) for _ in range(20)),
        answer(0.1, model=B),
        answer(0.1, model=B, status=Status.TIMEOUT, error=error),
    )
    found = analysis.error_rates(store.query)
    assert found["model"].tolist() == [B, A]
    assert found["error_code"].iloc[0] == "TIMEOUT"
    assert found["error_rate"].tolist() == [0.5, 0.0]
    assert found["error_rate_low"].iloc[1] == 0
    assert found["error_rate_high"].iloc[1] == pytest.approx(0.1611, abs=1e-4)  # Wilson, 0 of 20


def test_contention_is_paired_by_prompt(store: Store) -> None:
    for prompt in range(8):
        base = 0.02 * (prompt + 1)
        log(store, answer(base, model=A), answer(base, model=A), prompt=f"[x{prompt}] {prompt}")
        log(store, answer(3 * base, model=A, overlap_ns=5), prompt=f"[y{prompt}] {prompt}")
    log(store, answer(0.1, model=B), prompt="one")
    log(store, answer(0.2, model=B, overlap_ns=5), prompt="two")
    found = analysis.contention_cost(store.query).set_index(["model", "metric"])
    row = found.loc[(A, "ttft_s")]
    assert row["ratio"] == pytest.approx(3)
    assert row["ratio_low"] == pytest.approx(3)
    assert (row["prompts"], row["sessions_alone"], row["sessions_contended"]) == (8, 16, 8)
    assert row["paired"]
    assert row["p"] < 0.05
    unpaired = found.loc[(B, "ttft_s")]
    assert unpaired["ratio"] == pytest.approx(2)
    assert not unpaired["paired"]
    assert pd.isna(unpaired["ratio_low"])


def test_models_are_paired_by_prompt_and_repeat(store: Store) -> None:
    for prompt in range(7):
        for repeat in range(2):
            base = 0.01 * (prompt + 1) * (repeat + 1)
            words = f"[{repeat}] prompt {prompt}"
            log(store, answer(base, 0.02, model=A), answer(2 * base, 0.02, model=B), prompt=words)
    # What only one was asked, and what ran beside others, changes nothing.
    log(store, answer(9.0, model=B), prompt="only b")
    log(store, answer(9.0, model=B, overlap_ns=1), prompt="[0] prompt 0")
    untagged = B.removesuffix(":latest")  # as it may be typed
    found = analysis.model_differences(store.query, [A, untagged]).set_index("metric")
    ttft = found.loc["ttft_s"]
    assert (ttft["model_a"], ttft["model_b"], ttft["unit"]) == (A, B, "s")
    assert (ttft["prompts"], ttft["pairs"]) == (7, 14)
    assert ttft["ratio"] == pytest.approx(2)
    assert ttft["difference"] == pytest.approx(0.06)
    assert ttft["difference_low"] < 0.06 < ttft["difference_high"]
    assert ttft["p"] == pytest.approx(2 / 128)
    assert ttft["p_holm"] == pytest.approx(4 / 128)
    assert found.loc["tpot_s", "ratio"] == pytest.approx(1)
    assert found.loc["tpot_s", "p"] == 1


def test_a_comparison_may_be_limited_to_a_run_and_a_time(store: Store) -> None:
    for model in (A, B):
        log(store, answer(0.1, model=model, run_id="run_1"), prompt="x")
    read = store.query
    assert len(analysis.model_differences(read, [A, B], run_id="run_1")) == 2
    assert analysis.model_differences(read, [A, B], run_id="run_2").empty
    late = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
    assert analysis.model_differences(read, [A, B], since=late).empty
    with pytest.raises(WorkbenchError, match="cannot be compared"):
        analysis.model_differences(read, [A, B], ["seq; drop"])


def test_a_phase_that_was_never_reached_is_not_drawn(store: Store) -> None:
    failed = answer(0.1, status=Status.ERROR, stamps=Stamps(queued=START, end=START + 5 * MS))
    log(store, failed)
    assert analysis.phase_spans(store.query, failed.session_id)["phase"].tolist() == ["queued"]
