"""What rotation and queue look like now: who is in memory, who waits, who would leave."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from workbench.budget import Prediction
from workbench.types import Priority


@dataclass(frozen=True, slots=True)
class Resident:
    """A model in memory or on its way in. Bytes are by device."""

    model: str
    status: str
    """``loading``, ``leased`` (it answers), ``idle`` or ``leaving``."""
    running: int
    """Answers under way."""
    held_bytes: Mapping[str, int]
    """Measured; empty where it cannot be."""
    peak_bytes: Mapping[str, int]
    """Predicted at its peak, the load included; empty where nothing is known."""
    pinned: bool
    last_used_at: dt.datetime | None
    expires_in_s: float | None
    """Idle time left before it is unloaded; None: it stays."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request in the queue."""

    number: int
    model: str
    position: int
    reason: str
    estimate_s: float | None
    """Seconds until its answer may begin."""
    waited_s: float
    priority: Priority
    exclusive: bool
    evicts: tuple[str, ...]
    """Models that are to leave for it."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What would happen if a model were to be loaded now."""

    need: Prediction
    evicts: tuple[str, ...] = ()
    """Models that would leave for it."""
    waits: str | None = None
    """Why it would have to wait; None: it could be loaded at once."""
    problem: str | None = None
    """Why it could not be loaded at all."""


@dataclass(frozen=True, slots=True)
class Overview:
    """All of it at one moment. Bytes are by device; a device without a limit is missing."""

    limit_bytes: Mapping[str, int]
    held_bytes: Mapping[str, int]
    """Measured, over all models of both runtimes."""
    max_resident: int
    """Places for Hugging Face models."""
    max_waiting: int
    max_waiting_per_model: int
    residents: tuple[Resident, ...]
    waiting: tuple[Waiting, ...]
    next_victims: tuple[str, ...]
    """Idle models in the order in which they would leave for a load that needs room."""
    others: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Models that other programs loaded, with the bytes that they hold of ``held_bytes``."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        values = asdict(self)
        for resident in values["residents"]:
            at = resident["last_used_at"]
            resident["last_used_at"] = at.isoformat() if at else None
        return values

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Overview:
        """The overview that :meth:`to_dict` described."""
        values = dict(body)
        values["residents"] = tuple(_resident(item) for item in body["residents"])
        values["waiting"] = tuple(_waiting(item) for item in body["waiting"])
        values["next_victims"] = tuple(body["next_victims"])
        return cls(**values)


def _resident(body: Mapping[str, Any]) -> Resident:
    at = body["last_used_at"]
    return Resident(**{**body, "last_used_at": dt.datetime.fromisoformat(at) if at else None})


def _waiting(body: Mapping[str, Any]) -> Waiting:
    priority = Priority(body["priority"])
    return Waiting(**{**body, "priority": priority, "evicts": tuple(body["evicts"])})
