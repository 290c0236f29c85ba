"""Readers, writers and streams on one log at the same time (the long run is a script)."""

from __future__ import annotations

from benchmarks.store_clients import run


def test_many_clients_see_no_lock_error_and_every_count_is_right() -> None:
    found = run(5)
    assert found["problems"] == []
    assert found["ok"], found
    assert found["log"]["logged"] > 0
    assert found["log"]["streamed"] > 0
