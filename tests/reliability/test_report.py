"""What campaigns found, in pieces and as one."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.reliability import campaign
from tests.reliability.campaign import Campaign
from tests.reliability.kinds import Case, Kind
from tests.reliability.report import Report, Score, summed
from tests.reliability.stage import Harm, Stage
from tests.reliability.turns import Turns

FIRST = Report(
    seeds=[1],
    ended=["done"],
    seconds=60.4,
    requests=30,
    told=Counter(ok=28, HF_TIMEOUT=2),
    starts=1,
    levels=[{"faults": 3, "fds": 40}],
    scores={
        "slow": Score("wire", "one byte a second", 2, Counter(HF_TIMEOUT=2), 5.0, ["slow: no fix"]),
        "gone": Score("clients", "hangs up", 1, Counter(left=1), 0.5),
    },
    problems=["slow: no fix"],
)
SECOND = Report(
    seeds=[2],
    ended=["SIGTERM"],
    seconds=30.4,
    requests=12,
    told=Counter(ok=12),
    harmed=1,
    starts=2,
    scores={
        "gone": Score("clients", "hangs up", 3, Counter(left=2, ok=1), 2.5),
        "cut": Score("wire", "in a line", 1, Counter(OLLAMA_STREAM_BROKEN=1), 0.25),
    },
    problems=["an innocent was hurt"],
)


def test_pieces_are_summed_kind_by_kind_and_told_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for piece, file in zip((FIRST, SECOND), files, strict=True):
        campaign.write(piece, file)
        assert Report.from_dict(json.loads(file.read_text())) == piece
    assert campaign.main(["--sum", *map(str, files)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "| where | fault | how | times | told | s each | wrong |",
        "|---|---|---|--:|---|--:|--:|",
        "| wire | slow | one byte a second | 2 | HF_TIMEOUT 2 | 2.50 | 1 |",
        "| wire | cut | in a line | 1 | OLLAMA_STREAM_BROKEN 1 | 0.25 | 0 |",
        "| clients | gone | hangs up | 4 | left 3, ok 1 | 0.75 | 0 |",
        "- slow: no fix",
        "- an innocent was hurt",
        json.dumps(
            {
                "seeds": [1, 2],
                "ended": ["done", "SIGTERM"],
                "seconds": 91,
                "faults": 7,
                "kinds": 3,
                "requests": 42,
                "told": {"ok": 40, "HF_TIMEOUT": 2},
                "harmed": 1,
                "problems": 2,
                "starts": 3,
                "levels": [{"faults": 3, "fds": 40}],
            }
        ),
    ]
    assert (FIRST.faults, SECOND.faults) == (3, 4), "the pieces stay as they were"
    assert summed([]).summary()["faults"] == 0


class Scene:
    """As much of a stage as a campaign needs before anybody asks anything."""

    starts = 0

    def __init__(self) -> None:
        self.turns = Turns()
        self.harm: list[Harm] = []
        self.users = SimpleNamespace(asked=[])

    async def innocent(self, model: str) -> None:
        await asyncio.sleep(0)

    async def serves(self, model: str) -> None:
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_what_was_found_is_told_when_a_signal_ends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    """What goes wrong from then on is its doing: not counted."""
    scene, file, undone = Scene(), tmp_path / "report.json", asyncio.Event()

    async def inject(case: Case) -> None:
        case.note("ok")
        if case.number == 2:
            raise AssertionError("badly")
        if case.number == 3:
            scene.harm.append(Harm("before"))
            signal.raise_signal(number)
            scene.harm.append(Harm("after"))
            try:
                await asyncio.sleep(600)
            finally:
                undone.set()

    kind = Kind("odd", "clients", "somehow", frozenset(["ok"]), inject, ("scripted/a",))
    faults = Campaign(cast("Stage", scene), kinds=[kind], innocents=1, lanes=1)
    work = asyncio.create_task(faults.run())
    with campaign.ended_by_signals(faults, work):
        await campaign.told(faults, work, file)
        signal.raise_signal(number)  # another one while it tidies up
    assert undone.is_set()
    found = Report.from_dict(json.loads(file.read_text()))
    assert found.ended == [number.name]
    assert found.scores["odd"].count == found.faults == 2
    assert found.problems == ["odd at scripted/a: badly", "an innocent was hurt: before"]
    told = capsys.readouterr().out.splitlines()
    assert told[2].startswith("| clients | odd | somehow | 2 | ok 2 |")
    assert json.loads(told[-1])["ended"] == [number.name]
