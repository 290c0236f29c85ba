"""The rotation policy: who goes on now, who leaves memory for it, and why, in words.

:func:`plan` is a pure function of a :class:`~workbench.rotation.snapshot.Snapshot`. The service
carries the plan out, the simulator in ``benchmarks/rotation_sim.py`` plays it against time.

**Order.** Requests that have waited longer than their patience are *overdue* and come first, in the
order in which they became so; then interactive ones, then benchmarks, each in order of arrival.

**Decisions**, in this order:

1. A model that cannot fit into the budget, whatever left, is refused at once. So is one whose load
   is known to fail, if anybody would have to leave for it.
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

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Final

from workbench.budget import DeviceBytes
from workbench.rotation.runners import apart, together
from workbench.rotation.snapshot import (
    Decision,
    Grant,
    Model,
    Plan,
    Refusal,
    Snapshot,
    Ticket,
    Wait,
    added,
    larger,
    spoken,
)
from workbench.rotation.victims import Candidate, choose
from workbench.types import Priority

_NOTHING: Final[DeviceBytes] = MappingProxyType({})
_EMPTY: Final[Sequence[DeviceBytes]] = ()
EARNED: Final = 3.0
"""How often its reload a model in demand is worth in waiting, before it leaves for another."""
_RANK: Final = {priority: rank for rank, priority in enumerate(Priority)}


def plan(snapshot: Snapshot) -> Plan:
    """Decide; see the module's text."""
    merged, homes = together(snapshot)
    return apart(_Planner(merged).plan(), snapshot, homes)


