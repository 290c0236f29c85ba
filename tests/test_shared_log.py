"""Several workbenches write into one served log (the long run is a script)."""

from __future__ import annotations

from benchmarks.shared_log import WRITERS, run


def test_three_write_a_fourth_reads_one_is_killed_and_nothing_acknowledged_is_lost() -> None:
    found = run(2)
    assert found["problems"] == []
    assert found["ok"], found
    assert found["acknowledged"] > 0
    assert set(found["leaderboard"]) == {f"writer-{number}" for number in range(WRITERS)}
