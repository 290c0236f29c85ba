"""The rotation service over a provider that loads when told."""

from __future__ import annotations

import asyncio

import pytest

from tests.rotation.desk import Desk
from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.base import CancellationToken
from workbench.rotation import Standing, dispatcher, policy
from workbench.rotation.context import Context
from workbench.rotation.service import Slot
from workbench.rotation.snapshot import Plan, Snapshot
from workbench.router import Route
from workbench.types import TimingMode


async def test_second_model_takes_the_place_of_the_first() -> None:
    desk = Desk()
    for name in ("a", "b", "b", "a"):
        async with desk.slot(name):
            pass
    assert desk.provider.calls == ["load a", "unload a", "load b", "unload b", "load a"]
    assert [change.event for change in desk.changes] == ["load", "evict", "load", "evict", "load"]
    assert "make room for fake/b" in desk.changes[1].reason


async def test_waits_for_the_lease_of_another_and_says_why() -> None:
    desk = Desk()
    told: list[Standing] = []

    async def second() -> None:
        async with desk.slot("b", on_standing=told.append):
            pass

    async with desk.slot("a"):
        waiting = asyncio.create_task(second())
        while not told:
            await asyncio.sleep(0)
        assert desk.provider.loaded == ["a"], "a leased model stays"
    await waiting
    assert (told[0].position, told[0].reason) == (
        1,
        "all 1 places for models (HF_MAX_CACHED_MODELS) are in use",
    )
    assert told[0].estimate_s is not None
    assert desk.provider.loaded == ["b"]


async def test_requests_to_a_resident_model_wait_for_room_for_their_context() -> None:
    desk = Desk(max_resident=4, concurrency=4, limit=9_000)
    assert desk.book is not None
    desk.book.token_bytes = {"host": 1}
    told: list[Standing] = []
    long = {"context": Context(6000, 1000), "on_standing": told.append}  # 3,064 tokens
    async with desk.slot("a500", **long):
        async with desk.slot("a500", **long):
            third = await desk.asking("a500", **long)
            assert "its prompt and answer may take" in told[-1].reason
            short = {"num_ctx": 100, **long}
            fourth = await desk.asking("a500", **short)
            assert desk.service.running == {"fake/a500": 2}
        await third
        await fourth
    assert desk.service.running == {}


async def test_contexts_are_estimated_as_dense_as_the_last_prompts_were() -> None:
    desk = Desk(max_resident=4, limit=9_000)
    assert desk.book is not None
    desk.book.token_bytes = {"host": 1}
    context = Context(6000, 8000)
    with pytest.raises(WorkbenchError, match="10,064 tokens") as refused:
        await desk.ask("a500", context=context)
    assert "use fake/a500?num_ctx=8192" in refused.value.fix
    async with desk.slot("a500", context=Context(6000, 10)) as slot:
        slot.prompt_tokens, slot.cells = 300, 384
    assert "answered a500 384" in desk.book.told
    await desk.ask("a500", context=context)
    desk.book.context = 1000
    await desk.ask("a500", context=Context(600_000, 8000))


async def test_its_own_pin_is_not_what_a_model_lacks() -> None:
    desk = Desk(max_resident=4, limit=9_000)
    assert desk.book is not None
    desk.book.token_bytes = {"host": 1}
    await desk.service.pin(desk.route("a500"))
    with pytest.raises(WorkbenchError) as refused:
        await desk.ask("a500", context=Context(6000, 8000))
    assert refused.value.fix.startswith("Shorten the prompt")
    assert refused.value.details["pinned"] == {}
    await desk.service.pin(desk.route("b6000"))
    with pytest.raises(WorkbenchError) as refused:
        await desk.ask("a500", context=Context(6000, 5000))
    assert refused.value.fix.startswith("Unpin a model, shorten the prompt")
    assert "use fake/a500?num_ctx=2048" in refused.value.fix
    assert refused.value.details["pinned"] == {"fake/b6000": {"host": 6000}}


async def test_a_refusal_of_almost_nothing_has_figures_that_differ() -> None:
    desk = Desk(max_resident=4, limit=1_300_000_000)
    with pytest.raises(WorkbenchError, match=r"1\.30 GB at its peak.*1\.30 GB, 2 MB less"):
        await desk.ask("a1302000000")


