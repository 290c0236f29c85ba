"""What becomes of models, for the log and for those who watch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from workbench.errors import WorkbenchError
from workbench.ledger import Ledger
from workbench.providers.base import Provider
from workbench.receipts import Receipt
from workbench.rotation import ResidencyChange
from workbench.router import Route
from workbench.store import ModelEvent, Store


class ModelLog:
    """Writes a row for each thing that happens to a model.

    Args:
        store: the log.
        book: what each model holds, for the account in its row.
        on_event: told of each.
    """

    def __init__(self, store: Store, book: Ledger, on_event: Callable[[ModelEvent], None]) -> None:
        self._store = store
        self._book = book
        self._on_event = on_event
        self.receipts: dict[str, Receipt] = {}
        """Of each model's last unload, until somebody asked."""

    def add(self, event: ModelEvent) -> None:
        """Write one, and tell of it."""
        self._store.log_model_event(event)
        self._on_event(event)

    def change(self, change: ResidencyChange) -> None:
        """The rotation did something to a model."""
        before, after, receipt = change.before, change.after, change.receipt
        read = after if change.event == "load" else before
        left = after.pss_bytes + after.gpu_bytes if after else 0
        if change.event == "load" and change.ok:
            # The figure of all lists and pages, whose names for one runner count it once.
            left = sum(self._book.held().get(change.route.model, {}).values()) or left
        event = ModelEvent(
            t_ns=change.t_ns,
            model=change.route.model,
            provider=change.route.provider.name,
            event=change.event,
            ok=change.ok,
            reason=change.reason,
            before_bytes=before.pss_bytes + before.gpu_bytes if before else None,
            after_bytes=left,
            duration_s=change.duration_s,
            details={**change.details, **self._book.account(change.route.model, read)},
        )
        if receipt is not None:
            self.receipts[change.route.model] = receipt
            event = replace(
                event,
                expected_bytes=receipt.expected_bytes,
                recovered_bytes=receipt.recovered_bytes,
                recovered_share=receipt.recovered_share,
                leak=receipt.leak,
                host_before_bytes=receipt.host_before_bytes,
                host_after_bytes=receipt.host_after_bytes,
            )
        self.add(event)

    def figures(self, provider: Provider, name: str, figures: Mapping[str, Any]) -> None:
        """What a server counted while it answered, under its own names."""
        self.add(
            ModelEvent(
                t_ns=time.monotonic_ns(),
                model=Route(provider, name).model,
                provider=provider.name,
                event="server_figures",
                duration_s=figures["over_s"],
                details=figures,
            )
        )

    def death(self, provider: Provider, name: str, error: WorkbenchError) -> None:
        """A process that held a model ended by itself."""
        route = Route(provider, name)
        self.add(
            ModelEvent(
                t_ns=time.monotonic_ns(),
                model=route.model,
                provider=provider.name,
                event="died",
                ok=False,
                reason=error.message,
                after_bytes=0,
                details=error.details,
            )
        )
