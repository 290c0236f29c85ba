"""ModelRotationService: slots for requests, and what people do with models by hand.

Who goes on and who leaves is the policy's decision (:func:`workbench.rotation.policy.plan`), which
the dispatcher carries out.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from workbench.budget import MemoryBook
from workbench.contention import Generations
from workbench.errors import ErrorCode, WorkbenchError
from workbench.memory import host, host_available_bytes, read_tree
from workbench.providers import guard
from workbench.providers.base import CancellationToken, ResidentModel
from workbench.rotation import changes, refusals
from workbench.rotation.changes import ResidencyChange
from workbench.rotation.context import ORDINARY, Context, Densities, densities, learn
from workbench.rotation.dispatcher import Dispatcher
from workbench.rotation.entrance import Entrance
from workbench.rotation.leases import Leases, Progress
from workbench.rotation.overview import Overview, Preview
from workbench.rotation.picture import UNKNOWN, Picture, view
from workbench.rotation.places import Place
from workbench.rotation.policy import plan
from workbench.rotation.queue import Entry, QueueService, Standing
from workbench.rotation.residency import FOREVER_S, Residents
from workbench.rotation.snapshot import Grant, Ticket
from workbench.rotation.speeds import Answer, Speeds
from workbench.rotation.wanted import Wanted
from workbench.router import Route
from workbench.types import Priority, TimingMode

_OUT_OF_MEMORY: Final = {ErrorCode.HF_MEMORY_EXCEEDED, ErrorCode.OLLAMA_MEMORY_EXCEEDED}


@dataclass(slots=True)
class Slot:
    """Permission to generate on a resident model; while held, the model is not evicted."""

    resident: ResidentModel
    granted_ns: int
    """Monotonic: the slot was there and the model in memory."""
    load_ns: int
    progress: Progress
    """To be told of the answer's tokens."""
    evicted: tuple[str, ...] = ()
    """Models that left for it."""
    cut: bool = False
    """Whether a bound ended the answer, and not the model."""
    prompt_tokens: int | None = None
    """What the prompt had, once the runtime has told."""
    cells: int = 0
    """Tokens of context that the runtime had room for, over all its requests."""


