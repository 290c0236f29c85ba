"""How long each request will wait: from what runs, what is ahead of it and what that takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workbench.budget import DeviceBytes
from workbench.rotation.leases import Progress
from workbench.rotation.snapshot import Model, Snapshot, Wait
from workbench.rotation.speeds import Speeds


@dataclass(frozen=True, slots=True)
class _Lane:
    """An answer of a model until its end, in seconds from now."""

    end: float
    tokens: int = 0
    """Context that it may come to."""


def estimate(
    snapshot: Snapshot,
    order: Sequence[int],
    waits: Mapping[int, Wait],
    running: Mapping[str, Sequence[Progress]],
    loading_for_s: Mapping[str, float],
    speeds: Speeds,
) -> dict[int, float]:
    """Seconds until each waiting request may begin its answer, in the order of the queue.

    Each model has as many lanes as it takes requests at a time. A request takes the lane that is
    free first; one that lacks room for its context waits until so many answers of its model have
    ended that their keys and values and its own fit; one whose model is not in memory waits for
    those that are to leave for it (else for the first model that falls idle), then for the load.
    An exclusive one waits for all answers and loads, and all later ones for its end. Of one whose
    turn other programs decide nothing is said.

    Args:
        snapshot: what the plan was made from.
        order: numbers of those that wait, the first in line first.
        waits: why each of them waits.
        running: the answers under way by model, on the clock of the snapshot.
        loading_for_s: how long each load under way has run, by model.
        speeds: what loads and answers take.
    """
    tickets = {ticket.number: ticket for ticket in snapshot.waiting}
    resident = {name for name, model in snapshot.models.items() if model.resident}
    ready = dict.fromkeys(resident, 0.0)
    for name, ran in loading_for_s.items():
        if name in snapshot.models:
            ready[name] = speeds.load_left_s(name, snapshot.models[name].load_s, ran)
    lanes = {
        name: [
            _Lane(
                ready.get(name, 0.0) + speeds.answer_s(name, one.ticket.answer_tokens)
                if one.ready_s is None
                else speeds.answer_left_s(name, one, snapshot.now_s),
                one.ticket.tokens,
            )
            for one in answers
        ]
        for name, answers in running.items()
    }
    barrier, result = _silent_at(lanes, ready) if snapshot.exclusive_running else 0.0, {}
    for number in order:
        if not waits[number].foreseeable:
            continue
        ticket = tickets[number]
        name, model = ticket.model, snapshot.models[ticket.model]
        start = barrier
        if ticket.exclusive:
            start = max(barrier, _silent_at(lanes, ready))
        if name not in resident:
            if not ticket.exclusive:
                going = waits[number].evicts
                start = max(start, _room_at(going, resident, lanes, ready, snapshot.models))
            start += model.load_s
            ready[name] = start
            resident.add(name)
        own = lanes.setdefault(name, [])
        start = max(start, ready[name])
        if len(own) >= model.concurrency:
            own.sort(key=lambda lane: lane.end)
            start = max(start, own.pop(0).end)
        if most := waits[number].may_hold:
            start = max(start, _fits_at(model, own, ticket.tokens, most))
        own.append(_Lane(start + speeds.answer_s(name, ticket.answer_tokens), ticket.tokens))
        if ticket.exclusive:
            barrier = own[-1].end
        result[number] = start
    return result


def _silent_at(lanes: Mapping[str, Sequence[_Lane]], ready: Mapping[str, float]) -> float:
    """When all answers and loads have ended."""
    return max([0.0, *ready.values(), *(lane.end for own in lanes.values() for lane in own)])


def _fits_at(model: Model, lanes: Sequence[_Lane], tokens: int, most: DeviceBytes) -> float:
    """When so many answers of a model have ended that one more fits into what it may hold."""
    for at in (0.0, *sorted(lane.end for lane in lanes)):
        need = model.needed([*(lane.tokens for lane in lanes if lane.end > at), tokens])
        if all(need.get(device, 0) <= size for device, size in most.items()):
            break
    return at


def _room_at(
    going: Sequence[str],
    resident: set[str],
    lanes: Mapping[str, Sequence[_Lane]],
    ready: Mapping[str, float],
    models: Mapping[str, Model],
) -> float:
    """When those that are to leave have fallen idle, else the first that may; they are gone."""
    idle_at = {
        name: max([ready[name], *(lane.end for lane in lanes.get(name, ()))])
        for name in resident
        if not models[name].pinned
    }
    leaving = [name for name in going if name in idle_at]
    if not leaving and idle_at:
        leaving = [min(idle_at, key=lambda name: (idle_at[name], models[name].last_use))]
    resident.difference_update(leaving)
    return max((idle_at[name] for name in leaving), default=0.0)
