"""A small run of benchmarks/rotation_load.py: real models of both runtimes within one budget."""

from __future__ import annotations

from pathlib import Path

from benchmarks import rotation_load as load


async def test_two_of_four_models_fit_and_everybody_is_answered(
    tmp_path: Path, demo_folder: Path
) -> None:
    async with load.tight(tmp_path) as stage:
        rotated = await load.rotate(stage, requests=24, clients=6)
        burst = await load.burst(stage, size=120, bursts=1, switches=4, n_long=40)
    assert rotated["outcomes"] == {"ok": 24}
    assert rotated["evictions"] == rotated["with_receipt"] > 0
    assert rotated["leaks"] == rotated["without_reason"] == 0
    assert rotated["peak_share"] <= load.ALLOWED, rotated
    assert burst["switching"] == {"ok": 6}
    (only,) = burst["bursts"]
    assert only["outcomes"] == {"ok": load.QUEUE, "QUEUE_FULL": 120 - load.QUEUE}
    assert (burst["left_waiting"], burst["left_running"], burst["left_held_mb"]) == (0, 0, 0)
