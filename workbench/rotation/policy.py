"""The rotation policy: who goes on now, who leaves memory for it, and why, in words.

:func:`plan` is a pure function of a :class:`~workbench.rotation.snapshot.Snapshot`. The service
carries the plan out, the simulator in ``benchmarks/rotation_sim.py`` plays it against time.

**Order.** Requests that have waited longer than their patience are *overdue* and come first, in the
order in which they became so; then interactive ones, then benchmarks, each in order of arrival.

**Decisions**, in this order:

1. A model that cannot fit into the budget, whatever left, is refused at once. So is one whose load
   is known to fail, if anybody would have to leave for it. One that would fit but for memory in the
   hands of other programs waits, and is refused once its patience is over: nobody here can say
   whether that memory ever comes back.
2. Idle models leave where more is held than the limits allow now.
3. Nothing runs beside an exclusive request (isolated, interleaved), and none passes one that waits.
   While the last others drain its model is loaded, if that needs no eviction and nobody ahead
   waits for room (*prefetch*).
4. A request whose model is in memory goes on, up to what the model takes at a time and as far as
   the budget has room for its context: requests are grouped by model, so that one load serves many.
5. Models to be loaded are ordered by the waiting of their requests over the time of their load
   (highest response ratio, times the number of requests): many requests, long waits and quick
   loads first. One is loaded if it fits, or fits once idle models have left
   (:mod:`workbench.rotation.victims`). A model in demand, asked for again sooner than its reload
   takes, leaves only when those who want the other have together waited :data:`EARNED` times that.
6. An overdue request that finds no room gets it reserved: the models it needs gone (idle, then
   those in use, by last use) take no more requests than had arrived when it became overdue. Later
   loads must do without that room. So a wait is bounded: by the patience, and then by the work that
   had arrived before it ran out, one after the other.

Never evicted: a model in use or being loaded (leased), a pinned one, and one that another program
may be using. Models in one process are one to all of this (:mod:`workbench.rotation.runners`).

**Memory.** A model in use or being loaded counts with the larger of its measured bytes and its
predicted peak with the keys and values of all that it answers, each for as many tokens as its
prompt and answer may come to. A request therefore takes room although its model is in memory. An
idle model counts with its measured bytes, or with those of earlier answers where they were more: so
what fits beside it when it is loaded fits when it answers too.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from workbench.budget import DeviceBytes
from workbench.rotation import words
from workbench.rotation.room import Room
from workbench.rotation.runners import apart, together
from workbench.rotation.snapshot import (
    Decision,
    Grant,
    Plan,
    Refusal,
    Snapshot,
    Ticket,
    Wait,
    spoken,
)
from workbench.types import Priority

EARNED: Final = 3.0
"""How often its reload a model in demand is worth in waiting, before it leaves for another."""
_RANK: Final = {priority: rank for rank, priority in enumerate(Priority)}


def plan(snapshot: Snapshot) -> Plan:
    """Decide; see the module's text."""
    merged, homes = together(snapshot)
    return apart(_Planner(merged).plan(), snapshot, homes)


