"""The queue: bounds, positions, estimates, priorities, ways out."""

from __future__ import annotations

import asyncio

import pytest

from tests.rotation.desk import Desk
from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.base import CancellationToken
from workbench.providers.scripted import ScriptedProvider
from workbench.rotation import Standing
from workbench.rotation.estimates import estimate
from workbench.rotation.leases import Progress
from workbench.rotation.queue import Entry, QueueService
from workbench.rotation.snapshot import Model, Plan, Snapshot, Ticket, Wait
from workbench.rotation.speeds import Answer, Speeds
from workbench.rotation.wanted import Wanted
from workbench.router import Route
from workbench.types import Priority


async def test_full_queue_refuses_and_says_when_to_come_again() -> None:
    desk = Desk(max_queue=2)
    for _ in range(3):
        desk.service.speeds.answer_took("fake/a", Answer(40.0))
    async with desk.slot("a"):
        waiting = [await desk.asking("a") for _ in range(2)]
        with pytest.raises(WorkbenchError, match=ErrorCode.QUEUE_FULL) as caught:
            await desk.ask("a")
        assert caught.value.http_status == 503
        assert caught.value.retry_after_s == pytest.approx(40, abs=2)
        assert "WORKBENCH_MAX_QUEUE" in caught.value.fix
    await asyncio.gather(*waiting)


async def test_queue_of_one_model_is_bounded_too() -> None:
    desk = Desk(max_queue=8, max_queue_per_model=1)
    async with desk.slot("a"):
        waiting = [await desk.asking(name) for name in ("a", "b")]
        with pytest.raises(WorkbenchError, match="1 requests wait for fake/a"):
            await desk.ask("a")
    await asyncio.gather(*waiting)


async def test_burst_gets_exactly_as_many_refusals_as_are_too_many() -> None:
    desk = Desk(max_queue=64, concurrency=4)
    async with desk.slot("a"):
        burst = [asyncio.create_task(desk.ask("a")) for _ in range(500)]
        done = await asyncio.wait_for(asyncio.gather(*burst, return_exceptions=True), 30)
    refused = [result for result in done if result is not None]
    assert all(getattr(result, "code", None) is ErrorCode.QUEUE_FULL for result in refused)
    assert len(refused) == 500 - 64 - 3, "three more run beside the first, 64 wait"
    assert desk.service.running == {}
    assert desk.service.queue.tickets == []


async def test_waiting_requests_hear_of_every_step_forward() -> None:
    desk = Desk()
    told: list[Standing] = []
    async with desk.slot("a"):
        first = await desk.asking("a")
        last = await desk.asking("a", on_standing=told.append)
    await asyncio.gather(first, last)
    assert [standing.position for standing in told] == [2, 1]
    assert told[0].reason == "the model is answering another request"
    assert told[0].estimate_s is not None
    assert told[1].estimate_s is not None
    assert told[1].estimate_s < told[0].estimate_s


async def test_an_estimate_that_nobody_can_give_any_more_is_taken_back() -> None:
    queue, told = QueueService(9), list[Standing]()
    route = Route(ScriptedProvider(), "a")
    entry = Entry(Ticket(1, "a"), Wanted(route, 0), told.append)
    queue.enter(entry)
    planned = Plan((), {1: Wait("no room")}, (1,))
    queue.tell(planned, {1: 7.0})
    queue.tell(planned, {1: 7.0})
    queue.tell(planned, {})
    assert [standing.estimate_s for standing in told] == [7.0, None]


async def test_cancelled_in_the_queue_leaves_it() -> None:
    desk = Desk()
    cancel = CancellationToken()
    async with desk.slot("a"):
        waiting = await desk.asking("b", cancel=cancel)
        assert len(desk.service.queue) == 1
        cancel.cancel("user")
        with pytest.raises(WorkbenchError, match=ErrorCode.CANCELLED):
            await waiting
        assert len(desk.service.queue) == 0


async def test_deadline_in_the_queue_says_what_was_waited_for() -> None:
    desk = Desk()
    async with desk.slot("a"):
        with pytest.raises(WorkbenchError, match="as number 1: all 1 places") as caught:
            await desk.ask("b", queue_timeout_s=0.02)
    assert caught.value.code is ErrorCode.TIMEOUT
    assert "timeouts.queue_s" in caught.value.fix


async def test_interactive_request_goes_before_a_benchmark_that_came_first() -> None:
    desk = Desk()
    order: list[str] = []

    async def ask(name: str, priority: Priority) -> None:
        async with desk.slot("a", priority=priority):
            order.append(name)

    async with desk.slot("a"):
        asking = [
            asyncio.create_task(ask("run", Priority.BENCHMARK)),
            asyncio.create_task(ask("person", Priority.INTERACTIVE)),
        ]
        while len(desk.service.queue) < 2:
            await asyncio.sleep(0)
    await asyncio.gather(*asking)
    assert order == ["person", "run"]


def ran(seconds: float | None, *, streamed: int = 0, first_s: float = 0.0, **more: int) -> Progress:
    """An answer that began so long ago, and its first token ``first_s`` later."""
    if seconds is None:
        return Progress(Ticket(0, "", **more))
    first = first_s - seconds if streamed else None
    return Progress(Ticket(0, "", **more), -seconds, first, streamed)


def test_speeds_are_medians_of_what_was_measured_and_of_the_log() -> None:
    speeds = Speeds()
    assert speeds.load_s("a", {"host": 4 * 10**9}) == 4.0, "a guess by size"
    speeds.load_took("a", 9.0)
    said = {"first_s": None, "tokens": 0, "cut": False}
    rows = [{"model": "a", "what": "load", "seconds": s, **said} for s in (1.0, 2.0)]
    rows += [{"model": "a", "what": "answer", "seconds": s, **said} for s in (5.0, 7.0, 60.0)]
    speeds.restore(rows)
    assert speeds.load_s("a", {}) == 2.0
    assert speeds.answer_s("a") == 7.0
    assert speeds.answer_s("never asked") == 7.0, "as models answer here"


