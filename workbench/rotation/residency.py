"""Who is in memory: loads, prefetches, unloads, pins and the time that idle models stay.

Decides nothing: the service says what the policy wants, this carries it out and says how it went.
"""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from workbench import logs, receipts
from workbench.budget import DeviceBytes, MemoryBook
from workbench.contention import Generations
from workbench.errors import WorkbenchError
from workbench.memory import read_tree
from workbench.providers import guard
from workbench.providers.base import CancellationToken, ResidentModel
from workbench.rotation import changes
from workbench.rotation.alarm import Alarm
from workbench.rotation.changes import Residency, ResidencyChange
from workbench.rotation.patience import first_of, given_up
from workbench.rotation.places import Place
from workbench.rotation.refusals import FailedLoads
from workbench.rotation.speeds import Speeds
from workbench.rotation.wanted import Wanted
from workbench.router import Route

_log = logs.get(__name__)

_TICK_S: Final = 1.0
"""Two clocks may differ so much about the end of a stay."""
FOREVER_S: Final = -1.0
"""A keep_alive that never ends."""


class Residents:
    """The models in memory. Belongs to one event loop.

    Args:
        leases: how many generations a model has under way.
        waiter: the context of the first request that waits for a model as it is; None: none does.
        book: told of loads and unloads, asked for nothing but what a model holds.
        generations: the ledger in which loads are marked, as they take the cores too.
        grace_s: how long a model's processes may take to give their memory back.
        failed_load_s: how long a load that failed for a lasting reason is remembered.
        on_change: told of every load and unload, for the log.
        decide: called when something has changed that the policy looks at.
    """

    def __init__(
        self,
        *,
        leases: Callable[[str], int],
        waiter: Callable[[str, int | None], contextvars.Context | None],
        book: MemoryBook | None,
        generations: Generations,
        grace_s: float,
        failed_load_s: float,
        on_change: Callable[[ResidencyChange], None],
        decide: Callable[[], None],
    ) -> None:
        self.places: dict[str, Place] = {}
        self.pinned: set[str] = set()
        self.loading: dict[str, float] = {}
        """Monotonic seconds at which each load under way began."""
        self.unloading: dict[str, asyncio.Task[None]] = {}
        self.leaving: dict[str, DeviceBytes] = {}
        """What those that unload held when it began."""
        self.failed = FailedLoads(failed_load_s)
        self.speeds = Speeds()
        self._leases = leases
        self._waiter = waiter
        self._book = book
        self._generations = generations
        self._grace_s = grace_s
        self._on_change = on_change
        self._decide = decide
        self._prefetching: dict[str, asyncio.Task[None]] = {}
        self._alarm = Alarm(self._expire)

    def runner(self, model: str) -> frozenset[str]:
        """All names of the process that it is in, or would be in, its own among them."""
        return self._book.shared(model) if self._book is not None else frozenset({model})

    def idle(self, model: str) -> bool:
        """Whether nobody uses or loads it, by whatever name."""
        names = self.runner(model)
        return self.loading.keys().isdisjoint(names) and not any(map(self._leases, names))

    def kept(self, model: str) -> bool:
        """Whether it is pinned, by whatever name."""
        return not self.pinned.isdisjoint(self.runner(model))

    def knows(self, route: Route) -> bool:
        """Whether it is in memory, on its way in or on its way out, as far as can be told."""
        resident = route.provider.resident(route.name) is not None
        return resident or route.model in (self.places.keys() | self.unloading.keys())

    def stay_s(self, model: str, wanted_s: float) -> float:
        """How long a model stays when it is idle, in seconds; negative: for ever."""
        return FOREVER_S if self.kept(model) else wanted_s

    def settle(self, model: str, keep_alive_s: float | None) -> None:
        """The last request for a model has ended: its time begins to run."""
        place = self.places.get(model)
        if place is None or model in self.loading:
            return  # one that is on its way is settled when it has come
        route = place.route
        place.used_at = dt.datetime.now(dt.UTC)
        told = route.provider.counts_against_cache or place.dead
        if told and route.provider.resident(route.name) is None:
            del self.places[model]  # its process died while it answered
        elif keep_alive_s is not None:
            stay_s = self.stay_s(model, keep_alive_s)
            ends = math.inf if stay_s < 0 else time.monotonic() + stay_s
            for other in self.runner(model) & self.places.keys():
                self.places[other].expires_at = ends
            self._wake_at_expiry()

    def drop_departed(self) -> None:
        """Idle models that their runtime does not know any more hold no place."""
        for model, place in list(self.places.items()):
            if self.idle(model) and place.route.provider.resident(place.route.name) is None:
                self._departed(model, place)

    def _departed(self, model: str, place: Place) -> None:
        """It left its runtime without our doing."""
        del self.places[model]
        if not place.route.provider.loads:
            return  # a server that is silent has not unloaded anything
        if time.monotonic() >= place.expires_at - _TICK_S:
            reason = "keep_alive passed"
        else:
            reason = f"{place.route.provider.name} does not have it in memory any more"
        self.report(changes.instant("unload", place.route, reason))
        self.end_pin(place.route, "it is not in memory any more")
        self.tell_gone(model)

    def end_pin(self, route: Route, reason: str) -> None:
        """It is not kept any more, if it was."""
        if route.model in self.pinned:
            self.pinned.discard(route.model)
            self.report(changes.instant("unpin", route, reason))

    def tell_gone(self, model: str) -> None:
        """It is not in memory any more."""
        if self._book is not None:
            self._book.gone(model)

    async def close(self, keep_alive_s: float) -> None:
        """Wait for loads and unloads under way; then nothing stays for ever because of us.

        What lies in our memory is unloaded, and so is a model of another runtime that we loaded
        and that would never expire. One that was there before us gets ``keep_alive_s``.
        """
        self._alarm.cancel()
        for task in self._prefetching.values():
            task.cancel()
        under_way = [*self.unloading.values(), *self._prefetching.values()]
        await asyncio.gather(*under_way, return_exceptions=True)
        if last := self._leave(keep_alive_s):
            await asyncio.wait(last, timeout=self._grace_s)

    def _leave(self, keep_alive_s: float) -> list[asyncio.Task[None]]:
        tasks: list[asyncio.Task[None]] = []
        gone: set[str] = set()
        for model, place in list(self.places.items()):
            provider, name = place.route.provider, place.route.name
            for_ever = self.kept(model) or math.isinf(place.expires_at)
            expires = not provider.counts_against_cache and not for_ever
            if expires or not provider.loads or model in gone or provider.resident(name) is None:
                continue
            if provider.counts_against_cache or place.ours:
                gone |= self.runner(model)
                tasks.append(self.begin_unload(place.route, "unload", "the workbench stops"))
            else:
                tasks.append(asyncio.ensure_future(self._give_back(place, keep_alive_s)))
        self.pinned.clear()
        return tasks

    async def _give_back(self, place: Place, keep_alive_s: float) -> None:
        """Let a model that another program had loaded expire again."""
        route = place.route
        try:
            await guard.load(route.provider, route.name, keep_alive_s, place.num_ctx)
        except WorkbenchError as error:
            change = changes.instant("unpin", route, str(error), ok=False, code=error.code)
        else:
            change = changes.instant("unpin", route, "the workbench stops")
        self.report(change)

    # -- in

    def not_needed(self, route: Route) -> None:
        """Who was to load it has left before: its place is free, unless others bring it in."""
        model = route.model
        under_way = model in self.loading or model in self._prefetching
        if (
            not under_way
            and self._leases(model) <= 1
            and route.provider.resident(route.name) is None
        ):
            self.places.pop(model, None)

    def let_go(self, wanted: Wanted, leases: int = 0) -> None:
        """Who waited for its load, with so many leases, leaves: it ends if nobody else waits."""
        model = wanted.route.model
        task = self._prefetching.get(model)
        others = self._leases(model) > leases or self._waiter(model, wanted.num_ctx) is not None
        if task is not None and not others:
            task.cancel()

    async def bring(
        self,
        wanted: Wanted,
        reason: str,
        timeout_s: float | None,
        cancel: CancellationToken,
    ) -> ResidentModel:
        """Ask the owner to make a leased model ready; callers that come while it loads share it.

        A load goes on while anybody waits for it, whoever began it.

        Raises:
            WorkbenchError: ``TIMEOUT``, ``CANCELLED``, or what the provider says.
        """
        route = wanted.route
        if (prefetch := self._prefetching.get(route.model)) is not None:
            try:
                await first_of(prefetch, cancel, timeout_s)
            finally:
                if not prefetch.done():
                    self.let_go(wanted, 1)
            if not prefetch.done():
                raise given_up(route, cancel, timeout_s)
        started, seen = self._begins(wanted)
        load = asyncio.ensure_future(self._load(wanted))
        try:
            await first_of(load, cancel, timeout_s)
            if not load.done():
                raise given_up(route, cancel, timeout_s)
            resident = load.result()
        except BaseException as error:  # of a defect too: nothing may stay "loading" for ever
            # Requests that come while a model loads share the load: the last one settles it.
            if not load.done() and (heir := self._heir(wanted)) is not None:
                self._hand_on(wanted, load, started, seen, reason, heir)
            elif self._leases(route.model) <= 1:
                self.places.pop(route.model, None)
                if not load.done() and route.provider.counts_against_cache:
                    # Or it would go on, and the model would be in memory without a place.
                    self.begin_unload(route, "unload", "its load was given up")
                self._failed_to_load(route, error, started)
            raise
        finally:
            if route.model not in self._prefetching:
                load.cancel()  # without effect when it is done
        await self._loaded(route, resident, started, seen, reason)
        # Who waited for a load that another began has waited for a load.
        return replace(resident, fresh=True) if prefetch is not None else resident

    def _load(self, wanted: Wanted) -> Awaitable[ResidentModel]:
        """The owner's own loading, not begun yet."""
        route, stay_s = wanted.route, self.stay_s(wanted.route.model, wanted.keep_alive_s)
        return guard.load(route.provider, route.name, stay_s, wanted.num_ctx)

    def _heir(self, wanted: Wanted) -> contextvars.Context | None:
        """Who gets the load that its only user gives up: the first that waits for such a one."""
        model = wanted.route.model
        return self._waiter(model, wanted.num_ctx) if self._leases(model) <= 1 else None

    def _hand_on(
        self,
        wanted: Wanted,
        load: asyncio.Future[ResidentModel],
        started: int,
        seen: bool,
        reason: str,
        heir: contextvars.Context,
    ) -> None:
        rest = self._finish(wanted, load, started, seen, reason, handed_on=True)
        self._follow(wanted.route.model, asyncio.get_running_loop().create_task(rest, context=heir))

    def _follow(self, model: str, task: asyncio.Task[None]) -> None:
        self._prefetching[model] = task
        task.add_done_callback(lambda done: self._prefetched(model, done))

    def prefetch(self, wanted: Wanted, reason: str, after: Iterable[asyncio.Task[None]]) -> None:
        """Begin to load a model for a request that still waits."""
        model = wanted.route.model
        self.places[model] = Place(wanted.route, 0, wanted.num_ctx)
        self.loading[model] = time.monotonic()
        self._follow(model, asyncio.ensure_future(self._prefetch(wanted, reason, tuple(after))))

    async def _prefetch(
        self, wanted: Wanted, reason: str, after: tuple[asyncio.Task[None], ...]
    ) -> None:
        route = wanted.route
        try:
            for unload in after:
                with suppress(WorkbenchError):
                    await asyncio.shield(unload)
        except asyncio.CancelledError:
            self.loading.pop(route.model, None)
            if self._leases(route.model) == 0:
                self.places.pop(route.model, None)
            raise
        self.loading.pop(route.model, None)
        started, seen = self._begins(wanted)
        await self._finish(wanted, self._load(wanted), started, seen, reason, prefetch=True)

    async def _finish(
        self,
        wanted: Wanted,
        load: Awaitable[ResidentModel],
        started: int,
        seen: bool,
        reason: str,
        **details: Any,
    ) -> None:
        """Wait for a load that nobody has a slot for."""
        route = wanted.route
        try:
            resident = await load
        except (Exception, asyncio.CancelledError) as error:
            if self._leases(route.model) == 0:
                self.places.pop(route.model, None)
                if isinstance(error, asyncio.CancelledError) and (
                    route.provider.counts_against_cache
                ):
                    self.begin_unload(route, "unload", "its load was given up")
            self._failed_to_load(route, error, started, **details)
            return
        await self._loaded(route, resident, started, seen, reason, **details)
        if self._leases(route.model) == 0:
            # Long enough to be used by who it was loaded for.
            self.settle(route.model, wanted.keep_alive_s or 1.0)

    def _prefetched(self, model: str, task: asyncio.Task[None]) -> None:
        if self._prefetching.get(model) is task:  # else another one has begun since it failed
            del self._prefetching[model]
        self._decide()

    def _begins(self, wanted: Wanted) -> tuple[int, bool]:
        """When what may be a load began (monotonic ns), and whether it is seen to be one."""
        started, model = time.monotonic_ns(), wanted.route.model
        seen = wanted.route.provider.resident(wanted.route.name) is None
        if seen and model not in self.loading:
            self.loading[model] = time.monotonic()
            self._generations.begin(_key(model), started)
        if self._book is not None:
            self._book.loading(wanted.route, wanted.num_ctx)
        return started, seen

    async def _loaded(
        self,
        route: Route,
        resident: ResidentModel,
        started: int,
        seen: bool,
        reason: str,
        **details: Any,
    ) -> None:
        model, now = route.model, time.monotonic_ns()
        first = (begun := self.loading.pop(model, None)) is not None
        if begun is not None and seen:
            started = min(started, int(begun * 1e9))  # another may have begun it
        if resident.fresh and model in self.places:
            self.places[model].ours = True
        self.failed.loaded(model)
        if self._book is not None:
            self._book.loaded(route, resident)
        if not seen and resident.fresh:
            # It came as a surprise: its context changed, or somebody had unloaded it.
            self._generations.begin(_key(model), started)
        self._generations.end(_key(model), now)
        if not resident.fresh or not (first or not seen):
            return
        seconds = (now - started) / 1e9
        self.speeds.load_took(model, seconds)
        self._decide()  # a model that is loaded may take less than its load did
        after = await asyncio.to_thread(read_tree, resident.pids)
        if self._book is not None:
            await self._book.look()  # its account is in the row
        self.report(
            ResidencyChange(
                "load", route, True, reason, seconds, started, after=after, details=details
            )
        )

    def _failed_to_load(
        self, route: Route, error: BaseException, started: int, **details: Any
    ) -> None:
        self.loading.pop(route.model, None)
        self.failed.failed(route.model, error)
        self._generations.end(_key(route.model), time.monotonic_ns())
        if self._book is not None:
            self._book.loaded(route, None)
        self.report(changes.load_failed(route, error, started, **details))

    # -- out

    def begin_unload(self, route: Route, event: Residency, reason: str) -> asyncio.Task[None]:
        """Unload as a task of its own, so that a request for the model can wait for its end.

        The names that share its process leave with it.
        """
        model, runner = route.model, self.runner(route.model)
        known = {name: self.places.pop(name).route for name in runner & self.places.keys()}
        routes = {model: route, **known}
        task = next((self.unloading[name] for name in routes if name in self.unloading), None)
        if task is None:
            held = self._book.held() if self._book is not None else {}
            with_it = tuple(one for name, one in sorted(known.items()) if name != model)
            task = asyncio.ensure_future(self._unload(route, event, reason, with_it))
            for name in routes:
                self.unloading[name] = task
                self.leaving[name] = held.get(name, {})
            if model not in held and (owner := next(iter(runner & held.keys()), None)):
                self.leaving[model] = held[owner]
            task.add_done_callback(lambda done: self._unloaded(tuple(routes.values()), done))
        return task

    async def _unload(
        self, route: Route, event: Residency, reason: str, with_it: Iterable[Route]
    ) -> None:
        started = time.monotonic_ns()
        receipt = await receipts.unload(route.provider, route.name, grace_s=self._grace_s)
        self.report(changes.unloaded(event, route, reason, started, receipt))
        if receipt.error is not None:
            raise receipt.error
        for other in with_it:
            why = f"{reason}; it left with {route.model}, whose runner it shared"
            self.report(changes.instant(event, other, why, shared_with=route.model))

    def _unloaded(self, routes: Sequence[Route], task: asyncio.Task[None]) -> None:
        failed = task.cancelled() or task.exception() is not None
        for route in routes:
            model = route.model
            del self.unloading[model]
            self.leaving.pop(model, None)
            still_there = route.provider.resident(route.name) is not None
            if failed and still_there:
                # It holds its memory, so its place too.
                self.places.setdefault(model, Place(route, 0))
            elif model not in self.places:
                self.tell_gone(model)
        self._decide()

    # -- time

    def _wake_at_expiry(self) -> None:
        """At the time of the model that ends first."""
        self._alarm.set(place.expires_at for name, place in self.places.items() if self.idle(name))

    def _expire(self) -> None:
        """Unload idle models whose keep_alive has passed.

        Ollama keeps its own time (we send it the same keep_alive), so only models whose memory
        is ours are unloaded here; the others are forgotten, unless somebody else keeps them.
        """
        now = time.monotonic()
        for model, place in list(self.places.items()):
            if not self.idle(model) or place.expires_at > now:
                continue
            if place.route.provider.counts_against_cache:
                self.begin_unload(place.route, "unload", "keep_alive passed")
            elif place.route.provider.resident(place.route.name) is None:
                self._departed(model, place)
            elif not place.route.provider.loads:
                del self.places[model]  # it stays there, but nobody here uses it
            else:
                place.expires_at = now + _TICK_S
        self._wake_at_expiry()
        self._decide()

    # -- words

    def report(self, change: ResidencyChange) -> None:
        """Log what was done."""
        _log.log(
            logging.INFO if change.ok else logging.WARNING,
            change.event,
            model=change.route.model,
            ok=change.ok,
            reason=change.reason,
            duration_s=change.duration_s,
        )
        self._on_change(change)


def _key(model: str) -> str:
    return f"load of {model}"
