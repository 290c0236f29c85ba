"""The table of the log's runs, one row a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from workbench.figures import DASH, escape

EMPTY: Final = (
    '<div class="wb-empty"><strong>No run yet</strong><span>Choose a ready spec and start it: '
    "<code>quick</code> takes under two minutes with the demo model. Runs of "
    "<code>workbench bench run</code> appear here as well.</span></div>"
)

_HEADS: Final = (
    # class, words, what it means
    ("name", "name", "of the spec"),
    ("when", "begun", "UTC"),
    ("status", "status", "how it ended"),
    ("figure", "cells", "models under conditions"),
    ("figure", "trials", "answers of all cells"),
    ("slo", "SLO", "whether what the spec promises was kept"),
    ("id wb-mid", "run", "its id"),
)


def render(runs: Sequence[Mapping[str, Any]], chosen: str | None = None) -> str:
    """The runs as HTML, in the given order.

    Args:
        runs: of :func:`workbench.bench.listing.runs`.
        chosen: id of the run whose row is marked.
    """
    if not runs:
        return EMPTY
    heads = "".join(
        f'<th class="{kind}" title="{escape(meaning)}">{words}</th>'
        for kind, words, meaning in _HEADS
    )
    lines = "".join(_row(run, first=n == 0, chosen=chosen) for n, run in enumerate(runs))
    return (
        '<table class="wb-stock" role="grid" aria-label="Runs, the newest first"><thead><tr>'
        f"{heads}</tr></thead><tbody>{lines}</tbody></table>"
    )


def _row(run: Mapping[str, Any], *, first: bool, chosen: str | None) -> str:
    active = run["status"] == "active"
    cells, trials = (DASH if active else f"{run[name]:,}" for name in ("cells", "trials"))
    slo = {None: DASH, True: "kept", False: "missed"}[run["slo_met"]]
    texts = (run["name"], begun(run), run["status"], cells, trials, slo, run["run_id"])
    titles = (run["name"], f"{str(run['created_at'])[:19].replace('T', ' ')} UTC")
    body = "".join(
        f'<td class="{kind}"{f" title={chr(34)}{escape(title)}{chr(34)}" if title else ""}>'
        f"{escape(text)}</td>"
        for (kind, _, _), text, title in zip(_HEADS, texts, (*titles, *[""] * 5), strict=True)
    )
    return (
        f'<tr data-row="{escape(run["run_id"])}" data-status="{escape(run["status"])}" '
        f'data-slo="{slo}" tabindex="{0 if first else -1}" '
        f'aria-selected="{str(run["run_id"] == chosen).lower()}">{body}</tr>'
    )


def label(run: Mapping[str, Any]) -> str:
    """A line of the pickers."""
    return f"{run['name']}  ·  {begun(run)}  ·  {run['status']}  ·  {run['run_id']}"


def begun(run: Mapping[str, Any]) -> str:
    """Month, day and time of a run's begin, UTC."""
    return str(run["created_at"])[5:16].replace("T", " ")
