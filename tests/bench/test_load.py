"""Schedules: their rates, their scatter, and that they never depend on answers."""

from __future__ import annotations

import statistics
from itertools import pairwise
from random import Random

import pytest

from workbench.bench.load import arrivals, knee
from workbench.bench.patterns import Arrivals, Sweep


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


@pytest.mark.parametrize(
    ("kind", "burst", "scatter"),
    [("constant", 8.0, 0.0), ("poisson", 8.0, 1.0), ("bursty", 8.0, 8.0), ("bursty", 2.0, 2.0)],
)
def test_gaps_have_the_rate_and_the_scatter_that_were_asked_for(
    kind: Arrivals, burst: float, scatter: float
) -> None:
    times = arrivals.times(kind, 20.0, Random(1), requests=40_000, burst=burst)
    assert times == sorted(times)
    assert len(times) == 40_000
    found = gaps(times)
    mean = statistics.fmean(found)
    assert mean == pytest.approx(1 / 20, rel=0.05)
    assert statistics.pvariance(found) / mean**2 == pytest.approx(scatter, rel=0.1, abs=1e-9)


def test_a_duration_bounds_arrivals_and_the_same_seed_draws_the_same() -> None:
    def draw(seed: int) -> list[float]:
        return arrivals.times("poisson", 10.0, Random(seed), duration_s=30)

    assert draw(1) == draw(1) != draw(2)
    assert max(draw(1)) < 30
    assert 240 < len(draw(1)) < 360
    assert arrivals.times("constant", 4.0, Random(), duration_s=1) == [0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize(("low", "high"), [(1.0, 19.0), (19.0, 1.0), (10.0, 10.0)])
def test_a_ramp_changes_its_rate_evenly(low: float, high: float) -> None:
    times = arrivals.ramp("poisson", low, high, 1_000, Random(3))
    assert len(times) == pytest.approx(10_000, rel=0.05)
    for quarter in range(4):
        middle = low + (high - low) * (quarter + 0.5) / 4
        found = sum(250 * quarter <= time < 250 * (quarter + 1) for time in times)
        assert found == pytest.approx(250 * middle, rel=0.15)


def sought(sweep: Sweep, capacity: float) -> dict[float, bool]:
    tried: dict[float, bool] = {}
    while (point := knee.next_point(sweep, tried)) is not None:
        assert point not in tried
        tried[point] = point <= capacity
    return tried


def test_a_sweep_stops_at_the_first_miss_and_closes_in() -> None:
    tried = sought(Sweep(pattern="sweep", most=64, refine=3), capacity=11)
    assert list(tried) == [1, 2, 4, 8, 16, 12, 10, 11]
    assert knee.knee(tried) == 11
    rates = Sweep(
        pattern="sweep", of="rate_per_s", start=0.5, factor=3, most=20, refine=1, requests=9
    )
    assert list(sought(rates, 5)) == [0.5, 1.5, 4.5, 13.5, 9.0]


def test_a_sweep_that_never_misses_ends_at_the_most_and_one_that_never_keeps_at_once() -> None:
    sweep = Sweep(pattern="sweep", most=8)
    assert list(sought(sweep, 1_000)) == [1, 2, 4, 8]
    assert knee.knee(sought(sweep, 1_000)) == 8
    assert list(sought(sweep, 0)) == [1]
    assert knee.knee(sought(sweep, 0)) is None
