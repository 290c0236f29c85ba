"""Any result of a query can be drawn, and the first suggestion is a sensible one."""

from __future__ import annotations

import pandas as pd
import pytest

from workbench.analysis.charts import MAX_GROUPS, Chart, draw, suggest
from workbench.errors import WorkbenchError

DAYS = pd.to_datetime(["2026-03-01", "2026-03-02", "2026-03-03"], utc=True)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            {"model": ["a", "b"], "sessions": [3, 4], "ttft_s": [1.0, 2.0]},
            ("bar", "model", "ttft_s"),
        ),
        ({"day": DAYS, "sessions": [1, 2, 3]}, ("line", "day", "sessions")),
        (
            {"seq": range(200), "ttft_s": range(200), "tokens": range(200)},
            ("scatter", "ttft_s", "tokens"),
        ),
        ({"ttft_s": [0.1, 0.2]}, ("histogram", "ttft_s", None)),
        ({"contended": [True, False] * 80, "tps": range(160)}, ("box", "contended", "tps")),
    ],
)
def test_the_first_suggestion(
    columns: dict[str, object], expected: tuple[str, str, str | None]
) -> None:
    frame = pd.DataFrame(columns)
    chart = suggest(frame)
    assert chart is not None
    assert (chart.kind, chart.x, chart.y) == expected
    assert len(draw(frame, chart).data) >= 1


def test_a_bar_of_several_rows_is_their_median_and_says_how_many() -> None:
    frame = pd.DataFrame({"model": ["a", "a", "a", "b"], "ttft_s": [1.0, 2.0, 9.0, 4.0]})
    figure = draw(frame, Chart("bar", "model", "ttft_s"))
    (bars,) = figure.data
    assert (list(bars.x), list(bars.y)) == (["a", "b"], [2.0, 4.0])
    assert list(bars.text) == ["n = 3", "n = 1"]
    assert figure.layout.yaxis.title.text == "median ttft_s"


def test_nothing_to_draw() -> None:
    assert suggest(pd.DataFrame({"model": ["a"]})) is None
    assert suggest(pd.DataFrame({"ttft_s": []})) is None


def test_colours_end_somewhere_and_columns_are_checked() -> None:
    frame = pd.DataFrame({"x": range(60), "y": range(60), "who": [f"m{n % 30}" for n in range(60)]})
    traces = draw(frame, Chart("scatter", "x", "y", "who")).data
    assert len(traces) == MAX_GROUPS + 1
    assert traces[-1].name == "18 others"
    for chart in (
        Chart("scatter", "z", "y"),
        Chart("line", "x", None),
        Chart("bar", "x", "who"),
        Chart("pie", "x", "y"),  # type: ignore[arg-type]
    ):
        with pytest.raises(WorkbenchError):
            draw(frame, chart)
