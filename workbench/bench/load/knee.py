"""Where a system begins to miss its SLO: which load to try next."""

from __future__ import annotations

from collections.abc import Mapping

from workbench.bench.patterns import Sweep


def next_point(sweep: Sweep, tried: Mapping[float, bool]) -> float | None:
    """The next users or rate to try; None when the knee is found, or there is none.

    The load grows by ``factor`` until it misses the SLO, and no further: what lies beyond is
    saturated. Then the gap is halved, for users down to whole ones.

    Args:
        sweep: start, factor, most, refine.
        tried: what was tried, and whether it kept the SLO.
    """
    rising = list(_rising(sweep))
    missed = [point for point, met in tried.items() if not met]
    if not missed:
        return next((point for point in rising if point not in tried), None)
    high = min(missed)
    low = max((point for point, met in tried.items() if met and point < high), default=0.0)
    refined = sum(point not in rising for point in tried)
    if refined >= sweep.refine or low == 0.0:
        return None
    between = (low + high) / 2
    if sweep.of == "users":
        between = float(round(between))
    return between if low < between < high else None


def knee(tried: Mapping[float, bool]) -> float | None:
    """The highest load that kept the SLO below every one that did not; None if none did."""
    low = min((point for point, met in tried.items() if not met), default=float("inf"))
    return max((point for point, met in tried.items() if met and point < low), default=None)


def _rising(sweep: Sweep) -> list[float]:
    points: list[float] = []
    value = sweep.start
    while value <= sweep.most * (1 + 1e-9):
        point = float(round(value)) if sweep.of == "users" else value
        if point not in points:
            points.append(point)
        value *= sweep.factor
    return points