async def test_memory_is_looked_at_before_a_load_is_written_down() -> None:
    """Else a quick load would have no figures, and a slow one the peak of its first half."""
    desk = Desk(limit=100)
    assert desk.book is not None
    looks: list[int] = []
    desk.service._residents._on_change = lambda change: looks.append(desk.book.looks)
    await desk.ask("a10")
    assert looks == [1]


async def test_failed_load_frees_the_place() -> None:
    desk = Desk()
    desk.provider.fail = True
    for _ in range(2):
        with pytest.raises(WorkbenchError, match=ErrorCode.HF_MODEL_LOAD_FAILED):
            async with desk.slot("a"):
                pass
    desk.provider.fail = False
    async with desk.slot("b"):
        assert desk.service.running == {"fake/b": 1}
    assert desk.service.running == {}


async def test_cancelled_load_leaves_nothing_behind() -> None:
    desk = Desk()
    desk.provider.may_load.clear()
    cancel = CancellationToken()

    async def ask() -> None:
        async with desk.slot("a", cancel=cancel):
            pass

    asking = asyncio.create_task(ask())
    while not desk.provider.calls:
        await asyncio.sleep(0)
    cancel.cancel("user")
    with pytest.raises(WorkbenchError, match=ErrorCode.CANCELLED):
        await asking
    assert desk.service.running == {}
    desk.provider.may_load.set()
    async with desk.slot("b"):
        pass


@pytest.mark.parametrize("turns", [0, 20])
@pytest.mark.parametrize("counted", [True, False])
async def test_stop_ends_the_wait_for_a_model_that_leaves(counted: bool, turns: int) -> None:
    """It may take its time to leave, and its unload goes on; who was to come never came."""
    desk = Desk(limit=10)
    desk.provider.counts_against_cache = counted
    await desk.ask("a9")
    may_leave, unload = asyncio.Event(), desk.provider.unload

    async def slowly(model: str) -> None:
        await may_leave.wait()
        await unload(model)

    desk.provider.unload = slowly  # type: ignore[method-assign]
    cancel = CancellationToken()
    asking = await desk.asking("b9", cancel=cancel)
    for _ in range(turns):  # it may hear of its turn and of the stop at once
        await asyncio.sleep(0)
    assert desk.service.running == {"fake/b9": 1}
    cancel.cancel("user")
    with pytest.raises(WorkbenchError, match=ErrorCode.CANCELLED):
        await asyncio.wait_for(asking, 30)
    assert desk.service.running == {}
    may_leave.set()
    await desk.ask("c9")
    assert desk.provider.loaded == ["c9"]
    assert desk.events() == [("load", "a9"), ("evict", "a9"), ("load", "c9")]


async def test_queue_has_a_deadline() -> None:
    desk = Desk()
    async with desk.slot("a"):
        with pytest.raises(WorkbenchError, match=ErrorCode.TIMEOUT):
            async with desk.slot("b", queue_timeout_s=0.02):
                pass
    assert desk.service.queue.tickets == []


async def test_keep_alive_of_zero_unloads_at_once() -> None:
    desk = Desk()
    async with desk.slot("a", keep_alive_s=0):
        pass
    async with asyncio.timeout(5):
        while desk.changes[-1].event != "unload":
            await asyncio.sleep(0.01)
    assert desk.provider.loaded == []
    assert desk.changes[-1].reason == "keep_alive passed"
    await desk.service.close()


async def test_model_that_answers_cannot_be_unloaded() -> None:
    desk = Desk()
    route = Route(desk.provider, "a")  # type: ignore[arg-type]
    async with desk.slot("a"):
        with pytest.raises(WorkbenchError, match="answering"):
            await desk.service.unload(route)
    await desk.service.unload(route)
    assert desk.provider.loaded == []


async def test_requests_that_share_a_load_report_it_once() -> None:
    desk = Desk(concurrency=2)
    desk.provider.may_load.clear()

    async def ask() -> None:
        async with desk.slot("a"):
            pass

    asking = [asyncio.create_task(ask()) for _ in range(2)]
    while len(desk.provider.calls) < 2:
        await asyncio.sleep(0)
    desk.provider.may_load.set()
    await asyncio.gather(*asking)
    assert [change.event for change in desk.changes] == ["load"]


