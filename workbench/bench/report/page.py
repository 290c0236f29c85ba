"""A run as one HTML file that needs nothing else: the finding, charts, the table, the raw rows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from workbench.bench.evidence import Evidence
from workbench.bench.findings import Finding, caveats, compared, findings
from workbench.bench.report import charts, parts
from workbench.bench.report.cells import cells
from workbench.bench.report.markdown import environment
from workbench.bench.report.summary import summary
from workbench.figures import count, escape

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{css}</style>
<script>{plotly}</script>
</head>
<body>
<main>
<h1>{title}</h1>
<div class="meta">{meta}</div>
<h2>What was found</h2>
{findings}
{caveats}
<h2>Charts</h2>
<div class="charts">{charts}</div>
<h2>Figures</h2>
<div class="scroll">{table}</div>
<p class="note">Medians (p50) and percentiles over answers; a percentile that too few answers
stand behind is left out. Scores are means with 95&nbsp;% intervals, clustered by family. A head
tells what it means when the pointer rests on it.</p>
<details><summary>Answers ({shown} of {count})</summary><div class="scroll">{raw}</div></details>
<details><summary>Environment</summary><pre>{environment}</pre></details>
<details><summary>Spec</summary><pre>{spec}</pre></details>
</main>
</body>
</html>
"""


def page(evidence: Evidence) -> str:
    """The whole file; some 5 MB, most of it the library that draws."""
    from plotly.offline import get_plotlyjs

    made, table = findings(evidence), summary(evidence)
    columns, rows = cells(table)
    trials = parts.raw(evidence)
    return _PAGE.format(
        title=escape(evidence.name),
        css=Path(__file__).with_name("page.css").read_text(),
        plotly=get_plotlyjs(),
        meta=_meta(evidence),
        findings=parts.findings(made),
        caveats=parts.caveats(caveats(evidence)),
        charts=_charts(evidence, table, made),
        table=parts.table([(c.head, c.meaning) for c in columns], rows),
        shown=len(trials),
        count=sum(len(cell.trials) for cell in evidence.cells),
        raw=parts.table([(name, "") for name in parts.RAW], trials),
        environment=escape("\n".join(environment(evidence)) or "not recorded"),
        spec=escape(json.dumps(evidence.spec, indent=2, ensure_ascii=False, default=str)),
    )


def _meta(evidence: Evidence) -> str:
    run = evidence.run
    answers = sum(len(cell.trials) for cell in evidence.cells)
    parts = [
        f"{run['created_at']:%d %B %Y, %H:%M} UTC",
        count(len(evidence.cells), "cell"),
        count(answers, "answer"),
        f"timing mode {run['timing_mode']}",
        f"status {run['status']}",
        f"run {evidence.run_id}",
    ]
    return escape(" · ".join(parts))


def _charts(evidence: Evidence, table: pd.DataFrame, made: Iterable[Finding]) -> str:
    drawn = charts.drawn(evidence, table, compared(made))
    return "".join(
        f"<div{' class=wide' if wide else ''}>{_html(figure)}</div>" for figure, wide in drawn
    )


def _html(figure: go.Figure) -> str:
    html: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        default_width="100%",
        default_height=f"{figure.layout.height}px",
        config={"displayModeBar": False, "responsive": True},
    )
    return html
