"""How short memory is, with hysteresis, so that a figure at a threshold does not flutter. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Level = Literal["ok", "high", "critical"]
_ORDER: Final[Mapping[Level, int]] = {"ok": 0, "high": 1, "critical": 2}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Shares of a device's memory in use. A level is left ``band`` below where it is entered."""

    high: float
    critical: float
    band: float

    def level(self, before: Level, used_share: float) -> Level:
        """The level now, given the level before."""
        entries: tuple[tuple[Level, float], ...] = (
            ("critical", self.critical),
            ("high", self.high),
        )
        for level, entered in entries:
            left = entered - self.band if _ORDER[before] >= _ORDER[level] else entered
            if used_share >= left:
                return level
        return "ok"


@dataclass(frozen=True, slots=True)
class Alert:
    """One device whose memory is short, or its budget. ``since_ns`` is monotonic.

    Of the budget ``used_bytes`` is what models are measured to hold of ``total_bytes``.
    """

    device: str
    level: Level
    used_bytes: int
    total_bytes: int
    since_ns: int
    of_budget: bool = False

    @property
    def key(self) -> str:
        """What is watched, for metrics."""
        return f"{self.device} budget" if self.of_budget else self.device

    @property
    def rising(self) -> bool:
        """False once the device is well again."""
        return self.level != "ok"

    def sentence(self) -> str:
        """For a person."""
        where = "this machine" if self.device == "host" else self.device
        share = f"{100 * self.used_bytes / max(self.total_bytes, 1):.0f} %"
        used = f"{self.used_bytes / 1e9:.1f} of {self.total_bytes / 1e9:.1f} GB"
        if self.of_budget:
            now = "again within" if self.level == "ok" else "more than"
            return (
                f"Models hold {self.used_bytes / 1e9:.2f} GB of {where}, {now} the budget of "
                f"{self.total_bytes / 1e9:.2f} GB."
            )
        state = {"ok": "is well again", "high": "is short", "critical": "is nearly used up"}
        return f"Memory of {where} {state[self.level]}: {used} in use ({share})."


def worse(new: Level, old: Level) -> bool:
    """Whether a level is above another."""
    return _ORDER[new] > _ORDER[old]


def limit(before: int, room: int, capacity: int, step_share: float) -> int:
    """What models may hold now.

    It follows the room down at once, and up only when it has grown by a step, or to the full
    capacity: readings jitter, and each rise may start a load.

    Args:
        before: the limit so far, bytes.
        room: what is free plus what models hold, less the reserve, bytes; may be negative.
        capacity: the budget that was set, or what was free at start less the reserve, bytes.
        step_share: of the capacity.
    """
    target = max(0, min(capacity, room))
    if target < before or target == capacity:
        return target
    return target if target - before >= step_share * capacity else before
