"""The queue: bounded, in order, and each who waits leaves it once, with what became of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import times
from tests.properties.stage import Clock
from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.base import CancellationToken
from workbench.providers.scripted import ScriptedProvider
from workbench.rotation.queue import Entry, QueueService, Standing
from workbench.rotation.snapshot import Grant, Plan, Ticket, Wait
from workbench.rotation.wanted import Wanted
from workbench.router import Route

REFUSED = WorkbenchError(ErrorCode.HF_MEMORY_EXCEEDED, "It does not fit.")


@dataclass
class Waiter:
    """One who waits, and what it was told."""

    entry: Entry
    cancel: CancellationToken
    told: list[Standing] = field(default_factory=list)
    left: int = 0
    """How often it was said to have left without its turn."""
    fate: str = ""
    task: asyncio.Task[Grant] = field(init=False)

    def leave(self) -> None:
        self.left += 1

    def check(self) -> None:
        """It ended as its fate wants it."""
        error = self.task.exception()
        assert self.left == (self.fate in ("cancel", "late")), self.fate
        if self.fate == "grant":
            assert self.task.result().ticket is self.entry.ticket
        elif self.fate == "refuse":
            assert error is REFUSED
        else:
            assert isinstance(error, WorkbenchError)
            late = self.fate == "late"
            assert error.code is (ErrorCode.TIMEOUT if late else ErrorCode.CANCELLED)
        if self.fate == "grant, cancel":
            assert self.entry.granted.done(), "the turn is given back by who asked"


def waiter(number: int, model: str) -> Waiter:
    told: list[Standing] = []
    route = Route(ScriptedProvider(), model)
    entry = Entry(Ticket(number, model), Wanted(route, 0), told.append)
    return Waiter(entry, CancellationToken(), told)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ("enter", "enter", "enter", "grant", "refuse", "cancel", "grant, cancel", "late")
        ),
        st.integers(0, 9),
    ),
    max_size=25,
)


@given(STEPS, st.integers(1, 5), st.integers(1, 5))
@times(2)
def test_each_who_enters_leaves_once(
    steps: list[tuple[str, int]], most: int, most_per_model: int
) -> None:
    async def play(clock: Clock) -> None:
        queue, waiting = QueueService(most, most_per_model), list[Waiter]()
        done: list[Waiter] = []
        for number, (what, chosen) in enumerate(steps, start=1):
            if what == "enter":
                one = waiter(number, "ab"[chosen % 2])
                of_model = Counter(w.entry.ticket.model for w in waiting)
                if len(waiting) >= most or of_model[one.entry.ticket.model] >= most_per_model:
                    with pytest.raises(WorkbenchError, match=ErrorCode.QUEUE_FULL) as full:
                        queue.enter(one.entry)
                    assert (full.value.retry_after_s or 0) >= 1
                else:
                    queue.enter(one.entry)
                    # The later the longer, so that the time of one at most is over at a time.
                    patience_s = 100.0 * number - (clock.ns - began) / 1e9
                    one.task = asyncio.create_task(
                        queue.wait(one.entry, one.cancel, patience_s, one.leave)
                    )
                    waiting.append(one)
            elif waiting:
                one = waiting.pop(0 if what == "late" else chosen % len(waiting))
                one.fate = what
                ticket = one.entry.ticket
                if what.startswith("grant"):
                    assert queue.grant(Grant(ticket, "")) is one.entry
                if what == "refuse":
                    queue.refuse(ticket.number, REFUSED)
                if what.endswith("cancel"):
                    one.cancel.cancel("user")
                if what == "late":
                    clock.pass_by(100.0 * ticket.number - (clock.ns - began) / 1e9 + 1)
                done.append(one)
            for _ in range(4):
                await asyncio.sleep(0)
            assert queue.entries == [w.entry for w in waiting], "in order of arrival"
            assert len(queue) <= most
            assert not any(w.task.done() for w in waiting), "who was left alone waits"
            for one in done:
                one.check()
        for one in waiting:
            one.cancel.cancel("shutdown")
        await asyncio.gather(*(w.task for w in waiting), return_exceptions=True)
        assert len(queue) == 0

    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        began = clock.ns
        asyncio.run(play(clock))


PLANS = st.lists(
    st.tuples(
        st.permutations(range(1, 5)),
        st.sampled_from(("it is busy", "no room")),
        st.dictionaries(st.integers(1, 4), st.floats(0, 500)),
        st.floats(0, 8),
    ),
    min_size=1,
    max_size=8,
)


@given(PLANS)
@times(2)
def test_who_waits_knows_its_place_and_about_when(
    plans: list[tuple[list[int], str, dict[int, float], float]],
) -> None:
    """Told at every change of place or reason, and else when the estimate is no longer true."""

    async def play(clock: Clock) -> None:
        queue = QueueService(9)
        waiters = {number: waiter(number, "a") for number in range(1, 5)}
        for one in waiters.values():
            queue.enter(one.entry)
        at: dict[int, int] = {}
        for order, reason, estimates, pause_s in plans:
            before = {number: list(one.told) for number, one in waiters.items()}
            waits = dict.fromkeys(order, Wait(reason))
            queue.tell(Plan((), waits, tuple(order)), estimates)
            for position, number in enumerate(order, start=1):
                told, now_s = waiters[number].told, estimates.get(number)
                if news := told[len(before[number]) :]:
                    (standing,) = news
                    assert (standing.position, standing.reason) == (position, reason)
                    assert standing.estimate_s == now_s
                    at[number] = clock.ns
                    continue
                last = told[-1]
                assert (last.position, last.reason) == (position, reason)
                assert (last.estimate_s is None) == (now_s is None)
                if last.estimate_s is not None and now_s is not None:
                    since_s = (clock.ns - at[number]) / 1e9
                    assert since_s <= 5.01, "told again after a while"
                    off_s = abs(last.estimate_s - since_s - now_s)
                    assert off_s <= max(1.0, 0.2 * now_s) + 0.01
            clock.pass_by(pause_s)

    with pytest.MonkeyPatch.context() as patch:
        asyncio.run(play(Clock(patch)))