class _Planner:
    """One plan while it is made: the snapshot, and what the decisions so far change of it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._models = snapshot.models
        self._running = Counter({name: m.running for name, m in snapshot.models.items()})
        self._loading = {name for name, m in snapshot.models.items() if m.loading}
        self._tokens = {name: tuple(model.tokens) for name, model in snapshot.models.items()}
        self._footprints = {n: m.footprint for n, m in snapshot.models.items() if m.resident}
        self._stays = {n for n, model in snapshot.models.items() if model.pinned or model.foreign}
        self._leaving: set[str] = set()
        self._reserved: dict[str, Wait] = {}
        self._blocked: dict[str, Wait] = {}
        """Models for which there is no room in this plan: it only becomes less."""
        self._kept: list[DeviceBytes] = []
        self._kept_places = 0
        due = (self._due(ticket) for ticket in snapshot.waiting)
        self._again_s = min((at for at in due if at > snapshot.now_s), default=float("inf"))
        self._going = dict(snapshot.unloading)
        self._use = {name: model.last_use for name, model in snapshot.models.items()}
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
        return ticket.arrived_s + self._snapshot.patience_s.get(ticket.priority, float("inf"))

    def _overdue(self, ticket: Ticket) -> bool:
        return self._due(ticket) <= self._snapshot.now_s

    def _rank(self, ticket: Ticket) -> tuple[int, float, int]:
        if self._overdue(ticket):
            return (0, self._due(ticket), ticket.number)
        return (1, _RANK[ticket.priority], ticket.number)

    # -- the walk

    def _serve(self, ordered: Sequence[Ticket]) -> Decision | None:
        """Grant what may go; returns what to prefetch."""
        alone = next((t for t in ordered if t.exclusive and self._reachable(t)), None)
        ahead = [t for t in ordered if not t.exclusive]
        behind: list[Ticket] = []
        if alone is not None:
            at = ordered.index(alone)
            ahead = [t for t in ordered[:at] if not t.exclusive]
            behind = list(ordered[at + 1 :])
        for ticket in ordered:
            if ticket.exclusive and not self._reachable(ticket):
                self._waits[ticket.number] = self._unreachable(ticket)
        self._serve_shared(ahead)
        prefetch = None
        why = "another request waits to run alone"
        if alone is not None:
            if self._running.total() or self._loading - {alone.model}:
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
        pressing = [
            t
            for t in tickets
            if self._overdue(t) and (not self._is_leased(t.model) or any(self._missing(t)))
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

    def _serve_resident(
        self, tickets: Sequence[Ticket], gate_s: float = float("inf")
    ) -> list[Ticket]:
        """Decide for those whose model is in memory and who arrived by then; returns the rest."""
        rest = []
        for ticket in tickets:
            if ticket.model in self._footprints and ticket.arrived_s <= gate_s:
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
        name, running = ticket.model, self._running[ticket.model]
        if name in self._leaving:
            self._waits[ticket.number] = Wait("the model makes room for an earlier request")
            return
        if name in self._reserved:
            self._waits[ticket.number] = self._reserved[name]
            return
        if running >= self._models[name].concurrency:
            self._waits[ticket.number] = Wait(_busy(self._models[name], running))
            return
        if name in self._blocked and not reserve:
            self._waits[ticket.number] = self._blocked[name]
            return
        evict = self._victims(ticket, spare=spare if self._running.total() else ())
        if evict != () and self._models[name].doomed:
            self._refusals.append(Refusal(ticket, "its last load failed", doomed=True))
            return
        if evict is None:
            self._wait_for_room(ticket, reserve)
            return
        if group and not self._earned(ticket, evict, group):
            return
        why = self._why(ticket, evict)
        self._let_go(evict)
        self._grants.append(Grant(ticket, why, evict, self._after(ticket, evict)))
        self._enter(ticket)
        self._running[name] += 1
        self._use[name] = max(self._use.values()) + 1

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
        wait = Wait(f"{', '.join(dear)} would be asked for again before its reload pays", evict)
        self._waits[ticket.number] = self._blocked[ticket.model] = wait
        return False

    def _wait_for_room(self, ticket: Ticket, reserve: bool) -> None:
        name = ticket.model
        if not self._reachable(ticket):
            self._waits[ticket.number] = self._blocked[name] = self._unreachable(ticket)
            return
        going = self._victims(ticket, leased_too=True)
        if going is None and self._is_leased(name):
            going = ()  # it is what the model answers now that must end
        wait = Wait(self._no_room(ticket), going or ())
        self._waits[ticket.number] = self._blocked[name] = wait
        if reserve and going is not None:
            self._reserve(ticket, wait)

    def _reserve(self, ticket: Ticket, wait: Wait) -> None:
        """Keep the room that a request will need beyond what those that leave for it give back."""
        name = ticket.model
        self._leaving.update(wait.evicts)
        self._reserved[name] = wait
        model, own = self._models[name], self._footprints.get(name, _NOTHING)
        freed = added((own, *(self._footprints[n] for n in wait.evicts)))
        self._kept.append({d: max(n - freed.get(d, 0), 0) for d, n in self._needed(ticket).items()})
        if model.counted and name not in self._footprints:
            places = 1 - sum(self._models[n].counted for n in wait.evicts)
            self._kept_places += max(places, 0)

    def _enter(self, ticket: Ticket) -> None:
        name = ticket.model
        need, own = self._needed(ticket), self._footprints.get(name, _NOTHING)
        self._footprints[name] = larger(need, own)
        self._tokens[name] = (*self._tokens.get(name, ()), ticket.tokens)

    def _let_go(self, names: Iterable[str]) -> None:
        for name in names:
            self._going[name] = self._footprints.pop(name)

    def _prefetch(self, ticket: Ticket) -> Decision | None:
        """Load the model of the next exclusive request while others drain, if both fit."""
        name = ticket.model
        if name in self._footprints or self._models[name].doomed or self._victims(ticket) != ():
            return None
        if name in self._going:
            return None
        busy = ", ".join(sorted(n for n, count in self._running.items() if count))
        return Decision(
            name,
            f"prefetched while {busy or 'others'} answered: "
            "the next request runs alone, and both fit",
            self._after(ticket),
        )

    # -- room

    def _is_leased(self, name: str) -> bool:
        used = self._running[name] > 0 or name in self._loading
        return used and name in self._footprints

    def _needed(self, ticket: Ticket, *, alone: bool = False) -> DeviceBytes:
        """What the model needs with this request beside those that it answers, or alone."""
        others = () if alone else self._tokens.get(ticket.model, ())
        return self._models[ticket.model].needed((*others, ticket.tokens))

    def _missing(self, ticket: Ticket, *, at_best: bool = False) -> tuple[dict[str, int], int]:
        """Bytes by device and places that a request lacks; at best: all others gone."""
        name = ticket.model
        model, own = self._models[name], self._footprints.get(name)
        needed = self._needed(ticket, alone=at_best)
        held = own or _NOTHING
        stay = dict(self._footprints)
        if at_best:
            stay = {n: self._models[n].unused for n in stay if n in self._stays}
        kept = _EMPTY if at_best else self._kept
        short = {}
        for device, limit in self._snapshot.limits.items():
            need = needed.get(device, 0)
            if need <= held.get(device, 0):
                continue  # only growth must fit
            total = need + self._snapshot.others.get(device, 0)
            total += sum(size.get(device, 0) for n, size in stay.items() if n != name)
            total += sum(size.get(device, 0) for size in kept)
            if total > limit:
                short[device] = total - limit
        places = 0
        if model.counted and own is None:
            places = 1 + sum(self._models[n].counted for n in stay) - self._snapshot.max_resident
            places += 0 if at_best else self._kept_places
        return short, max(places, 0)

    def _victims(
        self, ticket: Ticket, *, spare: Iterable[str] = (), leased_too: bool = False
    ) -> tuple[str, ...] | None:
        """Who must leave for a request; None: that is not enough."""
        name = ticket.model
        short, places = self._missing(ticket)
        if not short and not places:
            return ()
        spared = {*spare, name}
        candidates = [
            n
            for n in self._footprints
            if n not in spared
            and n not in self._stays
            and n not in self._reserved
            and n not in self._leaving
            and (leased_too or not self._is_leased(n))
        ]
        candidates.sort(key=lambda n: (self._is_leased(n), self._use[n]))
        return choose([self._candidate(n) for n in candidates], short, places)

    def _candidate(self, name: str) -> Candidate:
        return Candidate(name, self._footprints[name], self._models[name].counted)

    def _after(self, ticket: Ticket, evict: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Who is on the way out and must have left first."""
        name, going = ticket.model, tuple(self._going)
        if not going or evict or ticket.exclusive or name in self._going:
            return going  # nothing runs beside an exclusive one, no unload either
        need = larger(self._needed(ticket), self._footprints.get(name, _NOTHING))
        rest = (size for n, size in self._footprints.items() if n != name)
        total = added((need, self._snapshot.others, *rest, *self._going.values()))
        limits = self._snapshot.limits
        tight = any(total[d] > limits.get(d, total[d]) for d in need if need[d])
        return going if tight else ()

    def _trim(self) -> tuple[Decision, ...]:
        """Decision 2."""
        measured = (self._models[n].measured for n in self._footprints)
        total = added((*measured, self._snapshot.others))
        short = {d: total.get(d, 0) - limit for d, limit in self._snapshot.limits.items()}
        over = {device: size for device, size in short.items() if size > 0}
        if not over:
            return ()
        idle = [
            n
            for n in self._footprints
            if not self._is_leased(n) and n not in self._stays and n not in self._wanted
        ]
        idle.sort(key=lambda n: self._use[n])
        candidates = [self._candidate(n) for n in idle]
        # What is there goes, even if it is not enough.
        going = choose(candidates, over, 0)
        if going is None:
            going = tuple(c.model for c in candidates if any(c.bytes.get(d, 0) for d in over))
        self._let_go(going)
        reason = f"{spoken(over)} more are held than the budget allows now"
        return tuple(Decision(name, reason) for name in going)

    # -- what cannot be

    def _reachable(self, ticket: Ticket) -> bool:
        """Whether a request fits now, if all that may ever leave has left."""
        short, places = self._missing(ticket, at_best=True)
        return not short and not places

    def _refused(self, ticket: Ticket) -> bool:
        """Decision 1: whether no waiting will ever help."""
        name, there = ticket.model, ticket.model in self._footprints
        model = self._models[name]
        need = self._needed(ticket, alone=True)
        if there and need == model.needed(()):
            return False  # it is in memory, so it fits
        pinned = {
            n: self._models[n].unused
            for n in self._footprints
            if self._models[n].pinned and n != name
        }
        total = added((need, *pinned.values()))
        capacity = self._snapshot.capacity
        over = [d for d, most in capacity.items() if need.get(d, 0) and total[d] > most]
        full = (
            model.counted
            and not there
            and sum(self._models[n].counted for n in pinned) >= self._snapshot.max_resident
        )
        if not over and not full:
            return False
        held = f", of which pinned ones hold {spoken(added(pinned.values()))}"
        most = {d: capacity[d] for d in over}
        reason = (
            f"{self._needs(ticket, over)}; all models may hold {spoken(most)}"
            f"{_too_many(need, most)}{held if pinned else ''}"
            if over
            else f"needs a place, but all {self._snapshot.max_resident} are taken by pinned models"
        )
        self._refusals.append(Refusal(ticket, reason))
        return True

    # -- words

    def _needs(self, ticket: Ticket, devices: Sequence[str]) -> str:
        """What a request needs on these devices, and how much of it for its context."""
        model, need = self._models[ticket.model], self._needed(ticket, alone=True)
        text = f"needs {spoken({d: need[d] for d in devices})} at its peak"
        cache = {d: ticket.tokens * model.token_bytes.get(d, 0) for d in devices}
        # No word of it where it is the load that does not fit.
        if any(cache.values()) and need != model.needed(()):
            text += f", {spoken(cache)} of it for {ticket.tokens:,} tokens of prompt and answer"
        return text

    def _why(self, ticket: Ticket, evict: tuple[str, ...]) -> str:
        name = ticket.model
        if name in self._footprints and not evict:
            return "in memory"
        others = self._wanted[name] - 1
        parts = []
        if self._overdue(ticket):
            waited = self._snapshot.now_s - ticket.arrived_s
            parts.append(f"first in line after {waited:.0f} s")
        if others > 0:
            parts.append(f"{others + 1} requests want it")
        beside = len(self._footprints) - len(evict)
        if evict and name in self._footprints:
            parts.append(
                f"it is in memory, but its answer may take {spoken(self._growth(ticket))} more; "
                f"{', '.join(evict)} left, least recently used and idle"
            )
        elif evict:
            parts.append(f"in place of {', '.join(evict)}, least recently used and idle")
        elif beside:
            parts.append(f"fits beside {beside} other{'s' if beside > 1 else ''}")
        else:
            parts.append("nothing else is in memory")
        return "; ".join(parts)

    def _growth(self, ticket: Ticket) -> DeviceBytes:
        """What a model in memory takes more for one more request."""
        own = self._footprints[ticket.model]
        return {d: max(n - own.get(d, 0), 0) for d, n in self._needed(ticket).items()}

    def _no_room(self, ticket: Ticket) -> str:
        name = ticket.model
        short, places = self._missing(ticket)
        if not short and places:
            return "all places for resident models are in use"
        if name not in self._footprints:
            holders = sorted(n for n in self._footprints if n != name and self._is_leased(n))
            return f"{spoken(short)} of memory missing, in use by {', '.join(holders) or 'others'}"
        holders = sorted(n for n in self._footprints if self._is_leased(n))
        return (
            f"its prompt and answer may take {spoken(self._growth(ticket))} more memory, "
            f"{spoken(short)} of it missing, in use by {', '.join(holders) or 'others'}"
        )

    def _unreachable(self, ticket: Ticket) -> Wait:
        short, _ = self._missing(ticket, at_best=True)
        reason = f"{spoken(short)} of memory missing, which other programs hold"
        return Wait(reason, foreseeable=False)


def _too_many(need: DeviceBytes, most: DeviceBytes) -> str:
    """By how much, where the figures alone would look alike."""
    over = {d: max(need[d] - size, 0) for d, size in most.items()}
    if spoken({d: need[d] for d in most}) != spoken(most) or not any(over.values()):
        return ""
    return f", {sum(over.values()) / 1e6:.3g} MB less"


def _busy(model: Model, running: int) -> str:
    what = "the runner that it shares" if len(model.shared) > 1 else "the model"
    if running == 1:
        return f"{what} is answering another request"
    return f"{what} is answering {running} requests, as many as it takes"
