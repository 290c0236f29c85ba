"""One run at a time belongs to the server; specs from outside read no files of the machine."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.bench.conftest import rows, spec_of
from workbench.bench import library, own
from workbench.bench.service import Benchmarks
from workbench.client.roads import LocalRoad
from workbench.engine import Engine
from workbench.errors import ErrorCode, WorkbenchError

LONG = {"models": ["scripted/long"], "repeats": 3}


@pytest.fixture
def benchmarks(engine: Engine) -> Benchmarks:
    return Benchmarks(LocalRoad(engine, "ui"), engine.settings)


async def until_ended(benchmarks: Benchmarks, runs: int = 1) -> None:
    while benchmarks.ended < runs:
        await asyncio.sleep(0.01)


async def test_a_second_run_is_refused_a_stopped_one_resumed(
    benchmarks: Benchmarks, engine: Engine
) -> None:
    progress = await benchmarks.start(spec_of(**LONG))
    with pytest.raises(WorkbenchError, match="under way: x"):
        await benchmarks.start(spec_of())
    while progress.done < 2:
        await asyncio.sleep(0.01)
    await benchmarks.stop()
    assert not benchmarks.running
    (row,) = await rows(engine, "SELECT status FROM benchmark_runs")
    assert row["status"] == "cancelled"
    resumed = await benchmarks.resume(progress.run_id)
    assert resumed.skipped >= 2
    await until_ended(benchmarks, 2)
    assert benchmarks.problem is None
    found = await rows(engine, "SELECT status, count(*) AS n FROM benchmark_trials GROUP BY ALL")
    assert found == [{"status": "ok", "n": 9}]


async def test_what_cannot_begin_is_said_and_the_next_one_runs(
    benchmarks: Benchmarks,
) -> None:
    broken = spec_of(prompts=None, datasets=[{"source": "nowhere.jsonl"}])
    with pytest.raises(WorkbenchError, match="cannot be read"):
        await benchmarks.start(broken)
    assert not benchmarks.running
    await benchmarks.start(spec_of(repeats=1))
    await until_ended(benchmarks)


async def test_a_run_of_a_terminal_is_in_the_way(benchmarks: Benchmarks, engine: Engine) -> None:
    parent = psutil.Process(os.getppid())
    process = {"pid": parent.pid, "started": parent.create_time()}
    row = {
        **{"run_id": "run_other", "name": "theirs", "status": "active", "timing_mode": "isolated"},
        **{"created_at": "2026-01-01T00:00:00+00:00", "details": {"process": process}, "spec": {}},
    }
    await LocalRoad(engine, "test").log("benchmark_runs", [row], "add")
    with pytest.raises(WorkbenchError, match=f"theirs .process {parent.pid}"):
        await benchmarks.start(spec_of())


@pytest.mark.parametrize("name", ["/etc/x.csv", "../x.csv", "link.csv"])
def test_a_spec_from_outside_reads_no_file_of_this_machine(
    engine: Engine, tmp_path: Path, name: str
) -> None:
    settings = engine.settings.model_copy(
        update={"workbench_benchmarks": tmp_path / "own", "workbench_disk_reserve": 0}
    )
    (tmp_path / "own").mkdir()
    (tmp_path / "x.csv").write_text("prompt\nsecret\n")
    (tmp_path / "own" / "link.csv").symlink_to(tmp_path / "x.csv")
    text = f'name = "x"\nmodels = ["m"]\n[[datasets]]\nsource = "{name}"\n'
    with pytest.raises(WorkbenchError) as refused:
        library.outline(text, settings)
    assert refused.value.code is ErrorCode.FORBIDDEN_PATH
    own.keep(settings, f"../{Path(name).stem}2.csv", b"prompt\nHi\n")
    mine = library.outline(text.replace(name, f"{Path(name).stem}2.csv"), settings)
    assert (mine.cells, mine.trials) == (1, 5)


async def test_judges_that_items_name_are_looked_for_before_a_start(
    benchmarks: Benchmarks, engine: Engine, tmp_path: Path
) -> None:
    settings = engine.settings.model_copy(update={"workbench_benchmarks": tmp_path})
    scorer = {"scorer": "judge", "model": "scripted/nobody"}
    (tmp_path / "own.jsonl").write_text(json.dumps({"prompt": "Hi", "scorer": scorer}))
    text = (
        'name = "x"\nmodels = ["scripted/a"]\n'
        '[[datasets]]\nsource = "own.jsonl"\nscorers = ["item"]\n'
    )
    found = library.outline(text, settings)
    with pytest.raises(WorkbenchError, match="judge of item") as caught:
        await benchmarks.check(found)
    assert caught.value.code is ErrorCode.MODEL_NOT_FOUND


def test_ready_specs_are_listed_and_can_be_read_back(engine: Engine) -> None:
    found = library.specs(engine.settings)
    assert {"quick", "quality", "concurrency"} <= found.keys()
    for path in found.values():
        first = library.outline(path.read_text(), engine.settings)
        values: dict[str, Any] = first.spec.to_dict()
        assert library.outline(library.to_toml(values), engine.settings).spec == first.spec
    with pytest.raises(WorkbenchError, match="spec, line 2"):
        library.outline('name = "x"\nmodels = 3\n', engine.settings)