async def test_who_gives_up_a_shared_load_takes_it_from_nobody() -> None:
    desk = Desk(concurrency=2)
    desk.provider.may_load.clear()
    cancel = CancellationToken()
    done: list[str] = []

    async def ask(name: str, cancel: CancellationToken) -> None:
        async with desk.slot("a", cancel=cancel):
            done.append(name)

    leaves = asyncio.create_task(ask("leaves", cancel))
    stays = asyncio.create_task(ask("stays", CancellationToken()))
    while len(desk.provider.calls) < 2:
        await asyncio.sleep(0)
    cancel.cancel("user")
    with pytest.raises(WorkbenchError, match=ErrorCode.CANCELLED):
        await leaves
    desk.provider.may_load.set()
    await stays
    assert done == ["stays"]
    async with desk.slot("b"):  # its place was counted all the time
        assert desk.provider.loaded == ["b"]
    assert [change.event for change in desk.changes] == ["load", "evict", "load"]


@pytest.mark.parametrize("counted", [True, False])
async def test_a_load_goes_on_while_somebody_waits_for_it_in_the_queue(counted: bool) -> None:
    """Where a model answers one request at a time, the next waits for the load without a slot."""
    desk = Desk()
    desk.provider.counts_against_cache = counted
    desk.provider.may_load.clear()
    cancel = CancellationToken()
    leaves = await desk.asking("a", cancel=cancel)
    slots: list[Slot] = []

    async def stay() -> None:
        async with desk.slot("a") as slot:
            slots.append(slot)

    stays = asyncio.create_task(stay())
    while not desk.service.queue.tickets:
        await asyncio.sleep(0)
    cancel.cancel("user")
    with pytest.raises(WorkbenchError, match=ErrorCode.CANCELLED):
        await leaves
    desk.provider.may_load.set()
    await asyncio.wait_for(stays, 30)
    assert desk.provider.calls == ["load a"], "begun once"
    assert [(change.event, change.ok) for change in desk.changes] == [("load", True)]
    assert desk.changes[0].details == {"handed_on": True}
    assert slots[0].resident.fresh, "it has waited for a load, and its figures say so"
    assert slots[0].load_ns > 0
    await desk.ask("a")
    assert desk.provider.calls == ["load a"]


@pytest.mark.parametrize("turns", [0, 5])
async def test_a_load_that_was_handed_on_ends_with_the_last_who_waits(turns: int) -> None:
    desk = Desk()
    desk.provider.may_load.clear()
    tokens = [CancellationToken() for _ in range(2)]
    asking = [await desk.asking("a", cancel=token) for token in tokens]
    for token, task in zip(tokens, asking, strict=True):
        token.cancel("user")
        for _ in range(turns):
            await asyncio.sleep(0)
        with pytest.raises(WorkbenchError, match=ErrorCode.CANCELLED):
            await task
    desk.provider.may_load.set()
    await desk.ask("b")
    assert desk.provider.loaded == ["b"]
    await desk.service.close()
    assert desk.provider.calls.count("load a") == desk.provider.calls.count("unload a") == 1


async def test_load_that_everybody_gave_up_is_ended() -> None:
    """Or the model would come into memory without a place, beside as many as there are places."""
    desk = Desk()
    desk.provider.may_load.clear()
    cancel = CancellationToken()

    async def ask() -> None:
        async with desk.slot("a", cancel=cancel):
            pass

    asking = asyncio.create_task(ask())
    while not desk.provider.calls:
        await asyncio.sleep(0)
    cancel.cancel("user")
    with pytest.raises(WorkbenchError, match=ErrorCode.CANCELLED):
        await asking
    await desk.service.close()
    assert desk.provider.calls == ["load a", "unload a"]


async def test_memory_that_ran_out_evicts_idle_models_once_and_loads_again() -> None:
    desk = Desk(max_resident=3)
    for name in ("old", "new"):
        async with desk.slot(name):
            pass
    desk.provider.too_big = {"big": 1}
    async with desk.slot("big"):
        assert desk.provider.loaded == ["big"]
    evicted = [change.route.name for change in desk.changes if change.event == "evict"]
    assert evicted == ["old", "new"], "the least recently used goes first"
    desk.provider.too_big = {"bigger": 9}
    with pytest.raises(WorkbenchError) as caught:
        async with desk.slot("bigger"):
            pass
    assert caught.value.code is ErrorCode.HF_MEMORY_EXCEEDED
    assert caught.value.details["evicted"] == ["fake/big"]
    assert caught.value.details["host_available_bytes"] > 0
    assert " available; in memory: " in caught.value.message
    assert desk.provider.calls.count("load bigger") == 2


