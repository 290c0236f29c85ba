"""A model as a request wants it."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.router import Route


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model as a request wants it."""

    route: Route
    keep_alive_s: float
    num_ctx: int | None = None
