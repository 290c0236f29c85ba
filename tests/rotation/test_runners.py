"""Names that share one runner: what protects one protects all, and what ends one ends all."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.rotation.desk import Desk
from tests.rotation.test_policy import reason, resident, snapshot, ticket, wanted, went
from workbench.errors import ErrorCode, WorkbenchError
from workbench.rotation.policy import plan
from workbench.rotation.runners import apart, together
from workbench.rotation.snapshot import Decision, Grant, Model, Plan, Refusal

PAIR = frozenset({"a5", "b5"})
TWINS = frozenset({"a", "b"})


def desk(limit: int = 20) -> Desk:
    """One runner of 5 bytes that both names share, and models of other sizes."""
    made = Desk(max_resident=9, limit=limit)
    made.provider.twins = PAIR
    made.provider.counts_against_cache = False
    return made


async def test_a_pin_holds_whatever_name_the_runner_is_used_by() -> None:
    made = desk(limit=12)
    await made.service.pin(made.route("a5"))
    await made.ask("b5", keep_alive_s=0)
    assert made.provider.keeps["b5"] == -1, "or the runtime would end the pinned one with it"
    with pytest.raises(WorkbenchError, match="fake/a5, which shares the runner") as refused:
        await made.service.unload(made.route("b5"))
    assert (refused.value.code, refused.value.fix) == (
        ErrorCode.INVALID_REQUEST,
        "Unpin fake/a5 first.",
    )
    assert await made.service.make_room("fake/c9") == []
    with pytest.raises(WorkbenchError, match="of which pinned ones hold"):
        await made.ask("c9")
    assert "unload a5" not in made.provider.calls
    assert "unload b5" not in made.provider.calls
    await made.service.close()


async def test_an_answer_by_another_name_protects_the_runner() -> None:
    made = desk(limit=12)
    await made.ask("b5")
    async with made.slot("a5"):
        with pytest.raises(WorkbenchError, match=r"fake/a5, .* is answering 1 request"):
            await made.service.unload(made.route("b5"))
        with pytest.raises(WorkbenchError, match="in use by fake/b5"):
            await made.ask("c9", queue_timeout_s=0.05)
    assert made.provider.calls == ["load b5"]


async def test_a_name_whose_runner_is_in_memory_needs_no_room_and_evicts_nobody() -> None:
    made = desk(limit=12)
    await made.ask("c7")
    await made.ask("a5")
    await made.ask("b5")
    assert made.provider.calls == ["load c7", "load a5"], "neither the other nor itself left"


async def test_what_leaves_with_it_has_a_row_and_so_has_an_own_pin() -> None:
    made = desk()
    await made.service.pin(made.route("a5"))
    await made.ask("b5")
    await made.service.unload(made.route("a5"))
    assert made.events()[-3:] == [("unpin", "a5"), ("unload", "a5"), ("unload", "b5")]
    assert "it left with fake/a5, whose runner it shared" in made.changes[-1].reason
    assert made.service.overview().residents == ()
    await made.ask("a5")
    assert not made.service.overview().residents[0].pinned


async def test_all_names_leave_when_a_keep_alive_passes_each_with_a_row() -> None:
    made = desk()
    await made.ask("a5")
    await made.ask("b5", keep_alive_s=0)
    made.provider.loaded.clear()  # the runtime keeps the time itself
    async with asyncio.timeout(5):
        while len(made.events()) < 3:
            await asyncio.sleep(0.01)
    assert sorted(made.events()[1:]) == [("unload", "a5"), ("unload", "b5")]
    assert {change.reason for change in made.changes[1:]} == {"keep_alive passed"}
    await made.service.close()


async def test_a_model_that_its_runtime_lost_leaves_a_row_and_no_pin() -> None:
    made = desk()
    await made.service.pin(made.route("a5"))
    made.provider.loaded.clear()
    made.service.memory_changed()
    assert made.events()[-2:] == [("unload", "a5"), ("unpin", "a5")]
    assert made.changes[-2].reason == "fake does not have it in memory any more"


# -- the policy ------------------------------------------------------------------------------------


def test_the_need_of_a_runner_is_counted_once() -> None:
    """Both names answer, or wait: it is one process, which takes one request at a time."""
    models = {
        "a": resident(1, running=1, size=6, shared=TWINS),
        "b": Model(resident=True, held={}, need={"host": 6}, shared=TWINS),
        "c": wanted(4),
    }
    planned = plan(snapshot([ticket(8, "b"), ticket(9, "c")], models, limit=10))
    assert went(planned) == [(9, ())]
    assert reason(planned, 8) == "the runner that it shares is answering another request"
    models["a"] = replace(models["a"], running=0)
    (grant, _) = plan(snapshot([ticket(8, "b"), ticket(9, "c")], models, limit=10)).grants
    assert grant.ticket == ticket(8, "b"), "in the name that was asked for"


def test_a_runner_that_leaves_is_waited_for_by_all_its_names() -> None:
    leaving = snapshot(
        [ticket(9, "b")], {"b": wanted(6, shared=TWINS)}, limit=10, unloading={"a": {"host": 6}}
    )
    assert "a" in plan(leaving).grants[0].after


def test_a_runner_that_leaves_is_not_prefetched_by_another_name() -> None:
    alone = ticket(9, "b", exclusive=True)
    models = {"b": wanted(6, shared=TWINS), "c": resident(running=1)}
    assert plan(snapshot([alone], models, limit=20)).prefetch is not None
    leaving = snapshot([alone], models, limit=20, unloading={"a": {"host": 6}})
    assert plan(leaving).prefetch is None


def test_two_names_that_both_wait_load_once() -> None:
    models = {name: wanted(6, shared=TWINS, concurrency=2) for name in TWINS}
    planned = plan(snapshot([ticket(8, "a"), ticket(9, "b")], models, limit=10))
    assert went(planned) == [(8, ()), (9, ())]


def test_what_another_program_may_be_using_is_used_but_not_evicted() -> None:
    models = {
        "a": resident(1, size=6, shared=TWINS, foreign=True),
        "b": Model(resident=True, held={}, need={"host": 6}, shared=TWINS, foreign=True),
        "c": wanted(6),
    }
    assert went(plan(snapshot([ticket(9, "b")], models, limit=10))) == [(9, ())]
    assert went(plan(snapshot([ticket(9, "c")], models, limit=10))) == []


def test_one_model_is_made_of_all_in_a_process() -> None:
    a = Model(
        resident=True,
        running=2,
        last_use=3,
        need={"host": 6},
        answering={"host": 7},
        settled={"host": 2},
        token_bytes={"host": 1},
        tokens=(5, 6),
        held={"host": 4},
        concurrency=2,
        counted=False,
        pinned=True,
        load_s=2.0,
        gap_s=9.0,
        shared=TWINS,
        doomed=True,
    )
    b = Model(
        resident=True,
        loading=True,
        running=1,
        last_use=8,
        need={"host": 5, "cuda:0": 1},
        answering={"host": 8},
        settled={"host": 3},
        token_bytes={"host": 2},
        tokens=(7,),
        held={"host": 1},
        concurrency=1,
        counted=False,
        load_s=1.0,
        gap_s=4.0,
        shared=TWINS,
        foreign=True,
    )
    c = wanted(1, settled={"host": 2})
    merged, homes = together(snapshot([], {"b": b, "c": c, "a": a}))
    assert homes == {"a": "a", "b": "a"}, "who holds the most; one alone is not in it"
    both = Model(
        resident=True,
        loading=True,
        running=3,
        last_use=8,
        need={"host": 6, "cuda:0": 1},
        answering={"host": 8},
        settled={"host": 3},
        token_bytes={"host": 2},
        tokens=(7, 5, 6),
        held={"host": 5},
        concurrency=2,
        counted=False,
        pinned=True,
        load_s=2.0,
        gap_s=4.0,
        shared=TWINS,
        foreign=True,
    )
    assert merged.models == {"a": both, "c": c}
    merged, _ = together(snapshot([], {"c": c, "a": a, "b": b}))
    assert merged.models == {"a": replace(both, tokens=(5, 6, 7)), "c": c}, "in any order"
    doomed = replace(b, doomed=True)
    assert together(snapshot([], {"a": a, "b": doomed}))[0].models["a"].doomed


def test_only_what_is_asked_for_counts_and_only_what_is_there_is_measured() -> None:
    idle = resident(5, size=4, shared=TWINS)
    gone = wanted(9, shared=TWINS, settled={"host": 8})
    models = {"a": idle, "b": gone}
    for asked, need in (([], 9), ([ticket(1, "a")], 4), ([ticket(1, "b")], 9)):
        merged, homes = together(snapshot(asked, models))
        assert homes["b"] == "a", "which is in memory"
        assert merged.models["a"].need == {"host": need}
        assert merged.models["a"].held == {"host": 4}
        assert merged.models["a"].settled == {}
        assert merged.models["a"].resident
        assert [t.model for t in merged.waiting] == ["a" for _ in asked]
    merged, _ = together(snapshot([], {"b": gone, "a": idle}))
    assert merged.models["a"].resident, "in any order"
    busy = {**models, "a": replace(idle, running=1)}
    assert together(snapshot([ticket(1, "c")], busy))[0].models["a"].need == {"host": 4}
    absent = together(snapshot([], {"a": wanted(1, shared=TWINS), "b": gone}))[0].models["a"]
    assert (absent.held, absent.resident) == (None, False)


def test_a_process_goes_by_who_is_there_then_holds_most_then_was_used_last() -> None:
    def home(a: Model, b: Model) -> str:
        return together(snapshot([], {"a": a, "b": b}))[1]["a"]

    there, gone = resident(1, size=1, shared=TWINS), wanted(9, last_use=9, shared=TWINS)
    assert home(gone, there) == "b"
    assert home(there, gone) == "a"
    assert home(there, resident(1, size=2, shared=TWINS)) == "b"
    assert home(resident(9, shared=TWINS), there) == "b", "unmeasured is nothing"
    assert home(there, resident(2, size=1, shared=TWINS)) == "b"
    assert home(there, resident(1, size=1, shared=TWINS)) == "a"


def test_a_plan_is_told_in_the_names_that_were_asked_for() -> None:
    models = {
        "a": resident(1, size=2, shared=TWINS),
        "b": wanted(2, shared=TWINS),
        "c": wanted(1),
        "x": wanted(1, shared=frozenset({"x", "y"})),
        "y": wanted(1, shared=frozenset({"x", "y"})),
    }
    waiting = [
        ticket(1, "b"),
        ticket(2, "b"),
        ticket(3, "a", exclusive=True),
        ticket(4, "b", exclusive=True),
        ticket(5, "x", exclusive=True),
        ticket(6, "a"),
        ticket(7, "c", exclusive=True),
    ]
    leaves = {"y": {"host": 3}, "x": {"host": 1}, "c": {"host": 2}}
    asked = snapshot(waiting, models, unloading=leaves)
    merged, homes = together(asked)
    assert merged.unloading == {"x": {"host": 4}, "c": {"host": 2}}
    one, two = merged.waiting[:2]
    planned = Plan(
        (Grant(one, "in memory", (), ("c", "x")),),
        {},
        (6, 5, 4, 3),
        (Refusal(two, "too large"),),
        (),
        Decision("a", "prefetched", ("x",)),
    )
    told = apart(planned, asked, homes)
    assert told.grants == (Grant(waiting[0], "in memory", (), ("c", "x", "y")),)
    assert told.refusals == (Refusal(waiting[1], "too large"),)
    assert told.prefetch == Decision("b", "prefetched", ("x", "y")), "as the next one alone asks"
    assert apart(replace(planned, prefetch=None), asked, homes).prefetch is None
    alone = replace(planned, order=(7, 6, 5), prefetch=Decision("c", "prefetched"))
    assert apart(alone, asked, homes).prefetch == Decision("c", "prefetched")
