"""The table of a report as text, the same for the page and for Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from workbench import figures
from workbench.bench.report.summary import SUMMARY

if TYPE_CHECKING:
    import pandas as pd


class Column(NamedTuple):
    """A column of the table: its head, and what it means."""

    head: str
    meaning: str


def cells(table: pd.DataFrame) -> tuple[list[Column], list[list[str]]]:
    """Heads and rows; columns that no cell has a figure for are left out, but for scorers.

    Args:
        table: what :func:`workbench.bench.report.summary.summary` gave.
    """
    columns = [Column("cell", SUMMARY["cell"].meaning)]
    rows = [[str(name)] for name in table["cell"]]

    def add(head: str, meaning: str, texts: list[str], *, always: bool = False) -> None:
        if always or any(text != figures.DASH for text in texts):
            columns.append(Column(head, meaning))
            for row, text in zip(rows, texts, strict=True):
                row.append(text)

    records = table.astype(object).where(table.notna(), None).to_dict("records")
    add(
        "answers",
        "answered well by the model itself, of all that count",
        [f"{r['answered']} of {r['trials']}" for r in records],
    )
    for column in (c for c in table.columns if c.startswith("score_") and f"{c}_low" in table):
        add(
            column.removeprefix("score_"),
            "mean score with its 95 % interval, clustered by family",
            [_score(r, column) for r in records],
            always=True,  # a scorer that could tell nothing was asked all the same
        )
    for head, name in (("TTFT", "ttft"), ("token", "tpot"), ("answer", "e2e")):
        for part in ("p50", "p90", "p99"):
            column = f"{name}_{part}_s"
            if column in SUMMARY:
                add(
                    f"{head} {part}",
                    SUMMARY[column].meaning,
                    [figures.seconds(r[column]) for r in records],
                )
    add(
        "characters/s",
        SUMMARY["chars_per_s_p50"].meaning,
        [_number(r["chars_per_s_p50"]) for r in records],
    )
    add(
        "throughput",
        SUMMARY["throughput_tps"].meaning,
        [figures.rate(r["throughput_tps"]) for r in records],
    )
    add(
        "steady",
        SUMMARY["steady_tps"].meaning,
        [figures.rate(r["steady_tps"]) for r in records],
    )
    for head, column in (("memory", "mem_peak_bytes"), ("GPU memory", "gpu_peak_bytes")):
        add(head, SUMMARY[column].meaning, [_size(r[column]) for r in records])
    add(
        "SLO",
        SUMMARY["goodput_share"].meaning,
        [_slo(r) for r in records],
    )
    return columns, rows


def _number(value: float | None) -> str:
    return figures.DASH if value is None else f"{value:,.0f}"


def _size(value: int | None) -> str:
    return figures.size(value) if value else figures.DASH


def _score(row: dict[Any, Any], column: str) -> str:
    value, low, high = (row[f"{column}{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return figures.DASH
    return f"{value:.0%}" if low is None else f"{value:.0%} [{low:.0%}, {high:.0%}]"


def _slo(row: dict[Any, Any]) -> str:
    if row["goodput_share"] is None:
        return figures.DASH
    return f"{row['goodput_share']:.1%} {'kept' if row['slo_met'] else 'missed'}"
