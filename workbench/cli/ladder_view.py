"""A ladder in the terminal: while it is climbed, and what it came to."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from rich.console import Console
from rich.table import Table

from workbench import figures

if TYPE_CHECKING:
    from workbench.insight.ladder import Ladder

_COLUMNS: Final = 110
"""So wide are the figures with their intervals."""
_LINE_EVERY_S: Final = 10.0


class StageView:
    """What is being done, on standard error; without a terminal a line now and then."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._status = self._console.status("begins")
        self._said = ""
        self._told_s: float | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._status.stop()

    def update(self, stage: str) -> None:
        """Show a stage; the same one again is no news."""
        if not stage or stage == self._said:
            return
        now = time.monotonic()
        if self._console.is_terminal:
            self._status.update(stage)
        elif self._told_s is not None and now - self._told_s < _LINE_EVERY_S:
            return
        else:
            self._told_s = now
            self._console.print(stage, markup=False, highlight=False, soft_wrap=True)
        self._said = stage


def print_ladder(found: Ladder) -> None:
    """A line and a row of figures for each form, then what to know of them."""
    # Forms of one model have long names that differ at their ends: a line each, numbered, and the
    # figures in a table as wide as they are, also where the output is a file of 80 columns.
    console = Console()
    table = Table(box=None, pad_edge=False)
    for name in ("", "on disk", "in memory", "perplexity", "to the first", "same token", "tok/s"):
        table.add_column(name, no_wrap=True, justify="left" if not name else "right")
    for number, rung in enumerate(found.rungs, start=1):
        row = found.row(rung)
        bound = _bound(">=" if row["perplexity_is_bound"] else None)
        console.print(f"{number}  {rung.model}", markup=False, highlight=False, soft_wrap=True)
        table.add_row(
            str(number),
            figures.size(rung.size_bytes) if rung.size_bytes else "-",
            figures.size(rung.memory_bytes) if rung.memory_bytes else "-",
            bound + _with_interval(row, "perplexity", "{:.2f}"),
            _bound(row["perplexity_ratio_bound"])
            + _with_interval(row, "perplexity_ratio", "{:.3f}"),
            _with_interval(row, "agreement", "{:.0%}"),
            _with_interval(row, "decode_tps", "{:.1f}"),
        )
    Console(width=max(console.width, _COLUMNS)).print(table)
    for note in found.notes():
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def _bound(sign: str | None) -> str:
    return f"{sign} " if sign else ""


def _with_interval(row: Mapping[str, Any], name: str, form: str) -> str:
    value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    if value is None:
        return "-"
    if low is None or high is None:
        return form.format(value)
    return f"{form.format(value)} [{form.format(low)}, {form.format(high)}]"
