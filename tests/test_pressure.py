"""Levels and limits that do not flutter."""

from __future__ import annotations

import pytest

from workbench.pressure import Alert, Level, Thresholds, limit, worse

THRESHOLDS = Thresholds(high=0.90, critical=0.95, band=0.03)


@pytest.mark.parametrize(
    ("shares", "levels"),
    [
        ([0.5, 0.89, 0.9, 0.94, 0.95], ["ok", "ok", "high", "high", "critical"]),
        # Each level is left a band below where it is entered.
        ([0.96, 0.93, 0.919, 0.88, 0.869], ["critical", "critical", "high", "high", "ok"]),
        ([0.901, 0.899, 0.901, 0.899], ["high"] * 4),
        ([0.99, 0.1], ["critical", "ok"]),
    ],
)
def test_level_follows_the_share_in_use(shares: list[float], levels: list[Level]) -> None:
    level: Level = "ok"
    seen = []
    for share in shares:
        level = THRESHOLDS.level(level, share)
        seen.append(level)
    assert seen == levels


def test_limit_falls_at_once_and_rises_in_steps() -> None:
    def follow(rooms: list[int], before: int = 1000) -> list[int]:
        limits = []
        for room in rooms:
            before = limit(before, room, 1000, 0.02)
            limits.append(before)
        return limits

    assert follow([1500, 990, 995, 989, 1008]) == [1000, 990, 990, 989, 1000]
    assert follow([400, 410, 419, 420, 415]) == [400, 400, 400, 420, 415]
    assert follow([-50, 30]) == [0, 30]


def test_an_alert_says_where_how_bad_and_how_much() -> None:
    alert = Alert("host", "critical", int(23.5e9), int(24e9), 0)
    assert alert.rising
    assert alert.sentence() == (
        "Memory of this machine is nearly used up: 23.5 of 24.0 GB in use (98 %)."
    )
    assert not Alert("cuda:0", "ok", 1, 2, 0).rising
    assert "cuda:0 is well again" in Alert("cuda:0", "ok", 1, 2, 0).sentence()
    assert worse("critical", "high")
    assert not worse("high", "high")
