"""Who holds a slot now."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field

from workbench.rotation.snapshot import Ticket


@dataclass(slots=True)
class Leases:
    """Generations under way, by model: ticket number to the moment its model was ready.

    None: it has its turn, and its model is on its way in.
    """

    by_model: dict[str, dict[int, float | None]] = field(default_factory=lambda: defaultdict(dict))
    tokens: dict[str, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    """Context that each of them may come to."""
    exclusive: bool = False
    """Whether one runs alone."""

    def take(self, ticket: Ticket) -> None:
        """Its turn has come."""
        self.by_model[ticket.model][ticket.number] = None
        self.tokens[ticket.model][ticket.number] = ticket.tokens
        self.exclusive = ticket.exclusive

    def ready(self, ticket: Ticket) -> None:
        """Its answer begins."""
        self.by_model[ticket.model][ticket.number] = time.monotonic()

    def give_back(self, ticket: Ticket) -> None:
        """It has ended."""
        leases = self.by_model[ticket.model]
        del leases[ticket.number], self.tokens[ticket.model][ticket.number]
        if not leases:
            del self.by_model[ticket.model], self.tokens[ticket.model]
        if ticket.exclusive:
            self.exclusive = False

    def of(self, model: str) -> int:
        """How many a model has."""
        return len(self.by_model.get(model, ()))
