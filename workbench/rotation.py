"""ModelRotationService and QueueService: who is resident, who waits, who goes next.

The policy is :func:`plan`, a pure function of a snapshot. The service around it keeps the
snapshot, wakes the requests that the plan admits, and does the loading and unloading.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

from workbench import logs, receipts
from workbench.errors import ErrorCode, WorkbenchError
from workbench.memory import MemoryReading, host_available_bytes, read_tree
from workbench.providers.base import CancellationToken, ResidentModel
from workbench.receipts import Receipt
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


@dataclass(frozen=True, slots=True)
class Plan:
    """Who goes on now, in order of arrival, and why each of the others waits (by number)."""

    grants: tuple[Grant, ...]
    waits: Mapping[int, str]


def plan(snapshot: Snapshot) -> Plan:
    """Which waiting requests may go on now.

    Decided for each ticket in order of arrival:

    1. Nothing may pass an exclusive request (isolated, interleaved) that waits, nor run beside one.
    2. An exclusive request goes on only when nothing runs.
    3. A model runs at most ``concurrency`` generations; later requests for it keep their order.
    4. A resident model costs nothing.
    5. A model that needs a cached place takes a free one, else that of the least recently used
       idle model; a leased model is never evicted. With none idle it waits, and so does every
       later request that needs a place.
    6. The model whose place it waits for takes no later requests: one that runs several at a time
       would else never be idle. So no request is overtaken for ever.
    """
    running = Counter(snapshot.running)
    resident = dict(snapshot.resident)
    grants: list[Grant] = []
    waits: dict[int, str] = {}
    exclusive_running = snapshot.exclusive_running
    exclusive_waiting = places_blocked = False
    leaving: set[str] = set()
    for ticket in snapshot.waiting:
        model = ticket.model
        evict: tuple[str, ...] = ()
        if exclusive_running:
            waits[ticket.number] = "another request runs alone"
            continue
        if exclusive_waiting:
            waits[ticket.number] = "another request waits to run alone"
            continue
        if ticket.exclusive and running.total():
            exclusive_waiting = True
            waits[ticket.number] = "waits until nothing else runs"
            continue
        if running[model] >= ticket.concurrency:
            waits[ticket.number] = _busy(running[model])
            continue
        if model in leaving:
            waits[ticket.number] = "the model makes room for an earlier request"
            continue
        if ticket.counted and model not in resident:
            surplus = len(resident) + 1 - snapshot.max_resident
            by_use = sorted(resident, key=lambda m: (running[m] > 0, resident[m]))
            leave = tuple(by_use[:surplus]) if surplus > 0 else ()
            if places_blocked or any(running[m] for m in leave):
                if not places_blocked:
                    leaving.update(leave)
                places_blocked = True
                waits[ticket.number] = "all places for resident models are in use"
                continue
            evict = leave
            for gone in evict:
                del resident[gone]
        if ticket.counted:
            resident[model] = ticket.number
        running[model] += 1
        exclusive_running = ticket.exclusive
        grants.append(Grant(ticket, evict))
    return Plan(tuple(grants), waits)


def _busy(running: int) -> str:
    if running == 1:
        return "the model is answering another request"
    return f"the model is answering {running} requests, as many as it takes"


# -- the service ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ResidencyChange:
    """What a load, unload or eviction did, for the log; ``receipt`` is of the latter two."""

    event: Residency
    route: Route
    ok: bool
    reason: str
    duration_s: float
    t_ns: int
    before: MemoryReading | None = None
    after: MemoryReading | None = None
    receipt: Receipt | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


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
    shown: tuple[int, str] | None = None


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
        unload_grace_s: how long a model's processes may take to give their memory back, before
            they are killed.
        on_change: told of every load and unload.
    """

    def __init__(
        self,
        *,
        max_resident: int,
        max_queue: int,
        unload_grace_s: float = 10.0,
        on_change: Callable[[ResidencyChange], None] = lambda change: None,
    ) -> None:
        self._max_resident = max_resident
        self._max_queue = max_queue
        self._unload_grace_s = unload_grace_s
        self._on_change = on_change
        self._waiting: list[_Entry] = []
        self._running: Counter[str] = Counter()
        self._exclusive_running = False
        self._resident: dict[str, _Place] = {}
        self._numbers = count(1)
        self._unloading: dict[str, asyncio.Task[None]] = {}
        self._loading: set[str] = set()
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
            WorkbenchError: ``INVALID_REQUEST`` while the model is generating; ``TIMEOUT`` if its
                memory did not come back, or what the provider says.
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

    async def make_room(self, model: str) -> list[str]:
        """Evict the idle models of all runtimes, because memory ran out for ``model``.

        Nothing tells how much it lacks, so all of them go, the least recently used first.

        Returns:
            The ids of the models that went.
        """
        idle = sorted(
            (
                (place.last_use, other)
                for other, place in self._resident.items()
                if other != model
                and not self._running[other]
                and place.route.provider.resident(place.route.name) is not None
            ),
        )
        unloads = [
            self._begin_unload(
                self._resident.pop(other).route, "evict", f"memory ran out for {model}"
            )
            for _, other in idle
        ]
        done = await asyncio.gather(
            *(asyncio.shield(unload) for unload in unloads), return_exceptions=True
        )
        self._dispatch()
        return [other for (_, other), problem in zip(idle, done, strict=True) if problem is None]

    async def figures(self) -> dict[str, Any]:
        """What memory there is and who holds it: bytes available, and PSS by resident model."""
        pids = {
            model: tuple(place.route.provider.pids(place.route.name))
            for model, place in self._resident.items()
        }

        def read() -> dict[str, int]:
            readings = {model: read_tree(roots) for model, roots in pids.items()}
            return {model: r.pss_bytes + r.gpu_bytes for model, r in readings.items() if r}

        return {
            "host_available_bytes": host_available_bytes(),
            "resident_bytes": await asyncio.to_thread(read),
        }

    def forget(self, model: str) -> None:
        """The model's process ended by itself: its place is free, unless a request is using it."""
        if not self._running[model] and self._resident.pop(model, None) is not None:
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
        planned = plan(snapshot)
        for grant in planned.grants:
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
            shown = (position, planned.waits[entry.ticket.number])
            if entry.shown != shown:
                entry.shown = shown
                entry.on_position(*shown)

    def _release(self, ticket: Ticket, keep_alive_s: float | None) -> None:
        self._running[ticket.model] -= 1
        if ticket.exclusive:
            self._exclusive_running = False
        residency = self._resident.get(ticket.model)
        if residency is not None and not self._running[ticket.model]:
            route = residency.route
            if ticket.counted and route.provider.resident(route.name) is None:
                del self._resident[ticket.model]  # its process died while it answered
            elif keep_alive_s is not None:
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
        if route.provider.resident(route.name) is None:
            on_loading(f"loading {route.model}")
        try:
            return await self._load(route, keep_alive_s, num_ctx, load_timeout_s, cancel)
        except WorkbenchError as error:
            if error.code is not ErrorCode.HF_MEMORY_EXCEEDED:
                raise
            evicted = await self.make_room(route.model)
            if not evicted:
                raise await self.refusal(error, evicted) from error
            on_loading(f"loading {route.model} after evicting {', '.join(evicted)}")
        # It is given its place back, which the failure took away.
        self._resident[route.model] = _Place(route, next(self._numbers))
        try:
            return await self._load(route, keep_alive_s, num_ctx, load_timeout_s, cancel)
        except WorkbenchError as error:
            if error.code is not ErrorCode.HF_MEMORY_EXCEEDED:
                raise
            raise await self.refusal(error, evicted) from error

    async def refusal(self, error: WorkbenchError, evicted: Sequence[str]) -> WorkbenchError:
        """The error of memory that is not enough even now, with the figures."""
        figures = await self.figures()
        held = [f"{m} {size / 1e6:.0f} MB" for m, size in figures["resident_bytes"].items()]
        return WorkbenchError(
            error.code,
            f"{error.message} The machine has {figures['host_available_bytes'] / 1e6:.0f} MB "
            f"available; in memory: {', '.join(held) or 'no other model'}; "
            f"evicted: {', '.join(evicted) or 'none, as none was idle'}.",
            fix=error.fix,
            operation=error.operation,
            provider=error.provider,
            details={**error.details, **figures, "evicted": list(evicted)},
        )

    async def _load(
        self,
        route: Route,
        keep_alive_s: float,
        num_ctx: int | None,
        load_timeout_s: float | None,
        cancel: CancellationToken,
    ) -> ResidentModel:
        started = time.monotonic_ns()
        self._loading.add(route.model)
        load = asyncio.ensure_future(
            route.provider.load(route.name, keep_alive_s=keep_alive_s, num_ctx=num_ctx)
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
            # Requests that come while a model loads share the load: the last one settles it.
            if self._running[route.model] <= 1:
                self._loading.discard(route.model)
                self._resident.pop(route.model, None)
                if not load.done() and route.provider.counts_against_cache:
                    # Or it would go on, and the model would be in memory without a place.
                    self._begin_unload(route, "unload", "its load was given up")
                self._report(_load_failed(route, error, started))
            raise
        finally:
            stop.cancel()
            load.cancel()  # without effect when it is done
        if resident.fresh and route.model in self._loading:
            self._loading.discard(route.model)
            after = await asyncio.to_thread(read_tree, resident.pids)
            self._report(
                ResidencyChange(
                    "load", route, True, "first use", _seconds_since(started), started, after=after
                )
            )
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
        receipt = await receipts.unload(route.provider, route.name, grace_s=self._unload_grace_s)
        self._report(
            ResidencyChange(
                event,
                route,
                ok=receipt.problem is None,
                reason=f"{reason}; {receipt.problem}" if receipt.problem else reason,
                duration_s=receipt.duration_s,
                t_ns=started,
                before=receipt.before,
                after=receipt.after,
                receipt=receipt,
                details={"killed": list(receipt.killed)} if receipt.killed else {},
            )
        )
        if receipt.error is not None:
            raise receipt.error

    def _report(self, change: ResidencyChange) -> None:
        _log.log(
            logging.INFO if change.ok else logging.WARNING,
            change.event,
            model=change.route.model,
            ok=change.ok,
            reason=change.reason,
            duration_s=change.duration_s,
        )
        self._on_change(change)

    def _ensure_sweeper(self) -> None:
        if self._sweeper is None or self._sweeper.done():
            # In a context of its own: what it unloads is nobody's request.
            self._sweeper = asyncio.get_running_loop().create_task(
                self._sweep(), context=contextvars.Context()
            )

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


def _load_failed(route: Route, error: BaseException, started_ns: int) -> ResidencyChange:
    details = {"code": error.code, **error.details} if isinstance(error, WorkbenchError) else {}
    reason = str(error) or "cancelled"
    return ResidencyChange(
        "load", route, False, reason, _seconds_since(started_ns), started_ns, details=details
    )


def _seconds_since(t_ns: int) -> float:
    return (time.monotonic_ns() - t_ns) / 1e9
