"""Carries the policy's plans out: after every change, and while anybody waits also with time."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from workbench.budget import MemoryBook
from workbench.errors import WorkbenchError
from workbench.providers.base import CancellationToken
from workbench.rotation import changes, refusals
from workbench.rotation.estimates import estimate
from workbench.rotation.leases import Leases, Progress
from workbench.rotation.patience import first_of, given_up
from workbench.rotation.picture import UNKNOWN, Picture
from workbench.rotation.places import Place
from workbench.rotation.policy import plan
from workbench.rotation.queue import Entry, QueueService
from workbench.rotation.residency import Residents
from workbench.rotation.room import Room
from workbench.rotation.runners import together
from workbench.rotation.snapshot import Grant, Plan, Refusal, Snapshot
from workbench.router import Route

_LOOK_AGAIN_S: Final = 1.0
"""While requests wait, memory that others take or give back is looked at this often."""


class Dispatcher:
    """Makes a plan of the picture and does what it says. Belongs to one event loop.

    Args:
        picture: what the plan is made from.
        queue: who waits, and is told.
        leases: who has a slot.
        residents: loads and unloads.
        book: what models need and hold; None knows of no limit.
    """

    def __init__(
        self,
        picture: Picture,
        queue: QueueService,
        leases: Leases,
        residents: Residents,
        book: MemoryBook | None,
    ) -> None:
        self._picture = picture
        self._queue = queue
        self._leases = leases
        self._residents = residents
        self._book = book
        self._timer: asyncio.TimerHandle | None = None

    def dispatch(self) -> None:
        """Carry out the plan; called after every change of the snapshot.

        All state changes at once, before anything is awaited: an evicted model is gone from the
        snapshot, and its unload under way, when the next request is looked at.
        """
        while True:
            snapshot = self._picture.take()
            planned = plan(snapshot)
            for trim in planned.trims:
                contextvars.Context().run(self._evict, trim.model, trim.reason, snapshot)
            for refused in planned.refusals:
                self._refuse(refused, snapshot)
            for grant in planned.grants:
                self._grant(grant, snapshot)
            if (ahead := planned.prefetch) is not None:
                entry, after = self._queue.first_for(ahead.model), self.unloads(ahead.after)
                if not entry.prefetched:
                    entry.prefetched = True
                    entry.context.run(self._residents.prefetch, entry.wanted, ahead.reason, after)
            if not planned.refusals:
                break  # else others may go now
        self._tell(planned)

    def unloads(self, names: Sequence[str]) -> list[asyncio.Task[None]]:
        """The unloads under way of these models."""
        unloading = self._residents.unloading
        return [unloading[name] for name in names if name in unloading]

    async def room(self, route: Route, grant: Grant, cancel: CancellationToken) -> None:
        """Wait for the unloads that make room; a failure of those for this very request is its.

        Raises:
            WorkbenchError: ``CANCELLED``, or what kept a model in memory. The unloads go on.
        """
        own = self.unloads(grant.evict)
        try:
            for unload in (*self.unloads(grant.after), *own):
                await first_of(unload, cancel, None)
                if not unload.done():
                    raise given_up(route, cancel, None)
            for unload in own:
                unload.result()
        except BaseException:
            self._residents.not_needed(route)
            raise

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _tell(self, planned: Plan) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not planned.order:
            return
        now = time.monotonic()
        snapshot, homes = together(self._picture.take())
        running: dict[str, list[Progress]] = defaultdict(list)
        for model, leases in self._leases.by_model.items():
            running[homes.get(model, model)] += leases.values()
        loading = {homes.get(m, m): now - at for m, at in self._residents.loading.items()}
        estimates = estimate(
            snapshot, planned.order, planned.waits, running, loading, self._residents.speeds
        )
        self._queue.tell(planned, estimates)
        pause = min(max(planned.again_s - now, 0.01), _LOOK_AGAIN_S)
        self._timer = asyncio.get_running_loop().call_later(pause, self.dispatch)

    def _grant(self, grant: Grant, snapshot: Snapshot) -> None:
        entry = self._queue.grant(grant)
        model = grant.ticket.model
        self._leases.take(grant.ticket)
        for victim in grant.evict:
            reason = f"to make room for {model}: {grant.reason}"
            entry.context.run(self._evict, victim, reason, snapshot)
        wanted, before = entry.wanted, self._residents.places.get(model)
        self._residents.places[model] = Place(
            wanted.route,
            grant.ticket.number,
            wanted.num_ctx,
            used_at=before.used_at if before is not None else None,
            ours=before is not None and before.ours,
        )

    def _evict(self, model: str, reason: str, snapshot: Snapshot) -> None:
        """Evict a model of the snapshot, and with it those in the same process."""
        names = (model, *sorted(snapshot.models[model].shared - {model}))
        places = self._residents.places
        route = next((places[name].route for name in names if name in places), None)
        if route is None:
            assert self._book is not None, "only the book knows models that are not ours"
            strangers = self._book.strangers()
            route = next(strangers[name] for name in names if name in strangers)
        self._residents.begin_unload(route, "evict", reason)

    def _refuse(self, refused: Refusal, snapshot: Snapshot) -> None:
        entry = self._queue.entry(refused.ticket.number)
        error = self._error(refused, entry, snapshot)
        self._queue.refuse(refused.ticket.number, error)
        refusal = changes.instant(
            "refuse", entry.wanted.route, str(error), ok=False, code=error.code
        )
        entry.context.run(self._residents.report, refusal)

    def _error(self, refused: Refusal, entry: Entry, snapshot: Snapshot) -> WorkbenchError:
        wanted, ticket = entry.wanted, refused.ticket
        if refused.cause == "failed":
            return self._residents.failed.refusal(ticket.model)
        book = self._book
        prediction = book.predict(wanted.route, wanted.num_ctx) if book is not None else UNKNOWN
        if refused.cause == "others":
            waited_s = snapshot.now_s - ticket.arrived_s
            return refusals.kept_by_others(wanted.route, refused.reason, waited_s, prediction)
        if refused.cause == "places":
            return refusals.no_place(wanted.route, refused.reason)
        pinned = Room(snapshot).pinned_besides(ticket.model)
        return refusals.too_large(
            wanted.route, refused.reason, prediction, snapshot.capacity, pinned, ticket.tokens
        )