def test_estimate_adds_what_is_ahead() -> None:
    speeds = Speeds()
    for model, seconds in (("a", 10.0), ("b", 4.0)):
        speeds.answer_took(model, Answer(seconds))
    models = {"a": Model(resident=True, running=1), "b": Model(load_s=3.0)}
    waiting = [Ticket(1, "a"), Ticket(2, "a"), Ticket(3, "b"), Ticket(4, "b", exclusive=True)]
    order = [1, 2, 3, 4]
    waits = dict.fromkeys(order, Wait(""))
    found = estimate(Snapshot(waiting, models, 1), order, waits, {"a": [ran(4.0)]}, {}, speeds)
    assert found[1] == 6.0, "the rest of the answer under way"
    assert found[2] == 16.0
    assert found[3] == 26.0 + 3.0, "when a is idle, after the load"
    assert found[4] == 33.0, "after all others"


def test_answer_that_outlasts_its_median_has_a_remainder() -> None:
    speeds = Speeds()
    for seconds in (1.0, 2.0, 3.0, 20.0, 30.0):
        speeds.answer_took("a", Answer(seconds))
    assert speeds.answer_left_s("a", ran(10.0), 0) == 15.0, "median of what remained in longer ones"
    assert speeds.answer_left_s("a", ran(40.0), 0) == 20.0, "longer than all: half its time more"


def test_what_remains_of_an_answer_is_its_tokens_in_its_own_pace() -> None:
    speeds = Speeds()
    for tokens in (20, 30, 40):  # 0.5 s to the first token, then 10 tokens/s
        speeds.answer_took("a", Answer(0.5 + (tokens - 1) * 0.1, 0.5, tokens))
    assert speeds.answer_s("a", 512) == pytest.approx(0.5 + 29 * 0.1)
    assert speeds.answer_s("a", 10) == pytest.approx(0.5 + 9 * 0.1), "no longer than it may"
    assert speeds.answer_s("a", 0) == 0.0, "a load by hand answers nothing"
    began = ran(2.5, streamed=11, first_s=0.5, answer_tokens=512)  # 0.2 s a token: slower
    assert speeds.answer_left_s("a", began, 0) == pytest.approx((30 - 11) * 0.2)
    reading = ran(0.2, answer_tokens=512)
    assert speeds.answer_left_s("a", reading, 0) == pytest.approx(0.3 + 29 * 0.1)
    long = ran(9.0, streamed=81, first_s=1.0, answer_tokens=150)
    assert speeds.answer_left_s("a", long, 0) == pytest.approx(69 * 0.1), "on to its bound"


def test_answers_that_were_cut_say_nothing_about_a_longer_bound() -> None:
    speeds = Speeds()
    for _ in range(3):
        speeds.answer_took("a", Answer(3.1, 0.0, 32, cut=True))
    assert speeds.answer_s("a", 150) == pytest.approx(149 * 0.1)


def test_request_that_lacks_room_for_its_context_waits_for_the_answers_that_hold_it() -> None:
    """Answers of 100 and 400 tokens run; one of 300 more fits once the longer one has ended."""
    speeds = Speeds()
    model = Model(resident=True, running=2, concurrency=8, token_bytes={"host": 1})
    running = {"a": [ran(1.0, tokens=100), ran(4.0, tokens=400)]}
    speeds.answer_took("a", Answer(10.0))
    waiting = [Ticket(1, "a", tokens=300), Ticket(2, "a", tokens=400), Ticket(3, "a", tokens=300)]
    waits = dict.fromkeys((1, 2, 3), Wait("", may_hold={"host": 800}))
    found = estimate(Snapshot(waiting, {"a": model}, 1), [1, 2, 3], waits, running, {}, speeds)
    assert found == {1: 6.0, 2: 9.0, 3: 16.0}


def test_request_waits_for_all_that_are_to_leave_for_it_and_for_loads_under_way() -> None:
    speeds = Speeds()
    for model, seconds in (("a", 10.0), ("b", 30.0)):
        speeds.answer_took(model, Answer(seconds))
        speeds.load_took(model, 5.0)
    waiting = [Ticket(1, "c"), Ticket(2, "d", exclusive=True)]
    models = {
        "a": Model(resident=True, running=1, load_s=5.0),
        "b": Model(resident=True, running=1, load_s=5.0, loading=True),
        "idle": Model(resident=True, pinned=True),
        "c": Model(load_s=2.0),
        "d": Model(resident=True),
    }
    running = {"a": [ran(4.0)], "b": [ran(None)]}
    waits = {1: Wait("", ("a", "b")), 2: Wait("")}
    found = estimate(Snapshot(waiting, models, 9), [1, 2], waits, running, {"b": 1.0}, speeds)
    assert found[1] == 4.0 + 30.0 + 2.0, "rest of the load, its answer, the load of c"
    alone = estimate(Snapshot(waiting, models, 9), [2], waits, running, {"b": 1.0}, speeds)
    assert alone[2] == 4.0 + 30.0, "one that runs alone waits for all that runs"
    beside = Snapshot(waiting, models, 9, exclusive_running=True)
    assert estimate(beside, [2], waits, {"a": [ran(25.0)]}, {}, speeds)[2] == 12.5


async def test_load_by_hand_says_nothing_about_answers() -> None:
    desk = Desk()
    await desk.service.load(desk.route("a"), keep_alive_s=300)
    desk.service.speeds.answer_took("fake/a", Answer(40.0))
    assert desk.service.speeds.answer_s("fake/a") == 40.0
