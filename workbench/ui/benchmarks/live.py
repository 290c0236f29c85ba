"""The run that is under way, as the page shows it; and what became of the last one."""

from __future__ import annotations

from typing import Final

from workbench import figures
from workbench.bench.progress import CellProgress, Progress
from workbench.bench.service import Benchmarks
from workbench.figures import DASH, escape
from workbench.ui import notices

_ROWS: Final = 30
"""Cells that are shown; those that run come first."""

_ORDER: Final = {"warming up": 0, "running": 0, "scoring": 0, "failed": 1, "waiting": 2}


def render(benchmarks: Benchmarks) -> str:
    """Progress of the run that is under way, what broke off the last one, or nothing."""
    if benchmarks.running and benchmarks.progress is not None:
        return _run(benchmarks.progress, stopping=benchmarks.stopping)
    if benchmarks.problem is not None:
        return notices.error_card(benchmarks.problem)
    return ""


def _run(progress: Progress, *, stopping: bool) -> str:
    total, done = progress.total, progress.done
    share = f' value="{figures.percent(done, total)}"' if total else ""
    failed = sum(cell.failed for cell in progress.cells.values())
    state = "stopping" if stopping else "running"
    words = [
        f'<span data-metric="trials" data-value="{done}">{done:,}'
        f"{f' of {total:,}' if total is not None else ''} trials</span>",
        f'<span data-metric="rate">{_rate(progress)}</span>',
        f'<span data-metric="left">{_left(progress)}</span>',
        f'<span data-metric="failed" data-value="{failed}">{failed:,} failed</span>',
        f'<span data-metric="now" class="wb-now">{escape(_now(progress))}</span>',
    ]
    notes = "".join(notices.warning("NOTE", note) for note in progress.notes[-5:])
    return (
        f'<div class="wb-run" data-state="{state}" data-run="{escape(progress.run_id)}">'
        f'<div class="wb-runhead"><strong>{escape(progress.name)}</strong>'
        f"<span>{state}, {escape(figures.seconds(progress.elapsed_s))} so far</span></div>"
        f'<progress max="100"{share} aria-label="trials done"></progress>'
        f'<div class="wb-runfigures">{"".join(words)}</div>'
        f"{_cells(progress)}{notes}</div>"
    )


def _cells(progress: Progress) -> str:
    cells = sorted(progress.cells.values(), key=lambda cell: _ORDER.get(cell.phase, 3))
    rows = "".join(map(_cell, cells[:_ROWS]))
    if len(cells) > _ROWS:
        rows += f'<tr><td colspan="7">and {len(cells) - _ROWS} more</td></tr>'
    heads = "".join(
        f"<th>{head}</th>"
        for head in ("model", "cell", "done", "failed", "TTFT", "per token", "phase")
    )
    return (
        f'<div class="wb-scroll" tabindex="0"><table class="wb-runcells"><thead><tr>{heads}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _cell(cell: CellProgress) -> str:
    of = "" if cell.total is None else f"/{cell.total:,}"
    texts = (
        cell.model,
        cell.label,
        f"{cell.done:,}{of}",
        f"{cell.failed:,}",
        figures.seconds(cell.ttft_p50_s),
        figures.seconds(cell.tpot_p50_s),
        cell.phase,
    )
    title = f' title="{escape(cell.note)}"' if cell.note else ""
    parts = "".join(f"<td>{escape(text)}</td>" for text in texts)
    return f'<tr data-phase="{escape(cell.phase)}"{title}>{parts}</tr>'


def _now(progress: Progress) -> str:
    running = [cell for cell in progress.cells.values() if _ORDER.get(cell.phase) == 0]
    if not running:
        return "begins"
    first = running[0]
    more = f" and {len(running) - 1} more in turns" if len(running) > 1 else ""
    return f"{first.phase}: {first.model}, {first.label}{more}"


def _rate(progress: Progress) -> str:
    done, elapsed_s = progress.done - progress.skipped, progress.elapsed_s
    if not done or elapsed_s <= 0:
        return f"{DASH} trials/min"
    per_min = 60 * done / elapsed_s
    return f"{per_min:,.1f} trials/min" if per_min < 100 else f"{per_min:,.0f} trials/min"


def _left(progress: Progress) -> str:
    left_s = progress.left_s
    return "time left unknown" if left_s is None else f"about {figures.seconds(left_s)} left"