async def test_memory_that_ran_out_leaves_models_in_use_alone() -> None:
    desk = Desk(max_resident=3)
    desk.provider.too_big = {"big": 9}
    async with desk.slot("busy"):
        with pytest.raises(WorkbenchError, match="none, as none was idle"):
            async with desk.slot("big"):
                pass
        assert desk.provider.loaded == ["busy"]
    assert desk.provider.calls.count("load big") == 1


async def test_model_whose_process_died_while_it_answered_has_no_place() -> None:
    desk = Desk()
    async with desk.slot("a"):
        desk.provider.loaded.clear()
    async with desk.slot("b"):
        pass
    assert desk.provider.calls == ["load a", "load b"], "what is not there is not evicted"


async def test_stream_of_requests_for_one_model_does_not_keep_another_out() -> None:
    """Two at a time, each followed by another before it ends: the model is never idle by itself."""
    desk = Desk(concurrency=2, patience_s=0)
    served: list[str] = []
    waits = asyncio.Event()

    async def endless(turns: int) -> None:
        async with desk.slot("a"):
            served.append("a")
            follower = asyncio.create_task(endless(turns - 1)) if turns else None
            while turns > 10 and not waits.is_set():
                await asyncio.sleep(0)
            for _ in range(5):
                await asyncio.sleep(0)
        if follower is not None:
            await follower

    async def other() -> None:
        async with desk.slot("b", on_standing=lambda standing: waits.set()):
            served.append("b")

    first = asyncio.create_task(endless(30))
    while len(served) < 2:
        await asyncio.sleep(0)
    await asyncio.gather(first, other())
    assert served.index("b") <= 4, "those that ran and those ahead in line, nobody else"
    assert served.count("a") == 31


async def test_two_that_fit_stay_and_the_third_takes_the_room_of_the_oldest() -> None:
    desk = Desk(max_resident=9, limit=10)
    for name in ("a4", "b5", "c5"):
        await desk.ask(name)
    assert desk.provider.loaded == ["b5", "c5"]
    evicted = desk.changes[2]
    assert evicted.event == "evict"
    assert "to make room for fake/c5: in place of fake/a4" in evicted.reason
    assert desk.book is not None
    assert desk.book.told[-3:] == ["gone a4", "loading c5", "loaded c5"]


async def test_model_that_never_fits_is_refused_with_figures_and_nobody_leaves() -> None:
    desk = Desk(max_resident=9, limit=10)
    await desk.ask("a4")
    with pytest.raises(WorkbenchError, match=ErrorCode.HF_MEMORY_EXCEEDED) as caught:
        await desk.ask("b11")
    assert caught.value.details["need_bytes"] == {"host": 11}
    assert caught.value.details["budget_bytes"] == {"host": 10}
    assert desk.provider.calls == ["load a4"]
    assert desk.changes[-1].event == "refuse"
    assert not desk.changes[-1].ok
    assert "Nothing was evicted" in desk.changes[-1].reason


async def test_load_that_cannot_work_evicts_nobody() -> None:
    desk = Desk()
    await desk.ask("a")
    desk.provider.missing = {"b"}
    with pytest.raises(WorkbenchError, match=ErrorCode.HF_MODEL_NOT_FOUND):
        await desk.ask("b")
    assert desk.provider.loaded == ["a"]
    assert desk.events() == [("load", "a"), ("refuse", "b")]


async def test_many_requests_at_once_ask_a_runtime_once_whether_the_model_is_there() -> None:
    desk = Desk()
    asked: list[str] = []
    may_answer = asyncio.Event()

    async def check(model: str) -> None:
        asked.append(model)
        await may_answer.wait()
        raise WorkbenchError(ErrorCode.HF_MODEL_NOT_FOUND, f"There is no {model}.")

    desk.provider.check = check  # type: ignore[method-assign]
    leaves, *stay = [await desk.asking("a") for _ in range(5)]
    leaves.cancel()
    await asyncio.wait([leaves])
    may_answer.set()
    told = await asyncio.gather(*stay, return_exceptions=True)
    assert asked == ["a"]
    assert [getattr(one, "code", None) for one in told] == [ErrorCode.HF_MODEL_NOT_FOUND] * 4
    assert desk.events() == [("refuse", "a")] * 4


