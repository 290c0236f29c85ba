"""A benchmark in the terminal: while it runs, what it came to, the runs of the log."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from workbench import figures
from workbench.bench.evidence import short
from workbench.bench.progress import Outcome, Progress
from workbench.terminal import OnScreen

_LINE_EVERY_S: Final = 10.0
_ROWS: Final = 30
"""Cells that are shown while a run goes on; those that run come first."""
_FIGURES_COLUMNS: Final = 64
"""What the figures of a cell take beside its names."""
_WIDEST: Final = 10_000


class RunView(OnScreen):
    """A table of the cells on standard error; without a terminal a line now and then.

    Args:
        enabled: False shows nothing at all (for ``--json``).
    """

    def __init__(self, *, enabled: bool) -> None:
        super().__init__(Console(stderr=True), enabled=enabled)
        self._told_s = 0.0

    def update(self, progress: Progress) -> None:
        """Show where the run is."""
        if self._live.is_started:
            self._live.update(_table(progress), refresh=True)
        elif self._enabled and time.monotonic() - self._told_s > _LINE_EVERY_S:
            self._told_s = time.monotonic()
            self._console.print(_line(progress), markup=False, highlight=False, soft_wrap=True)


def print_outcome(outcome: Outcome, told: Sequence[str]) -> None:
    """The figures of each cell, what was found, then what to know of them."""
    console = Console()
    common, differing = _apart([cell["label"] for cell in outcome.cells.values()])
    names: list[tuple[str, ...]] = [
        (short(cell["model"]), load)
        for cell, load in zip(outcome.cells.values(), differing, strict=True)
    ]
    heads: list[str] = ["model", "load"]
    if console.is_terminal and _too_wide(console, names):
        # A line for each name, and its number in the table, whose figures stay whole.
        for number, (model, load) in enumerate(names, start=1):
            line = f"{number}  {model}{'' if load == figures.DASH else f', {load}'}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        heads, names = [""], [(str(number),) for number in range(1, len(names) + 1)]
    table = Table(box=None, pad_edge=False)
    for name in heads:
        table.add_column(name, no_wrap=True)
    for name in ("trials", "failed", "TTFT", "per token", "answers/s"):
        table.add_column(name, justify="right", no_wrap=True)
    with_slo = any(cell["results"]["goodput_share"] is not None for cell in outcome.cells.values())
    scorers = sorted(
        {name for cell in outcome.cells.values() for name in cell["results"]["scores"]}
    )
    for name in (*(("goodput",) if with_slo else ()), *scorers):
        table.add_column(name, justify="right", no_wrap=True)
    for cell, named in zip(outcome.cells.values(), names, strict=True):
        found = cell["results"]
        more = [_share(found["goodput_share"])] if with_slo else []
        more += [_share(found["scores"].get(name, {}).get("mean")) for name in scorers]
        table.add_row(
            *map(escape, named),
            str(found["trials"]),
            str(found["failed"]),
            figures.seconds(found["ttft_p50_s"]),
            figures.seconds(found["tpot_p50_s"]),
            f"{found['requests_per_s']:.2f}" if found["requests_per_s"] else "–",
            *more,
        )
    _print_whole(console, table)
    if common:
        console.print(common, markup=False, highlight=False, soft_wrap=True)
    for text in told:
        console.print(f"• {text}", markup=False, highlight=False, soft_wrap=True)
    for model, point in outcome.knees.items():
        console.print(f"{model}: knee at {point:g}" if point else f"{model}: no load keeps the SLO")
    for text in (*outcome.notes, *(f"failed: {one}" for one in outcome.failed)):
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    if outcome.slo_met is not None:
        console.print("Every SLO was kept." if outcome.slo_met else "An SLO was missed.")
    elif with_slo:
        console.print("Stopped before it was decided whether every SLO is kept.")
    console.print(f"{outcome.run_id} ({outcome.status})", highlight=False)
    if outcome.cells:
        console.print(f"All of it: workbench bench report {outcome.run_id}", highlight=False)


def _too_wide(console: Console, names: Sequence[tuple[str, ...]]) -> bool:
    """Whether names of this length leave the figures no room."""
    longest = sum(max((len(name[place]) for name in names), default=0) for place in (0, 1))
    return longest + _FIGURES_COLUMNS > console.width


def _print_whole(console: Console, table: Table) -> None:
    """A table whose cells stay whole: a file, or a pipe, has no right end."""
    width = console.width
    if not console.is_terminal:
        width = max(width, Console(width=_WIDEST).measure(table).maximum)
    Console(width=width).print(table)


def _apart(labels: Sequence[str]) -> tuple[str, list[str]]:
    """What all labels say, and of each what it alone says."""
    parts = [label.split(" · ") for label in labels]
    shared = [part for part in parts[0] if all(part in other for other in parts)] if parts else []
    own = [" · ".join(part for part in one if part not in shared) or "–" for one in parts]
    return (f"all: {' · '.join(shared)}" if shared else ""), own


def print_runs(runs: Sequence[Mapping[str, Any]]) -> None:
    """A line per run."""
    console = Console()
    if not runs:
        console.print("No runs yet. Make a spec with: workbench bench init")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("run", no_wrap=True)  # ids are there to be copied
    table.add_column("name", overflow="fold", no_wrap=not console.is_terminal)
    for name in ("begun", "status", "cells", "trials", "SLO"):
        table.add_column(name, no_wrap=True)
    for one in runs:
        met = one["slo_met"]
        table.add_row(
            one["run_id"],
            escape(one["name"]),
            str(one["created_at"])[:16].replace("T", " "),
            one["status"],
            str(one["cells"]),
            str(one["trials"]),
            "–" if met is None else "kept" if met else "missed",
        )
    _print_whole(console, table)


def _table(progress: Progress) -> Table:
    table = Table(title=_line(progress), title_justify="left", box=None, pad_edge=False)
    for name in ("model", "load"):
        table.add_column(name, overflow="fold")
    for name in ("done", "failed", "TTFT", "per token", "phase"):
        table.add_column(name, justify="right", no_wrap=True)
    order = {"warming up": 0, "running": 0, "scoring": 0, "failed": 1, "waiting": 2}
    cells = sorted(progress.cells.values(), key=lambda cell: order.get(cell.phase, 3))
    shown = cells[:_ROWS]
    common, differing = _apart([cell.label for cell in shown])
    table.caption, table.caption_justify = common or None, "left"
    for cell, load in zip(shown, differing, strict=True):
        table.add_row(
            escape(cell.model),
            escape(load),
            f"{cell.done}/{cell.total}" if cell.total is not None else str(cell.done),
            str(cell.failed),
            figures.seconds(cell.ttft_p50_s),
            figures.seconds(cell.tpot_p50_s),
            cell.phase,
        )
    if len(cells) > _ROWS:
        table.add_row(f"and {len(cells) - _ROWS} more", "", "", "", "", "", "")
    return table


def _line(progress: Progress) -> str:
    total, left = progress.total, progress.left_s
    of = f" of {total}" if total is not None else ""
    rest = f", about {figures.seconds(left)} left" if left else ""
    done = f"{progress.name}: {progress.done}{of} trials in {figures.seconds(progress.elapsed_s)}"
    return f"{done}{rest}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"
