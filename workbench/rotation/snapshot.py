"""What the policy looks at and what it answers: pure values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from workbench.budget import DeviceBytes
from workbench.types import Priority


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request's place in the queue."""

    number: int
    model: str
    arrived_s: float = 0.0
    """On the clock of :attr:`Snapshot.now_s`."""
    exclusive: bool = False
    priority: Priority = Priority.INTERACTIVE
    tokens: int = 0
    """Context that its prompt and answer may come to."""
    answer_tokens: int | None = None
    """Of these the answer; 0: it is only a load, None: unknown."""


@dataclass(frozen=True, slots=True)
class Model:
    """All that the policy knows of one model, in memory or wanted."""

    resident: bool = False
    """In memory or on its way in."""
    loading: bool = False
    running: int = 0
    """Generations (and the loads before them) under way: the model is leased."""
    last_use: int = 0
    """Larger: later."""
    need: DeviceBytes = field(default_factory=dict)
    """Predicted bytes at its peak, those of the requests' tokens not counted: of the load, once it
    is loaded of what it holds then."""
    answering: DeviceBytes = field(default_factory=dict)
    """The same once it is loaded; none: as ``need``."""
    settled: DeviceBytes = field(default_factory=dict)
    """The same as measured in other stays: an idle model counts with no less."""
    token_bytes: DeviceBytes = field(default_factory=dict)
    """What each token of context of its requests adds."""
    tokens: Sequence[int] = ()
    """Of each request that it answers now."""
    held: DeviceBytes | None = None
    """Measured bytes; None: not measured yet."""
    concurrency: int = 1
    """Generations it runs at a time."""
    counted: bool = True
    """Whether it takes one of the places that ``HF_MAX_CACHED_MODELS`` limits."""
    pinned: bool = False
    load_s: float = 1.0
    """What a load of it takes."""
    gap_s: float = float("inf")
    """Mean time between its last requests, the time since the last one included."""
    shared: frozenset[str] = frozenset()
    """Models in the same process: they are leased, pinned and evicted together."""
    foreign: bool = False
    """Another program loaded it and may be using it: not to be evicted."""
    doomed: bool = False
    """Its last load failed just now, for a reason that does not go away."""

    @property
    def leased(self) -> bool:
        """Whether it may not be evicted now."""
        return self.running > 0 or self.loading

    @property
    def footprint(self) -> DeviceBytes:
        """What it counts with in the budget now."""
        held = self.need if self.held is None else self.held
        return larger(held, self.needed(self.tokens) if self.leased else self.settled)

    @property
    def unused(self) -> DeviceBytes:
        """What it will count with at least once it has answered."""
        return self.needed(()) if self.leased else self.footprint

    @property
    def measured(self) -> DeviceBytes:
        """What is known to be held."""
        return self.footprint if self.leased or self.held is None else self.held

    def needed(self, tokens: Sequence[int]) -> DeviceBytes:
        """What it needs for requests of so much context each, answered at the same time.

        Their keys and values stand in rows of one length, that of the longest.
        """
        if not any(tokens):
            return self.need
        cells = len(tokens) * max(tokens)
        cache = {device: cells * size for device, size in self.token_bytes.items()}
        return larger(self.need, added((self.answering or self.need, cache)))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the policy looks at."""

    waiting: Sequence[Ticket]
    models: Mapping[str, Model]
    """Every model that is resident or waited for."""
    max_resident: int
    now_s: float = 0.0
    limits: DeviceBytes = field(default_factory=dict)
    """What all models together may hold now; a device that is missing has no limit."""
    capacity: DeviceBytes = field(default_factory=dict)
    """The same at its best: when no other program takes memory."""
    unloading: Mapping[str, DeviceBytes] = field(default_factory=dict)
    """Models on their way out, with what they may still hold."""
    others: Mapping[str, DeviceBytes] = field(default_factory=dict)
    """Models that are nobody's to evict, with what they hold."""
    exclusive_running: bool = False
    patience_s: Mapping[Priority, float] = field(default_factory=dict)
    """After so long a request is overtaken by nobody that arrives; missing: never."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A ticket may go on, once those in ``after`` have left memory."""

    ticket: Ticket
    reason: str
    evict: tuple[str, ...] = ()
    """Models whose unload begins now."""
    after: tuple[str, ...] = ()
    """Models whose unload must have ended: those of ``evict``, and others that are on it."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a ticket waits, and which models will leave for it as soon as they may."""

    reason: str
    evicts: tuple[str, ...] = ()
    foreseeable: bool = True
    """False: its end is in the hands of other programs."""
    may_hold: DeviceBytes = field(default_factory=dict)
    """What its model may hold meanwhile, where it is answers of the model itself that must end."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A ticket that would wait in vain."""

    ticket: Ticket
    reason: str
    cause: Literal["size", "places", "failed", "others"] = "size"
    """It can never fit, pinned models have all places, its load just failed, or other programs kept
    what it lacks too long."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Something to be done about a model, and why."""

    model: str
    reason: str
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens now. ``order`` has the numbers of those that wait, the first in line first."""

    grants: tuple[Grant, ...]
    waits: Mapping[int, Wait]
    order: tuple[int, ...]
    refusals: tuple[Refusal, ...] = ()
    trims: tuple[Decision, ...] = ()
    """Idle models to be evicted for nobody: more is held than may be."""
    prefetch: Decision | None = None
    again_s: float = float("inf")
    """When time alone may change the plan, on the snapshot's clock."""


def larger(a: DeviceBytes, b: DeviceBytes) -> DeviceBytes:
    """The larger of two figures on each device."""
    return {device: max(a.get(device, 0), b.get(device, 0)) for device in {*a, *b}}


def added(parts: Iterable[DeviceBytes]) -> dict[str, int]:
    """Sums by device."""
    total: dict[str, int] = defaultdict(int)
    for part in parts:
        for device, size in part.items():
            total[device] += size
    return dict(total)


def spoken(sizes: DeviceBytes) -> str:
    """Bytes in words: ``1.2 GB, cuda:0 3.4 GB``."""
    parts = [
        f"{'' if device == 'host' else device + ' '}" + _spoken(size)
        for device, size in sorted(sizes.items(), key=lambda item: item[0] != "host")
        if size
    ]
    return ", ".join(parts) or "nothing"


def _spoken(size: int) -> str:
    if size < 1e9:
        return f"{size / 1e6:.0f} MB"
    return f"{size / 1e9:.{2 if size < 1e10 else 1}f} GB"