async def test_load_that_failed_just_now_evicts_nobody_again() -> None:
    desk = Desk()
    await desk.ask("a")
    desk.provider.fail = True
    with pytest.raises(WorkbenchError, match=ErrorCode.HF_MODEL_LOAD_FAILED):
        await desk.ask("b")
    desk.provider.fail = False
    await desk.ask("a")
    with pytest.raises(WorkbenchError, match="not tried again, because another model") as caught:
        await desk.ask("b")
    assert caught.value.code is ErrorCode.HF_MODEL_LOAD_FAILED
    assert caught.value.retry_after_s
    assert desk.provider.loaded == ["a"]
    await desk.service.unload(desk.route("a"))
    await desk.ask("b")  # with room enough it is tried
    assert desk.provider.loaded == ["b"]


async def test_pinned_model_is_neither_evicted_nor_does_it_expire() -> None:
    desk = Desk(max_resident=2)
    await desk.service.pin(desk.route("a"))
    for name in ("b", "c"):
        await desk.ask(name)
    assert desk.provider.loaded == ["a", "c"]
    await desk.ask("a", keep_alive_s=0)
    assert desk.provider.keeps["a"] < 0, "for ever, also for a runtime that keeps time itself"
    (first, *_) = desk.service.overview().residents
    assert (first.model, first.pinned, first.expires_in_s) == ("fake/a", True, None)
    await desk.service.unpin(desk.route("a"), keep_alive_s=0.0)
    async with asyncio.timeout(5):
        while "a" in desk.provider.loaded:
            await asyncio.sleep(0.01)
    assert ("pin", "a") in desk.events()
    assert ("unpin", "a") in desk.events()
    await desk.service.close()


async def test_everything_pinned_refuses_the_next() -> None:
    desk = Desk(max_resident=1)
    await desk.service.pin(desk.route("a"))
    with pytest.raises(WorkbenchError, match="taken by pinned models") as caught:
        await desk.ask("b")
    assert caught.value.fix == "Unpin a model, or raise HF_MAX_CACHED_MODELS."
    await desk.service.unload(desk.route("a"))  # by hand it goes, and its pin with it
    await desk.ask("b")


async def test_idle_models_leave_when_memory_is_taken_by_others() -> None:
    desk = Desk(max_resident=9, limit=10)
    for name in ("a4", "b5"):
        await desk.ask(name)
    assert desk.book is not None
    desk.book.limit = 6
    desk.service.memory_changed()
    async with asyncio.timeout(5):
        while desk.changes[-1].event != "evict":
            await asyncio.sleep(0)
    assert desk.provider.loaded == ["b5"]
    assert "more are held than the budget allows now" in desk.changes[-1].reason


async def test_next_model_is_prefetched_while_the_last_answer_drains() -> None:
    desk = Desk(max_resident=9, limit=10)
    async with desk.slot("a4"):
        alone = await desk.asking("b5", mode=TimingMode.ISOLATED)
        async with asyncio.timeout(5):
            while "b5" not in desk.provider.loaded:
                await asyncio.sleep(0)
        assert not alone.done(), "it runs alone"
    await alone
    loads = [change for change in desk.changes if change.route.name == "b5"]
    assert [change.event for change in loads] == ["load"]
    assert "prefetched while fake/a4" in loads[0].reason
    assert loads[0].details == {"prefetch": True}


async def test_a_model_that_could_not_be_prefetched_is_loaded_at_its_turn_and_not_before() -> None:
    """Else its load would be tried again and again beside the answers that it waits for."""
    desk = Desk(max_resident=9, limit=10)
    desk.provider.too_big["b5"] = 1
    async with desk.slot("a4"):
        alone = await desk.asking("b5", mode=TimingMode.ISOLATED)
        async with asyncio.timeout(30):
            while not any(change.event == "load" and not change.ok for change in desk.changes):
                await asyncio.sleep(0)
        for _ in range(20):
            desk.service.memory_changed()
            await asyncio.sleep(0)
        assert desk.provider.calls.count("load b5") == 1
    await alone
    assert desk.provider.calls.count("load b5") == 2