class _Planner:
    """One plan while it is made: the snapshot, the room that is left, the decisions so far."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._models = snapshot.models
        self._room = Room(snapshot)
        self._reserved: dict[str, Wait] = {}
        self._blocked: dict[str, Wait] = {}
        """Models for which there is no room in this plan: it only becomes less."""
        due = (self._due(ticket) for ticket in snapshot.waiting)
        self._again_s = min((at for at in due if at > snapshot.now_s), default=math.inf)
        self._wanted = Counter(ticket.model for ticket in snapshot.waiting)
        self._grants: list[Grant] = []
        self._waits: dict[int, Wait] = {}
        self._refusals: list[Refusal] = []

    def plan(self) -> Plan:
        snapshot = self._snapshot
        ordered = sorted(snapshot.waiting, key=self._rank)
        trims = self._trim()
        ordered = [ticket for ticket in ordered if not self._refused(ticket)]
        prefetch: Decision | None = None
        if snapshot.exclusive_running:
            self._all_wait(ordered, "another request runs alone")
        else:
            prefetch = self._serve(ordered)
        refused = {refusal.ticket.number for refusal in self._refusals}
        order = tuple(
            t.number for t in ordered if t.number in self._waits and t.number not in refused
        )
        return Plan(
            tuple(self._grants),
            self._waits,
            order,
            tuple(self._refusals),
            trims,
            prefetch,
            self._again_s,
        )

    # -- order

    def _due(self, ticket: Ticket) -> float:
        return ticket.arrived_s + self._snapshot.patience_s.get(ticket.priority, math.inf)

    def _overdue(self, ticket: Ticket) -> bool:
        return self._due(ticket) <= self._snapshot.now_s

    def _rank(self, ticket: Ticket) -> tuple[bool, float, int]:
        overdue = self._overdue(ticket)
        first = self._due(ticket) if overdue else _RANK[ticket.priority]
        return (not overdue, first, ticket.number)

    # -- the walk

    def _serve(self, ordered: Sequence[Ticket]) -> Decision | None:
        """Grant what may go; returns what to prefetch."""
        alone = next((t for t in ordered if t.exclusive and self._room.reachable(t)), None)
        ahead = [t for t in ordered if not t.exclusive]
        behind: list[Ticket] = []
        if alone is not None:
            at = ordered.index(alone)
            ahead = [t for t in ordered[:at] if not t.exclusive]
            behind = list(ordered[at + 1 :])
        for ticket in ordered:
            if ticket.exclusive and not self._room.reachable(ticket):
                self._strand(ticket)
        self._serve_shared(ahead)
        prefetch = None
        why = "another request waits to run alone"
        if alone is not None:
            if self._room.running.total() or self._room.loading - {alone.model}:
                self._waits[alone.number] = Wait("waits until nothing else runs")
                if not self._blocked:  # or it would take the room that one ahead waits for
                    prefetch = self._prefetch(alone)
            else:
                self._place(alone)
                if self._grants:
                    why = "another request runs alone"
        self._all_wait((t for t in behind if t.number not in self._waits), why)
        return prefetch

    def _serve_shared(self, tickets: Sequence[Ticket]) -> None:
        """Decisions 4 to 6, for requests that may run beside others."""
        room = self._room
        pressing = [
            t
            for t in tickets
            if self._overdue(t) and (not room.is_leased(t.model) or any(room.missing(t)))
        ]
        numbers = {ticket.number for ticket in pressing}
        rest = [ticket for ticket in tickets if ticket.number not in numbers]
        for first in sorted(pressing, key=lambda t: (self._due(t), t.number)):
            gate = self._due(first)
            rest = self._serve_resident(rest, gate)
            self._place(first, reserve=True)
        rest = self._serve_resident(rest)
        groups: dict[str, list[Ticket]] = defaultdict(list)
        for ticket in rest:
            groups[ticket.model].append(ticket)
        for group in sorted(groups.values(), key=self._urgency):
            for ticket in group:
                self._place(ticket, spare=self._wanted, group=group)

    def _serve_resident(self, tickets: Sequence[Ticket], gate_s: float = math.inf) -> list[Ticket]:
        """Decide for those whose model is in memory and who arrived by then; returns the rest."""
        rest = []
        for ticket in tickets:
            if ticket.model in self._room.footprints and ticket.arrived_s <= gate_s:
                self._place(ticket, spare=self._wanted)
            else:
                rest.append(ticket)
        return rest

    def _urgency(self, group: Sequence[Ticket]) -> tuple[int, float, int]:
        """Sorts groups: interactive first, then the highest response ratio, then the oldest."""
        load_s = max(self._models[group[0].model].load_s, 0.01)
        rank = min(_RANK[ticket.priority] for ticket in group)
        ratio = self._waited_s(group) / load_s + len(group)
        return (rank, -ratio * len(group), group[0].number)

    def _waited_s(self, tickets: Iterable[Ticket]) -> float:
        return sum(self._snapshot.now_s - ticket.arrived_s for ticket in tickets)

    def _all_wait(self, tickets: Iterable[Ticket], reason: str) -> None:
        for ticket in tickets:
            self._waits[ticket.number] = Wait(reason)

    # -- one ticket

    def _place(
        self,
        ticket: Ticket,
        *,
        reserve: bool = False,
        spare: Iterable[str] = (),
        group: Sequence[Ticket] = (),
    ) -> None:
        """Grant a ticket, or say why it waits.

        Args:
            ticket: whose model may be resident or not.
            reserve: keep the room it needs for it, if it is not there yet.
            spare: models that are not to be evicted for it as long as anything runs.
            group: all that want this model, if models in demand may be too dear for them.
        """
        name, running = ticket.model, self._room.running[ticket.model]
        if name in self._room.leaving:
            self._waits[ticket.number] = Wait("the model makes room for an earlier request")
            return
        if name in self._reserved:
            self._waits[ticket.number] = self._reserved[name]
            return
        if running >= self._models[name].concurrency:
            self._waits[ticket.number] = Wait(words.busy(self._models[name], running))
            return
        if name in self._blocked and not reserve:
            self._waits[ticket.number] = self._blocked[name]
            return
        room = self._room
        evict = room.victims(ticket, spare=spare if room.running.total() else ())
        if evict != () and self._models[name].doomed:
            self._refusals.append(Refusal(ticket, "its last load failed", "failed"))
            return
        if evict is None:
            self._wait_for_room(ticket, reserve)
            return
        if group and not self._earned(ticket, evict, group):
            return
        waited_s = self._snapshot.now_s - ticket.arrived_s if self._overdue(ticket) else 0.0
        why = words.why(room, ticket, evict, self._wanted[name] - 1, waited_s)
        room.let_go(evict)
        self._grants.append(Grant(ticket, why, evict, room.after(ticket, evict)))
        room.enter(ticket)

    def _earned(self, ticket: Ticket, evict: tuple[str, ...], group: Sequence[Ticket]) -> bool:
        """Whether those who wait have waited enough for models in demand to leave.

        In demand is a model that is asked for again sooner than its reload takes: it would be back
        before the other was worth its load. (The rule of the rented skis: rent until the rent has
        reached the price.)
        """
        dear = [n for n in evict if self._models[n].gap_s < self._models[n].load_s]
        price_s = EARNED * sum(self._models[n].load_s for n in dear)
        paid_s = self._waited_s(group)
        if paid_s >= price_s:
            return True
        enough_s = self._snapshot.now_s + (price_s - paid_s) / len(group)
        self._again_s = min(self._again_s, enough_s)
        wait = Wait(
            f"asked for again sooner than reloaded: {', '.join(dear)}; to be evicted once waiting "
            "has cost more time than reloading will",
            evict,
        )
        self._waits[ticket.number] = self._blocked[ticket.model] = wait
        return False

    def _wait_for_room(self, ticket: Ticket, reserve: bool) -> None:
        name, room = ticket.model, self._room
        if not room.reachable(ticket):
            self._strand(ticket)
            return
        going = room.victims(ticket, leased_too=True)
        may_hold: DeviceBytes = {}
        if going is None and room.is_leased(name):
            going = ()  # it is what the model answers now that must end
            need = room.needed(ticket)
            may_hold = {d: need[d] - short for d, short in room.missing(ticket)[0].items()}
        wait = Wait(words.no_room(room, ticket), going or (), may_hold=may_hold)
        self._waits[ticket.number] = self._blocked[name] = wait
        if reserve and going is not None:
            room.reserve(ticket, going)
            self._reserved[name] = wait

    def _strand(self, ticket: Ticket) -> None:
        """Only other programs can give back what a request lacks: it waits, but not for ever."""
        reason = words.held_by_others(self._room, ticket)
        if self._overdue(ticket):
            self._refusals.append(Refusal(ticket, reason, "others"))
            return
        wait = Wait(reason, foreseeable=False)
        self._waits[ticket.number] = self._blocked[ticket.model] = wait

    def _prefetch(self, ticket: Ticket) -> Decision | None:
        """Load the model of the next exclusive request while others drain, if both fit."""
        name, room = ticket.model, self._room
        if name in room.footprints or name in room.going or self._models[name].doomed:
            return None
        if room.victims(ticket) != ():
            return None
        busy = ", ".join(sorted(n for n, count in room.running.items() if count))
        return Decision(
            name,
            f"prefetched while {busy or 'others'} answered: "
            "the next request runs alone, and both fit",
            room.after(ticket),
        )

    # -- the others

    def _trim(self) -> tuple[Decision, ...]:
        """Decision 2."""
        going, over = self._room.trimmed(self._wanted)
        self._room.let_go(going)
        reason = f"{spoken(over)} more are held than the budget allows now"
        return tuple(Decision(name, reason) for name in going)

    def _refused(self, ticket: Ticket) -> bool:
        """Decision 1: whether no waiting will ever help."""
        over, full = self._room.over_capacity(ticket)
        if over or full:
            reason = words.too_large(self._room, ticket, over)
            self._refusals.append(Refusal(ticket, reason, "size" if over else "places"))
        return bool(over or full)
