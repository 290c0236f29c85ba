"""The place of a model that is in memory, or on its way in."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass

from workbench.router import Route


@dataclass(slots=True)
class Place:
    """A model that is in memory, or on its way in."""

    route: Route
    last_use: int
    num_ctx: int | None = None
    expires_at: float = math.inf
    used_at: dt.datetime | None = None
    ours: bool = False
    """Whether its last load was our doing: a runtime of its own may have had it before."""
    dead: bool = False
    """Its process ended while a request was using it, and that was told."""