async def test_nothing_is_loaded_beside_a_request_that_runs_alone() -> None:
    desk = Desk(max_resident=9, limit=10)
    async with desk.slot("a4", mode=TimingMode.ISOLATED):
        others = [
            await desk.asking("b5", mode=mode)
            for mode in (TimingMode.CONCURRENT, TimingMode.INTERLEAVED)
        ]
        assert desk.provider.calls == ["load a4"]
    await asyncio.gather(*others)


async def test_overview_shows_residents_queue_and_next_victims() -> None:
    desk = Desk(max_resident=9, limit=10)
    await desk.ask("a4")
    async with desk.slot("b5"):
        waiting = await desk.asking("c6")
        seen = desk.service.overview()
        assert seen.limit_bytes == {"host": 10}
        assert seen.held_bytes == {"host": 9}
        assert [(r.model, r.status) for r in seen.residents] == [
            ("fake/a4", "idle"),
            ("fake/b5", "leased"),
        ]
        assert seen.next_victims == ("fake/a4",)
        (one,) = seen.waiting
        assert (one.model, one.position) == ("fake/c6", 1)
        assert "missing, in use by fake/b5" in one.reason
        assert one.evicts == ("fake/b5",)
        assert one.estimate_s is not None
        assert type(seen).from_dict(seen.to_dict()) == seen
    await waiting


async def test_task_that_is_cancelled_as_its_turn_comes_gives_it_back() -> None:
    desk = Desk()
    async with desk.slot("a"):
        waiting = await desk.asking("b")
    waiting.cancel()  # granted in this very moment
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(5):
        await desk.ask("c")
    assert desk.service.running == {}


async def test_scheduler_rests_while_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    await desk.ask("a")
    decisions: list[Snapshot] = []

    def counted(snapshot: Snapshot) -> Plan:
        decisions.append(snapshot)
        return policy.plan(snapshot)

    monkeypatch.setattr(dispatcher, "plan", counted)
    await asyncio.sleep(1.2)  # longer than it sleeps while somebody waits
    assert decisions == []
    async with desk.slot("a"):
        waiting = await desk.asking("b")
        before = len(decisions)
        async with asyncio.timeout(5):
            while len(decisions) == before:  # it looks again by itself
                await asyncio.sleep(0.05)
    await waiting


async def test_at_the_end_all_that_is_ours_is_unloaded_with_a_reason() -> None:
    desk = Desk(max_resident=2)
    await desk.ask("a")
    await desk.service.pin(desk.route("b"))
    await desk.service.close()
    assert desk.provider.loaded == []
    unloads = [change for change in desk.changes if change.event == "unload"]
    assert sorted(change.route.name for change in unloads) == ["a", "b"]
    assert {change.reason for change in unloads} == {"the workbench stops"}


async def test_at_the_end_no_model_stays_for_ever_in_another_runtime() -> None:
    desk = Desk()
    desk.provider.counts_against_cache = False
    desk.provider.loaded = ["theirs"]
    for name in ("theirs", "mine"):
        await desk.service.pin(desk.route(name))
    await desk.ask("mine")
    await desk.ask("brief", keep_alive_s=40)
    await desk.service.close(keep_alive_s=300)
    assert desk.provider.loaded == ["theirs", "brief"], "who expires by itself may"
    assert desk.provider.keeps == {"theirs": 300, "mine": -1.0, "brief": 40}
    assert desk.events()[-2:] in (
        [("unload", "mine"), ("unpin", "theirs")],
        [("unpin", "theirs"), ("unload", "mine")],
    )


async def test_overview_names_what_other_programs_hold() -> None:
    desk = Desk(max_resident=9, limit=10)
    desk.provider.loaded = ["other3"]
    await desk.ask("a4")
    seen = desk.service.overview()
    assert seen.others == {"fake/other3": {"host": 3}}
    assert [resident.model for resident in seen.residents] == ["fake/a4"]
    assert type(seen).from_dict(seen.to_dict()) == seen
