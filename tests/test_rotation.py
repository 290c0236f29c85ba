"""The rotation policy as a state machine, and the service around it."""

from __future__ import annotations

import asyncio

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


def test_free_places_are_taken_in_order() -> None:
    a, b = ticket(1, "a"), ticket(2, "b")
    assert plan(snapshot([a, b])) == [Grant(a), Grant(b)]


def test_least_recently_used_idle_model_is_evicted() -> None:
    c = ticket(9, "c")
    assert plan(snapshot([c], resident={"a": 5, "b": 3})) == [Grant(c, ("b",))]


def test_model_in_use_is_never_evicted() -> None:
    c = ticket(9, "c")
    assert plan(snapshot([c], resident={"a": 5, "b": 3}, running={"b": 1})) == [Grant(c, ("a",))]
    assert plan(snapshot([c], resident={"a": 5, "b": 3}, running={"a": 1, "b": 1})) == []


def test_request_for_a_resident_model_passes_one_that_waits_for_a_place() -> None:
    c, a = ticket(8, "c"), ticket(9, "a", concurrency=2)
    full = snapshot([c, a], resident={"a": 5, "b": 3}, running={"a": 1, "b": 1})
    assert plan(full) == [Grant(a)]


def test_place_freed_goes_to_the_first_in_line() -> None:
    c, d = ticket(8, "c"), ticket(9, "d")
    assert plan(snapshot([c, d], resident={"a": 5, "b": 3}, running={"a": 1})) == [Grant(c, ("b",))]


def test_one_generation_per_model_unless_it_allows_more() -> None:
    first, second = ticket(1, "a"), ticket(2, "a")
    assert plan(snapshot([first, second])) == [Grant(first)]
    first, second = ticket(1, "a", concurrency=2), ticket(2, "a", concurrency=2)
    assert plan(snapshot([first, second])) == [Grant(first), Grant(second)]


def test_exclusive_waits_for_silence_and_is_not_passed() -> None:
    alone, later = ticket(1, "a", exclusive=True), ticket(2, "b")
    assert plan(snapshot([alone, later], running={"c": 1})) == []
    assert plan(snapshot([alone, later])) == [Grant(alone)]
    assert plan(snapshot([later], exclusive_running=True)) == []


TICKETS = st.lists(
    st.tuples(st.sampled_from("abcde"), st.booleans(), st.booleans(), st.integers(1, 3)),
    max_size=12,
).map(
    lambda items: [
        ticket(n, m, exclusive=e, counted=c, concurrency=k)
        for n, (m, e, c, k) in enumerate(items, start=100)
    ]
)


@given(
    waiting=TICKETS,
    running=st.dictionaries(st.sampled_from("abcde"), st.integers(1, 2), max_size=3),
    resident=st.dictionaries(st.sampled_from("abcde"), st.integers(1, 99), max_size=4),
    max_resident=st.integers(1, 4),
)
def test_plan_keeps_its_promises(
    waiting: list[Ticket],
    running: dict[str, int],
    resident: dict[str, int],
    max_resident: int,
) -> None:
    grants = plan(snapshot(waiting, running=running, resident=resident, max_resident=max_resident))
    leased = set(running)
    for grant in grants:
        assert not leased & set(grant.evict), "a leased model is evicted"
        leased.add(grant.ticket.model)
    if any(grant.ticket.exclusive for grant in grants):
        assert len(grants) == 1
        assert not running
    added = {g.ticket.model for g in grants if g.ticket.counted and g.ticket.model not in resident}
    gone = {model for grant in grants for model in grant.evict}
    if added:
        assert len((set(resident) - gone) | added) <= max(max_resident, len(resident))
    # Nothing starves: with nothing running and everything idle, the first in line goes on.
    if waiting and not running:
        assert grants
        assert grants[0].ticket == waiting[0]


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

    async def load(
        self, model: str, *, keep_alive_s: float, num_ctx: int | None = None
    ) -> ResidentModel:
        fresh = model not in self.loaded
        if fresh:
            self.calls.append(f"load {model}")
            await self.may_load.wait()
            if self.fail:
                raise WorkbenchError(ErrorCode.HF_MODEL_LOAD_FAILED, "broken")
            self.loaded.append(model)
        return ResidentModel(model, fresh=fresh)

    async def unload(self, model: str) -> None:
        self.calls.append(f"unload {model}")
        self.loaded.remove(model)

    def resident(self, model: str) -> ResidentModel | None:
        return ResidentModel(model) if model in self.loaded else None

    def pids(self, model: str) -> tuple[int, ...]:
        return ()


class Desk:
    """A service over a fake provider."""

    def __init__(self, max_resident: int = 1) -> None:
        self.provider = FakeProvider()
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
