"""How plots look: one theme for light and dark, units on the axes, labels rather than legends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Of the two values that the page's CSS has for each name, the one that stands out from white and
# from near black alike (at least 3:1); a test compares them with the CSS.
PHASES: Final[Mapping[str, str]] = {
    "retry": "#c53030",
    "queued": "#71717a",
    "loading": "#96600f",
    "dispatch": "#71717a",
    "prompt": "#7c5cbf",
    "thinking": "#1f7685",
    "answering": "#6488ed",
    "done": "#2f855a",
}
"""Phases by the words of the page."""

PROVIDERS: Final[Mapping[str, str]] = {
    "huggingface": "#a16a07",
    "ollama": "#5b6b82",
    "openai": "#0f766e",
}
OTHER: Final = "#71717a"
WARNING: Final = "#c53030"
INK: Final = "#85858f"
"""Text and lines: a middle grey that reads on both backgrounds."""

FAINT: Final = "rgba(138,138,148,.22)"
DASHES: Final = ("solid", "dash", "dot", "dashdot", "longdash")
_LETTER_PX: Final = 6.0
_LINE_PX: Final = 15.0
MARKS: Final = ("circle", "square", "diamond", "triangle-up", "x")


class Style(NamedTuple):
    """How a model is drawn everywhere in a figure."""

    colour: str
    dash: str
    mark: str


def styles(models: Iterable[str]) -> dict[str, Style]:
    """The provider's colour, and a dash and a mark that tell models of one provider apart."""
    made: dict[str, Style] = {}
    counts: dict[str, int] = {}
    for model in sorted(set(models)):
        provider = model.partition("/")[0]
        n = counts[provider] = counts.get(provider, -1) + 1
        colour = PROVIDERS.get(provider.partition("@")[0], OTHER)
        made[model] = Style(colour, DASHES[n % len(DASHES)], MARKS[n % len(MARKS)])
    return made


def short(model: str) -> str:
    """The provider and the last part of the name: enough to know it by."""
    provider, _, name = str(model).partition("/")
    last = name.rsplit("/", 1)[-1]
    return f"{provider}/{last}" if len(last) <= 36 else f"{provider}/{last[:35]}…"


def faded(colour: str, opacity: float) -> str:
    """A colour as rgba."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def styled(figure: go.Figure, title: str, *, height: int) -> go.Figure:
    """The common looks; the background is the page's own."""
    figure.update_layout(
        title={"text": title, "font": {"size": 13}, "x": 0, "xanchor": "left", "pad": {"l": 10}},
        height=height,
        margin={"l": 10, "r": 16, "t": 42, "b": 40},
        font={"size": 11, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        showlegend=False,
    )
    axis = {"gridcolor": FAINT, "zerolinecolor": FAINT, "linecolor": INK, "automargin": True}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure


def empty(title: str, missing: str) -> go.Figure:
    """A figure for no data: what would be here, and how it comes to be."""
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.add_annotation(
        text=missing, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font={"size": 12}
    )
    figure = styled(figure, title, height=160)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure


def label_at_end(
    figure: go.Figure, x: Any, y: Any, words: str, colour: str, *, inside: bool = False
) -> None:
    """The name of a line at its last point, in its colour; ``inside`` puts it left of the point."""
    figure.add_annotation(
        x=x,
        y=y,
        text=words,
        showarrow=False,
        xanchor="right" if inside else "left",
        yanchor="bottom",
        xshift=-4 if inside else 4,
        font={"color": colour, "size": 11},
    )


def places(
    points: Sequence[tuple[float, float, float]], words: Sequence[str], size: tuple[float, float]
) -> list[tuple[str, float, float]]:
    """Where the name of each point is written so that names lie over no point and no other name.

    Tried are beside the point, above and below it, and further away; the last one is taken where
    all are full. Distances are in pixels, as of a plot of ``size``.

    Args:
        points: x and y as shares of the plot's width and height, and the radius in pixels.
        words: the names.
        size: width and height of the plot in pixels, roughly.

    Returns:
        For each point ``xanchor`` of its name, and its shift right and up.
    """
    width, height = size
    centres = [(x * width, y * height, radius) for x, y, radius in points]
    taken = [(x - r, y - r, x + r, y + r) for x, y, r in centres]
    found: dict[int, tuple[str, float, float]] = {}
    for i in sorted(range(len(points)), key=lambda i: -points[i][0]):
        x, y, radius = centres[i]
        long, line = _LETTER_PX * len(words[i]), _LINE_PX
        tried = [("left", radius + 6, 0.0), ("right", -radius - 6, 0.0)]
        for step in range(3):
            tried += [
                (side, 0.0, sign * (radius + line * (step + 0.7)))
                for sign in (1, -1)
                for side in ("left", "right")
            ]
        for anchor, right, up in tried:
            left = x + right - (long if anchor == "right" else 0)
            box = (left, y + up - line / 2, left + long, y + up + line / 2)
            inside = left >= 0 and box[2] <= width and box[1] >= 0 and box[3] <= height
            others = taken[:i] + taken[i + 1 :]
            if inside and not any(_overlap(box, other) for other in others):
                break
        taken.append(box)
        found[i] = (anchor, right, up)
    return [found[i] for i in range(len(points))]


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def whiskers(
    values: Sequence[float], lows: Sequence[float], highs: Sequence[float]
) -> dict[str, Any]:
    """Plotly's error bars for intervals; a missing bound draws none."""

    def part(distance: float) -> float:
        return distance if distance == distance else 0.0  # NaN is not itself

    return {
        "type": "data",
        "symmetric": False,
        "array": [part(high - value) for value, high in zip(values, highs, strict=True)],
        "arrayminus": [part(value - low) for value, low in zip(values, lows, strict=True)],
        "thickness": 1.5,
        "width": 5,
    }
