"""What the rotation did to a model, for the log: with its reason, and the receipt of an unload."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from workbench.errors import WorkbenchError
from workbench.memory import MemoryReading
from workbench.receipts import Receipt
from workbench.router import Route

Residency = Literal["load", "unload", "evict", "refuse", "pin", "unpin"]


@dataclass(frozen=True, slots=True)
class ResidencyChange:
    """A load, unload, eviction, refusal or pin.

    In the details of a load ``prefetch`` says that it began before its request had a slot, and
    ``handed_on`` that who began it left, and others waited for it.

    ``reason`` is why it was decided. ``receipt`` is of an unload or eviction.
    """

    event: Residency
    route: Route
    ok: bool
    reason: str
    duration_s: float
    t_ns: int
    before: MemoryReading | None = None
    after: MemoryReading | None = None
    receipt: Receipt | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def instant(
    event: Residency, route: Route, reason: str, *, ok: bool = True, **details: Any
) -> ResidencyChange:
    """Something that takes no time."""
    return ResidencyChange(event, route, ok, reason, 0.0, time.monotonic_ns(), details=details)


def unloaded(
    event: Residency, route: Route, reason: str, started_ns: int, receipt: Receipt, **details: Any
) -> ResidencyChange:
    """An unload that has ended, well or not."""
    if receipt.killed:
        details["killed"] = list(receipt.killed)
    return ResidencyChange(
        event,
        route,
        ok=receipt.problem is None,
        reason=f"{reason}; {receipt.problem}" if receipt.problem else reason,
        duration_s=receipt.duration_s,
        t_ns=started_ns,
        before=receipt.before,
        after=receipt.after,
        receipt=receipt,
        details=details,
    )


def load_failed(
    route: Route, error: BaseException, started_ns: int, **details: Any
) -> ResidencyChange:
    """A load that came to nothing, with its error as the reason."""
    if isinstance(error, WorkbenchError):
        details = {**details, "code": error.code, **error.details}
    seconds = (time.monotonic_ns() - started_ns) / 1e9
    reason = str(error) or "cancelled"
    return ResidencyChange("load", route, False, reason, seconds, started_ns, details=details)
