"""Unload receipts with real processes: what came back, what did not, and what is done about it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import EngineFactory
from workbench.errors import ErrorCode, WorkbenchError
from workbench.memory import ProcessTrees
from workbench.providers.base import ResidentModel
from workbench.providers.scripted import Schedule, ScriptedProvider, steady
from workbench.store import Store

MB = 10**6
HELD = 80 * MB
_HOLDER = """
import sys
held = bytearray(int(sys.argv[1]))
held[::4096] = b"x" * len(held[::4096])  # touched, or the system gives no memory for it
print("ready", flush=True)
for line in sys.stdin:
    del held
    held = bytearray(int(line))
    held[::4096] = b"x" * len(held[::4096])
    print("ready", flush=True)
"""
RECEIPT = (
    "SELECT event, ok, leak, reason, expected_bytes, recovered_bytes, recovered_share, "
    "after_bytes, host_before_bytes, host_after_bytes, duration_s, details::VARCHAR AS details "
    "FROM model_events WHERE event IN ('unload', 'evict')"
)


class Holder:
    """A process that holds memory and gives it back when told."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _HOLDER, str(HELD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ready()

    def keep(self, n_bytes: int) -> None:
        assert self.process.stdin is not None
        print(n_bytes, file=self.process.stdin, flush=True)
        self._ready()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"


class Holding(ScriptedProvider):
    """A runtime whose model is a holder; ``unloading`` says what it does when it is to go."""

    def __init__(self, holder: Holder, unloading: str, *, ours: bool = True) -> None:
        super().__init__({"m": Schedule(steady(3, first_s=0.01, gap_s=0.001))}, name="holding")
        self.holder = holder
        self.unloading = unloading
        self.ours = ours
        self.killed: list[int] = []

    def pids(self, model: str) -> Sequence[int]:
        return (self.holder.process.pid,)

    def kill(self, model: str, pids: Sequence[int]) -> bool:
        if self.ours:
            self.killed += pids
            self.holder.end()
        return self.ours

    async def unload(self, model: str) -> None:
        if self.unloading == "ends":
            self.holder.end()
        elif self.unloading == "keeps half":
            self.holder.keep(HELD // 2)
        elif self.unloading == "fails":
            raise WorkbenchError(ErrorCode.INTERNAL, "will not")
        self._resident.pop(model, None)

    def resident(self, model: str) -> ResidentModel | None:
        return self._resident.get(model)


def receipt(store: Store) -> dict[str, Any]:
    store.flush()
    (row,) = store.rows(RECEIPT)
    return row


@pytest.fixture
def holder() -> Iterator[Holder]:
    made = Holder()
    yield made
    made.end()


async def unloaded(make_engine: EngineFactory, provider: Holding) -> WorkbenchError | None:
    engine = make_engine(workbench_cancel_grace_s=0.2)
    engine.router.register_provider(provider)
    await engine.load("holding/m")
    try:
        await engine.unload("holding/m")
    except WorkbenchError as error:
        return error
    return None


async def test_process_that_ends_gives_everything_back(
    make_engine: EngineFactory, store: Store, holder: Holder
) -> None:
    assert await unloaded(make_engine, Holding(holder, "ends")) is None
    row = receipt(store)
    assert (row["event"], row["ok"], row["leak"]) == ("unload", True, False)
    assert row["reason"] == "asked for by the user"
    assert HELD < row["expected_bytes"] < HELD + 40 * MB
    assert row["recovered_bytes"] == row["expected_bytes"]
    assert (row["recovered_share"], row["after_bytes"]) == (1.0, 0)
    assert row["duration_s"] > 0
    assert min(row["host_before_bytes"], row["host_after_bytes"]) > 0


@pytest.mark.parametrize("unloading", ["keeps half", "keeps all"])
async def test_leak_is_named_and_its_process_killed(
    make_engine: EngineFactory, store: Store, holder: Holder, unloading: str
) -> None:
    provider = Holding(holder, unloading)
    assert await unloaded(make_engine, provider) is None, "in the end the memory is free"
    assert provider.killed == [holder.process.pid]
    row = receipt(store)
    assert (row["ok"], row["leak"]) == (False, True)
    assert f"Process {holder.process.pid} still holds" in row["reason"]
    assert "was killed" in row["reason"]
    assert f'"killed":[{holder.process.pid}]' in row["details"].replace(" ", "")
    assert row["recovered_bytes"] == row["expected_bytes"] > HELD


async def test_leak_of_a_process_that_is_not_ours_is_an_error_with_the_figures(
    make_engine: EngineFactory, store: Store, holder: Holder
) -> None:
    error = await unloaded(make_engine, Holding(holder, "keeps half", ours=False))
    assert error is not None
    assert (error.code, error.details["phase"]) == (ErrorCode.TIMEOUT, "unload")
    assert str(holder.process.pid) in error.message
    assert psutil.pid_exists(holder.process.pid)
    row = receipt(store)
    assert (row["ok"], row["leak"]) == (False, True)
    assert 0.2 < row["recovered_share"] < 0.8
    assert row["recovered_bytes"] == pytest.approx(HELD / 2, rel=0.2)


async def test_unload_that_fails_is_no_leak_but_its_process_goes_too(
    make_engine: EngineFactory, store: Store, holder: Holder
) -> None:
    provider = Holding(holder, "fails")
    assert await unloaded(make_engine, provider) is None
    assert provider.killed == [holder.process.pid]
    row = receipt(store)
    assert (row["ok"], row["leak"], row["recovered_share"]) == (False, False, 1.0)
    assert "will not" in row["reason"]


async def test_model_without_visible_processes_has_no_figures(
    make_engine: EngineFactory, store: Store
) -> None:
    engine = make_engine()
    await engine.load("scripted/steady")
    await engine.unload("scripted/steady")
    row = receipt(store)
    assert (row["ok"], row["leak"]) == (True, None)
    assert row["expected_bytes"] is row["recovered_bytes"] is row["recovered_share"] is None


def test_private_memory_leaves_out_what_is_shared(tmp_path: Path) -> None:
    """Two processes that map one file hold it together: neither would give it back."""
    shared = tmp_path / "weights"
    shared.write_bytes(b"x" * HELD)
    code = (
        "import mmap, sys; f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, "
        "access=mmap.ACCESS_READ); sum(m[::4096]); print(flush=True); sys.stdin.read()"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(shared)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    try:
        for process in both:
            assert process.stdout is not None
            process.stdout.readline()
        reading = ProcessTrees([both[0].pid]).read()
        assert reading is not None
        assert reading.private_bytes < HELD / 2 < reading.rss_bytes
    finally:
        for process in both:
            process.communicate()
