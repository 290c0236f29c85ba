"""How long a request will wait, one thing at a time; ``test_queue.py`` has them together."""

from __future__ import annotations

import pytest

from tests.rotation.test_queue import ran
from workbench.rotation.estimates import estimate
from workbench.rotation.snapshot import Model, Snapshot, Ticket, Wait
from workbench.rotation.speeds import REMEMBERED, Answer, Speeds

HERE = Model(resident=True)
GROWS = Model(resident=True, concurrency=8, token_bytes={"host": 1})


@pytest.fixture
def speeds() -> Speeds:
    """Every answer takes ten seconds."""
    made = Speeds()
    made.answer_took("any", Answer(10.0))
    return made


def told(
    speeds: Speeds,
    waiting: list[Ticket],
    models: dict[str, Model],
    most: dict[str, int] | None = None,
    *,
    loading: dict[str, float] | None = None,
    alone: bool = False,
    **running: list,  # type: ignore[type-arg]
) -> list[float]:
    snapshot = Snapshot(waiting, models, 9, exclusive_running=alone)
    order = [one.number for one in waiting]
    waits = dict.fromkeys(order, Wait("", may_hold=most or {}))
    found = estimate(snapshot, order, waits, running, loading or {}, speeds)
    return [found[number] for number in order]


@pytest.mark.parametrize("exclusive", [False, True])
def test_where_nothing_runs_nobody_waits(speeds: Speeds, exclusive: bool) -> None:
    assert told(speeds, [Ticket(1, "a", exclusive=exclusive)], {"a": HERE}) == [0.0]
    assert told(speeds, [Ticket(1, "a", exclusive=exclusive)], {"a": Model(load_s=2.0)}) == [2.0]


def test_a_load_under_way_takes_what_its_own_loads_took(speeds: Speeds) -> None:
    speeds.load_took("b", 9.0)
    loads = Model(resident=True, loading=True, load_s=5.0)
    found = told(
        speeds,
        [Ticket(1, "b"), Ticket(2, "c")],
        {"b": loads, "c": loads},
        loading={"b": 1.0, "c": 1.0},
        c=[ran(None, answer_tokens=0)],
    )
    assert found == [8.0, 4.0], "by what is typical, where none has been measured; a load by hand"


def test_all_wait_for_one_that_runs_alone_also_for_one_of_a_model_that_left(
    speeds: Speeds,
) -> None:
    assert told(speeds, [Ticket(1, "d")], {"d": HERE}, alone=True, a=[ran(4.0)]) == [6.0]
    last = [Ticket(1, "d", exclusive=True)]
    assert told(speeds, last, {"d": HERE}, gone=[ran(None)]) == [10.0]


def test_a_load_by_hand_keeps_nobody_waiting(speeds: Speeds) -> None:
    waiting = [Ticket(1, "a", answer_tokens=0), Ticket(2, "a"), Ticket(3, "a")]
    assert told(speeds, waiting, {"a": HERE}) == [0.0, 0.0, 10.0]


def test_context_is_waited_for_until_it_fits_or_nothing_is_left(speeds: Speeds) -> None:
    def wait(tokens: list[int], most: int, *running: tuple[float, int]) -> list[float]:
        waiting = [Ticket(number, "a", tokens=size) for number, size in enumerate(tokens, 1)]
        answers = [ran(seconds, tokens=size) for seconds, size in running]
        return told(speeds, waiting, {"a": GROWS}, {"host": most}, a=answers)

    assert wait([300], 1000, (1.0, 600), (4.0, 100)) == [9.0], "the long one"
    assert wait([600, 300], 1000) == [0.0, 10.0]
    assert wait([0], 0, (4.0, 5), (1.0, 0)) == [6.0], "of none nothing is needed"
    assert wait([5], 4, (1.0, 5), (4.0, 5), (2.0, 5)) == [9.0], "it never fits"
    assert wait([5], 4) == [0.0]


