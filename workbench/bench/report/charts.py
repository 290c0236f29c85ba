"""The charts of a report, in the look that all plots have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from workbench import figures
from workbench.analysis.comparison import forest
from workbench.analysis.drawing import Style, faded, places, styled, styles, whiskers
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
_PLOT_PX: Final = (740.0, 280.0)
"""The plot's size where a page is narrow: where names fit there they fit everywhere."""
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
    known = [most > 0 and pd.notna(memory) for memory in shown["mem_peak_bytes"]]
    sizes = [
        max(10.0, _BUBBLE * (float(memory) / most) ** 0.5) if there else 10.0
        for there, memory in zip(known, shown["mem_peak_bytes"], strict=True)
    ]
    told = [
        figures.size(float(memory)) if there else "memory unknown"
        for there, memory in zip(known, shown["mem_peak_bytes"], strict=True)
    ]
    x, y = ([float(v) for v in shown[name]] for name in ("e2e_p50_s", column))
    room = max(0.2 * (max(x) - min(x)), 0.1 * max(x))
    across = (max(0.0, min(x) - room), max(x) + 2.5 * room)
    up = _bounds(shown, column) if names else (0.0, 1.35 * max(y))
    words = [f"{cell}, {memory}" for cell, memory in zip(shown["cell"], told, strict=True)]
    where = places(
        [
            ((x[i] - across[0]) / (across[1] - across[0]), (y[i] - up[0]) / (up[1] - up[0]), s / 2)
            for i, s in enumerate(sizes)
        ],
        words,
        _PLOT_PX,
    )
    figure = go.Figure()
    for i, (anchor, shift, raised) in enumerate(where):
        colour = style[contenders[shown["cell"][i]]].colour
        bars = (shown[f"{column}{end}"][i] for end in ("_low", "_high")) if names else None
        figure.add_trace(
            go.Scatter(
                x=[x[i]],
                y=[y[i]],
                mode="markers",
                cliponaxis=False,
                marker={
                    "size": sizes[i],
                    "color": faded(colour, 0.35),
                    "line": {"color": colour, "width": 1.5},
                    "symbol": "circle" if known[i] else "circle-open",
                },
                error_y=None
                if bars is None
                else {**whiskers([y[i]], *([bound] for bound in bars)), "color": colour},
                hovertemplate=f"{figures.seconds(x[i])}, {told[i]}<extra></extra>",
            )
        )
        figure.add_annotation(
            x=x[i],
            y=y[i],
            text=figures.escape(words[i]),
            showarrow=False,
            xanchor=anchor,
            xshift=shift,
            yshift=raised,
            font={"color": colour},
        )
    figure.update_xaxes(title_text="median time of an answer (s)", range=across)
    if names:
        figure.update_yaxes(title_text=f"{names[0]}: mean score", tickformat=".0%", range=up)
        title = "Quality against time, size is memory (95 % intervals)"
    else:
        figure.update_yaxes(title_text="characters/s (median)", range=up)
        title = "Speed against time, size is memory"
    return styled(figure, title, height=380)


def _bounds(shown: pd.DataFrame, column: str) -> tuple[float, float]:
    """The range of scores with their intervals, with room for names and bubbles."""
    values = [
        float(value)
        for end in ("", "_low", "_high")
        for value in shown[f"{column}{end}"].dropna().tolist()
    ]
    room = max(0.12 * (max(values) - min(values)), 0.04)
    return max(-0.06, min(values) - room), min(1.06, max(values) + room)


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
    names = [_compared(evidence, one) for one in shown]
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
                    name=_named(evidence, cell),
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
        if not cells:
            continue
        for place, values in (
            (1, [c.median("ttft_s") for c in cells]),
            (2, [c.results.get("throughput_tps") for c in cells]),
        ):
            figure.add_trace(
                go.Scatter(
                    x=[float(c.load[axis]) for c in cells],
                    y=values,
                    mode="lines+markers",
                    name=figures.escape(_contender(cells[0])),
                    legendgroup=contender,
                    showlegend=place == 1,
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
    figure = styled(figure, "Under load", height=360)
    # Lines that end together leave no room for names at their ends.
    figure.update_layout(
        showlegend=True, legend={"orientation": "h", "y": 1.04, "yanchor": "bottom"}
    )
    figure.update_layout(margin_t=72)
    return figure


def _contender(cell: CellEvidence) -> str:
    own = ", ".join(f"{name} {value}" for name, value in cell.own.items())
    return f"{short(cell.model)}{', ' if own else ''}{own}"


def _lightest(evidence: Evidence) -> list[bool]:
    """For each cell, whether no other of its model and options has a lighter load."""
    lightest: dict[tuple[str, str], float] = {}
    for cell in evidence.cells:
        key = (cell.contender, cell.key[0])
        lightest[key] = min(lightest.get(key, math.inf), _weight(cell))
    return [_weight(c) == lightest[c.contender, c.key[0]] for c in evidence.cells]


def _weight(cell: CellEvidence) -> float:
    return float(next((cell.load[axis] for axis in _LOADS if axis in cell.load), 0))


def _named(evidence: Evidence, cell: CellEvidence) -> str:
    """A cell's label on two lines; never shortened, for cells of one name would be drawn as one."""
    model, *rest = evidence.words(cell)
    return "<br>".join(figures.escape(line) for line in (model, ", ".join(rest)) if line)


def _compared(evidence: Evidence, one: Comparison) -> str:
    """What a ratio is of; what both cells have in common is said once."""
    (model_a, *a), (model_b, *b) = evidence.words(one.a), evidence.words(one.b)
    shared = [word for word in b if word in a]
    figure = ", ".join([_FIGURES.get(one.figure, one.figure), *shared])
    own_a, own_b = ([word for word in words if word not in shared] for words in (a, b))
    if model_a == model_b and own_a and own_b:
        figure, left, right = f"{figure}, {model_a}", ", ".join(own_b), ", ".join(own_a)
    else:
        left, right = ", ".join([model_b, *own_b]), ", ".join([model_a, *own_a])
    return f"{figures.escape(figure)}:<br>{figures.escape(left)} / {figures.escape(right)}"
