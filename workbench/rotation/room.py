"""The memory and places that are left while a plan is made, and who could give back some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Final

from workbench.budget import DeviceBytes
from workbench.rotation.snapshot import Model, Snapshot, Ticket, added, larger
from workbench.rotation.victims import Candidate, choose

_NOTHING: Final[DeviceBytes] = MappingProxyType({})
_EMPTY: Final[Sequence[DeviceBytes]] = ()


class Room:
    """Starts as the snapshot says; each decision of a plan takes or frees some of it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.models = snapshot.models
        self.running = Counter({name: m.running for name, m in snapshot.models.items()})
        self.loading = {name for name, m in snapshot.models.items() if m.loading}
        self.footprints = {n: m.footprint for n, m in snapshot.models.items() if m.resident}
        """Of those in memory, or on their way in."""
        self.going = dict(snapshot.unloading)
        """And of those on their way out."""
        self.leaving: set[str] = set()
        """Models that take no more requests, because they make room."""
        self.reserved: set[str] = set()
        """Models for which room is kept."""
        self._others = added(snapshot.others.values())
        self._tokens = {name: tuple(model.tokens) for name, model in snapshot.models.items()}
        self._stays = {n for n, model in snapshot.models.items() if model.pinned or model.foreign}
        self._kept: list[DeviceBytes] = []
        self._kept_places = 0
        self._use = {name: model.last_use for name, model in snapshot.models.items()}

    # -- what there is

    def model(self, ticket: Ticket) -> Model:
        """The one that a request is for."""
        return self.models[ticket.model]

    def is_leased(self, name: str) -> bool:
        """Whether it may not be evicted now."""
        used = self.running[name] > 0 or name in self.loading
        return used and name in self.footprints

    def needed(self, ticket: Ticket, *, alone: bool = False) -> DeviceBytes:
        """What the model needs with this request beside those that it answers, or alone."""
        others = () if alone else self._tokens[ticket.model]
        return self.model(ticket).needed((*others, ticket.tokens))

    def growth(self, ticket: Ticket) -> DeviceBytes:
        """What a model in memory takes more for one more request."""
        own = self.footprints[ticket.model]
        return {d: max(n - own.get(d, 0), 0) for d, n in self.needed(ticket).items()}

    def missing(self, ticket: Ticket, *, at_best: bool = False) -> tuple[dict[str, int], int]:
        """Bytes by device and places that a request lacks; at best: all others gone."""
        name = ticket.model
        model, own = self.models[name], self.footprints.get(name)
        needed = self.needed(ticket, alone=at_best)
        held = own or _NOTHING
        stay = dict(self.footprints)
        if at_best:
            stay = {n: self.models[n].unused for n in stay if n in self._stays}
        kept = _EMPTY if at_best else self._kept
        short = {}
        for device, limit in self.snapshot.limits.items():
            need = needed.get(device, 0)
            if need <= held.get(device, 0):
                continue  # only growth must fit
            total = need + self._others.get(device, 0)
            total += sum(size.get(device, 0) for n, size in stay.items() if n != name)
            total += sum(size.get(device, 0) for size in kept)
            if total > limit:
                short[device] = total - limit
        places = 0
        if model.counted and own is None:
            places = 1 + sum(self.models[n].counted for n in stay) - self.snapshot.max_resident
            places += 0 if at_best else self._kept_places
        return short, max(places, 0)

    def reachable(self, ticket: Ticket) -> bool:
        """Whether a request fits now, if all that may ever leave has left."""
        short, places = self.missing(ticket, at_best=True)
        return not short and not places

    def over_capacity(self, ticket: Ticket) -> tuple[list[str], bool]:
        """Devices, and whether places, of which a request needs more than there may ever be."""
        name, there = ticket.model, ticket.model in self.footprints
        model, need = self.models[name], self.needed(ticket, alone=True)
        if there and need == model.needed(()):
            return [], False  # it is in memory, so it fits
        pinned = self.pinned_besides(name)
        total = added((need, *pinned.values()))
        capacity = self.snapshot.capacity
        over = [d for d, most in capacity.items() if need.get(d) and total[d] > most]
        places = sum(self.models[n].counted for n in pinned)
        full = model.counted and not there and places >= self.snapshot.max_resident
        return over, full

    def pinned_besides(self, name: str) -> dict[str, DeviceBytes]:
        """The other pinned models, with what they count with at least."""
        return {
            n: self.models[n].unused for n in self.footprints if self.models[n].pinned and n != name
        }

    def foreign(self) -> dict[str, DeviceBytes]:
        """Models in memory that another program may be using, and that are not to be evicted."""
        beside = {n: self.footprints[n] for n in self.footprints if self.models[n].foreign}
        found = {**self.snapshot.others, **beside}
        return {name: held for name, held in sorted(found.items()) if any(held.values())}

    # -- who gives some back

    def victims(
        self, ticket: Ticket, *, spare: Iterable[str] = (), leased_too: bool = False
    ) -> tuple[str, ...] | None:
        """Who must leave for a request; None: that is not enough."""
        name = ticket.model
        short, places = self.missing(ticket)
        if not short and not places:
            return ()
        spared = {*spare, name, *self._stays, *self.reserved, *self.leaving}
        candidates = [
            n for n in self.footprints if n not in spared and (leased_too or not self.is_leased(n))
        ]
        candidates.sort(key=lambda n: (self.is_leased(n), self._use[n]))
        return choose([self._candidate(n) for n in candidates], short, places)

    def trimmed(self, wanted: Iterable[str]) -> tuple[tuple[str, ...], dict[str, int]]:
        """Idle models to leave because more is held than the limits allow now, and by how much.

        Args:
            wanted: models that requests wait for, which stay.
        """
        measured = (self.models[n].measured for n in self.footprints)
        total = added((*measured, self._others))
        short = {d: total.get(d, 0) - limit for d, limit in self.snapshot.limits.items()}
        over = {device: size for device, size in short.items() if size > 0}
        if not over:
            return (), {}
        stays = {*self._stays, *wanted}
        idle = [n for n in self.footprints if n not in stays and not self.is_leased(n)]
        idle.sort(key=lambda n: self._use[n])
        candidates = [self._candidate(n) for n in idle]
        # What is there goes, even if it is not enough.
        going = choose(candidates, over, 0)
        if going is None:
            going = tuple(c.model for c in candidates if any(c.bytes.get(d) for d in over))
        return going, over

    def after(self, ticket: Ticket, evict: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Who is on the way out and must have left first."""
        name, going = ticket.model, tuple(self.going)
        if not going or evict or ticket.exclusive or name in self.going:
            return going  # nothing runs beside an exclusive one, no unload either
        need = larger(self.needed(ticket), self.footprints.get(name, _NOTHING))
        rest = (size for n, size in self.footprints.items() if n != name)
        total = added((need, self._others, *rest, *self.going.values()))
        limits = self.snapshot.limits
        tight = any(total[d] > limits.get(d, total[d]) for d in need if need[d])
        return going if tight else ()

    def _candidate(self, name: str) -> Candidate:
        return Candidate(name, self.footprints[name], self.models[name].counted)

    # -- what a plan changes

    def enter(self, ticket: Ticket) -> None:
        """A request goes on."""
        name = ticket.model
        own = self.footprints.get(name, _NOTHING)
        self.footprints[name] = larger(self.needed(ticket), own)
        self._tokens[name] = (*self._tokens[name], ticket.tokens)
        self.running[name] += 1
        self._use[name] = max(self._use.values()) + 1

    def let_go(self, names: Iterable[str]) -> None:
        """Models begin to leave."""
        for name in names:
            self.going[name] = self.footprints.pop(name)

    def reserve(self, ticket: Ticket, evicts: Sequence[str]) -> None:
        """Keep the room that a request will need beyond what those that leave for it give back."""
        name = ticket.model
        self.leaving.update(evicts)
        self.reserved.add(name)
        model, own = self.models[name], self.footprints.get(name, _NOTHING)
        freed = added((own, *(self.footprints[n] for n in evicts)))
        self._kept.append({d: max(n - freed.get(d, 0), 0) for d, n in self.needed(ticket).items()})
        if model.counted and name not in self.footprints:
            places = 1 - sum(self.models[n].counted for n in evicts)
            self._kept_places += max(places, 0)
