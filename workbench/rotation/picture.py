"""The snapshot that the policy decides on, and the view of it that people see."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from workbench.budget import DeviceBytes, MemoryBook, Prediction
from workbench.rotation.leases import Leases
from workbench.rotation.overview import Overview, Resident, Waiting
from workbench.rotation.places import Place
from workbench.rotation.queue import Entry, QueueService
from workbench.rotation.residency import Residents
from workbench.rotation.runners import together
from workbench.rotation.snapshot import Model, Snapshot, Ticket, added, larger
from workbench.rotation.wanted import Wanted
from workbench.router import Route
from workbench.types import Priority

UNKNOWN: Final = Prediction({}, {}, "files")
"""Where no book keeps account."""
_REMEMBERED_ARRIVALS: Final = 4


class Picture:
    """Takes the snapshot from those who know: queue, leases, residents and the memory book."""

    def __init__(
        self,
        queue: QueueService,
        leases: Leases,
        residents: Residents,
        book: MemoryBook | None,
        max_resident: int,
        patience_s: Mapping[Priority, float],
    ) -> None:
        self._queue = queue
        self._leases = leases
        self._residents = residents
        self._book = book
        self._max_resident = max_resident
        self._patience_s = patience_s
        self._capacity: DeviceBytes = book.limits() if book is not None else {}
        self._arrivals: dict[str, deque[float]] = {}

    def arrived(self, ticket: Ticket) -> None:
        """A request has come for a model."""
        times = self._arrivals.setdefault(ticket.model, deque(maxlen=_REMEMBERED_ARRIVALS))
        times.append(ticket.arrived_s)

    def take(self) -> Snapshot:
        """All that the policy looks at, now."""
        book, residents = self._book, self._residents
        residents.drop_departed()
        held = book.held() if book is not None else {}
        limits = book.limits() if book is not None else {}
        self._capacity = larger(self._capacity, limits)
        wanted = {entry.ticket.model: entry.wanted for entry in self._queue.entries}
        for name, stranger in (book.strangers() if book is not None else {}).items():
            if name not in residents.unloading:
                wanted.setdefault(name, Wanted(stranger, 0))
        for name, place in residents.places.items():
            wanted.setdefault(name, Wanted(place.route, 0, place.num_ctx))
        wanted |= self._beside(wanted, held)
        models = {name: self._model(one, held) for name, one in wanted.items()}
        leaving = {
            name: held.get(name, residents.leaving.get(name, {})) for name in residents.unloading
        }
        return Snapshot(
            waiting=self._queue.tickets,
            models=models,
            max_resident=self._max_resident,
            now_s=time.monotonic(),
            limits=limits,
            capacity=self._capacity,
            unloading=leaving,
            others={n: s for n, s in held.items() if n not in models and n not in leaving},
            exclusive_running=self._leases.exclusive,
            patience_s=self._patience_s,
        )

    def with_another(self, route: Route, tokens: int) -> tuple[Snapshot, Ticket]:
        """The same with a request at the end of the queue that nobody has made.

        Args:
            route: the model.
            tokens: context that its prompt and answer may come to.
        """
        snapshot = self.take()
        held = self._book.held() if self._book is not None else {}
        model = self._model(Wanted(route, 0), held)
        ticket = Ticket(sys.maxsize, route.model, snapshot.now_s, tokens=tokens)
        waiting = [*snapshot.waiting, ticket]
        beside = self._beside({route.model: Wanted(route, 0)}, held)
        more = {name: self._model(one, held) for name, one in beside.items()}
        models = {**more, **snapshot.models, route.model: model}
        return replace(snapshot, waiting=waiting, models=models), ticket

    def _beside(
        self, wanted: Mapping[str, Wanted], held: Mapping[str, DeviceBytes]
    ) -> dict[str, Wanted]:
        """Names in memory that share a runner with a wanted one, whoever brought them in."""
        found = {}
        for name, one in wanted.items():
            for other in self._residents.runner(name) & held.keys() - wanted.keys():
                route = Route(one.route.provider, other.partition("/")[2])
                found[other] = Wanted(route, 0)
        return found

    def _model(self, wanted: Wanted, holdings: Mapping[str, DeviceBytes]) -> Model:
        route, residents, book = wanted.route, self._residents, self._book
        name = route.model
        place = residents.places.get(name)
        runner = residents.runner(name)
        going = not runner.isdisjoint(residents.unloading)
        here = not runner.isdisjoint(residents.places)
        seen = not runner.isdisjoint(holdings) and not going
        resident = here or seen
        held = holdings.get(name, {} if len(runner) > 1 and seen else None)
        theirs = not here and seen and not route.provider.counts_against_cache
        loading = name in residents.loading
        prediction = book.predict(route, wanted.num_ctx) if book is not None else UNKNOWN
        measured = bool(held) and prediction.source == "loads"
        return Model(
            resident=resident,
            loading=loading,
            running=self._leases.of(name),
            last_use=place.last_use if place is not None else 0,
            need=prediction.answering if resident and not loading else prediction.bytes,
            answering=prediction.answering,
            settled=prediction.answering if resident and measured else {},
            token_bytes=prediction.token_bytes,
            tokens=self._leases.tokens(name),
            held=held if resident else None,
            concurrency=route.provider.concurrency,
            counted=route.provider.counts_against_cache,
            pinned=name in residents.pinned,
            load_s=residents.speeds.load_s(name, prediction.bytes),
            gap_s=self._gap_s(name),
            shared=runner,
            foreign=theirs and book is not None and runner.isdisjoint(book.strangers()),
            doomed=residents.failed.doomed(name),
        )

    def _gap_s(self, model: str) -> float:
        """Mean time between the last requests for a model, up to now."""
        times = self._arrivals.get(model)
        return (time.monotonic() - times[0]) / len(times) if times and len(times) > 1 else math.inf


def view(
    snapshot: Snapshot,
    held: Mapping[str, DeviceBytes],
    expectation: Callable[[str], Prediction],
    residents: Residents,
    queue: QueueService,
) -> Overview:
    """The same for people: with what is measured, when it was used, who would leave first."""
    now = snapshot.now_s
    models = [(name, model) for name, model in sorted(snapshot.models.items()) if model.resident]
    there = [
        _resident(
            name, m, held.get(name, {}), expectation(name).bytes, residents.places.get(name), now
        )
        for name, m in models
    ]
    there += [
        Resident(
            name,
            "leaving",
            0,
            dict(held.get(name, {})),
            dict(expectation(name).bytes),
            False,
            None,
            0.0,
        )
        for name in sorted(snapshot.unloading)
    ]
    idle = sorted(
        (m.last_use, name)
        for name, m in together(snapshot)[0].models.items()
        if m.resident
        and not (m.leased or m.pinned or m.foreign)
        and (m.counted or any(held.get(one) for one in m.shared))
    )
    waiting = (_waiting(entry, now) for entry in queue.entries)
    ours = {one.model for one in there}
    return Overview(
        limit_bytes=dict(snapshot.limits),
        held_bytes=added(held.values()),
        max_resident=snapshot.max_resident,
        max_waiting=queue.max_waiting,
        max_waiting_per_model=queue.max_waiting_per_model,
        residents=tuple(there),
        waiting=tuple(sorted(waiting, key=lambda one: one.position)),
        next_victims=tuple(name for _, name in idle),
        others={name: dict(size) for name, size in sorted(held.items()) if name not in ours},
    )


def _resident(
    name: str,
    model: Model,
    held: DeviceBytes,
    peak: DeviceBytes,
    place: Place | None,
    now: float,
) -> Resident:
    expires = place.expires_at if place is not None else math.inf
    return Resident(
        model=name,
        status="loading" if model.loading else "leased" if model.running else "idle",
        running=model.running,
        held_bytes=dict(held),
        peak_bytes=dict(peak),
        pinned=model.pinned,
        last_used_at=place.used_at if place is not None else None,
        expires_in_s=None if model.leased or math.isinf(expires) else max(expires - now, 0.0),
    )


def _waiting(entry: Entry, now: float) -> Waiting:
    ticket, standing = entry.ticket, entry.standing
    return Waiting(
        number=ticket.number,
        model=ticket.model,
        position=standing.position if standing else 0,
        reason=standing.reason if standing else "",
        estimate_s=standing.estimate_s if standing else None,
        waited_s=now - ticket.arrived_s,
        priority=ticket.priority,
        exclusive=ticket.exclusive,
        evicts=standing.evicts if standing else (),
    )
