"""ModelRotationService and QueueService: who is resident, who waits, who goes next.

The policy is :func:`plan`, a pure function of a snapshot. The service around it keeps the
snapshot, wakes the requests that the plan admits, and does the loading and unloading.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

from workbench import logs
from workbench.errors import ErrorCode, WorkbenchError
from workbench.memory import MemoryReading, read_tree
from workbench.providers.base import CancellationToken, ResidentModel
from workbench.router import Route
from workbench.types import TimingMode

_log = logs.get(__name__)

Residency = Literal["load", "unload", "evict"]


# -- the policy -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request's place in the queue."""

    number: int
    model: str
    exclusive: bool
    counted: bool
    """Whether its model takes one of the places that ``HF_MAX_CACHED_MODELS`` limits."""
    concurrency: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the policy looks at."""

    waiting: Sequence[Ticket]
    """In order of arrival."""
    running: Mapping[str, int]
    """Generations (and the loads before them) under way, by model: these models are leased."""
    exclusive_running: bool
    resident: Mapping[str, int]
    """Models that take a cached place, with the number of their last use (larger: later)."""
    max_resident: int


@dataclass(frozen=True, slots=True)
class Grant:
    """A ticket may go on, once ``evict`` has been unloaded."""

    ticket: Ticket
    evict: tuple[str, ...] = ()


def plan(snapshot: Snapshot) -> list[Grant]:
    """Which waiting requests may go on now.

    Decided for each ticket in order of arrival:

    1. Nothing may pass an exclusive request (isolated, interleaved) that waits, nor run beside one.
    2. An exclusive request goes on only when nothing runs.
    3. A model runs at most ``concurrency`` generations; later requests for it keep their order.
    4. A resident model costs nothing.
    5. A model that needs a cached place takes a free one, else that of the least recently used
       idle model; a leased model is never evicted. With none idle it waits, and so does every
       later request that needs a place: no request is overtaken for ever.
    """
    running = Counter(snapshot.running)
    resident = dict(snapshot.resident)
    grants: list[Grant] = []
    exclusive_running = snapshot.exclusive_running
    blocked_models: set[str] = set()
    places_blocked = False
    for ticket in snapshot.waiting:
        if exclusive_running:
            break
        if ticket.exclusive and running.total():
            break
        if ticket.model in blocked_models or running[ticket.model] >= ticket.concurrency:
            blocked_models.add(ticket.model)
            continue
        evict: tuple[str, ...] = ()
        if ticket.counted and ticket.model not in resident:
            surplus = len(resident) + 1 - snapshot.max_resident
            if surplus > 0:
                idle = sorted((m for m in resident if not running[m]), key=lambda m: resident[m])
                if places_blocked or len(idle) < surplus:
                    places_blocked = True
                    blocked_models.add(ticket.model)
                    continue
                evict = tuple(idle[:surplus])
            elif places_blocked:
                blocked_models.add(ticket.model)
                continue
            for model in evict:
                del resident[model]
            resident[ticket.model] = ticket.number
        running[ticket.model] += 1
        exclusive_running = ticket.exclusive
        grants.append(Grant(ticket, evict))
    return grants


# -- the service ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ResidencyChange:
    """What a load, unload or eviction did, for the log."""

    event: Residency
    route: Route
    ok: bool
    reason: str
    before: MemoryReading | None
    after: MemoryReading | None
    duration_s: float
    t_ns: int


@dataclass(slots=True)
class Slot:
    """Permission to generate on a resident model; while held, the model is not evicted."""

    resident: ResidentModel
    granted_ns: int
    """Monotonic: the slot was there and the model in memory."""
    load_ns: int


@dataclass(slots=True)
class _Entry:
    ticket: Ticket
    route: Route
    granted: asyncio.Future[list[asyncio.Task[None]]]
    """Its result: the evictions under way that make room for this request."""
    on_position: Callable[[int, str], None]
    shown: int = 0


@dataclass(slots=True)
class _Place:
    route: Route
    last_use: int
    expires_at: float = field(default=float("inf"))


class ModelRotationService:
    """Grants slots over all providers.

    Args:
        max_resident: places for models that count against the cache.
        max_queue: requests that may wait; one more gets ``QUEUE_FULL``.
        on_change: told of every load and unload.
    """

    def __init__(
        self,
        *,
        max_resident: int,
        max_queue: int,
        on_change: Callable[[ResidencyChange], None] = lambda change: None,
    ) -> None:
        self._max_resident = max_resident
        self._max_queue = max_queue
        self._on_change = on_change
        self._waiting: list[_Entry] = []
        self._running: Counter[str] = Counter()
        self._exclusive_running = False
        self._resident: dict[str, _Place] = {}
        self._numbers = count(1)
        self._unloading: dict[str, asyncio.Task[None]] = {}
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def queue(self) -> list[Ticket]:
        """Waiting tickets in order."""
        return [entry.ticket for entry in self._waiting]

    @property
    def running(self) -> Mapping[str, int]:
        """Generations under way, by model id."""
        return {model: n for model, n in self._running.items() if n}

    @asynccontextmanager
    async def slot(
        self,
        route: Route,
        *,
        mode: TimingMode,
        keep_alive_s: float,
        num_ctx: int | None = None,
        load_timeout_s: float | None = None,
        cancel: CancellationToken,
        queue_timeout_s: float,
        on_position: Callable[[int, str], None],
        on_loading: Callable[[str], None],
    ) -> AsyncIterator[Slot]:
        """Wait for the model and hold it: queue, evict, load, lease.

        Args:
            route: provider and model.
            mode: isolated and interleaved requests run with nothing beside them.
            keep_alive_s: idle time after which the model is unloaded; 0 is at once.
            num_ctx: context length that the request wants, where a load depends on it.
            load_timeout_s: longest wait for the load; None leaves it to the provider.
            cancel: leaves the queue, or abandons the load.
            queue_timeout_s: longest wait in the queue, the load not counted.
            on_position: called with (position, reason) when the request must wait.
            on_loading: called with a sentence when a load begins.

        Raises:
            WorkbenchError: ``QUEUE_FULL``, ``TIMEOUT`` (in the queue), ``CANCELLED``, or what the
                provider says of the load.
        """
        ticket = Ticket(
            number=next(self._numbers),
            model=route.model,
            exclusive=mode is not TimingMode.CONCURRENT,
            counted=route.provider.counts_against_cache,
            concurrency=route.provider.concurrency,
        )
        evictions = await self._wait_for_grant(ticket, route, cancel, queue_timeout_s, on_position)
        try:
            await asyncio.gather(*(asyncio.shield(eviction) for eviction in evictions))
            started = time.monotonic_ns()
            resident = await self._ensure_resident(
                route, keep_alive_s, num_ctx, load_timeout_s, cancel, on_loading
            )
            # To be told that the model is still there is neither a load nor waiting for a slot.
            ready = time.monotonic_ns() if resident.fresh else started
            yield Slot(resident, granted_ns=ready, load_ns=ready - started)
        finally:
            self._release(ticket, keep_alive_s)

    async def load(self, route: Route, *, keep_alive_s: float) -> None:
        """Bring a model into memory ahead of its first request."""
        async with self.slot(
            route,
            mode=TimingMode.CONCURRENT,
            keep_alive_s=keep_alive_s,
            cancel=CancellationToken(),
            queue_timeout_s=3600,
            on_position=lambda position, reason: None,
            on_loading=lambda message: None,
        ):
            pass

    async def unload(self, route: Route) -> None:
        """Take a model out of memory at the user's wish.

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` while the model is generating.
        """
        if self._running[route.model]:
            raise WorkbenchError(
                ErrorCode.INVALID_REQUEST,
                f"{route.model} is answering {self._running[route.model]} request(s).",
                fix="Stop them first, or wait until they are done.",
                operation="unload",
                provider=route.provider.name,
            )
        self._resident.pop(route.model, None)
        await asyncio.shield(self._begin_unload(route, "unload", "asked for by the user"))
        self._dispatch()

    async def close(self) -> None:
        """Stop the sweeper and wait for unloads under way."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        await asyncio.gather(*self._unloading.values(), return_exceptions=True)

    # -- queue

    async def _wait_for_grant(
        self,
        ticket: Ticket,
        route: Route,
        cancel: CancellationToken,
        timeout_s: float,
        on_position: Callable[[int, str], None],
    ) -> list[asyncio.Task[None]]:
        if len(self._waiting) >= self._max_queue:
            raise WorkbenchError(
                ErrorCode.QUEUE_FULL,
                f"{len(self._waiting)} requests are waiting, which is the limit.",
                fix="Try again shortly, or raise WORKBENCH_MAX_QUEUE.",
                operation="queue",
                retry_after_s=5.0,
            )
        entry = _Entry(ticket, route, asyncio.get_running_loop().create_future(), on_position)
        self._waiting.append(entry)
        self._dispatch()
        stop = asyncio.ensure_future(cancel.wait())
        granted = False
        try:
            waits: set[asyncio.Future[Any]] = {entry.granted, stop}
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            granted = entry.granted.done() and not entry.granted.cancelled()
            if not granted:
                self._waiting.remove(entry)
                self._dispatch()
        if granted and not cancel.cancelled:
            return entry.granted.result()
        if granted:
            self._release(ticket, None)
        if cancel.cancelled:
            raise WorkbenchError(
                ErrorCode.CANCELLED, "Cancelled while waiting in the queue.", operation="queue"
            )
        raise WorkbenchError(
            ErrorCode.TIMEOUT,
            f"The request waited {timeout_s:g} s in the queue.",
            fix="Stop other requests, or raise timeouts.queue_s.",
            operation="queue",
            details={"phase": "queue"},
        )

    def _dispatch(self) -> None:
        """Carry out the plan; called after every change of the snapshot.

        All state changes at once, before anything is awaited: an evicted model is gone from the
        snapshot, and its unload under way, when the next request is looked at.
        """
        snapshot = Snapshot(
            waiting=[entry.ticket for entry in self._waiting],
            running=dict(self._running),
            exclusive_running=self._exclusive_running,
            resident={
                model: residency.last_use
                for model, residency in self._resident.items()
                if residency.route.provider.counts_against_cache
            },
            max_resident=self._max_resident,
        )
        entries = {entry.ticket.number: entry for entry in self._waiting}
        for grant in plan(snapshot):
            entry = entries[grant.ticket.number]
            self._waiting.remove(entry)
            self._running[grant.ticket.model] += 1
            self._exclusive_running = grant.ticket.exclusive
            evictions = [
                self._begin_unload(
                    self._resident.pop(model).route,
                    "evict",
                    f"to make room for {entry.route.model}",
                )
                for model in grant.evict
            ]
            self._resident[entry.route.model] = _Place(entry.route, grant.ticket.number)
            entry.granted.set_result(evictions)
        for position, entry in enumerate(self._waiting, start=1):
            if entry.shown != position:
                entry.shown = position
                entry.on_position(position, self._reason(entry.ticket))

    def _reason(self, ticket: Ticket) -> str:
        if self._exclusive_running:
            return "another request runs alone"
        if ticket.exclusive:
            return "waits until nothing else runs"
        if self._running[ticket.model] >= ticket.concurrency:
            return "the model is answering another request"
        return "all places for resident models are in use"

    def _release(self, ticket: Ticket, keep_alive_s: float | None) -> None:
        self._running[ticket.model] -= 1
        if ticket.exclusive:
            self._exclusive_running = False
        residency = self._resident.get(ticket.model)
        if residency is not None and not self._running[ticket.model] and keep_alive_s is not None:
            residency.expires_at = time.monotonic() + keep_alive_s
            self._ensure_sweeper()
        self._dispatch()

    # -- residency

    async def _ensure_resident(
        self,
        route: Route,
        keep_alive_s: float,
        num_ctx: int | None,
        load_timeout_s: float | None,
        cancel: CancellationToken,
        on_loading: Callable[[str], None],
    ) -> ResidentModel:
        """Ask the owner to make the model ready; never act on what we believe to be resident."""
        if (unloading := self._unloading.get(route.model)) is not None:
            with suppress(WorkbenchError):  # its own request was told
                await asyncio.shield(unloading)
        provider = route.provider
        if provider.resident(route.name) is None:
            on_loading(f"loading {route.model}")
        started = time.monotonic_ns()
        load = asyncio.ensure_future(
            provider.load(route.name, keep_alive_s=keep_alive_s, num_ctx=num_ctx)
        )
        stop = asyncio.ensure_future(cancel.wait())
        try:
            waits: set[asyncio.Future[Any]] = {load, stop}
            await asyncio.wait(waits, timeout=load_timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not load.done() and not cancel.cancelled:
                raise WorkbenchError(
                    ErrorCode.TIMEOUT,
                    f"Loading {route.model} took longer than {load_timeout_s:g} s.",
                    fix="Raise timeouts.load_s, or choose a smaller model.",
                    operation="load",
                    details={"phase": "load"},
                )
            if not load.done():
                raise WorkbenchError(
                    ErrorCode.CANCELLED, "Cancelled while the model was loading.", operation="load"
                )
            resident = load.result()
        except (WorkbenchError, asyncio.CancelledError) as error:
            self._resident.pop(route.model, None)
            self._report("load", route, False, str(error), None, None, started)
            raise
        finally:
            stop.cancel()
            load.cancel()  # without effect when it is done
        if resident.fresh:
            after = await asyncio.to_thread(read_tree, resident.pids)
            self._report("load", route, True, "first use", None, after, started)
        return resident

    def _begin_unload(self, route: Route, event: Residency, reason: str) -> asyncio.Task[None]:
        """Unload as a task of its own, so that a request for the model can wait for its end."""
        task = self._unloading.get(route.model)
        if task is None:
            task = asyncio.ensure_future(self._unload(route, event, reason))
            self._unloading[route.model] = task
            task.add_done_callback(lambda done: self._unloading.pop(route.model, None))
        return task

    async def _unload(self, route: Route, event: Residency, reason: str) -> None:
        started = time.monotonic_ns()
        pids = tuple(route.provider.pids(route.name))
        before = await asyncio.to_thread(read_tree, pids)
        try:
            await route.provider.unload(route.name)
        except WorkbenchError as error:
            self._report(event, route, False, str(error), before, None, started)
            raise
        after = await asyncio.to_thread(read_tree, pids)
        self._report(event, route, True, reason, before, after, started)

    def _report(
        self,
        event: Residency,
        route: Route,
        ok: bool,
        reason: str,
        before: MemoryReading | None,
        after: MemoryReading | None,
        started_ns: int,
    ) -> None:
        change = ResidencyChange(
            event=event,
            route=route,
            ok=ok,
            reason=reason,
            before=before,
            after=after,
            duration_s=(time.monotonic_ns() - started_ns) / 1e9,
            t_ns=started_ns,
        )
        _log.info(event, model=route.model, ok=ok, reason=reason, duration_s=change.duration_s)
        self._on_change(change)

    def _ensure_sweeper(self) -> None:
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.ensure_future(self._sweep())

    async def _sweep(self) -> None:
        """Unload idle models whose keep_alive has passed; ends when none is left to watch.

        Ollama keeps its own time (we send it the same keep_alive), so only models whose memory
        is ours are unloaded here; the others are only forgotten.
        """
        while self._resident:
            now = time.monotonic()
            for model, residency in list(self._resident.items()):
                if self._running[model] or residency.expires_at > now:
                    continue
                del self._resident[model]
                if residency.route.provider.counts_against_cache:
                    try:
                        await asyncio.shield(
                            self._begin_unload(residency.route, "unload", "keep_alive passed")
                        )
                    except WorkbenchError as error:
                        _log.warning("unload_failed", model=model, error=str(error))
            self._dispatch()
            nearest = min((r.expires_at for r in self._resident.values()), default=None)
            if nearest is None:
                return
            await asyncio.sleep(min(max(nearest - time.monotonic(), 0.05), 5.0))
