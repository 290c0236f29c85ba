"""The rotation policy as a state machine, and the service around it."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.base import CancellationToken, ResidentModel
from workbench.rotation import (
    Grant,
    ModelRotationService,
    ResidencyChange,
    Snapshot,
    Ticket,
    plan,
)
from workbench.router import Route
from workbench.types import TimingMode


def ticket(
    number: int, model: str, *, exclusive: bool = False, counted: bool = True, concurrency: int = 1
) -> Ticket:
    return Ticket(number, model, exclusive, counted, concurrency)


def snapshot(
    waiting: list[Ticket],
    *,
    running: dict[str, int] | None = None,
    resident: dict[str, int] | None = None,
    exclusive_running: bool = False,
    max_resident: int = 2,
) -> Snapshot:
    return Snapshot(waiting, running or {}, exclusive_running, resident or {}, max_resident)


def granted(snapshot: Snapshot) -> list[Grant]:
    return list(plan(snapshot).grants)


def test_free_places_are_taken_in_order() -> None:
    a, b = ticket(1, "a"), ticket(2, "b")
    assert granted(snapshot([a, b])) == [Grant(a), Grant(b)]


def test_least_recently_used_idle_model_is_evicted() -> None:
    c = ticket(9, "c")
    assert granted(snapshot([c], resident={"a": 5, "b": 3})) == [Grant(c, ("b",))]


def test_model_in_use_is_never_evicted() -> None:
    c = ticket(9, "c")
    assert granted(snapshot([c], resident={"a": 5, "b": 3}, running={"b": 1})) == [Grant(c, ("a",))]
    assert granted(snapshot([c], resident={"a": 5, "b": 3}, running={"a": 1, "b": 1})) == []


def test_request_for_a_resident_model_passes_one_that_waits_for_a_place() -> None:
    c, a = ticket(8, "c"), ticket(9, "a", concurrency=2)
    full = snapshot([c, a], resident={"a": 5, "b": 3}, running={"a": 1, "b": 1})
    assert granted(full) == [Grant(a)]


def test_place_freed_goes_to_the_first_in_line() -> None:
    c, d = ticket(8, "c"), ticket(9, "d")
    assert granted(snapshot([c, d], resident={"a": 5, "b": 3}, running={"a": 1})) == [
        Grant(c, ("b",))
    ]


def test_one_generation_per_model_unless_it_allows_more() -> None:
    first, second = ticket(1, "a"), ticket(2, "a")
    assert granted(snapshot([first, second])) == [Grant(first)]
    first, second = ticket(1, "a", concurrency=2), ticket(2, "a", concurrency=2)
    assert granted(snapshot([first, second])) == [Grant(first), Grant(second)]


def test_exclusive_waits_for_silence_and_is_not_passed() -> None:
    alone, later = ticket(1, "a", exclusive=True), ticket(2, "b")
    assert granted(snapshot([alone, later], running={"c": 1})) == []
    assert granted(snapshot([alone, later])) == [Grant(alone)]
    assert granted(snapshot([later], exclusive_running=True)) == []


MODELS = "abcde"
LIMITS = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 8}
"""How many generations each model takes."""


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """What a service can meet: no more running than each model takes, those of a place in it."""
    counted = set(draw(st.sets(st.sampled_from(MODELS))))
    waiting = [
        ticket(number, model, exclusive=alone, counted=model in counted, concurrency=LIMITS[model])
        for number, (model, alone) in enumerate(
            draw(
                st.lists(st.tuples(st.sampled_from(MODELS), st.booleans() | st.just(False))),
            ),
            start=100,
        )
    ]
    running = {model: draw(st.integers(0, LIMITS[model])) for model in MODELS}
    exclusive_running = draw(st.booleans())
    if exclusive_running:
        alone = draw(st.sampled_from(MODELS))
        running = {model: int(model == alone) for model in MODELS}
    elif draw(st.booleans()):
        running = {}
    resident = {m for m in counted if running.get(m) or draw(st.booleans())}
    uses = draw(st.permutations(range(1, len(resident) + 1)))
    return Snapshot(
        waiting,
        {model: n for model, n in running.items() if n},
        exclusive_running,
        dict(zip(sorted(resident), uses, strict=True)),
        max(1, len(resident) + draw(st.integers(-1, 2))),
    )


@given(snapshots())
def test_plan_keeps_its_promises(snap: Snapshot) -> None:
    planned = plan(snap)
    going = [grant.ticket for grant in planned.grants]
    staying = [ticket for ticket in snap.waiting if ticket not in going]
    assert planned.waits.keys() == {ticket.number for ticket in staying}, "each wait has its reason"
    running, resident = Counter(snap.running), set(snap.resident)
    for grant in planned.grants:
        assert not snap.exclusive_running, "beside one that runs alone"
        assert not any(t.exclusive for t in going if t != grant.ticket), "beside an exclusive one"
        if grant.ticket.exclusive:
            assert not running.total(), "an exclusive one beside others"
        assert not any(running[model] for model in grant.evict), "a leased model is evicted"
        running[grant.ticket.model] += 1
        assert running[grant.ticket.model] <= grant.ticket.concurrency
        resident -= set(grant.evict)
        if grant.ticket.counted and grant.ticket.model not in resident:
            resident.add(grant.ticket.model)
            assert len(resident) <= snap.max_resident, "more models than places"
        if grant.evict:
            kept = [m for m in resident & snap.resident.keys() if not running[m]]
            oldest_kept = min((snap.resident[m] for m in kept), default=99)
            assert max(snap.resident[m] for m in grant.evict) < oldest_kept, "not the oldest"
    assert [t.number for t in going] == sorted(t.number for t in going), "order of arrival"
    for stays in staying:
        later = [t for t in going if t.number > stays.number]
        assert not any(t.model == stays.model for t in later), "overtaken by its own model"
        assert not (stays.exclusive and later), "an exclusive one is passed"
    # Nothing starves: with nothing running and everything idle, the first in line goes on.
    if snap.waiting and not snap.running and not snap.exclusive_running:
        assert going[:1] == list(snap.waiting[:1])


@given(snapshots(), st.data())
def test_nobody_waits_for_ever(snap: Snapshot, data: st.DataObject) -> None:
    """Whoever is last in line goes on, however many come after it to models that are busy.

    One generation ends at a time, the oldest, and two new requests come for each: models with
    room for several never fall idle by themselves.
    """
    if not snap.waiting:
        return
    last = snap.waiting[-1]
    waiting, number = list(snap.waiting), 1_000
    running, resident = Counter(snap.running), dict(snap.resident)
    counted = {t.model for t in waiting if t.counted} | set(resident)
    alone = next(iter(running)) if snap.exclusive_running else None
    under_way = sorted(running.elements())
    for _ in range(running.total() + 3 * len(waiting) + 3):
        planned = plan(Snapshot(waiting, running, alone is not None, resident, snap.max_resident))
        for grant in planned.grants:
            waiting.remove(grant.ticket)
            running[grant.ticket.model] += 1
            for model in grant.evict:
                del resident[model]
            if grant.ticket.counted:
                number += 1
                resident[grant.ticket.model] = number
            alone = grant.ticket.model if grant.ticket.exclusive else None
            under_way.append(grant.ticket.model)
            if grant.ticket == last:
                return
        ends = under_way.pop(0)
        running[ends] -= 1
        alone = None if ends == alone else alone
        for model in (ends, data.draw(st.sampled_from(MODELS))):
            number += 1
            waiting.append(
                ticket(number, model, counted=model in counted, concurrency=LIMITS[model])
            )
    raise AssertionError(f"{last} still waits: {planned.waits}")


def test_busy_model_that_must_make_room_takes_no_later_requests() -> None:
    """A model that runs several at a time would else never be idle."""
    c, a, b = ticket(8, "c"), ticket(9, "a", concurrency=4), ticket(10, "b", concurrency=4)
    planned = plan(snapshot([c, a, b], resident={"a": 3, "b": 5}, running={"a": 1, "b": 1}))
    assert planned.grants == (Grant(b),)
    assert planned.waits == {
        8: "all places for resident models are in use",
        9: "the model makes room for an earlier request",
    }


def test_reasons_say_what_is_waited_for() -> None:
    full = ticket(1, "a", concurrency=2)
    alone, behind = ticket(2, "b", exclusive=True), ticket(3, "c")
    assert plan(snapshot([full, alone, behind], running={"a": 2})).waits == {
        1: "the model is answering 2 requests, as many as it takes",
        2: "waits until nothing else runs",
        3: "another request waits to run alone",
    }
    beside = snapshot([behind], running={"b": 1}, exclusive_running=True)
    assert plan(beside).waits == {3: "another request runs alone"}


class FakeProvider:
    """Remembers what it was asked; loads when told."""

    name = "fake"
    counts_against_cache = True
    concurrency = 1

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.calls: list[str] = []
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.fail = False
        self.too_big: dict[str, int] = {}
        """Models whose next so many loads run out of memory."""

    async def load(
        self, model: str, *, keep_alive_s: float, num_ctx: int | None = None
    ) -> ResidentModel:
        fresh = model not in self.loaded
        if fresh:
            self.calls.append(f"load {model}")
            if self.too_big.get(model):
                self.too_big[model] -= 1
                raise WorkbenchError(ErrorCode.HF_MEMORY_EXCEEDED, "It does not fit.")
            await self.may_load.wait()
            if self.fail:
                raise WorkbenchError(ErrorCode.HF_MODEL_LOAD_FAILED, "broken")
            self.loaded.append(model)
        return ResidentModel(model, fresh=fresh)

    async def unload(self, model: str) -> None:
        self.calls.append(f"unload {model}")
        if model in self.loaded:
            self.loaded.remove(model)

    def resident(self, model: str) -> ResidentModel | None:
        return ResidentModel(model) if model in self.loaded else None

    def pids(self, model: str) -> tuple[int, ...]:
        return ()


class Desk:
    """A service over a fake provider."""

    def __init__(self, max_resident: int = 1, concurrency: int = 1) -> None:
        self.provider = FakeProvider()
        self.provider.concurrency = concurrency
        self.changes: list[ResidencyChange] = []
        self.service = ModelRotationService(
            max_resident=max_resident, max_queue=8, on_change=self.changes.append
        )

    def slot(self, model: str, *, keep_alive_s: float = 300, **more: object):  # type: ignore[no-untyped-def]
        return self.service.slot(
            Route(self.provider, model),  # type: ignore[arg-type]
            mode=TimingMode.CONCURRENT,
            keep_alive_s=keep_alive_s,
            cancel=more.get("cancel", CancellationToken()),
            queue_timeout_s=more.get("queue_timeout_s", 5.0),
            on_position=more.get("on_position", lambda position, reason: None),
            on_loading=lambda message: None,
        )


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
    told: list[tuple[int, str]] = []

    async def second() -> None:
        async with desk.slot("b", on_position=lambda *said: told.append(said)):
            pass

    async with desk.slot("a"):
        waiting = asyncio.create_task(second())
        while not told:
            await asyncio.sleep(0)
        assert desk.provider.loaded == ["a"], "a leased model stays"
    await waiting
    assert told == [(1, "all places for resident models are in use")]
    assert desk.provider.loaded == ["b"]


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


async def test_queue_has_a_deadline() -> None:
    desk = Desk()
    async with desk.slot("a"):
        with pytest.raises(WorkbenchError, match=ErrorCode.TIMEOUT):
            async with desk.slot("b", queue_timeout_s=0.02):
                pass
    assert desk.service.queue == []


async def test_keep_alive_of_zero_unloads_at_once() -> None:
    desk = Desk()
    async with desk.slot("a", keep_alive_s=0):
        pass
    async with asyncio.timeout(5):
        while desk.provider.loaded:
            await asyncio.sleep(0.01)
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
    assert "MB available" in caught.value.message
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
    desk = Desk(concurrency=2)
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
        async with desk.slot("b", on_position=lambda position, reason: waits.set()):
            served.append("b")

    first = asyncio.create_task(endless(30))
    while len(served) < 2:
        await asyncio.sleep(0)
    await asyncio.gather(first, other())
    assert served.index("b") <= 4, "those that ran and those ahead in line, nobody else"
    assert served.count("a") == 31
