"""A run as one HTML file that needs nothing else: the finding, charts, the table, the raw rows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from workbench.bench.evidence import Evidence
from workbench.bench.findings import Caveat, Finding, caveats, findings
from workbench.bench.report import charts
from workbench.bench.report.cells import cells
from workbench.bench.report.markdown import environment
from workbench.bench.report.summary import summary
from workbench.figures import DASH, escape

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FIRST_FINDINGS: Final = 6
MOST_ROWS: Final = 500
"""Raw rows on the page; all of them are in the log."""

_RAW: Final = (
    "cell", "item", "repeat", "status", "ttft_s", "tpot_s", "e2e_s", "chars_per_s",
    "output_tokens", "finish_reason", "contended", "cold",
)  # fmt: skip

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
    trials = _raw(evidence)
    return _PAGE.format(
        title=escape(evidence.name),
        css=Path(__file__).with_name("page.css").read_text(),
        plotly=get_plotlyjs(),
        meta=_meta(evidence),
        findings=_findings(made),
        caveats=_caveats(caveats(evidence)),
        charts=_charts(evidence, table, made),
        table=_table([(c.head, c.meaning) for c in columns], rows),
        shown=len(trials),
        count=sum(len(cell.trials) for cell in evidence.cells),
        raw=_table([(name, "") for name in _RAW], trials),
        environment=escape("\n".join(environment(evidence)) or "not recorded"),
        spec=escape(json.dumps(evidence.spec, indent=2, ensure_ascii=False, default=str)),
    )


def _meta(evidence: Evidence) -> str:
    run = evidence.run
    answers = sum(len(cell.trials) for cell in evidence.cells)
    parts = [
        f"{run['created_at']:%d %B %Y, %H:%M} UTC",
        f"{len(evidence.cells)} {'cell' if len(evidence.cells) == 1 else 'cells'}",
        f"{answers:,} answers",
        f"timing mode {run['timing_mode']}",
        f"status {run['status']}",
        f"run {evidence.run_id}",
    ]
    return escape(" · ".join(parts))


def _findings(made: list[Finding]) -> str:
    if not made:
        return (
            '<p class="meta">There is nothing to compare: a comparison needs two cells that differ '
            "in one thing.</p>"
        )
    first, rest = (
        "".join(map(_finding, part)) for part in (made[:FIRST_FINDINGS], made[FIRST_FINDINGS:])
    )
    more = f"{len(made) - FIRST_FINDINGS} more"
    return f'<ul class="findings">{first}</ul>' + (
        f'<details><summary>{more}</summary><ul class="findings">{rest}</ul></details>'
        if rest
        else ""
    )


def _finding(finding: Finding) -> str:
    mark = "difference shown" if finding.strength == "clear" else "nothing shown"
    return f'<li class="{finding.strength}" title="{mark}">{escape(finding.sentence)}</li>'


def _caveats(found: Iterable[Caveat]) -> str:
    items = "".join(
        f"<li>{''.join(f'<strong>{escape(cell)}</strong>: ' for cell in caveat.cells)}"
        f"{escape(caveat.text)}</li>"
        for caveat in found
    )
    if not items:
        return ""
    return f'<div class="caveats"><strong>Before you compare</strong><ul>{items}</ul></div>'


def _charts(evidence: Evidence, table: pd.DataFrame, made: Iterable[Finding]) -> str:
    comparisons = [finding.comparison for finding in made]
    drawn = [
        (charts.tradeoff(evidence, table), True),
        (charts.load_curve(evidence), True),
        (charts.ratios(evidence, comparisons), True),
        (charts.distribution(evidence, "ttft_s", "Time to first token"), False),
        (charts.distribution(evidence, "tpot_s", "Time per output token"), False),
    ]
    return "".join(
        f"<div{' class=wide' if wide else ''}>{_html(figure)}</div>"
        for figure, wide in drawn
        if figure is not None
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


def _raw(evidence: Evidence) -> list[list[str]]:
    """The first answers of each cell, as many of each."""
    share = max(1, MOST_ROWS // len(evidence.cells))
    return [
        [_plain(evidence.label(cell) if name == "cell" else record[name]) for name in _RAW]
        for cell in evidence.cells
        for record in cell.trials.head(share).to_dict("records")
    ]


def _plain(value: Any) -> str:
    if value is None or value != value:
        return DASH
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _table(heads: Iterable[tuple[str, str]], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(
        "".join(("<th", f' title="{escape(meaning)}"' if meaning else "", f">{escape(name)}</th>"))
        for name, meaning in heads
    )
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
