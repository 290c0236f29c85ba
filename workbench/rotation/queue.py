"""QueueService: the requests that wait, bounded, each told its position, reason and estimate."""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.base import CancellationToken
from workbench.rotation.snapshot import Grant, Plan, Ticket, Wait
from workbench.rotation.wanted import Wanted

_NEWS: Final = 0.2
"""An estimate is told again when it is off by this share, and by a second,"""
_TOLD_AGAIN_S: Final = 5.0
"""and after this time anyway: not everybody who reads it counts down by himself."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a waiting request stands; ``estimate_s`` is the time until its answer may begin."""

    position: int
    reason: str
    estimate_s: float | None = None
    evicts: tuple[str, ...] = ()


@dataclass(slots=True)
class Entry:
    """A request that waits."""

    ticket: Ticket
    wanted: Wanted
    on_standing: Callable[[Standing], None]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    """Of the request: what is done for it is its doing in the log."""
    granted: asyncio.Future[Grant] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    prefetched: bool = False
    """Its model was loaded ahead, or was to be: a load that failed is not tried before its turn."""
    standing: Standing | None = None
    told: tuple[int, str, float, float] | None = None
    """Position, reason and the moment of the estimated turn, as last told, and when."""


class QueueService:
    """Who waits. It does not decide: the rotation plans, and tells it.

    Args:
        max_waiting: requests that may wait; one more gets ``QUEUE_FULL``.
        max_waiting_per_model: and of these for one model.
    """

    def __init__(self, max_waiting: int, max_waiting_per_model: int | None = None) -> None:
        self.max_waiting = max_waiting
        self.max_waiting_per_model = max_waiting_per_model or max_waiting
        self._entries: dict[int, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def entries(self) -> list[Entry]:
        """Those that wait, in order of arrival."""
        return [self._entries[number] for number in sorted(self._entries)]

    @property
    def tickets(self) -> list[Ticket]:
        """Their tickets, in order of arrival."""
        return [entry.ticket for entry in self.entries]

    def entry(self, number: int) -> Entry:
        """The entry of a ticket."""
        return self._entries[number]

    def first_for(self, model: str) -> Entry:
        """The first to have arrived of those that wait for a model."""
        return next(entry for entry in self.entries if entry.ticket.model == model)

    def waiter(self, model: str, num_ctx: int | None) -> contextvars.Context | None:
        """The context of the first that waits for a model with this context length, if any."""
        wanted = (e for e in self.entries if e.ticket.model == model)
        return next((e.context for e in wanted if e.wanted.num_ctx == num_ctx), None)

    def enter(self, entry: Entry) -> None:
        """Take a place at the end.

        Raises:
            WorkbenchError: as :meth:`check_room`.
        """
        self.check_room(entry.ticket.model)
        self._entries[entry.ticket.number] = entry

    def check_room(self, model: str) -> None:
        """Whether a request for a model may enter.

        Raises:
            WorkbenchError: ``QUEUE_FULL``, with the time after which a place should be free.
        """
        of_model = sum(other.ticket.model == model for other in self._entries.values())
        if len(self._entries) >= self.max_waiting:
            raise self._full(f"{len(self._entries)} requests wait", "WORKBENCH_MAX_QUEUE", None)
        if of_model >= self.max_waiting_per_model:
            raise self._full(
                f"{of_model} requests wait for {model}", "WORKBENCH_MAX_QUEUE_PER_MODEL", model
            )

    def grant(self, grant: Grant) -> Entry:
        """A ticket's turn has come."""
        entry = self._entries.pop(grant.ticket.number)
        entry.granted.set_result(grant)
        return entry

    def refuse(self, number: int, error: WorkbenchError) -> None:
        """A ticket waits in vain."""
        self._entries.pop(number).granted.set_exception(error)

    def tell(self, plan: Plan, estimates: Mapping[int, float]) -> None:
        """Tell all who wait where they stand now, if that is news."""
        for position, number in enumerate(plan.order, start=1):
            entry, wait = self._entries[number], plan.waits[number]
            entry.standing = _standing(position, wait, estimates.get(number))
            if _is_news(entry):
                entry.on_standing(entry.standing)

    async def wait(
        self,
        entry: Entry,
        cancel: CancellationToken,
        timeout_s: float,
        on_leave: Callable[[], None],
    ) -> Grant:
        """Wait for the turn of an entry that has entered.

        Args:
            entry: who waits.
            cancel: leaves the queue.
            timeout_s: longest wait.
            on_leave: called when it has left the queue without its turn.

        Raises:
            WorkbenchError: ``TIMEOUT``, ``CANCELLED`` or the refusal. A turn that came in the
                moment of the cancellation is given back by raising ``CANCELLED`` with
                ``entry.granted`` done.
        """
        stop = asyncio.ensure_future(cancel.wait())
        try:
            waits: set[asyncio.Future[Any]] = {entry.granted, stop}
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            if self._entries.pop(entry.ticket.number, None) is not None:
                on_leave()
        if cancel.cancelled:
            if entry.granted.done():
                entry.granted.exception()  # seen
            raise WorkbenchError(
                ErrorCode.CANCELLED, "Cancelled while waiting in the queue.", operation="queue"
            )
        if entry.granted.done():
            return entry.granted.result()
        standing = entry.standing
        where = f" as number {standing.position}: {standing.reason}" if standing else ""
        raise WorkbenchError(
            ErrorCode.TIMEOUT,
            f"The request waited {timeout_s:g} s in the queue{where}.",
            fix="Stop other requests, or raise timeouts.queue_s.",
            operation="queue",
            details={"phase": "queue", "limit_s": timeout_s},
        )

    def _full(self, what: str, setting: str, model: str | None) -> WorkbenchError:
        retry_s = self._place_free_in_s(model)
        return WorkbenchError(
            ErrorCode.QUEUE_FULL,
            f"{what}, which is the limit; a place should be free in about {retry_s} s.",
            fix=f"Try again then, or raise {setting}.",
            operation="queue",
            retry_after_s=retry_s,
        )

    def _place_free_in_s(self, model: str | None) -> int:
        """Whole seconds until the first of those in the way has its turn, at least one."""
        turns = [
            entry.told[2]
            for entry in self._entries.values()
            if entry.told is not None and (model is None or entry.ticket.model == model)
        ]
        turns = [turn for turn in turns if math.isfinite(turn)]
        return max(math.ceil(min(turns, default=0.0) - time.monotonic()), 1)


def _standing(position: int, wait: Wait, estimate_s: float | None) -> Standing:
    return Standing(position, wait.reason, estimate_s, wait.evicts)


def _is_news(entry: Entry) -> bool:
    """Whether the standing differs from what was told; remembers what is told now."""
    standing, now = entry.standing, time.monotonic()
    assert standing is not None
    left_s = standing.estimate_s if standing.estimate_s is not None else math.inf
    if entry.told is not None:
        position, reason, turn, at = entry.told
        known = math.isfinite(left_s)
        stale = known and now - at >= _TOLD_AGAIN_S
        drift = abs(left_s - (turn - now)) if known else 0.0
        same = (position, reason, math.isfinite(turn)) == (
            standing.position,
            standing.reason,
            known,
        )
        if same and not stale and drift <= max(1.0, _NEWS * left_s):
            return False
    entry.told = (standing.position, standing.reason, now + left_s, now)
    return True
