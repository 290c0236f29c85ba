"""Who holds how much: real processes, looked at rarely and cheaply."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from workbench import procfs
from workbench.census import Census, Sample

MB = 2**20
HOLDER = """
import sys
held = {}
for line in sys.stdin:
    verb, size = line.split()
    if verb == "hold":
        held[len(held)] = bytearray(b"x") * (int(size) * 2**20)
    else:
        held.clear()
    print("done", flush=True)
"""


class Holder:
    """A process that holds as much memory as it is told to."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.hold(0)

    def hold(self, megabytes: int) -> None:
        self._tell(f"hold {megabytes}")

    def let_go(self) -> None:
        self._tell("release 0")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(line, file=self._process.stdin, flush=True)
        assert self._process.stdout.readline() == "done\n"

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def holder() -> Iterator[Holder]:
    running = Holder()
    yield running
    running.end()


def test_what_is_held_and_the_peak_between_two_looks(holder: Holder) -> None:
    census = Census(lambda: {"a": [holder.pid]}, 1.0)
    empty = census.look().holdings["a"].now["host"]
    holder.hold(100)
    holder.let_go()
    holder.hold(40)
    seen = census.look().holdings["a"]
    assert seen.now["host"] - empty == pytest.approx(40 * MB, abs=8 * MB)
    assert seen.peak["host"] - empty == pytest.approx(100 * MB, abs=8 * MB)
    assert seen.high_water_bytes >= seen.peak["host"]


def test_pages_are_walked_only_when_much_has_changed(
    holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks: list[int] = []
    rollup = procfs.rollup
    monkeypatch.setattr(procfs, "rollup", lambda pid: walks.append(pid) or rollup(pid))
    census = Census(lambda: {"a": [holder.pid]}, 1.0)
    before = census.look().holdings["a"].now["host"]
    for _ in range(5):
        census.look()
    holder.hold(5)
    small = census.look().holdings["a"].now["host"]
    assert walks == [holder.pid]
    assert small - before == pytest.approx(5 * MB, abs=2 * MB), "RSS tells what PSS would"
    holder.hold(60)
    census.look()
    assert walks == [holder.pid] * 2


def test_models_in_one_process_are_counted_once(holder: Holder) -> None:
    sample = Census(lambda: {"a": [holder.pid], "b": [holder.pid]}, 1.0).look()
    assert list(sample.holdings) == ["a"]
    assert sample.shared == {"b": "a"}


def test_a_process_of_which_only_rss_is_public_counts_with_it(
    holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(procfs, "rollup", lambda pid: None)
    held = Census(lambda: {"a": [holder.pid]}, 1.0).look().holdings["a"]
    status = procfs.status(holder.pid)
    assert status is not None
    assert held.now["host"] == status.rss_bytes


def test_what_has_ended_holds_nothing(holder: Holder) -> None:
    census = Census(lambda: {"a": [holder.pid]}, 1.0)
    census.look()
    holder.end()
    assert census.look().holdings["a"].now == {}


def test_it_looks_while_there_is_something_and_then_rests(holder: Holder) -> None:
    there: dict[str, Sequence[int]] = {"a": [holder.pid]}
    samples: list[Sample] = []
    several = threading.Event()

    def take(sample: Sample) -> None:
        samples.append(sample)
        if len(samples) >= 3:
            several.set()

    census = Census(lambda: dict(there), 0.02, take)
    assert not census.active
    census.wake()
    assert several.wait(10)
    there.clear()
    deadline = time.monotonic() + 10
    while census.active and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not census.active
    assert samples[-1].holdings == {}
    census.close()
