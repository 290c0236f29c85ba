"""Decisions in words, for the log and for who waits."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.budget import DeviceBytes
from workbench.rotation.room import Room
from workbench.rotation.snapshot import Model, Snapshot, Ticket, added, spoken


def why(room: Room, ticket: Ticket, evict: Sequence[str], others: int, waited_s: float) -> str:
    """Why a request goes on now.

    Args:
        room: before it goes on.
        ticket: of the request.
        evict: models that leave for it.
        others: further requests that want its model.
        waited_s: how long it has waited if that made it the first in line, else 0.
    """
    name = ticket.model
    if name in room.footprints and not evict:
        return "in memory"
    parts = []
    if waited_s:
        parts.append(f"first in line after {waited_s:.0f} s")
    if others > 0:
        parts.append(f"{others + 1} requests want it")
    if evict and name in room.footprints:
        parts.append(
            f"it is in memory, but its answer may take {spoken(room.growth(ticket))} more; "
            f"{', '.join(evict)} left, least recently used and idle"
        )
    elif evict:
        parts.append(f"in place of {', '.join(evict)}, least recently used and idle")
        short, places = room.missing(ticket)
        if places and not short:
            parts.append(f"{_all_places(room.snapshot)} are taken")
    elif beside := len(room.footprints):
        parts.append(f"fits beside {beside} other{'s' if beside > 1 else ''}")
    else:
        parts.append("nothing else is in memory")
    return "; ".join(parts)


def no_room(room: Room, ticket: Ticket) -> str:
    """What a request lacks that others in use will give back."""
    name = ticket.model
    short, places = room.missing(ticket)
    if not short and places:
        return f"{_all_places(room.snapshot)} are in use"
    holders = sorted(n for n in room.footprints if room.is_leased(n))
    if name not in room.footprints:
        return f"{spoken(short)} of memory missing, in use by {', '.join(holders) or 'others'}"
    return (
        f"its prompt and answer may take {spoken(room.growth(ticket))} more memory, "
        f"{spoken(short)} of it missing, in use by {', '.join(holders) or 'others'}"
    )


def held_by_others(room: Room, ticket: Ticket) -> str:
    """What a request lacks that only other programs can give back, and what can be done."""
    short, _ = room.missing(ticket, at_best=True)
    lacks = f"{spoken(short)} of memory missing, which other programs hold"
    theirs = [f"{name} {spoken(held)}" for name, held in room.foreign().items()]
    if not theirs:
        return lacks
    return (
        f"{lacks}; of models that they loaded into Ollama: {', '.join(theirs)} (unload there, or "
        "set WORKBENCH_EVICT_OTHERS=true)"
    )


def too_large(room: Room, ticket: Ticket, over: Sequence[str]) -> str:
    """Why no waiting helps; ``over`` are devices that it needs more of, none: no place is free."""
    snapshot = room.snapshot
    if not over:
        return f"needs a place, but {_all_places(snapshot)} are taken by pinned models"
    pinned = room.pinned_besides(ticket.model)
    held = f", of which pinned ones hold {spoken(added(pinned.values()))}"
    need = room.needed(ticket, alone=True)
    most = {d: snapshot.capacity[d] for d in over}
    return (
        f"{_needs(room.model(ticket), ticket, need, over)}; all models may hold {spoken(most)}"
        f"{_by_how_much(need, most)}{held if pinned else ''}"
    )


def _all_places(snapshot: Snapshot) -> str:
    return f"all {snapshot.max_resident} places for models (HF_MAX_CACHED_MODELS)"


def busy(model: Model, running: int) -> str:
    """Why a model in memory takes no more requests."""
    what = "the runner that it shares" if len(model.shared) > 1 else "the model"
    if running == 1:
        return f"{what} is answering another request"
    return f"{what} is answering {running} requests, as many as it takes"


def _needs(model: Model, ticket: Ticket, need: DeviceBytes, devices: Sequence[str]) -> str:
    """What a request needs on these devices, and how much of it for its context."""
    text = f"needs {spoken({d: need[d] for d in devices})} at its peak"
    cache = {d: ticket.tokens * model.token_bytes.get(d, 0) for d in devices}
    # No word of it where it is the load that does not fit.
    if any(cache.values()) and need != model.needed(()):
        text += f", {spoken(cache)} of it for {ticket.tokens:,} tokens of prompt and answer"
    return text


def _by_how_much(need: DeviceBytes, most: DeviceBytes) -> str:
    """By how much, where the figures alone would look alike."""
    over = {d: max(need[d] - size, 0) for d, size in most.items()}
    if spoken({d: need[d] for d in most}) != spoken(most) or not any(over.values()):
        return ""
    return f", {sum(over.values()) / 1e6:.3g} MB less"
