"""Threads of a pass: what others use, and what passes have taken."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from workbench.hf import cores
from workbench.hf.cores import OtherPrograms, Threads, usable_cores


@dataclass
class Machine:
    """Clocks that the test turns."""

    now: float = 100.0
    busy: float = 50.0
    own: float = 5.0
    running: list[int | None] = field(default_factory=lambda: [1])
    slept: float = 0.0

    def others(self) -> OtherPrograms:
        return OtherPrograms(
            lambda: self.busy, lambda: self.own, self._look, lambda: self.now, self._sleep
        )

    def passes(self, seconds: float, own: float, others: float) -> None:
        self.now += seconds
        self.own += own * seconds
        self.busy += (own + others) * seconds

    def _look(self) -> int | None:
        return self.running.pop(0) if len(self.running) > 1 else self.running[0]

    def _sleep(self, seconds: float) -> None:
        self.slept += seconds


def test_what_others_use_is_averaged_while_this_process_works() -> None:
    machine = Machine()
    others = machine.others()
    others.cores()
    machine.passes(0.5, own=1.9, others=0.1)
    assert others.cores() == pytest.approx(0.1)
    machine.passes(0.1, own=1.0, others=1.0)
    assert others.cores() == pytest.approx(0.1), "too short to tell"
    machine.passes(0.4, own=1.0, others=1.0)
    assert others.cores() == pytest.approx(1.0)


def test_after_a_rest_it_counts_who_wants_a_core_now() -> None:
    machine = Machine()
    others = machine.others()
    others.cores()
    # Another runtime had its turn, with all cores, and has ended.
    machine.passes(20, own=0, others=2)
    assert others.cores() == 0
    machine.running = [3]
    machine.passes(20, own=0, others=0)
    assert others.cores() == 2


def test_a_server_that_is_busy_for_a_moment_is_nobody() -> None:
    machine = Machine(running=[2, 2, 1])
    assert machine.others().cores() == 0
    assert machine.slept < 0.01


def test_a_system_that_does_not_tell_has_free_cores() -> None:
    assert Machine(running=[None]).others().cores() == 0


def test_this_machine_tells() -> None:
    assert OtherPrograms().cores() >= 0
    assert usable_cores() > 0


@pytest.mark.parametrize(
    ("used", "most", "expected"),
    [(0.0, 8, 8), (0.2, 8, 8), (1.0, 8, 7), (6.4, 8, 1), (5.2, 8, 3), (20.0, 8, 1), (0.0, 1, 1)],
)
def test_others_keep_their_cores(used: float, most: int, expected: int) -> None:
    assert Threads(lambda: used, 8).choose(1, most, step=True)[0] == expected


class Passes:
    """A model whose passes take as long as the test says."""

    def __init__(self, one_s: float, several_s: float) -> None:
        self.seconds = {False: one_s, True: several_s}
        self.threads = Threads(lambda: 0.0, 2)

    def run(self, count: int, tokens: int = 1, *, step: bool = True) -> list[int]:
        chosen = []
        for _ in range(count):
            threads, free = self.threads.choose(tokens, 2, step=step)
            assert free
            self.threads.took(tokens, threads, self.seconds[threads > 1] * tokens, step=step)
            chosen.append(threads)
        return chosen


def test_threads_that_gain_are_kept_and_doubted_ever_less() -> None:
    chosen = Passes(one_s=2.0, several_s=1.0).run(2000)
    assert chosen[:7] == [2] * 7
    assert 0 < chosen.count(1) < 20


def test_threads_that_lose_are_given_up_and_tried_again() -> None:
    passes = Passes(one_s=1.0, several_s=1.5)
    chosen = passes.run(200)
    assert chosen[-50:].count(2) <= 2
    passes.seconds = {False: 1.0, True: 0.6}
    assert passes.run(600)[-50:].count(1) <= 2


def test_one_lucky_pass_does_not_decide() -> None:
    passes = Passes(one_s=2.0, several_s=1.0)
    chosen = passes.run(7)
    passes.seconds[False] = 0.1
    chosen += passes.run(1)
    assert chosen[-1] == 1, "the other number is looked at"
    passes.seconds[False] = 2.0
    assert passes.run(7).count(1) <= 1


def test_sizes_are_told_apart() -> None:
    passes = Passes(one_s=1.0, several_s=1.5)
    passes.run(100, tokens=1)
    assert passes.run(7, tokens=32) == [2] * 7
    assert passes.run(7, tokens=1, step=False) == [2] * 7


def test_a_pass_beside_others_teaches_nothing() -> None:
    used = 1.0
    threads = Threads(lambda: used, 2)
    assert threads.choose(1, 2, step=True) == (1, False)
    used = 0.0
    assert threads.choose(1, 2, step=True) == (2, True)


@pytest.mark.parametrize(("text", "expected"), [("150000 100000\n", 1.5), ("max 100000\n", None)])
def test_a_container_has_the_cores_of_its_quota(
    text: str, expected: float | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unlimited = usable_cores()
    path = tmp_path / "cpu.max"
    path.write_text(text)
    monkeypatch.setattr(cores, "_QUOTA", path)
    assert usable_cores() == (min(expected, unlimited) if expected else unlimited)
