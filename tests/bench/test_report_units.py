"""The differences of a report stand in the unit of their figure."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from workbench.analysis.statistics import Estimate
from workbench.bench.comparisons import Comparison
from workbench.bench.report import parts

EVIDENCE: Any = SimpleNamespace(label=str)


@pytest.mark.parametrize(
    ("figure", "value", "words"),
    [
        ("ttft_s", -0.036, "-36.0 ms"),
        ("e2e_s", 2.5, "+2.50 s"),
        ("chars_per_s", 187_966.43, "+187,966.4"),
    ],
)
def test_a_difference_has_the_unit_of_its_figure(figure: str, value: float, words: str) -> None:
    ratio, difference = (Estimate(one, None, None, None, None, 4, 8) for one in (2.0, value))
    cell: Any = "a cell"
    axis: Any = None
    one = Comparison(cell, cell, axis, figure, ratio, difference, None)
    assert parts.intervals(EVIDENCE, [one])[0][4] == words
