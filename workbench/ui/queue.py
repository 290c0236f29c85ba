"""The queue on the page: who waits, why, and about how long."""

from __future__ import annotations

from collections.abc import Sequence

from workbench import figures
from workbench.figures import DASH, escape
from workbench.rotation import Waiting


def render(waiting: Sequence[Waiting], max_waiting: int) -> str:
    """The queue as HTML, in order of position; empty, it says so in a line."""
    if not waiting:
        return (
            '<div class="wb-queue" data-length="0"><div class="wb-nothing">Nobody waits '
            f"(at most {max_waiting:,} may).</div></div>"
        )
    rows = "".join(_row(one) for one in waiting)
    return (
        f'<div class="wb-queue" data-length="{len(waiting)}"><table class="wb-holders">'
        f"<thead><tr><th></th><th>waits ({len(waiting):,} of at most {max_waiting:,})</th>"
        "<th>since</th>"
        '<th title="from what loads and answers of these models took lately">expected wait</th>'
        f"<th>because</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(one: Waiting) -> str:
    estimate = DASH if one.estimate_s is None else f"about {figures.seconds(one.estimate_s)}"
    words = [one.reason]
    if one.evicts:
        words.append(f"{', '.join(one.evicts)} will leave for it")
    return (
        f'<tr data-position="{one.position}"><td><b>{one.position}</b></td>'
        f"<td>{escape(one.model)}{_mark(one)}</td><td>{figures.clock(one.waited_s)}</td>"
        f"<td>{estimate}</td><td>{escape('; '.join(words))}</td></tr>"
    )


def _mark(one: Waiting) -> str:
    marks = [one.priority.value] if one.priority.value != "interactive" else []
    marks += ["alone"] if one.exclusive else []
    return "".join(f' <span class="wb-mark">{escape(mark)}</span>' for mark in marks)
