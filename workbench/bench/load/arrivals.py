"""When requests of an open loop arrive: drawn in advance, in seconds from the start, ascending.

A gap is what it is: where the client or the server falls behind, the schedule is not stretched,
and latency counts from the intended moment (coordinated omission: Gil Tene, *How NOT to Measure
Latency*, 2013).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import takewhile
from random import Random
from typing import Final

from workbench.bench.patterns import Arrivals

MOST: Final = 1_000_000
"""Arrivals of one schedule."""


def times(
    arrivals: Arrivals,
    rate_per_s: float,
    rng: Random,
    *,
    requests: int | None = None,
    duration_s: float | None = None,
    burst: float = 8.0,
) -> list[float]:
    """Arrivals at an even rate.

    Args:
        arrivals: ``constant`` gaps, ``poisson`` (exponential gaps), or ``bursty`` (gamma gaps).
        rate_per_s: the mean.
        rng: where they are drawn from.
        requests: how many; or
        duration_s: all before this many seconds.
        burst: the squared coefficient of variation of bursty gaps; Poisson arrivals have 1.
    """
    ticks = (tick / rate_per_s for tick in _ticks(arrivals, rng, burst))
    if requests is not None:
        return [next(ticks) for _ in range(min(requests, MOST))]
    assert duration_s is not None
    return _before(ticks, duration_s)


def ramp(
    arrivals: Arrivals,
    from_per_s: float,
    to_per_s: float,
    duration_s: float,
    rng: Random,
    *,
    burst: float = 8.0,
) -> list[float]:
    """Arrivals whose rate rises or falls evenly.

    By inversion of the cumulative rate (Cinlar, *Introduction to Stochastic Processes*, 1975,
    section 4.7): ticks of a process of rate 1 are carried to where from * t + slope * t^2 / 2
    reaches them.
    """
    slope = (to_per_s - from_per_s) / duration_s
    total = (from_per_s + to_per_s) / 2 * duration_s

    def moment(tick: float) -> float:
        if slope == 0:
            return tick / from_per_s
        root = math.sqrt(max(from_per_s**2 + 2 * slope * tick, 0.0))
        return 2 * tick / (from_per_s + root)

    return [moment(tick) for tick in _before(_ticks(arrivals, rng, burst), total)]


def _before(ticks: Iterator[float], end: float) -> list[float]:
    found = takewhile(lambda tick: tick < end, ticks)
    return [tick for tick, _ in zip(found, range(MOST), strict=False)]


def _ticks(arrivals: Arrivals, rng: Random, burst: float) -> Iterator[float]:
    """A process of one arrival a second on average, without end; a constant one begins at 0."""
    if arrivals == "constant":
        yield from map(float, range(MOST))
        return
    now = 0.0
    while True:
        now += rng.expovariate(1.0) if arrivals == "poisson" else rng.gammavariate(1 / burst, burst)
        yield now
