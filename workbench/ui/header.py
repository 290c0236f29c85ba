"""The header: the name, what models hold of the memory they may, and whether it is short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import gradio as gr

from workbench import figures
from workbench.budget import HOST
from workbench.engine import Engine
from workbench.figures import escape
from workbench.memory import DeviceMemory
from workbench.pressure import Alert
from workbench.store import Store
from workbench.ui import notices
from workbench.ui.budget import Holder
from workbench.ui.desk import Updates
from workbench.ui.markup import html
from workbench.ui.memory import holders
from workbench.ui.pairs import Pairs

_EVERY_S: Final = 2.0
_SILENT: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private"}
_HIDDEN: Final = (
    '<div class="wb-machine" data-metric="hidden" title="who is in memory would tell who answers">'
    "memory: after your vote in the Arena</div>"
)
_SHORT: Final = {"high": "memory short", "critical": "memory critical"}


class Header:
    """Builds the header at the current place.

    Args:
        engine: the one road to all models.
        pairs: while a page's pair is open, its header does not say who is in memory.
    """

    def __init__(self, engine: Engine, pairs: Pairs) -> None:
        self._engine = engine
        self._pairs = pairs
        html(
            '<span class="wb-name" role="heading" aria-level="1">Workbench</span>', elem_id="brand"
        )
        self._machine = html("", elem_id="machine")
        self._banner = html("", elem_id="log-banner", elem_classes=["wb-notices"])
        self.outputs = [self._machine, self._banner]
        gr.Timer(_EVERY_S).tick(self._look, None, self.outputs, concurrency_limit=None, **_SILENT)

    def opening(self, request: gr.Request) -> Updates:
        """The first reading, of a page whose pair is known already."""
        return dict(zip(self.outputs, self._read(request), strict=True))

    async def _look(self, request: gr.Request) -> tuple[str, str]:
        return self._read(request)

    def _read(self, request: gr.Request) -> tuple[str, str]:
        """What the book knows already: nothing is read for it beside a measurement."""
        if self._pairs.blind(request.session_hash):
            return _HIDDEN, banner(self._engine.store)
        book = self._engine.book
        there = holders(self._engine)
        shown = render(
            there,
            sum(holder.held.get(HOST, 0) for holder in there),
            book.limits()[HOST],
            book.devices[HOST],
            len(self._engine.overview().waiting),
            book.alerts,
        )
        return shown, banner(self._engine.store)


def banner(store: Store) -> str:
    """What is wrong with the log, or was and has been mended, as HTML; empty when all is well."""
    problem = store.last_error
    return "".join(notices.error_card(told) for told in ([problem] if problem else store.repairs))


def render(
    residents: Sequence[Holder],
    held: int,
    limit: int,
    machine: DeviceMemory,
    waiting: int,
    alerts: Sequence[Alert],
) -> str:
    """The indicator as HTML.

    Args:
        residents: every name in memory.
        held: by all models, bytes.
        limit: that all models may hold now, bytes.
        machine: all memory of the host.
        waiting: requests in the queue.
        alerts: devices whose memory is short.
    """
    words = ", ".join(map(_named, residents)) or "no model is in memory"
    machine_words = (
        f"models hold {figures.size(held)} of the {figures.size(limit)} that they may; "
        f"of this machine {machine.used_bytes / 1e9:.1f} of {machine.total_bytes / 1e9:.0f} GB "
        "are in use"
    )
    queue = f'<div class="wb-machine" data-metric="waiting">{waiting} waiting</div>'
    return (
        f"{''.join(_chip(alert) for alert in alerts)}"
        f'<div class="wb-machine" title="{escape(machine_words)}">Models '
        f'<span data-metric="memory" data-value="{held}">{held / 1e9:.1f} / {limit / 1e9:.1f} GB'
        f'</span><span class="wb-gauge"><i style="width:{figures.percent(held, limit)}%"></i>'
        "</span></div>"
        f'<div class="wb-machine" data-metric="resident" title="{escape(words)}">'
        f"{len(residents)} resident</div>{queue if waiting else ''}"
    )


def _named(holder: Holder) -> str:
    if holder.shares_with is not None:
        return f"{holder.model} (in the runner of {holder.shares_with})"
    size = sum(holder.held.values())
    return f"{holder.model} {figures.size(size)}" if size else holder.model


def _chip(alert: Alert) -> str:
    return (
        f'<div class="wb-chip" data-level="{alert.level}" data-metric="alert" '
        f'title="{escape(alert.sentence())}">{_SHORT[alert.level]}</div>'
    )