def test_who_falls_idle_first_makes_room_and_of_those_the_one_not_used_for_longest(
    speeds: Speeds,
) -> None:
    models = {"a": HERE, "z": HERE, "c": Model(load_s=2.0), "d": Model(load_s=3.0)}
    waiting = [Ticket(1, "c"), Ticket(2, "d")]
    assert told(speeds, waiting, models, a=[ran(4.0)]) == [2.0, 9.0]
    models = {
        "x": Model(resident=True, last_use=2, load_s=50.0),
        "y": Model(resident=True, last_use=1),
        "c": Model(load_s=2.0),
    }
    assert told(speeds, [Ticket(1, "c"), Ticket(2, "x")], models) == [2.0, 0.0]


# -- what answers take ------------------------------------------------------------------------


def test_the_pace_of_an_answer() -> None:
    assert Answer(3.0, 1.0, 2).pace_s == 2.0
    assert Answer(1.5, 1.0, 2).pace_s == 0.5
    assert Answer(1.0, 2.0, 3).pace_s == 0.0
    assert Answer(5.0, None, 20).pace_s is None
    assert Answer(5.0, 1.0, 1).pace_s is None


def test_only_the_last_count_and_the_log_adds_what_is_older() -> None:
    speeds = Speeds()
    for seconds in [1.0] * REMEMBERED + [2.0] * (REMEMBERED // 2) + [8.0] * (REMEMBERED // 2):
        speeds.load_took("a", seconds)
        speeds.answer_took("a", Answer(seconds))
    old = {"model": "a", "seconds": 2.0, "first_s": None, "tokens": 0, "cut": False}
    speeds.restore([{**old, "what": "load"}, {**old, "what": "answer"}])
    assert [speeds.load_s("a", {}), speeds.answer_s("a"), speeds.answer_s("b")] == [5.0] * 3


@pytest.mark.parametrize(("cut", "seconds"), [(False, 3.5), (True, 10.4)])
def test_what_the_log_says_of_an_answer(cut: bool, seconds: float) -> None:
    speeds = Speeds()
    said = {"model": "a", "what": "answer", "seconds": 3.5, "first_s": 0.5, "tokens": 31}
    speeds.restore([{**said, "cut": cut}])
    assert speeds.answer_s("a", 11) == pytest.approx(1.5)
    assert speeds.answer_s("a", 100) == pytest.approx(seconds)


def test_what_remains_of_an_answer() -> None:
    speeds = Speeds()
    assert speeds.answer_left_s("a", ran(4.0), 0) == 6.0, "a guess where nothing is known"
    assert speeds.answer_left_s("a", ran(1.0, answer_tokens=0), 0) == 0.0
    assert speeds.load_left_s("a", 5.0, 5.0) == 2.5, "a load that took as long as it should"
    speeds.answer_took("b", Answer(10.0))
    assert speeds.answer_left_s("b", ran(10.0), 0) == 5.0, "it has outlasted it"
    speeds.answer_took("c", Answer(0.5))
    assert speeds.answer_left_s("c", ran(0.75), 0) == 0.375, "of its time, however short"
    for tokens in (20, 30, 40):  # 0.5 s to the first token, then 10 tokens/s
        speeds.answer_took("a", Answer(0.5 + (tokens - 1) * 0.1, 0.5, tokens))

    def left(seconds: float, streamed: int = 0, bound: int = 150) -> float:
        began = ran(seconds, streamed=streamed, first_s=0.5, answer_tokens=bound)
        return speeds.answer_left_s("a", began, 0)

    assert left(0.2, bound=10) == pytest.approx(0.3 + 9 * 0.1), "no longer than it may"
    assert left(0.6, bound=10) == pytest.approx(0.3 + 9 * 0.1), "its first token is late"
    assert left(2.5, 3) == pytest.approx(27 * 0.1), "too few tokens to know its own pace"
    assert left(2.25, 8) == pytest.approx(22 * 0.25)
    assert left(4.4, 40) == pytest.approx(110 * 0.1), "longer than all: on to its bound"
    assert left(9.0, 150) == 0.0


def test_an_answer_is_as_long_as_half_of_them() -> None:
    speeds = Speeds()
    for answer in (Answer(0.5, 0.5, 1), Answer(0.5, 0.5, 1), Answer(2.5, 0.5, 21)):
        speeds.answer_took("a", answer)
    assert speeds.answer_s("a") == 0.5
