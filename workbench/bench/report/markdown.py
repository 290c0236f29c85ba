"""A run, or what differs between two, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from workbench import figures
from workbench.bench.comparisons import HIGHER_IS_BETTER
from workbench.bench.diff import Diff, Difference
from workbench.bench.evidence import Evidence
from workbench.bench.findings import Caveat, caveats, findings
from workbench.bench.report.cells import cells
from workbench.bench.report.summary import summary

FIGURE_HEADS: Final = ("cell", "figure", "before", "after", "change", "")
"""Heads of :func:`figure_row`."""

_MARKUP: Final = re.compile(r"[\\`*<>|]|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown would read as markup: within a word, as in ``ttft_s``, ``_`` is none."""


def markdown(evidence: Evidence) -> str:
    """Findings, caveats, the table and the environment of a run."""
    columns, rows = cells(summary(evidence))
    parts = [
        f"# {_plain(evidence.name)}",
        f"Run `{evidence.run_id}`, {_when(evidence)}, {evidence.run['timing_mode']}, "
        f"status {evidence.run['status']}.",
        "## Findings",
        *_list(
            (
                f"{'**' if f.strength == 'clear' else ''}{_plain(f.sentence)}"
                f"{'**' if f.strength == 'clear' else ''}"
                for f in findings(evidence)
            ),
            "There is nothing to compare: a comparison needs two cells that differ in one thing.",
        ),
        "## Before you compare",
        *_list((_caveat(c) for c in caveats(evidence)), "Nothing speaks against it."),
        "## Figures",
        _table([c.head for c in columns], rows),
        "Medians (p50) and percentiles over answers; a percentile that too few answers stand "
        "behind is left out. Scores are means with 95 % intervals, clustered by family.",
        "## Environment",
        *_list(environment(evidence), "It was not recorded."),
    ]
    return "\n\n".join(_joined(parts)) + "\n"


def diff_markdown(found: Diff) -> str:
    """Whether two runs may be compared, what changed, and every figure before and after."""
    before, after = found.before, found.after
    parts = [
        f"# {_plain(before.name)}: {before.run_id} → {after.run_id}",
        f"{_when(before)} → {_when(after)}",
    ]
    if found.reasons:
        parts += ["## These figures must not be compared", *_list(map(_plain, found.reasons), "")]
    parts += [
        "## What changed",
        *_list(
            (
                f"{c.kind}: {_plain(c.what)}: {_plain(c.before)} → {_plain(c.after)}"
                for c in found.changes
            ),
            "Nothing but the time.",
        ),
        "## Figures",
        _table(
            list(FIGURE_HEADS),
            [figure_row(difference) for difference in found.differences],
        ),
        "Change: after / before for times and speeds, points for scores, with the 95 % interval "
        "over the prompts that both answered. How a machine drifts between two runs is not in it.",
    ]
    told = [f"{which}: {_caveat(caveat)}" for which, caveat in found.caveats]
    if told:
        parts += ["## Before you compare", *_list(told, "")]
    return "\n\n".join(_joined(parts)) + "\n"


def figure_row(difference: Difference) -> list[str]:
    """A figure of one cell before and after, as text."""
    one = difference.comparison
    shown = [_value(one.figure, value) for value in (difference.before, difference.after)]
    if one.ratio is not None:
        change = f"{one.ratio.value:.3f}×"
        bounds = (one.ratio.low, one.ratio.high)
        interval = None if None in bounds else f"[{bounds[0]:.3f}, {bounds[1]:.3f}]"
    else:
        shown = [
            figures.DASH if v is None else f"{v:.1%}" for v in (difference.before, difference.after)
        ]
        gap = one.difference
        change = f"{gap.value * 100:+.1f} points"
        interval = (
            None
            if gap.low is None or gap.high is None
            else f"[{gap.low * 100:+.1f}, {gap.high * 100:+.1f}]"
        )
    mark = "worse" if difference.worse else ("changed" if one.clear else "")
    text = f"{change} {interval or '(too few prompts for an interval)'}"
    return [difference.cell, one.figure, *shown, text, mark]


def environment(evidence: Evidence) -> Iterator[str]:
    """The machine and the software, a line each."""
    for environment_id, content in evidence.environments.items():
        packages = ", ".join(f"{n} {v}" for n, v in (content.get("packages") or {}).items())
        memory = figures.size(content.get("ram_bytes"))
        yield (
            f"`{environment_id}`: {_plain(str(content.get('cpu', figures.DASH)))}, "
            f"{content.get('cores', figures.DASH)} cores, {memory}, "
            f"GPU {_plain(str(content.get('gpu') or 'none'))}, "
            f"{_plain(str(content.get('os', '')))}, Python {content.get('python', '')}, "
            f"revision {content.get('git_revision') or figures.DASH}; {_plain(packages)}"
        )


def _value(figure: str, value: float | None) -> str:
    if value is None:
        return figures.DASH
    return f"{value:,.1f}" if figure in HIGHER_IS_BETTER else figures.seconds(value)


def _caveat(caveat: Caveat) -> str:
    where = f"{', '.join(caveat.cells)}: " if caveat.cells else ""
    return _plain(f"{where}{caveat.text}")


def _when(evidence: Evidence) -> str:
    return f"{evidence.run['created_at']:%Y-%m-%d %H:%M} UTC"


def _plain(text: str) -> str:
    """Names may hold what Markdown would read as markup."""
    return _MARKUP.sub(r"\\\g<0>", text).replace("\n", " ")


def _list(items: Iterable[str], none: str) -> list[str]:
    lines = [f"- {item}" for item in items]
    return ["\n".join(lines)] if lines else [none]


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([_plain(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _joined(parts: list[str]) -> list[str]:
    return [part for part in parts if part]
