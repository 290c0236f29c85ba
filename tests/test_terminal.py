"""What the command line prints of the queue."""

from __future__ import annotations

import pytest

from workbench.rotation.overview import Overview, Resident, Waiting
from workbench.terminal import print_overview
from workbench.types import Priority

LONG = "huggingface/HuggingFaceTB/SmolLM2-135M-Instruct?dtype=float32&quantization="


def test_narrow_queue_shows_whole_ids_and_says_answering(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    size = {"host": 3 * 10**8}
    overview = Overview(
        limit_bytes={"host": 10**9},
        held_bytes={"host": 6 * 10**8},
        max_resident=2,
        max_waiting=8,
        max_waiting_per_model=8,
        residents=(Resident(f"{LONG}int8", "leased", 1, size, size, False, None, None),),
        waiting=(
            Waiting(
                2, f"{LONG}nf4", 1, f"in use by {LONG}int8", 3.0, 4.0, Priority.INTERACTIVE,
                False, (f"{LONG}int8",),
            ),
        ),
        next_victims=(f"{LONG}int8",),
        others={"ollama/theirs": size},
    )  # fmt: skip
    print_overview(overview)
    shown = capsys.readouterr().out
    assert all(len(line) <= 80 for line in shown.splitlines())
    letters = "".join(shown.split())
    assert "…" not in shown
    assert "answering" in shown
    assert "leased" not in shown
    for one in ("ollama/theirs:300MB,loadedbyanotherprogram", "firsttomakeroom:" + LONG + "int8"):
        assert one in letters

    folded = [line.split() for line in shown.splitlines()]
    assert "nf4" in "".join(part for line in folded for part in line)
