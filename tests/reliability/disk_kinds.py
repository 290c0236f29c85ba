"""Full and read-only disks: of the log, and of the models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from tests.disks import full, read_only
from tests.hub_standin import Faults
from tests.reliability.asking import until
from tests.reliability.hub_kinds import download
from tests.reliability.kinds import Case, Kind
from tests.reliability.stage import HUGGING_FACE, MODELS, SCRIPTED, SERVER

Disk = Callable[[Path], AbstractContextManager[None]]


async def log_disk_full(case: Case) -> None:
    """Everybody is answered and warned; what waited is written when there is room again."""
    stage = case.stage
    assert stage.log_disk is not None

    async def down() -> bool:
        # Not "is it ok": what was mended after an earlier fault is told until somebody has seen it.
        health = await stage.users.get("/health")
        return bool(health["parts"]["store"]["status"] == "down")

    async def well() -> bool:
        return not await down()

    with full(stage.log_disk):
        told = await asyncio.gather(*(case.ask(model=model) for model in MODELS))
        assert any(one.warnings for one in told), "there was room"
        await until(down, "health says that nothing is logged", 30, 0.2)
    await until(well, "the log is well again", 60, 0.2)


async def model_disk_full(case: Case) -> None:
    """A download is refused before anything comes."""
    assert case.stage.model_disk is not None
    with full(case.stage.model_disk):
        await download(case)


async def model_disk_fills_up(case: Case) -> None:
    """In the middle of a download."""
    stage = case.stage
    assert stage.model_disk is not None
    faults = stage.hub.faults = Faults(hold_after=8192)
    loading = asyncio.create_task(download(case))
    try:
        await asyncio.to_thread(faults.held.wait, 30)
        with full(stage.model_disk):
            faults.hold_after = None
            faults.go_on.set()
            await loading
    finally:
        faults.held.set()
        faults.go_on.set()
        stage.hub.faults = Faults()


def loads_with(disk: Disk) -> Callable[[Case], object]:
    """A model is loaded from a disk that takes nothing."""

    async def inject(case: Case) -> None:
        stage = case.stage
        assert stage.model_disk is not None
        with disk(stage.model_disk):
            await stage.users.post("/api/v1/models/unload", model=case.model)
            await case.ask()

    return inject


async def model_disk_read_only(case: Case) -> None:
    """A download to a disk that takes nothing."""
    assert case.stage.model_disk is not None
    with read_only(case.stage.model_disk):
        await download(case)


def disk(name: str, how: str, inject: object, *expects: str, hurts: str = "hub") -> Kind:
    """A fault of a disk; only on a stage that has small ones."""
    models = HUGGING_FACE if name.startswith("loads") else SCRIPTED
    return Kind(name, "disks", how, frozenset(expects), inject, models, (hurts,), 0.1, quick=False)  # type: ignore[arg-type]


KINDS = [
    disk("log-disk-full", "not a byte is free where the log is", log_disk_full, "ok", hurts=SERVER),
    disk("model-disk-full", "not a byte is free for a download", model_disk_full, "DISK_FULL",
         hurts=SERVER),
    disk("model-disk-fills-up", "the last byte goes during a download", model_disk_fills_up,
         "DISK_FULL", hurts=SERVER),
    disk("model-disk-read-only", "a download to a read-only disk", model_disk_read_only,
         "HF_DOWNLOAD_FAILED", "FORBIDDEN_PATH", "DISK_FULL", hurts=SERVER),
    disk("loads-from-full-disk", "a load from a full disk", loads_with(full), "ok", hurts=SERVER),
    disk("loads-from-read-only-disk", "a load from a read-only disk", loads_with(read_only), "ok",
         hurts=SERVER),
]  # fmt: skip
