"""Models in one process are one model to the policy: leased, pinned, counted and evicted together.

Several names of one file of weights share one of Ollama's runners. :func:`together` makes one model
of each process, under the name of one that is in memory; :func:`apart` says a plan for it in the
names that were asked for. Both are pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce

from workbench.budget import DeviceBytes
from workbench.rotation.snapshot import Decision, Model, Plan, Snapshot, added, larger

Homes = Mapping[str, str]
"""Name to the name of its process; those that are alone in theirs are missing."""


def together(snapshot: Snapshot) -> tuple[Snapshot, Homes]:
    """The same with one model for each process."""
    homes: dict[str, str] = {}
    for name, model in snapshot.models.items():
        if name in homes or len(model.shared | {name}) == 1:
            continue
        members = sorted((model.shared | {name}) & snapshot.models.keys())
        home = min(members, key=lambda one: _claim(snapshot.models[one]))
        homes |= dict.fromkeys(model.shared | {name}, home)
    if not homes:
        return snapshot, {}
    groups: dict[str, list[Model]] = defaultdict(list)
    wanted = {ticket.model for ticket in snapshot.waiting}
    asked: dict[str, list[Model]] = defaultdict(list)
    for name, model in snapshot.models.items():
        home = homes.get(name, name)
        groups[home].append(model)
        if name in wanted or model.leased:
            asked[home].append(model)
    merged = {
        home: _merged(models, asked[home] or models) if len(models) > 1 else models[0]
        for home, models in groups.items()
    }
    tickets = [
        replace(ticket, model=homes.get(ticket.model, ticket.model)) for ticket in snapshot.waiting
    ]
    going: dict[str, list[Mapping[str, int]]] = defaultdict(list)
    for name, held in snapshot.unloading.items():
        going[homes.get(name, name)].append(held)
    leaving = {name: added(parts) for name, parts in going.items()}
    return replace(snapshot, waiting=tickets, models=merged, unloading=leaving), homes


def apart(planned: Plan, snapshot: Snapshot, homes: Homes) -> Plan:
    """A plan for the merged snapshot, in the names of the one that it was made from."""
    if not homes:
        return planned
    tickets = {ticket.number: ticket for ticket in snapshot.waiting}
    inside: dict[str, list[str]] = defaultdict(list)
    for name in snapshot.unloading:
        if homes.get(name, name) != name:
            inside[homes[name]].append(name)

    def after(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one for name in names for one in (name, *inside[name])))

    grants = tuple(
        replace(grant, ticket=tickets[grant.ticket.number], after=after(grant.after))
        for grant in planned.grants
    )
    refusals = tuple(
        replace(refusal, ticket=tickets[refusal.ticket.number]) for refusal in planned.refusals
    )
    ahead = planned.prefetch
    if ahead is not None:
        name = _next_alone(ahead.model, planned, snapshot, homes)
        ahead = Decision(name, ahead.reason, after(ahead.after))
    return replace(planned, grants=grants, refusals=refusals, prefetch=ahead)


def _claim(model: Model) -> tuple[bool, int, int]:
    """Sorts members of a process: first who is in memory, holds the most and was used last."""
    held = sum(model.held.values()) if model.held is not None else 0
    return (not model.resident, -held, -model.last_use)


def _merged(models: Sequence[Model], asked: Sequence[Model]) -> Model:
    inside = [model for model in models if model.resident]
    measured = [model.held for model in inside if model.held is not None]
    return replace(
        models[0],
        resident=bool(inside),
        loading=any(model.loading for model in models),
        running=sum(model.running for model in models),
        last_use=max(model.last_use for model in models),
        need=_largest(model.need for model in asked),
        answering=_largest(model.answering for model in asked),
        settled=_largest(model.settled for model in inside),
        token_bytes=_largest(model.token_bytes for model in asked),
        tokens=tuple(tokens for model in models for tokens in model.tokens),
        held=added(measured) if measured else None,
        concurrency=max(model.concurrency for model in models),
        pinned=any(model.pinned for model in models),
        foreign=any(model.foreign for model in models),
        load_s=max(model.load_s for model in models),
        gap_s=min(model.gap_s for model in models),
        doomed=all(model.doomed for model in models),
    )


def _largest(parts: Iterable[DeviceBytes]) -> DeviceBytes:
    return reduce(larger, parts, {})


def _next_alone(home: str, planned: Plan, snapshot: Snapshot, homes: Homes) -> str:
    """The name by which the next exclusive request asks for the model of a process."""
    asked = {
        ticket.number: ticket.model
        for ticket in snapshot.waiting
        if ticket.exclusive and homes.get(ticket.model, ticket.model) == home
    }
    return next(asked[number] for number in planned.order if number in asked)
