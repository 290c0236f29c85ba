"""What a run found: the finding in a sentence, the charts, the figures with intervals, the rows."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from workbench.bench.evidence import Evidence, gather
from workbench.errors import WorkbenchError
from workbench.figures import count, escape
from workbench.ui import notices
from workbench.ui.markup import html

if TYPE_CHECKING:
    from workbench.engine import Engine

CHARTS: Final = 5
"""The most that a report has."""
_KEPT: Final = 8
_QUERY_S: Final = 30.0
_FORMS: Final = (
    ("html", "report"),
    ("markdown", "Markdown"),
    ("csv", "figures (CSV)"),
    ("trials", "all rows (CSV)"),
    ("json", "JSON"),
    ("spec", "spec"),
)


@dataclass(frozen=True, slots=True)
class Report:
    """A run, ready for the page."""

    opening: str
    charts: tuple[Any, ...]
    rest: str


class Results:
    """Builds the parts at the current place and fills them.

    Args:
        engine: whose log is read.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._made: OrderedDict[tuple[str, ...], Report] = OrderedDict()
        self._making = asyncio.Lock()
        self._opening = html("", elem_id="bench-findings", elem_classes=["wb-report"])
        with gr.Row(elem_classes=["wb-benchcharts"]):
            self._charts = [
                gr.Plot(show_label=False, visible=False, elem_id=f"bench-chart-{number}")
                for number in range(1, CHARTS + 1)
            ]
        self._rest = html("", elem_id="bench-figures", elem_classes=["wb-report"])
        self.outputs = [self._opening, *self._charts, self._rest]

    async def show(self, run: str | None) -> list[Any]:
        """The parts of a run, made once for all who look; nothing without a run."""
        hidden = [gr.update(value=None, visible=False)] * CHARTS
        if not run:
            return ["", *hidden, ""]
        try:
            report = await self._report(run)
        except WorkbenchError as problem:
            return [notices.error_card(problem), *hidden, ""]
        drawn = [gr.update(value=chart, visible=True) for chart in report.charts]
        return [report.opening, *drawn, *hidden[len(drawn) :], report.rest]

    async def _report(self, run: str) -> Report:
        async with self._making:  # one at a time: its intervals take a core
            key = await asyncio.to_thread(self._key, run)
            if key not in self._made:
                self._made[key] = await asyncio.to_thread(self._make, run)
                while len(self._made) > _KEPT:
                    self._made.popitem(last=False)
            self._made.move_to_end(key)
            return self._made[key]

    def _key(self, run: str) -> tuple[str, ...]:
        """Changes when the run has come further."""
        found = self._engine.store.query(
            "SELECT run_id, status, (SELECT count(*) FROM benchmark_trials t WHERE "
            "t.run_id = r.run_id) AS trials, (SELECT count(*) FROM scores s WHERE "
            "s.run_id = r.run_id) AS scores FROM benchmark_runs r WHERE run_id = $run",
            {"run": run},
            timeout_s=_QUERY_S,
        )
        return (run, *(str(value) for row in found.to_numpy() for value in row))

    def _make(self, run: str) -> Report:
        read = partial(self._engine.store.query, timeout_s=_QUERY_S)
        return make(gather(read, run))


def make(evidence: Evidence) -> Report:
    """The report of a run; takes a thread some time."""
    from workbench.bench.findings import caveats, compared, findings
    from workbench.bench.report import charts, parts, summary
    from workbench.bench.report.cells import cells

    found, table = findings(evidence), summary(evidence)
    columns, rows = cells(table)
    behind = compared(found)
    trials = parts.raw(evidence)
    answers = sum(len(cell.trials) for cell in evidence.cells)
    intervals = parts.intervals(evidence, behind)
    meta = escape(_meta(evidence, answers))
    opening = (
        f'<h2>{escape(evidence.name)}</h2><div class="meta">{meta}</div>'
        f"{parts.findings(found)}{parts.caveats(caveats(evidence))}{links(evidence.run_id)}"
    )
    rest = (
        (
            f"<h3>Comparisons, 95 % intervals</h3>{_scroll(parts.INTERVALS, intervals)}"
            if intervals
            else ""
        )
        + f"<h3>Figures</h3>{_scroll([(c.head, c.meaning) for c in columns], rows)}"
        + f"<details><summary>Answers ({len(trials):,} of {answers:,})</summary>"
        + f"{_scroll([(name, '') for name in parts.RAW], trials)}</details>"
    )
    drawn = tuple(figure for figure, _ in charts.drawn(evidence, table, behind))
    return Report(opening, drawn, rest)


def links(run_id: str) -> str:
    """The run as files."""
    made = "".join(
        f'<a href="/api/v1/benchmarks/{escape(run_id)}/{form}"'
        f"{' target=_blank rel=noopener' if form == 'html' else ' download'}>{words}</a>"
        for form, words in _FORMS
    )
    return f'<div class="wb-links"><span>{escape(run_id)}</span>{made}</div>'


def _scroll(heads: Any, rows: Any) -> str:
    from workbench.bench.report import parts

    return f'<div class="scroll" tabindex="0">{parts.table(heads, rows)}</div>'


def _meta(evidence: Evidence, answers: int) -> str:
    return " · ".join(
        [
            f"{evidence.run['created_at']:%d %B %Y, %H:%M} UTC",
            count(len(evidence.cells), "cell"),
            count(answers, "answer"),
            str(evidence.run["timing_mode"]),
            str(evidence.run["status"]),
        ]
    )
