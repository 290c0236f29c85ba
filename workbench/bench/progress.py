"""How far a run is, for whoever shows it: values that are cheap to take at any time."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from workbench.bench.plan import Cell
from workbench.types import StreamSession

_RECENT: Final = 200

Phase = Literal["waiting", "warming up", "running", "scoring", "done", "failed", "stopped"]


@dataclass
class CellProgress:
    """One cell while it runs; figures are medians of its last answers.

    ``total`` is None for what cannot be known before (a sweep).
    """

    model: str
    label: str
    total: int | None
    phase: Phase = "waiting"
    done: int = 0
    failed: int = 0
    note: str = ""
    _ttft_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT), repr=False)
    _tpot_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT), repr=False)

    def take(self, session: StreamSession | None, status: str) -> None:
        """Count a finished trial."""
        self.done += 1
        if session is None or status not in ("ok", "cancelled"):
            self.failed += 1
            return
        for name, kept in (("ttft_s", self._ttft_s), ("tpot_s", self._tpot_s)):
            value = session.metrics.get(name)
            if value is not None:
                kept.append(value)

    @property
    def ttft_p50_s(self) -> float | None:
        """Median of the last answers' time to first token; None before there are any."""
        return statistics.median(self._ttft_s) if self._ttft_s else None

    @property
    def tpot_p50_s(self) -> float | None:
        """Median of the last answers' time per output token."""
        return statistics.median(self._tpot_s) if self._tpot_s else None


@dataclass
class Progress:
    """A run while it goes on."""

    run_id: str
    name: str
    cells: dict[str, CellProgress] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    begun_s: float = field(default_factory=time.monotonic)
    skipped: int = 0
    """Trials that were done before the run was resumed."""

    def add(self, cell: Cell, total: int | None) -> CellProgress:
        """A cell that is to run."""
        found = CellProgress(cell.model, label(cell), total)
        self.cells[cell.cell_id] = found
        return found

    @property
    def done(self) -> int:
        """Trials that are done, those of an earlier try included."""
        return sum(cell.done for cell in self.cells.values())

    @property
    def total(self) -> int | None:
        """Trials in all; None while that cannot be known."""
        totals = [cell.total for cell in self.cells.values()]
        return None if None in totals else sum(total for total in totals if total is not None)

    @property
    def elapsed_s(self) -> float:
        """Since the start, or since it was resumed."""
        return time.monotonic() - self.begun_s

    @property
    def left_s(self) -> float | None:
        """Judged by what the trials so far took."""
        now = self.done - self.skipped
        if self.total is None or not now:
            return None
        return self.elapsed_s / now * (self.total - self.done)


def label(cell: Cell) -> str:
    """A cell in a few words, beside its model: its load, lengths and options."""
    load = dict(cell.load)
    words = [str(load.pop("pattern"))]
    for name in ("users", "rate_per_s", "variant", "turns", "share"):
        if name in load:
            words.append(_said(name, load[name]))
    options = {name: value for name, value in cell.options.items() if name != "max_tokens"}
    return " · ".join(
        [" ".join(words), cell.workload.name, *(_said(*item) for item in sorted(options.items()))]
    )


def _said(name: str, value: Any) -> str:
    if name == "variant":
        return str(value)
    if name == "rate_per_s":
        return f"{value:g}/s"
    if name == "users":
        return f"{value} user{'s' if value != 1 else ''}"
    return f"{name} {value}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run.

    ``status`` is ``ok``, ``partial`` (something failed, ``failed`` says what; the rest has its
    figures), ``error`` (no cell has answers) or ``cancelled``. ``slo_met`` is None without an SLO,
    and for a run that was stopped before anything missed it. ``knees`` are, by model, the highest
    load of a sweep that kept it. ``cells`` are by id: model, label, results.
    """

    run_id: str
    name: str
    status: str
    slo_met: bool | None
    failed: tuple[str, ...]
    cells: Mapping[str, Mapping[str, Any]]
    knees: Mapping[str, float | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0: all well and every SLO kept; 1: an SLO missed; 2: a cell failed, or it was stopped."""
        if self.status != "ok":
            return 2
        return 1 if self.slo_met is False else 0

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "run_id": self.run_id,
            "name": self.name,
            "status": self.status,
            "slo_met": self.slo_met,
            "failed": list(self.failed),
            "knees": dict(self.knees),
            "notes": list(self.notes),
            "cells": [{"cell_id": cell_id, **cell} for cell_id, cell in self.cells.items()],
        }
