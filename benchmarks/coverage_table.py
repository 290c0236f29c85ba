"""Line and branch coverage by package, as a table: what ``make coverage`` prints at its end.

Reads coverage.py's JSON report of one or many runs (``coverage combine``, ``coverage json``).
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Tally:
    """Lines and branches that there are, and that were reached."""

    lines: int = 0
    lines_run: int = 0
    branches: int = 0
    branches_run: int = 0

    def add(self, summary: Mapping[str, Any]) -> None:
        """Another file."""
        self.lines += summary["num_statements"]
        self.lines_run += summary["covered_lines"]
        self.branches += summary["num_branches"]
        self.branches_run += summary["covered_branches"]

    def row(self, name: str) -> str:
        """A line of the table."""
        shares = _share(self.lines_run, self.lines), _share(self.branches_run, self.branches)
        return f"| {name} | {self.lines:,} | {shares[0]} | {self.branches:,} | {shares[1]} |"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def package(path: str) -> str:
    """``workbench/rotation/policy.py`` is of ``rotation``, a module at the top is of none."""
    parts = Path(path).parts
    inside = parts[parts.index("workbench") + 1 :]
    return inside[0] if len(inside) > 1 else "(modules at the top)"


def table(report: Mapping[str, Any]) -> str:
    """The figures of a report as Markdown."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    total = Tally()
    for path, found in report["files"].items():
        tallies[package(path)].add(found["summary"])
        total.add(found["summary"])
    rows = [tally.row(name) for name, tally in sorted(tallies.items())]
    head = ["| package | lines | run | branches | taken |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows, total.row("**all**")])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, then the files of which the least is covered."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="coverage json -o REPORT")
    parser.add_argument("--least", type=int, default=12, help="files to name")
    args = parser.parse_args(arguments)
    report = json.loads(args.report.read_text())
    print(table(report))
    files = sorted(report["files"].items(), key=lambda item: item[1]["summary"]["percent_covered"])
    print()
    for path, found in files[: args.least]:
        share, missing = (found["summary"][name] for name in ("percent_covered", "missing_lines"))
        print(f"{share:5.1f} %  {path} ({missing} lines not run)")


if __name__ == "__main__":
    main()
