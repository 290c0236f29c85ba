"""What a report consists of, as HTML that any page may hold; every word in it is escaped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from workbench.analysis.statistics import Estimate
from workbench.bench.comparisons import Comparison
from workbench.bench.diff import Diff
from workbench.bench.evidence import Evidence
from workbench.bench.findings import Caveat, Finding
from workbench.bench.report.markdown import FIGURE_HEADS, figure_row
from workbench.figures import DASH, escape

FIRST_FINDINGS: Final = 6
MOST_ROWS: Final = 500
"""Raw rows on a page; all of them are in the log."""

RAW: Final = (
    "cell", "item", "repeat", "status", "ttft_s", "tpot_s", "e2e_s", "chars_per_s",
    "output_tokens", "finish_reason", "contended", "cold",
)  # fmt: skip

INTERVALS: Final = (
    ("figure", ""),
    ("of", "the second"),
    ("against", "the first"),
    ("ratio", "of the second to the first, paired by prompt and repeat, with its 95 % interval"),
    ("difference", "second less first, with its 95 % interval"),
    ("prompts", "that both answered"),
    ("p", "adjusted for all comparisons of the run (Holm)"),
    ("", ""),
)
"""Heads of :func:`intervals`, each with what it means."""


def findings(made: Sequence[Finding]) -> str:
    """The sentences, the first few open."""
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


def caveats(found: Iterable[Caveat]) -> str:
    """What must be known before figures are compared; empty if nothing."""
    items = "".join(
        f"<li>{''.join(f'<strong>{escape(cell)}</strong>: ' for cell in caveat.cells)}"
        f"{escape(caveat.text)}</li>"
        for caveat in found
    )
    if not items:
        return ""
    return f'<div class="caveats"><strong>Before you compare</strong><ul>{items}</ul></div>'


def intervals(evidence: Evidence, found: Iterable[Comparison]) -> list[list[str]]:
    """Every comparison with its intervals, in the columns of :data:`INTERVALS`."""
    return [
        [
            one.figure,
            evidence.label(one.b),
            evidence.label(one.a),
            _bounded(one.ratio, lambda value: f"{value:.3f}"),
            _bounded(one.difference, _unit(one)),
            str(one.difference.prompts),
            DASH if one.p is None else f"{one.p:.3f}" if one.p >= 0.001 else "< 0.001",
            "shown" if one.clear else "",
        ]
        for one in found
    ]


def _unit(one: Comparison) -> Callable[[float], str]:
    if one.ratio is None:
        return lambda value: f"{value * 100:+.1f} points"
    if one.figure.endswith("_s") and not one.figure.endswith("_per_s"):
        return lambda value: f"{value * 1e3:+.1f} ms" if abs(value) < 1 else f"{value:+.2f} s"
    return lambda value: f"{value:+,.1f}"


def _bounded(found: Estimate | None, shown: Callable[[float], str]) -> str:
    if found is None:
        return DASH
    if found.low is None or found.high is None:
        return shown(found.value)
    return f"{shown(found.value)} [{shown(found.low)}, {shown(found.high)}]"


def diff(found: Diff) -> str:
    """Two runs: whether they may be compared, what changed, every figure before and after."""
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in found.reasons)
    forbidden = (
        '<div class="caveats"><strong>These figures must not be compared</strong>'
        f"<ul>{reasons}</ul></div>"
        if reasons
        else ""
    )
    worse = [f"{d.cell}: {d.comparison.figure}" for d in found.regressions]
    verdict = f"Worse: {'; '.join(worse)}." if worse else "Nothing was shown to be worse."
    changes = table(
        [("what changed", ""), ("before", ""), ("after", "")],
        [[f"{c.kind}: {c.what}", c.before, c.after] for c in found.changes],
    )
    rows = table([(head, "") for head in FIGURE_HEADS], map(figure_row, found.differences))
    told = caveats(Caveat(f"{which}: {c.text}", c.cells) for which, c in found.caveats)
    return (
        f'<p class="verdict">{escape(verdict)}</p>{forbidden}'
        f'<div class="scroll">{rows}</div>'
        + (f'<div class="scroll">{changes}</div>' if found.changes else "")
        + told
    )


def raw(evidence: Evidence) -> list[list[str]]:
    """The first answers of each cell, as many of each, in the columns of :data:`RAW`."""
    share = max(1, MOST_ROWS // len(evidence.cells))
    return [
        [_plain(evidence.label(cell) if name == "cell" else record[name]) for name in RAW]
        for cell in evidence.cells
        for record in cell.trials.head(share).to_dict("records")
    ]


def _plain(value: Any) -> str:
    if value is None or value != value:
        return DASH
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def table(heads: Iterable[tuple[str, str]], rows: Iterable[Iterable[str]]) -> str:
    """A table; a head is its word and what it means."""
    head = "".join(
        "".join(("<th", f' title="{escape(meaning)}"' if meaning else "", f">{escape(name)}</th>"))
        for name, meaning in heads
    )
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
