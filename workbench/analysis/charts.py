"""A plot of any result of a query: which columns against which, drawn how."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from workbench.analysis.drawing import DASHES, MARKS, OTHER, PHASES, empty, styled, styles
from workbench.errors import invalid

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Kind = Literal["line", "bar", "scatter", "histogram", "box"]
KINDS: Final = get_args(Kind)

MAX_GROUPS: Final = 12
"""Values of the column that colours; the rest are drawn together."""

_MOST_BARS: Final = 100
_ID_ENDS: Final = ("_id", "seq", "seed", "trial", "position", "pid")
_COUNTS: Final = ("sessions", "count", "rows")
_COLOURS: Final = (*dict.fromkeys(PHASES.values()), "#a16a07", "#0f766e", "#5b6b82")
_NO_TITLE: Final = "Result"


@dataclass(frozen=True, slots=True)
class Chart:
    """How to draw: ``y`` is not used by a histogram; ``by`` gives each of its values a colour."""

    kind: Kind
    x: str
    y: str | None = None
    by: str | None = None


def suggest(frame: pd.DataFrame) -> Chart | None:
    """What most people would draw of it; None where there is no number to draw.

    A number is a bar for each label while there are few (of several rows their median), and against
    a time a line; two numbers are points; one alone is a histogram.
    """
    times, numbers, labels = sorts(frame)
    if not numbers or frame.empty:
        return None
    y = next((one for one in numbers if frame[one].notna().any()), numbers[0])
    by = next((one for one in labels if 1 < frame[one].nunique() <= MAX_GROUPS), None)
    names = [one for one in labels if frame[one].nunique() == len(frame)]
    if names and len(frame) <= _MOST_BARS:
        return Chart("bar", names[0], y)
    if times:
        return Chart("line", times[0], y, by)
    if labels and len(frame) <= _MOST_BARS:
        rest = [one for one in labels[1:] if 1 < frame[one].nunique() <= MAX_GROUPS]
        return Chart("bar", labels[0], y, rest[0] if rest else None)
    if len(numbers) > 1:
        return Chart("scatter", numbers[0], numbers[1], by)
    return Chart("box", by, y) if by else Chart("histogram", y)


def sorts(frame: pd.DataFrame) -> tuple[list[str], list[str], list[str]]:
    """The columns that are times, numbers (measures, then counts, then ids), and labels."""
    from pandas.api import types

    times, numbers, labels = list[str](), list[str](), list[str]()
    for name, dtype in frame.dtypes.items():
        if types.is_datetime64_any_dtype(dtype):
            times.append(str(name))
        elif types.is_bool_dtype(dtype):
            labels.append(str(name))
        elif types.is_numeric_dtype(dtype):
            numbers.append(str(name))
        elif all(isinstance(value, Hashable) for value in frame[name].head(50)):
            labels.append(str(name))
    numbers.sort(key=lambda name: (name.endswith(_ID_ENDS), name.startswith(_COUNTS)))
    return times, numbers, labels


def draw(frame: pd.DataFrame, chart: Chart) -> go.Figure:
    """The figure; columns are named on the axes as in the result, units included.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, a column that is not there or cannot be drawn so.
    """
    import plotly.graph_objects as go

    _check(frame, chart)
    if frame.empty:
        return empty(_NO_TITLE, "The result has no rows.")
    figure = go.Figure()
    groups = _groups(frame, chart.by)
    looks = styles(str(name) for name, _ in groups) if chart.by == "model" else {}
    for place, (name, rows) in enumerate(groups):
        known = looks.get(str(name))
        colour = known.colour if known else _COLOURS[place % len(_COLOURS)] if chart.by else OTHER
        figure.add_trace(_trace(rows, chart, str(name), colour, place))
    shown = f" by {chart.by}" if chart.by else ""
    several = any(_several(rows, chart) for _, rows in groups)
    y = f"median {chart.y}" if several else chart.y or "rows"
    figure = styled(figure, f"{y} against {chart.x}{shown}", height=340)
    figure.update_xaxes(title_text=chart.x)
    figure.update_yaxes(title_text=y)
    if chart.by:  # any number of groups anywhere: there is no place for labels
        legend = {"orientation": "h", "y": -0.28, "font": {"size": 10}}
        figure.update_layout(showlegend=True, legend=legend, barmode="group")
    return figure


def _several(rows: pd.DataFrame, chart: Chart) -> bool:
    """Whether a bar stands for several rows: it is their median then, never their sum."""
    return chart.kind == "bar" and bool(rows[chart.x].astype(str).duplicated().any())


def _trace(rows: pd.DataFrame, chart: Chart, name: str, colour: str, place: int) -> Any:
    import plotly.graph_objects as go

    x = rows[chart.x]
    x = x.astype(str) if x.dtype == object else x
    y = rows[chart.y] if chart.y else None
    if chart.kind == "histogram":
        return go.Histogram(x=x, name=name, marker={"color": colour}, opacity=0.85)
    if y is not None and _several(rows, chart):
        found = y.groupby(x, sort=False).agg(["median", "count"])
        counts = [f"n = {count:,}" for count in found["count"]]
        marker = {"color": colour}
        return go.Bar(x=found.index, y=found["median"], text=counts, name=name, marker=marker)
    if chart.kind == "bar":
        return go.Bar(x=x, y=y, name=name, marker={"color": colour})
    if chart.kind == "box":
        return go.Box(x=x, y=y, name=name, marker={"color": colour}, boxpoints="outliers")
    lined = chart.kind == "line"
    return go.Scatter(
        x=x,
        y=y,
        name=name,
        mode="lines+markers" if lined and len(rows) < 200 else "lines" if lined else "markers",
        line={"color": colour, "width": 2, "dash": DASHES[place % len(DASHES)]},
        marker={"color": colour, "size": 6, "symbol": MARKS[place % len(MARKS)]},
    )


def _groups(frame: pd.DataFrame, by: str | None) -> list[tuple[str, pd.DataFrame]]:
    if by is None:
        return [("", frame)]
    counts = frame[by].astype(str).value_counts()
    most = [*counts.index[:MAX_GROUPS]]
    names = frame[by].astype(str)
    found = [(name, frame[names == name]) for name in sorted(most)]
    if len(counts) > MAX_GROUPS:
        found.append((f"{len(counts) - MAX_GROUPS} others", frame[~names.isin(most)]))
    return found


def _check(frame: pd.DataFrame, chart: Chart) -> None:
    if chart.kind not in KINDS:
        raise invalid(f"{chart.kind!r} is no kind of plot.", fix=f"Use {', '.join(KINDS)}.")
    columns: Sequence[str] = [str(name) for name in frame.columns]
    if missing := [one for one in (chart.x, chart.y, chart.by) if one and one not in columns]:
        raise invalid(f"The result has no column {missing[0]!r}.", fix=f"Use {', '.join(columns)}.")
    if chart.kind != "histogram":
        if chart.y is None:
            raise invalid(
                f"A {chart.kind} needs a column for y.", fix="Choose one that holds numbers."
            )
        _, numbers, _ = sorts(frame)
        if chart.y not in numbers:
            raise invalid(f"{chart.y} holds no numbers.", fix="Choose another column for y.")
