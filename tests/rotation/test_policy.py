"""The policy in examples; ``tests/properties/test_rotation.py`` has what holds for any snapshot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from workbench.rotation.estimates import estimate
from workbench.rotation.policy import plan
from workbench.rotation.snapshot import Model, Plan, Snapshot, Ticket
from workbench.rotation.speeds import Speeds
from workbench.types import Priority

BENCHMARK = Priority.BENCHMARK
PATIENCE_S = {Priority.INTERACTIVE: 20.0, BENCHMARK: 60.0}
MB = 10**6


def ticket(number: int, model: str, **more: Any) -> Ticket:
    return Ticket(number, model, **more)


def resident(last_use: int = 1, *, running: int = 0, size: int = 0, **more: Any) -> Model:
    bytes_ = {"need": {"host": size}, "held": {"host": size}} if size else {}
    return Model(resident=True, last_use=last_use, running=running, **{**bytes_, **more})


def wanted(size: int = 0, **more: Any) -> Model:
    return Model(need={"host": size} if size else {}, **more)


def snapshot(
    waiting: list[Ticket], models: dict[str, Model] | None = None, **more: Any
) -> Snapshot:
    known = {t.model: Model() for t in waiting} | (models or {})
    limit = more.pop("limit", None)
    if limit is not None:
        more |= {"limits": {"host": limit}, "capacity": {"host": limit}}
    return Snapshot(waiting, known, more.pop("max_resident", 100), **more)


def went(planned: Plan) -> list[tuple[int, tuple[str, ...]]]:
    return [(grant.ticket.number, grant.evict) for grant in planned.grants]


def reason(planned: Plan, number: int) -> str:
    return planned.waits[number].reason


# -- places -------------------------------------------------------------------------------------


def test_free_places_are_taken_in_order() -> None:
    waiting = [ticket(1, "a"), ticket(2, "b")]
    assert went(plan(snapshot(waiting, max_resident=2))) == [(1, ()), (2, ())]


def test_least_recently_used_idle_model_is_evicted() -> None:
    full = snapshot([ticket(9, "c")], {"a": resident(5), "b": resident(3)}, max_resident=2)
    planned = plan(full)
    assert went(planned) == [(9, ("b",))]
    assert planned.grants[0].after == ("b",), "not before it has left"


def test_model_in_use_is_never_evicted() -> None:
    models = {"a": resident(5), "b": resident(3, running=1)}
    assert went(plan(snapshot([ticket(9, "c")], models, max_resident=2))) == [(9, ("a",))]
    models = {"a": resident(5, running=1), "b": resident(3, loading=True)}
    planned = plan(snapshot([ticket(9, "c")], models, max_resident=2))
    assert reason(planned, 9) == "all 2 places for models (HF_MAX_CACHED_MODELS) are in use"
    assert planned.waits[9].evicts == ("b",), "who will leave for it"
    assert planned.waits[9].may_hold == {}, "it is not its own answers that must end"


def test_one_generation_per_model_unless_it_allows_more() -> None:
    waiting = [ticket(1, "a"), ticket(2, "a")]
    planned = plan(snapshot(waiting))
    assert went(planned) == [(1, ())]
    assert reason(planned, 2) == "the model is answering another request"
    assert went(plan(snapshot(waiting, {"a": Model(concurrency=2)}))) == [(1, ()), (2, ())]
    busy = snapshot([ticket(1, "a")], {"a": resident(running=2, concurrency=2)})
    assert reason(plan(busy), 1) == "the model is answering 2 requests, as many as it takes"


def test_pinned_model_stays() -> None:
    models = {"a": resident(5), "b": resident(3, pinned=True)}
    assert went(plan(snapshot([ticket(9, "c")], models, max_resident=2))) == [(9, ("a",))]


# -- memory -------------------------------------------------------------------------------------


def test_model_is_loaded_where_it_fits_and_evicts_where_it_does_not() -> None:
    models = {"a": resident(1, size=4), "b": resident(2, size=3), "c": wanted(3)}
    assert went(plan(snapshot([ticket(9, "c")], models, limit=10))) == [(9, ())]
    assert went(plan(snapshot([ticket(9, "c")], models, limit=9))) == [(9, ("a",))]


def test_leased_model_counts_with_its_predicted_peak() -> None:
    models = {"a": Model(resident=True, running=1, held={"host": 2}, need={"host": 6})}
    planned = plan(snapshot([ticket(9, "b")], {**models, "b": wanted(5)}, limit=10))
    assert reason(planned, 9) == "0 MB of memory missing, in use by a"
    idle = {"a": Model(resident=True, held={"host": 2}, need={"host": 6}), "b": wanted(5)}
    assert went(plan(snapshot([ticket(9, "b")], idle, limit=10))) == [(9, ())]


def test_to_use_an_idle_model_takes_room_for_its_growth() -> None:
    grows = Model(resident=True, held={"host": 2}, need={"host": 6}, last_use=5)
    models = {"a": grows, "b": resident(1, size=5)}
    assert went(plan(snapshot([ticket(9, "a")], models, limit=10))) == [(9, ("b",))]
    models["b"] = resident(1, size=5, running=1)
    assert went(plan(snapshot([ticket(9, "a")], models, limit=10))) == []


# -- context: each token of a running request takes its keys and values ---------------------------


def talking(*tokens: int, base: int = 400, **more: Any) -> Model:
    """A model in memory that answers requests of so much context; a token takes a megabyte."""
    known = {"need": {"host": base * MB}, "held": {"host": base * MB}, "concurrency": 8}
    return Model(
        resident=True,
        running=len(tokens),
        tokens=tokens,
        **{**known, "token_bytes": {"host": MB}, **more},
    )


def test_requests_to_a_resident_model_go_on_as_far_as_their_context_fits() -> None:
    waiting = [ticket(n, "a", tokens=200) for n in (1, 2, 3)]
    planned = plan(snapshot(waiting, {"a": talking()}, limit=900 * MB))
    assert [number for number, _ in went(planned)] == [1, 2]
    assert reason(planned, 3) == (
        "its prompt and answer may take 200 MB more memory, 100 MB of it missing, in use by a"
    )
    assert planned.waits[3].may_hold == {"host": 900 * MB}, "once so little is left of its answers"
    busy = plan(snapshot(waiting[:1], {"a": talking(200, 200)}, limit=900 * MB))
    assert went(busy) == []
    assert went(plan(snapshot(waiting[:1], {"a": talking(200)}, limit=900 * MB))) == [(1, ())]


def test_a_long_request_makes_the_rows_of_all_as_long() -> None:
    models = {"a": talking(100, 100)}
    long = snapshot([ticket(1, "a", tokens=200)], models, limit=900 * MB)
    assert went(plan(long)) == []
    assert went(plan(replace(long, limits={"host": 1000 * MB}))) == [(1, ())]


def test_a_shorter_request_does_not_pass_a_longer_one_for_the_same_model() -> None:
    models = {"a": talking(100, 100)}
    long, short = ticket(1, "a", tokens=200), ticket(2, "a", tokens=100)
    planned = plan(snapshot([long, short], models, limit=900 * MB))
    assert went(planned) == []
    assert planned.waits[2] == planned.waits[1]
    assert went(plan(snapshot([short], models, limit=900 * MB))) == [(2, ())], "it would fit"


def test_who_lacks_room_for_its_answer_waits_for_others_before_its_own() -> None:
    models = {"a": talking(100), "b": resident(2, running=1, size=400 * MB)}
    planned = plan(snapshot([ticket(1, "a", tokens=100)], models, limit=950 * MB))
    assert planned.waits[1].evicts == ("b",)
    assert planned.waits[1].may_hold == {}


def test_what_others_answer_takes_its_room_too() -> None:
    models = {"a": talking(300), "b": talking(base=100)}
    planned = plan(snapshot([ticket(1, "b", tokens=200)], models, limit=900 * MB))
    assert "100 MB of it missing, in use by a" in reason(planned, 1)
    assert went(plan(snapshot([ticket(1, "b", tokens=100)], models, limit=900 * MB))) == [(1, ())]
    load = plan(snapshot([ticket(1, "c")], {**models, "c": wanted(200 * MB)}, limit=900 * MB))
    assert went(load) == [(1, ("b",))]


def test_a_request_alone_that_can_never_fit_is_refused_and_a_shorter_one_is_not() -> None:
    long, short = ticket(1, "a", tokens=600), ticket(2, "a", tokens=10)
    planned = plan(snapshot([long, short], {"a": talking()}, limit=900 * MB))
    assert [refusal.reason for refusal in planned.refusals] == [
        "needs 1.00 GB at its peak, 600 MB of it for 600 tokens of prompt and answer; "
        "all models may hold 900 MB"
    ]
    assert went(planned) == [(2, ())]


def test_an_answer_that_evicts_says_that_the_model_is_in_memory() -> None:
    models = {"a": talking(last_use=1), "b": resident(2, size=400 * MB)}
    (grant,) = plan(snapshot([ticket(1, "a", tokens=200)], models, limit=900 * MB)).grants
    assert grant.evict == ("b",)
    assert grant.reason == (
        "it is in memory, but its answer may take 200 MB more; b left, least recently used and idle"
    )


def test_load_and_answer_judge_by_the_same_sum() -> None:
    """What was loaded beside an idle model stays when that one answers."""
    idle = talking(held={"host": 300 * MB}, settled={"host": 400 * MB}, last_use=1)
    loads = snapshot([ticket(1, "b")], {"a": idle, "b": wanted(500 * MB)}, limit=800 * MB)
    assert went(plan(loads)) == [(1, ("a",))]
    fits = replace(loads, limits={"host": 900 * MB})
    assert went(plan(fits)) == [(1, ())]
    both = {"a": idle, "b": resident(2, size=500 * MB)}
    assert went(plan(replace(fits, waiting=[ticket(2, "a")], models=both))) == [(2, ())]


def test_only_what_is_measured_makes_an_idle_model_leave() -> None:
    idle = talking(held={"host": 300 * MB}, settled={"host": 400 * MB})
    assert plan(snapshot([], {"a": idle}, limit=350 * MB)).trims == ()
    assert len(plan(snapshot([], {"a": idle}, limit=250 * MB)).trims) == 1


def test_an_overdue_long_request_is_not_passed_for_ever() -> None:
    models = {"a": talking(100, 100), "b": talking(base=100)}
    waiting = [ticket(1, "a", tokens=250), ticket(2, "b", arrived_s=99, tokens=50)]
    patient = {"patience_s": {Priority.INTERACTIVE: 1000.0}, "now_s": 100.0}
    room = {"limit": 900 * MB}
    assert went(plan(snapshot(waiting, models, **patient, **room))) == [(2, ())]
    overdue = {**patient, "patience_s": {Priority.INTERACTIVE: 50.0}}
    planned = plan(snapshot(waiting, models, **overdue, **room))
    assert went(planned) == []
    assert planned.order == (1, 2)


def test_room_of_a_model_that_is_still_leaving_is_waited_for() -> None:
    leaving = {"gone": {"host": 6}}
    tight = snapshot([ticket(9, "a")], {"a": wanted(5)}, limit=10, unloading=leaving)
    assert plan(tight).grants[0].after == ("gone",)
    loose = snapshot([ticket(9, "a")], {"a": wanted(4)}, limit=10, unloading=leaving)
    assert plan(loose).grants[0].after == ()


def test_devices_are_apart() -> None:
    gpu = {"cuda:0": 5}
    models = {
        "a": resident(1, size=9),
        "b": Model(resident=True, need=gpu, held=gpu, last_use=2),
        "c": Model(need=gpu),
    }
    limits = {"host": 10, "cuda:0": 8}
    planned = plan(Snapshot([ticket(9, "c")], models, 9, limits=limits, capacity=limits))
    assert went(planned) == [(9, ("b",))]


def test_what_others_hold_is_in_nobodys_way_but_counts() -> None:
    short = snapshot([ticket(9, "a")], {"a": wanted(5)}, limit=10, others={"theirs": {"host": 6}})
    planned = plan(short)
    assert planned.grants == ()
    assert "which other programs hold" in reason(planned, 9)
    told = estimate(short, planned.order, planned.waits, {}, {}, Speeds())
    assert told == {}, "when they give it back nobody knows"
    assert planned.waits[9].foreseeable is False
    assert "theirs 0 MB" in reason(planned, 9)
    assert "WORKBENCH_EVICT_OTHERS" in reason(planned, 9)


@pytest.mark.parametrize("exclusive", [False, True])
def test_who_waits_for_other_programs_is_refused_once_its_patience_is_over(exclusive: bool) -> None:
    models = {"a": wanted(5), "b": resident(1, size=3)}
    ask = [ticket(9, "a", exclusive=exclusive), ticket(10, "b")]
    how = {"limit": 10, "others": {"theirs": {"host": 6}}}
    waits = plan(replace(snapshot(ask, models, **how), now_s=19.0, patience_s=PATIENCE_S))
    assert waits.refusals == ()
    assert waits.again_s == 20.0
    over = plan(replace(snapshot(ask, models, **how), now_s=20.0, patience_s=PATIENCE_S))
    assert [(r.ticket.number, r.cause) for r in over.refusals] == [(9, "others")]
    assert over.again_s == float("inf"), "nobody's patience is still to run out"
    assert went(over) == [(10, ())], "nobody else is kept waiting by it"


def test_idle_models_leave_when_the_limits_fall() -> None:
    models = {"a": resident(1, size=4), "b": resident(2, size=4), "c": resident(3, size=4)}
    now = Snapshot([], models, 9, limits={"host": 9}, capacity={"host": 20})
    (trim,) = plan(now).trims
    assert trim.model == "a"
    assert trim.reason == "0 MB more are held than the budget allows now"


def test_models_in_one_process_are_leased_and_leave_together() -> None:
    pair = frozenset({"a", "b"})
    models = {
        "a": resident(1, size=6, shared=pair),
        "b": Model(resident=True, running=1, held={}, shared=pair),
        "c": wanted(6),
    }
    assert went(plan(snapshot([ticket(9, "c")], models, limit=10))) == []
    models["b"] = replace(models["b"], running=0)
    (grant,) = plan(snapshot([ticket(9, "c")], models, limit=10)).grants
    assert grant.evict == ("a",), "to evict one is to evict both"


# -- refusals ------------------------------------------------------------------------------------


def test_model_that_never_fits_is_refused_and_nobody_leaves() -> None:
    models = {"a": resident(1, size=4 * 10**9), "b": wanted(12 * 10**9)}
    planned = plan(snapshot([ticket(9, "b")], models, limit=10 * 10**9))
    assert planned.grants == ()
    assert planned.refusals[0].reason == "needs 12.0 GB at its peak; all models may hold 10.0 GB"


def test_model_that_does_not_fit_beside_pinned_ones_is_refused() -> None:
    models = {"a": resident(1, size=6 * 10**9, pinned=True), "b": wanted(5 * 10**9)}
    (refusal,) = plan(snapshot([ticket(9, "b")], models, limit=10 * 10**9)).refusals
    assert "of which pinned ones hold 6.00 GB" in refusal.reason
    full = snapshot([ticket(9, "b")], {"a": resident(pinned=True)}, max_resident=1)
    assert "are taken by pinned models" in plan(full).refusals[0].reason


def test_limits_that_fell_are_waited_for() -> None:
    models = {"a": wanted(8)}
    low = Snapshot([ticket(9, "a")], models, 9, limits={"host": 5}, capacity={"host": 10})
    planned = plan(low)
    assert planned.refusals == ()
    assert "which other programs hold" in reason(planned, 9)


def test_load_that_failed_just_now_evicts_nobody() -> None:
    models = {"a": resident(1), "b": Model(doomed=True)}
    planned = plan(snapshot([ticket(9, "b")], models, max_resident=1))
    assert planned.grants == ()
    assert planned.refusals[0].cause == "failed"
    assert planned.refusals[0].reason == "its last load failed"
    assert went(plan(snapshot([ticket(9, "b")], models, max_resident=2))) == [(9, ())]


# -- order ---------------------------------------------------------------------------------------


def test_interactive_requests_go_before_benchmarks() -> None:
    waiting = [ticket(1, "a", priority=BENCHMARK), ticket(2, "a")]
    assert went(plan(snapshot(waiting))) == [(2, ())]
    loads = [ticket(1, "a", priority=BENCHMARK), ticket(2, "b")]
    assert went(plan(snapshot(loads, max_resident=1))) == [(2, ())]


def test_benchmark_that_has_waited_long_enough_goes_first() -> None:
    waiting = [ticket(1, "a", priority=BENCHMARK), ticket(2, "a", arrived_s=99)]
    bounds = {Priority.INTERACTIVE: 50.0, BENCHMARK: 90.0}
    assert went(plan(snapshot(waiting, now_s=100.0, patience_s=bounds))) == [(1, ())]
    loads = [waiting[0], ticket(2, "b", arrived_s=99)]
    first = plan(snapshot(loads, max_resident=1, now_s=100.0, patience_s=bounds))
    assert went(first) == [(1, ())], "whatever the other would load"


def test_an_overdue_request_is_not_passed_by_one_for_the_same_model() -> None:
    waiting = [ticket(1, "a"), ticket(2, "a", arrived_s=10)]
    models = {"a": resident(running=1, concurrency=2)}
    late = snapshot(waiting, models, now_s=65.0, patience_s={Priority.INTERACTIVE: 60.0})
    assert went(plan(late)) == [(1, ())]


def test_requests_for_a_model_in_memory_pass_one_that_waits_for_a_load() -> None:
    waiting = [ticket(8, "c"), ticket(9, "a")]
    models = {"a": resident(running=1, concurrency=2)}
    assert went(plan(snapshot(waiting, models, max_resident=1))) == [(9, ())]


def test_they_pass_it_no_more_once_it_is_overdue() -> None:
    """But those that had come before that still do: one load serves them all."""
    waiting = [
        ticket(8, "c"),
        ticket(9, "a", arrived_s=60),
        ticket(10, "a", arrived_s=61),
    ]
    full = snapshot(
        waiting,
        {"a": resident(running=1, concurrency=9)},
        max_resident=1,
        now_s=70.0,
        patience_s={Priority.INTERACTIVE: 60.0},
    )
    planned = plan(full)
    assert went(planned) == [(9, ())]
    assert reason(planned, 10) == "the model makes room for an earlier request"
    assert planned.waits[8].evicts == ("a",)


def test_room_is_kept_for_an_overdue_request() -> None:
    waiting = [ticket(8, "big"), ticket(9, "small", arrived_s=69)]
    models = {
        "a": resident(running=1, size=6),
        "big": wanted(9),
        "small": wanted(4),
    }
    full = snapshot(waiting, models, limit=10, now_s=70.0)
    assert went(plan(full)) == [(9, ())], "what fits may go first"
    overdue = replace(full, patience_s={Priority.INTERACTIVE: 60.0})
    assert went(plan(overdue)) == []


def test_the_model_that_most_wait_for_is_loaded_first() -> None:
    waiting = [ticket(1, "a"), ticket(2, "b"), ticket(3, "b")]
    models = {"b": Model(concurrency=9)}
    assert went(plan(snapshot(waiting, models, max_resident=1))) == [(2, ()), (3, ())]


def test_quick_load_goes_first_and_the_wait_makes_up_for_a_slow_one() -> None:
    models = {"slow": Model(load_s=50), "quick": Model(load_s=1)}
    waiting = [ticket(1, "slow"), ticket(2, "quick", arrived_s=10)]
    assert went(plan(snapshot(waiting, models, max_resident=1, now_s=11.0))) == [(2, ())]
    late = [ticket(1, "slow"), ticket(2, "quick", arrived_s=200)]
    assert went(plan(snapshot(late, models, max_resident=1, now_s=200.0))) == [(1, ())]


def test_loads_of_less_than_a_second_are_told_apart() -> None:
    models = {"slow": Model(load_s=1.0), "quick": Model(load_s=0.5), "at once": Model(load_s=0.0)}
    waiting = [ticket(1, "slow"), ticket(2, "quick")]
    assert went(plan(snapshot(waiting, models, max_resident=1, now_s=10.0))) == [(2, ())]
    waiting.append(ticket(3, "at once"))
    assert went(plan(snapshot(waiting, models, max_resident=1, now_s=10.0))) == [(3, ())]


@pytest.mark.parametrize("loads", [True, False])
def test_a_model_that_is_waited_for_leaves_for_another_only_when_nothing_runs(loads: bool) -> None:
    """The request for it, which runs alone, could not go on yet."""
    waiting = [ticket(1, "a"), ticket(2, "b", exclusive=True)]
    models = {
        "a": wanted(5) if loads else Model(resident=True, held={"host": 1}, need={"host": 5}),
        "b": resident(1, size=5),
        "c": resident(2, size=1, running=1),
    }
    assert went(plan(snapshot(waiting, models, limit=10))) == []
    models["c"] = resident(2, size=1)
    assert went(plan(snapshot(waiting, models, limit=10)))[0] == (1, ("b",))


def test_model_in_demand_leaves_only_when_waiting_has_cost_more_than_its_reload() -> None:
    models = {"hot": resident(load_s=10, gap_s=4.0)}
    early = snapshot([ticket(1, "b")], models, max_resident=1, now_s=5.0)
    planned = plan(early)
    assert went(planned) == []
    assert reason(planned, 1) == (
        "asked for again sooner than reloaded: hot; to be evicted once waiting has cost more time "
        "than reloading will"
    )
    assert planned.waits[1].evicts == ("hot",)
    assert planned.waits[1].foreseeable
    assert planned.again_s == 30.0, "three reloads after its arrival"
    three = [ticket(number, "b") for number in (1, 2, 3)]
    both = {**models, "b": Model(concurrency=9)}
    together = plan(snapshot(three, both, max_resident=1, now_s=5.0))
    assert together.again_s == 10.0, "three who wait have waited it together"
    even = {"hot": resident(load_s=10, gap_s=10.0)}
    assert went(plan(replace(early, models={**early.models, **even}))) == [(1, ("hot",))]
    assert went(plan(replace(early, now_s=30.0))) == [(1, ("hot",))]
    two = {name: resident(use, size=4, load_s=10, gap_s=4.0) for use, name in enumerate("gh")}
    crowd = plan(snapshot([ticket(1, "b")], {**two, "b": wanted(8)}, limit=10, now_s=5.0))
    assert reason(crowd, 1).startswith("asked for again sooner than reloaded: g, h;")
    cool = snapshot([ticket(1, "b")], {"hot": resident(load_s=10, gap_s=11.0)}, max_resident=1)
    assert went(plan(cool)) == [(1, ("hot",))]


# -- alone ---------------------------------------------------------------------------------------


def test_exclusive_waits_for_silence_and_is_not_passed() -> None:
    alone, later = ticket(1, "a", exclusive=True), ticket(2, "b")
    busy = plan(snapshot([alone, later], {"c": resident(running=1)}))
    assert went(busy) == []
    assert reason(busy, 1) == "waits until nothing else runs"
    assert reason(busy, 2) == "another request waits to run alone"
    begins = plan(snapshot([alone, later]))
    assert went(begins) == [(1, ())]
    assert reason(begins, 2) == "another request runs alone"
    beside = plan(snapshot([later], exclusive_running=True))
    assert reason(beside, 2) == "another request runs alone"


def test_overdue_requests_go_first_whether_they_run_alone_or_not() -> None:
    bounds = {Priority.INTERACTIVE: 50.0, BENCHMARK: 90.0}
    alone = ticket(1, "a", exclusive=True, priority=BENCHMARK)
    for later, now_s, first in ((70, 89.0, 2), (70, 100.0, 1), (45, 100.0, 1), (30, 100.0, 2)):
        waiting = [alone, ticket(2, "b", arrived_s=later)]
        planned = plan(snapshot(waiting, now_s=now_s, patience_s=bounds))
        assert went(planned) == [(first, ())], "the one whose patience was over first"


def test_model_of_the_next_exclusive_request_is_prefetched_if_both_fit() -> None:
    alone = ticket(1, "a", exclusive=True)
    models = {"c": resident(running=1, size=4), "a": wanted(5)}
    prefetch = plan(snapshot([alone], models, limit=10)).prefetch
    assert prefetch is not None
    assert prefetch.model == "a"
    assert prefetch.reason == (
        "prefetched while c answered: the next request runs alone, and both fit"
    )
    assert prefetch.after == ()
    assert plan(snapshot([alone], models, limit=8)).prefetch is None
    loading = {**models, "a": resident(size=5, loading=True)}
    assert plan(snapshot([alone], loading, limit=10)).prefetch is None, "once"
    fails = {**models, "a": wanted(5, doomed=True)}
    assert plan(snapshot([alone], fails, limit=10)).prefetch is None
    leaves = snapshot([alone], models, limit=20, unloading={"a": {"host": 5}})
    assert plan(leaves).prefetch is None, "before it has left it cannot come back"
    other = plan(replace(leaves, unloading={"b": {"host": 5}})).prefetch
    assert other is not None
    assert other.after == ("b",)
    several = {**models, "b": resident(running=1)}
    ahead = plan(snapshot([alone], several, limit=10)).prefetch
    assert ahead is not None
    assert ahead.reason.startswith("prefetched while b, c answered:")
    loads = plan(snapshot([alone], {"b": resident(loading=True)})).prefetch
    assert loads is not None
    assert loads.reason.startswith("prefetched while others answered:")


def test_prefetch_leaves_the_room_that_one_ahead_waits_for() -> None:
    first, alone = ticket(1, "big"), ticket(2, "a", exclusive=True)
    models = {"c": resident(running=1, size=4), "big": wanted(9), "a": wanted(5)}
    planned = plan(snapshot([first, alone], models, limit=10))
    assert went(planned) == []
    assert planned.prefetch is None
    assert plan(snapshot([alone], models, limit=10)).prefetch is not None


def test_exclusive_request_waits_for_loads_and_unloads_of_others() -> None:
    alone = ticket(1, "a", exclusive=True)
    assert went(plan(snapshot([alone], {"c": resident(loading=True)}))) == []
    (grant,) = plan(snapshot([alone], unloading={"gone": {}})).grants
    assert grant.after == ("gone",)


def test_reasons_of_loads_say_what_decided() -> None:
    models = {"b": resident(1), "a": Model(concurrency=3)}
    waiting = [ticket(7, "a"), ticket(8, "a")]
    (first, second) = plan(snapshot(waiting, models, max_resident=1)).grants
    assert first.reason == (
        "2 requests want it; in place of b, least recently used and idle; "
        "all 1 places for models (HF_MAX_CACHED_MODELS) are taken"
    )
    assert second.reason == "in memory"
    later = snapshot([ticket(1, "a", arrived_s=5)], now_s=70.0)
    assert plan(later).grants[0].reason == "nothing else is in memory"
    overdue = plan(replace(later, patience_s={Priority.INTERACTIVE: 60.0}))
    assert overdue.grants[0].reason == "first in line after 65 s; nothing else is in memory"
