"""Who holds a slot now, and how far its answer has come."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field

from workbench.rotation.snapshot import Ticket


@dataclass(slots=True)
class Progress:
    """An answer from its turn to its end. Times are monotonic seconds; None: not yet."""

    ticket: Ticket
    ready_s: float | None = None
    """Its model was in memory."""
    first_s: float | None = None
    """Its first token came."""
    streamed: int = 0
    """Tokens that have come."""

    def token(self, n_tokens: int) -> None:
        """Some have come."""
        if self.first_s is None:
            self.first_s = time.monotonic()
        self.streamed += n_tokens


@dataclass(slots=True)
class Leases:
    """Generations under way, by model and number of their tickets."""

    by_model: dict[str, dict[int, Progress]] = field(default_factory=lambda: defaultdict(dict))
    exclusive: bool = False
    """Whether one runs alone."""

    def take(self, ticket: Ticket) -> None:
        """Its turn has come."""
        self.by_model[ticket.model][ticket.number] = Progress(ticket)
        self.exclusive = ticket.exclusive

    def ready(self, ticket: Ticket) -> Progress:
        """Its answer begins."""
        progress = self.by_model[ticket.model][ticket.number]
        progress.ready_s = time.monotonic()
        return progress

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

    def tokens(self, model: str) -> tuple[int, ...]:
        """The context that each of them may come to."""
        return tuple(one.ticket.tokens for one in self.by_model.get(model, {}).values())
