"""The charts of a report, in the look that all plots have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from workbench import figures
from workbench.analysis.comparison import forest
from workbench.analysis.drawing import Style, faded, styled, styles, whiskers
from workbench.bench.comparisons import Comparison
from workbench.bench.evidence import CellEvidence, Evidence, short
from workbench.bench.report.summary import scorers

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MOST_POINTS: Final = 300
"""Answers of a cell that are drawn as points."""
MOST_RATIOS: Final = 14
_BUBBLE: Final = 46.0
_LOADS: Final = ("users", "rate_per_s")
_FIGURES: Final = {
    "ttft_s": "TTFT",
    "tpot_s": "time per token",
    "e2e_s": "whole answer",
    "chars_per_s": "characters/s",
}


def looks(evidence: Evidence) -> dict[str, Style]:
    """How each contender is drawn in all charts of a report."""
    return styles(cell.contender for cell in evidence.cells)


def drawn(
    evidence: Evidence, table: pd.DataFrame, found: Sequence[Comparison]
) -> list[tuple[go.Figure, bool]]:
    """All charts that the run has anything for, in order, and whether each wants the full width."""
    made = [
        (tradeoff(evidence, table), True),
        (load_curve(evidence), True),
        (ratios(evidence, found), True),
        (distribution(evidence, "ttft_s", "Time to first token"), False),
        (distribution(evidence, "tpot_s", "Time per output token"), False),
    ]
    return [(figure, wide) for figure, wide in made if figure is not None]


def tradeoff(evidence: Evidence, table: pd.DataFrame) -> go.Figure | None:
    """Which model to use: quality against the time of an answer, with memory as the size.

    Without scores, characters a second take the place of quality. Of several load points the
    lightest is shown.
    """
    import pandas as pd
    import plotly.graph_objects as go

    names = scorers(evidence)
    column = f"score_{names[0]}" if names else "chars_per_s_p50"
    shown = table[_lightest(evidence)].dropna(subset=["e2e_p50_s", column]).reset_index(drop=True)
    if shown.empty:
        return None
    style = looks(evidence)
    contenders = {evidence.label(cell): cell.contender for cell in evidence.cells}
    most = float(shown["mem_peak_bytes"].max()) if shown["mem_peak_bytes"].notna().any() else 0.0
    figure = go.Figure()
    for i in range(len(shown)):
        row = shown.iloc[i]
        memory = row["mem_peak_bytes"]
        known = most > 0 and pd.notna(memory)
        size = max(10.0, _BUBBLE * (float(memory) / most) ** 0.5) if known else 10.0
        colour = style[contenders[row["cell"]]].colour
        told = figures.size(float(memory)) if known else "memory unknown"
        error = (
            {
                **whiskers([row[column]], [row[f"{column}_low"]], [row[f"{column}_high"]]),
                "color": colour,
            }
            if names
            else None
        )
        figure.add_trace(
            go.Scatter(
                x=[row["e2e_p50_s"]],
                y=[row[column]],
                mode="markers+text",
                text=[f"  {figures.escape(row['cell'])}, {told}"],
                textposition="middle right",
                textfont={"color": colour},
                cliponaxis=False,
                marker={
                    "size": size,
                    "color": faded(colour, 0.35),
                    "line": {"color": colour, "width": 1.5},
                    "symbol": "circle" if known else "circle-open",
                },
                error_y=error,
                hovertemplate=f"{figures.seconds(row['e2e_p50_s'])}, {told}<extra></extra>",
            )
        )
    low, high = float(shown["e2e_p50_s"].min()), float(shown["e2e_p50_s"].max())
    room = max(0.2 * (high - low), 0.1 * high)
    figure.update_xaxes(
        title_text="median time of an answer (s)", range=[max(0.0, low - room), high + 2.5 * room]
    )
    if names:
        figure.update_yaxes(title_text=f"{names[0]}: mean score", tickformat=".0%")
        title = "Quality against time, size is memory (95 % intervals)"
    else:
        figure.update_yaxes(title_text="characters/s (median)", rangemode="tozero")
        title = "Speed against time, size is memory"
    return styled(figure, title, height=380)


def ratios(evidence: Evidence, found: Sequence[Comparison]) -> go.Figure | None:
    """Every comparison as a ratio with its interval, the clearest first."""
    import pandas as pd

    shown = [one for one in found if one.ratio is not None]
    shown = sorted(shown, key=lambda one: (not one.clear, one.p if one.p is not None else 2))
    shown = shown[:MOST_RATIOS]
    if not shown:
        return None
    style = looks(evidence)
    frame = pd.DataFrame(
        [
            {
                "ratio": one.ratio.value,
                "ratio_low": one.ratio.low,
                "ratio_high": one.ratio.high,
                "prompts": one.ratio.prompts,
            }
            for one in shown
            if one.ratio is not None
        ]
    ).astype(float)
    names = [
        f"{_FIGURES.get(one.figure, one.figure)}:<br>{_brief(evidence, one.b)} / "
        f"{_brief(evidence, one.a)}"
        for one in shown
    ]
    colours = [style[one.b.contender].colour for one in shown]
    title = "Ratios with 95 % intervals (filled: difference shown)"
    return forest(frame, names, [one.clear for one in shown], colours, title)


def distribution(evidence: Evidence, column: str, title: str) -> go.Figure | None:
    """All answers of every cell in one figure: box, whiskers and points."""
    import plotly.graph_objects as go

    style = looks(evidence)
    figure = go.Figure()
    for cell in evidence.cells:
        values = cell.good[column].dropna()
        if len(values) > MOST_POINTS:
            values = values.sample(MOST_POINTS, random_state=0)
        if len(values):
            colour = style[cell.contender].colour
            figure.add_trace(
                go.Box(
                    x=(values * 1e3).tolist(),
                    name=_brief(evidence, cell),
                    boxpoints="all",
                    jitter=0.5,
                    pointpos=0,
                    marker={"size": 3, "color": faded(colour, 0.5)},
                    line={"color": colour, "width": 1.5},
                    fillcolor=faded(colour, 0.12),
                    hovertemplate="%{x:.1f} ms<extra></extra>",
                )
            )
    if not figure.data:
        return None
    figure.update_xaxes(title_text="ms", rangemode="tozero")
    figure.update_yaxes(autorange="reversed")
    return styled(figure, title, height=110 + 62 * len(figure.data))


def load_curve(evidence: Evidence) -> go.Figure | None:
    """TTFT and throughput as the load grows, where a run has several load points."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    axis = next((a for a in _LOADS if len({str(c.load.get(a)) for c in evidence.cells}) > 1), None)
    if axis is None:
        return None
    style = looks(evidence)
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.14)
    for contender in dict.fromkeys(cell.contender for cell in evidence.cells):
        cells = sorted(
            (
                c
                for c in evidence.cells
                if c.contender == contender and axis in c.load and len(c.good)
            ),
            key=lambda c: float(c.load[axis]),
        )
        for place, values in (
            (1, [c.median("ttft_s") for c in cells]),
            (2, [c.results.get("throughput_tps") for c in cells]),
        ):
            figure.add_trace(
                go.Scatter(
                    x=[float(c.load[axis]) for c in cells],
                    y=values,
                    mode="lines+markers+text",
                    text=[""] * (len(cells) - 1) + [figures.escape(short(cells[0].model))],
                    textposition="top left",
                    textfont={"color": style[contender].colour},
                    line={"color": style[contender].colour, "dash": style[contender].dash},
                    marker={"symbol": style[contender].mark},
                    cliponaxis=False,
                    hovertemplate="%{x}: %{y:.3g}<extra></extra>",
                ),
                row=1,
                col=place,
            )
    unit = "users at once" if axis == "users" else "requests a second"
    figure.update_xaxes(title_text=unit, rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title_text="median TTFT (s)", row=1, col=1)
    figure.update_yaxes(title_text="output tokens/s", row=1, col=2)
    return styled(figure, "Under load", height=340)


def _lightest(evidence: Evidence) -> list[bool]:
    """For each cell, whether no other of its model and options has a lighter load."""
    lightest: dict[tuple[str, str], float] = {}
    for cell in evidence.cells:
        key = (cell.contender, cell.key[0])
        lightest[key] = min(lightest.get(key, math.inf), _weight(cell))
    return [_weight(c) == lightest[c.contender, c.key[0]] for c in evidence.cells]


def _weight(cell: CellEvidence) -> float:
    return float(next((cell.load[axis] for axis in _LOADS if axis in cell.load), 0))


def _brief(evidence: Evidence, cell: CellEvidence) -> str:
    label = evidence.label(cell)
    return figures.escape(label if len(label) <= 44 else f"{label[:43]}…")
