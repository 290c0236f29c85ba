"""Who holds a slot now."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field

from workbench.rotation.snapshot import Ticket


@dataclass(slots=True)
class Leases:
    """Generations under way, by model: ticket number to the moment of its grant."""

    by_model: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    exclusive: bool = False
    """Whether one runs alone."""

    def take(self, ticket: Ticket) -> None:
        """Its turn has come."""
        self.by_model[ticket.model][ticket.number] = time.monotonic()
        self.exclusive = ticket.exclusive

    def give_back(self, ticket: Ticket) -> None:
        """It has ended."""
        leases = self.by_model[ticket.model]
        del leases[ticket.number]
        if not leases:
            del self.by_model[ticket.model]
        if ticket.exclusive:
            self.exclusive = False

    def of(self, model: str) -> int:
        """How many a model has."""
        return len(self.by_model.get(model, ()))