class ModelRotationService:
    """Grants slots over all providers, within one budget.

    Args:
        max_resident: places for models that count against the cache.
        max_queue: requests that may wait; one more gets ``QUEUE_FULL``.
        max_queue_per_model: and of these for one model.
        patience_s: after this time a request is overtaken by nobody that arrives.
        unload_grace_s: how long a model's processes may take to give their memory back, before
            they are killed.
        failed_load_s: how long a load that failed for a lasting reason evicts nobody.
        book: what memory there is and who holds it; None knows of no limit.
        generations: the ledger in which loads are marked, as they take the cores too.
        on_change: told of every load, unload, refusal and pin.
    """

    def __init__(
        self,
        *,
        max_resident: int,
        max_queue: int,
        max_queue_per_model: int | None = None,
        patience_s: Mapping[Priority, float] | None = None,
        unload_grace_s: float = 10.0,
        failed_load_s: float = 60.0,
        book: MemoryBook | None = None,
        generations: Generations | None = None,
        on_change: Callable[[ResidencyChange], None] = lambda change: None,
    ) -> None:
        self._book = book
        self.queue = QueueService(max_queue, max_queue_per_model)
        self._leases = Leases()
        self._residents = Residents(
            leases=self._leases.of,
            waiter=self.queue.waiter,
            book=book,
            generations=generations or Generations(),
            grace_s=unload_grace_s,
            failed_load_s=failed_load_s,
            on_change=on_change,
            decide=self.memory_changed,
        )
        self._numbers = count(1)
        self._picture = Picture(
            self.queue, self._leases, self._residents, book, max_resident, patience_s or {}
        )
        self._dispatcher = Dispatcher(
            self._picture, self.queue, self._leases, self._residents, book
        )
        self._dispatch = self._dispatcher.dispatch
        self._densities: dict[str, Densities] = defaultdict(densities)
        self._entrance = Entrance(book, self._residents.loading)

    @property
    def running(self) -> Mapping[str, int]:
        """Generations under way, by model id."""
        return {model: len(leases) for model, leases in self._leases.by_model.items()}

    @property
    def speeds(self) -> Speeds:
        """What loads and answers took lately."""
        return self._residents.speeds

    # -- slots

    @asynccontextmanager
    async def slot(
        self,
        route: Route,
        *,
        mode: TimingMode,
        keep_alive_s: float,
        num_ctx: int | None = None,
        context: Context | None,
        load_timeout_s: float | None = None,
        priority: Priority = Priority.INTERACTIVE,
        cancel: CancellationToken,
        queue_timeout_s: float,
        on_standing: Callable[[Standing], None] = lambda standing: None,
        on_loading: Callable[[str], None] = lambda message: None,
    ) -> AsyncIterator[Slot]:
        """Wait for the model and hold it: check, queue, evict, load, lease.

        Args:
            route: provider and model.
            mode: isolated and interleaved requests run with nothing beside them.
            keep_alive_s: idle time after which the model is unloaded; 0 is at once, negative never.
            num_ctx: context length that the request wants, where a load depends on it.
            context: what its prompt and answer may come to; None: it is only to be loaded.
            load_timeout_s: longest wait for the load; None leaves it to the provider.
            priority: who goes first of those that wait.
            cancel: leaves the queue, or abandons the load.
            queue_timeout_s: longest wait in the queue, the load not counted.
            on_standing: called with position, reason and estimate when the request must wait.
            on_loading: called with a sentence when a load begins.

        Raises:
            WorkbenchError: what is wrong with the model, before anybody is evicted for it;
                ``HF_MEMORY_EXCEEDED`` or ``OLLAMA_MEMORY_EXCEEDED`` if it can never fit, alone
                and with its context,
                ``QUEUE_FULL``, ``TIMEOUT`` (in the queue), ``CANCELLED``, or what the provider
                says of the load.
        """
        arrived_s = time.monotonic()
        self.queue.check_room(route.model)  # first, as all else costs more
        await self._check(route, num_ctx)
        ticket = Ticket(
            number=next(self._numbers),
            model=route.model,
            arrived_s=arrived_s,
            exclusive=mode is not TimingMode.CONCURRENT,
            priority=priority,
            tokens=self._tokens(route, num_ctx, context or ORDINARY),
            answer_tokens=context.max_tokens if context is not None else 0,
        )
        entry = Entry(ticket, Wanted(route, keep_alive_s, num_ctx), on_standing)
        grant = await self._wait_for_grant(entry, cancel, queue_timeout_s)
        try:
            await self._dispatcher.room(entry.wanted.route, grant, cancel)
            started = time.monotonic_ns()
            resident, more = await self._ensure_resident(
                entry.wanted, grant.reason, load_timeout_s, cancel, on_loading
            )
            # To be told that the model is still there is neither a load nor waiting for a slot.
            granted = time.monotonic_ns() if resident.fresh else started
            slot = Slot(
                resident,
                granted_ns=granted,
                load_ns=granted - started,
                progress=self._leases.ready(ticket),
                evicted=(*grant.evict, *more),
            )
            if context is None:
                yield slot
                return
            try:
                yield slot
            finally:
                self._learn(route, context, slot)
            if slot.progress.streamed and not cancel.cancelled:
                self.speeds.answer_took(route.model, _taken(slot))
        finally:
            self._release(ticket, keep_alive_s)

    async def load(self, route: Route, *, keep_alive_s: float) -> Slot:
        """Bring a model into memory ahead of its first request.

        Returns:
            The slot that it had: who left for it, and whether this has brought it in.
        """
        async with self.slot(
            route,
            mode=TimingMode.CONCURRENT,
            keep_alive_s=keep_alive_s,
            context=None,
            cancel=CancellationToken(),
            queue_timeout_s=3600,
        ) as slot:
            return slot

    async def unload(self, route: Route) -> None:
        """Take a model out of memory at the user's wish; a pin on it ends.

        One that is not in memory is no event, and no row.

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` while the model is generating, or a name that shares
                its runner is generating or pinned; ``TIMEOUT`` if its memory did not come back, or
                what the provider says.
        """
        for model in sorted(self._residents.runner(route.model)):
            shares = f", which shares the runner of {route.model}," if model != route.model else ""
            if running := self._leases.of(model):
                what = f"is answering {running} request(s)."
                fix = "Stop them first, or wait until they are done."
            elif shares and model in self._residents.pinned:
                what, fix = "is pinned.", f"Unpin {model} first."
            else:
                continue
            raise WorkbenchError(
                ErrorCode.INVALID_REQUEST,
                f"{model}{shares} {what}",
                fix=fix,
                operation="unload",
                provider=route.provider.name,
            )
        self._residents.end_pin(route, "it is unloaded at the user's wish")
        if not self._residents.knows(route):
            # Its runtime may know better than our listing.
            await guard.unload(route.provider, route.name)
            return
        unload = self._residents.begin_unload(route, "unload", "asked for by the user")
        await asyncio.shield(unload)
        self._dispatch()

    async def pin(self, route: Route) -> Sequence[str]:
        """Bring a model into memory and keep it there: it is not evicted, and never expires.

        Returns:
            The models that were evicted for it.

        Raises:
            WorkbenchError: as for a load.
        """
        slot = await self.load(route, keep_alive_s=FOREVER_S)
        self._residents.pinned.add(route.model)
        self._residents.report(changes.instant("pin", route, "asked for by the user"))
        self._dispatch()
        return slot.evicted

    async def unpin(self, route: Route, *, keep_alive_s: float) -> bool:
        """Let a model be evicted again; unused, it is unloaded after ``keep_alive_s``.

        Returns:
            Whether it was pinned.
        """
        if route.model not in self._residents.pinned:
            return False
        self._residents.pinned.discard(route.model)
        self._residents.report(changes.instant("unpin", route, "asked for by the user"))
        if route.provider.resident(route.name) is not None:
            # Also tells a runtime that keeps time itself.
            await self.load(route, keep_alive_s=keep_alive_s)
        self._dispatch()
        return True

    def stay_s(self, model: str, wanted_s: float) -> float:
        """How long a model stays after an answer, in seconds; negative: for ever, it is pinned."""
        return self._residents.stay_s(model, wanted_s)

    async def make_room(self, model: str) -> list[str]:
        """Evict the idle models of all runtimes, because memory ran out for ``model``.

        Nothing tells how much it lacks, so all of them go, the least recently used first.

        Returns:
            The ids of the models that went.
        """
        residents = self._residents
        own = residents.runner(model)
        idle = sorted(
            (place.last_use, other)
            for other, place in residents.places.items()
            if other not in own
            and place.route.provider.loads
            and residents.idle(other)
            and not residents.kept(other)
            and place.route.provider.resident(place.route.name) is not None
        )
        last = {residents.runner(other): (use, other) for use, other in idle}
        idle = sorted(last.values())  # of the names of one runner the one used last
        reason = f"memory ran out for {model}"
        unloads = [
            residents.begin_unload(residents.places[other].route, "evict", reason)
            for _, other in idle
        ]
        done = await asyncio.gather(
            *(asyncio.shield(unload) for unload in unloads), return_exceptions=True
        )
        self._dispatch()
        return [other for (_, other), problem in zip(idle, done, strict=True) if problem is None]

    def memory_changed(self) -> None:
        """Limits or holdings are not what they were: decide again."""
        self._dispatch()

    def forget(self, model: str) -> None:
        """The model's process ended by itself: its place is free, unless a request is using it."""
        self._residents.tell_gone(model)
        place = self._residents.places.get(model)
        if place is None:
            return
        if self._leases.of(model):
            place.dead = True
        else:
            del self._residents.places[model]
            self._dispatch()

    async def close(self, keep_alive_s: float = 0.0) -> None:
        """Wait for loads and unloads under way, then unload what is ours.

        Args:
            keep_alive_s: how long a pinned model stays that another program had loaded.
        """
        self._dispatcher.close()
        await self._residents.close(keep_alive_s)

    # -- what it looks like

    def overview(self) -> Overview:
        """Who is in memory, who waits and who would leave, now."""
        held = self._book.held() if self._book is not None else {}
        peak = self._book.expectation if self._book is not None else lambda model: UNKNOWN
        return view(self._picture.take(), held, peak, self._residents, self.queue)

    async def preview(self, route: Route) -> Preview:
        """What loading a model now would do, by the same policy; nothing is done."""
        need = UNKNOWN
        if self._book is not None:
            await self._book.prepare(route)
            need = self._book.predict(route)
        tokens = self._tokens(route, None, ORDINARY)
        snapshot, ticket = self._picture.with_another(route, tokens)
        planned = plan(snapshot)
        for refusal in planned.refusals:
            if refusal.ticket == ticket:
                return Preview(need, problem=refusal.reason)
        for grant in planned.grants:
            if grant.ticket == ticket:
                return Preview(need, grant.evict)
        wait = planned.waits[ticket.number]
        return Preview(need, wait.evicts, wait.reason)

    async def figures(self) -> dict[str, Any]:
        """What memory there is and who holds it: bytes available, and PSS by resident model."""
        pids = {
            model: guard.pids(place.route.provider, place.route.name)
            for model, place in self._residents.places.items()
        }

        def read() -> dict[str, int]:
            readings = {model: read_tree(roots) for model, roots in pids.items()}
            return {model: r.pss_bytes + r.gpu_bytes for model, r in readings.items() if r}

        return {
            "host_available_bytes": host_available_bytes(),
            "resident_bytes": await asyncio.to_thread(read),
        }

    async def refusal(self, error: WorkbenchError, evicted: Sequence[str]) -> WorkbenchError:
        """The error of memory that is not enough even now, with the figures."""
        return refusals.even_now(error, evicted, await self.figures())

    # -- deciding

    def _tokens(self, route: Route, num_ctx: int | None, context: Context) -> int:
        """The most context that a request may have."""
        tokens = context.tokens(self._densities.get(route.model))
        known = self._book.predict(route, num_ctx).context if self._book is not None else None
        return min(limit for limit in (tokens, num_ctx, known) if limit is not None)

    def _learn(self, route: Route, context: Context, slot: Slot) -> None:
        """What a request had, for those that come after it."""
        learn(self._densities[route.model], context, slot.prompt_tokens)
        if slot.cells and self._book is not None:
            self._book.answered(route.model, slot.cells)

    async def _check(self, route: Route, num_ctx: int | None) -> None:
        """What is wrong with a model is said before anybody waits or leaves for it."""
        try:
            await self._entrance.check(route, num_ctx)
        except WorkbenchError as error:
            refusal = changes.instant("refuse", route, str(error), ok=False, code=error.code)
            self._residents.report(refusal)
            raise

    async def _wait_for_grant(
        self, entry: Entry, cancel: CancellationToken, timeout_s: float
    ) -> Grant:
        self.queue.enter(entry)
        self._picture.arrived(entry.ticket)
        self._dispatch()
        try:
            return await self.queue.wait(entry, cancel, timeout_s, self._dispatch)
        except BaseException:
            granted = entry.granted
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                self._residents.not_needed(entry.wanted.route)
                self._release(entry.ticket, None)  # its turn came as it left
            self._residents.let_go(entry.wanted)
            raise

    def _release(self, ticket: Ticket, keep_alive_s: float | None) -> None:
        self._leases.give_back(ticket)
        if self._leases.of(ticket.model) == 0:
            self._residents.settle(ticket.model, keep_alive_s)
        self._dispatch()

    # -- into memory

    async def _ensure_resident(
        self,
        wanted: Wanted,
        reason: str,
        load_timeout_s: float | None,
        cancel: CancellationToken,
        on_loading: Callable[[str], None],
    ) -> tuple[ResidentModel, Sequence[str]]:
        """Ask the owner to make the model ready; never act on what we believe to be resident.

        Returns:
            The model, and those evicted because its load ran out of memory.
        """
        route, residents = wanted.route, self._residents
        if route.provider.resident(route.name) is None:
            on_loading(f"loading {route.model}")
        try:
            return await self._bring(wanted, reason, load_timeout_s, cancel), ()
        except WorkbenchError as error:
            if error.code not in _OUT_OF_MEMORY:
                raise
            evicted = await self.make_room(route.model)
            if not evicted:
                raise await self.refusal(error, evicted) from error
            on_loading(f"loading {route.model} after evicting {', '.join(evicted)}")
        # It is given its place back, which the failure took away.
        residents.places[route.model] = Place(route, next(self._numbers), wanted.num_ctx)
        again = "again, after idle models left"
        try:
            return await self._bring(wanted, again, load_timeout_s, cancel), evicted
        except WorkbenchError as error:
            if error.code not in _OUT_OF_MEMORY:
                raise
            raise await self.refusal(error, evicted) from error

    async def _bring(
        self, wanted: Wanted, reason: str, timeout_s: float | None, cancel: CancellationToken
    ) -> ResidentModel:
        available, need = host().available_bytes, UNKNOWN
        if self._book is not None:
            need = self._book.predict(wanted.route, wanted.num_ctx)
        try:
            return await self._residents.bring(wanted, reason, timeout_s, cancel)
        except WorkbenchError as error:
            if error.details.get("signal") != signal.SIGKILL:
                raise
            raise refusals.killed(error, need, available, await self.figures()) from error


def _taken(slot: Slot) -> Answer:
    progress, now = slot.progress, time.monotonic()
    ready, first = progress.ready_s or now, progress.first_s
    first_s = first - ready if first is not None else None
    return Answer(now - ready, first_s, progress.streamed, slot.cut)
