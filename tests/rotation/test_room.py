"""What is left while a plan is made; ``test_policy.py`` has the plans that come of it."""

from __future__ import annotations

from tests.rotation.test_policy import resident, snapshot, ticket, wanted
from workbench.rotation.room import Room
from workbench.rotation.snapshot import Model

ON_BOTH = {"host": 4, "cuda:0": 3}


def test_growth_is_told_for_each_device_of_what_is_needed() -> None:
    """Of a model that is measured on one device so far, and holds more there than it needs."""
    room = Room(snapshot([], {"a": Model(resident=True, held={"host": 5}, need=ON_BOTH)}))
    assert room.growth(ticket(1, "a")) == {"host": 0, "cuda:0": 3}


def test_what_a_model_holds_already_need_not_fit() -> None:
    models = {"a": resident(size=8), "b": Model(resident=True, held={"host": 7}, need={"host": 8})}
    room = Room(snapshot([], models, limit=5))
    assert room.missing(ticket(1, "a")) == ({}, 0)
    assert room.missing(ticket(1, "b")) == ({"host": 11}, 0)


def test_kept_room_is_what_those_that_leave_do_not_give_back() -> None:
    need = {"host": 6, "cuda:0": 3, "cuda:1": 1}
    limits = {"host": 9, "cuda:0": 3, "cuda:1": 2}
    models = {
        "a": Model(resident=True, held={"host": 2, "cuda:1": 1}, need=need),
        "b": resident(running=1, size=3),
        "c": Model(need={"host": 4, "cuda:0": 1, "cuda:1": 1}),
        "d": wanted(1),
    }
    room = Room(snapshot([], models, limits=limits))
    asked = ticket(2, "c")
    assert room.missing(asked) == ({}, 0)
    room.reserve(ticket(1, "a"), ("b",))
    assert room.missing(asked) == ({"host": 1, "cuda:0": 1}, 0)
    assert room.reachable(asked), "it is not in the hands of other programs"
    room.reserve(ticket(3, "d"), ())
    assert room.missing(asked) == ({"host": 2, "cuda:0": 1}, 0), "each its own, where it needs any"


def test_kept_places_are_those_of_models_that_come_without_one_leaving() -> None:
    models = {
        "there": resident(),
        "used": resident(2, running=1),
        "free": resident(3, counted=False),
        "comes": Model(),
        "ours": Model(counted=False),
        "asked": Model(),
    }

    def lacks(*reservations: tuple[str, tuple[str, ...]]) -> int:
        room = Room(snapshot([], models, max_resident=3))
        for name, evicts in reservations:
            room.reserve(ticket(1, name), evicts)
        assert room.reachable(ticket(2, "asked")), "kept places are not lost"
        return room.missing(ticket(2, "asked"))[1]

    assert lacks() == 0
    assert lacks(("comes", ())) == 1
    assert lacks(("comes", ()), ("comes", ())) == 2
    assert lacks(("comes", ()), ("comes", ()), ("comes", ())) == 3
    assert lacks(("comes", ("used",))) == 0
    assert lacks(("comes", ("used", "there"))) == 0
    assert lacks(("comes", ("used", "there")), ("comes", ())) == 1
    assert lacks(("comes", ("free",))) == 1
    assert lacks(("there", ())) == 0
    assert lacks(("ours", ())) == 0


def test_a_model_for_which_room_is_kept_leaves_for_nobody() -> None:
    models = {"a": resident(size=5), "b": wanted(6)}
    room = Room(snapshot([], models, limit=10))
    assert room.victims(ticket(2, "b")) == ("a",)
    room.reserve(ticket(1, "a"), ())
    assert room.victims(ticket(2, "b")) is None


def test_who_is_idle_leaves_before_who_is_in_use_though_later_used() -> None:
    models = {"a": resident(1, size=5, running=1), "b": resident(2, size=5), "c": wanted(8)}
    room = Room(snapshot([], models, limit=10))
    assert room.victims(ticket(1, "c")) is None
    assert room.victims(ticket(1, "c"), leased_too=True) == ("b", "a")


def test_capacity_may_be_used_to_the_last_byte_and_a_pin_counts_once() -> None:
    pinned = resident(size=4, pinned=True, token_bytes={"host": 1})
    room = Room(snapshot([], {"a": pinned, "b": wanted(6), "c": wanted(7)}, limit=10))
    assert room.over_capacity(ticket(1, "b")) == ([], False)
    assert room.over_capacity(ticket(1, "c")) == (["host"], False)
    assert room.over_capacity(ticket(1, "a", tokens=6)) == ([], False), "beside itself it is not"
    assert room.over_capacity(ticket(1, "a", tokens=7)) == (["host"], False)


def test_what_is_idle_goes_even_if_that_is_not_enough() -> None:
    models = {
        "a": resident(2, size=3),
        "b": resident(1, size=2, counted=False),
        "other": Model(resident=True, held={"cuda:0": 1}),
        "used": resident(3, size=9, running=1),
        "asked": resident(4, size=1),
        "pinned": resident(5, size=1, pinned=True),
    }
    room = Room(snapshot([], models, limit=4, others={"theirs": {"host": 1}}))
    assert room.trimmed(["asked"]) == (("b", "a"), {"host": 13})
    assert Room(snapshot([], models, limit=16)).trimmed([]) == ((), {})
    assert Room(snapshot([], models, limit=15)).trimmed([]) == (("b",), {"host": 1})


def test_who_is_still_leaving_is_waited_for_where_not_all_fit_meanwhile() -> None:
    models = {"a": Model(resident=True, held={"host": 5}, need={"host": 4}), "b": resident(size=3)}
    leaving = {"gone": {"host": 3}}
    for limit, after in ((10, ("gone",)), (11, ())):
        room = Room(snapshot([], models, limit=limit, unloading=leaving))
        assert room.after(ticket(1, "a")) == after
    elsewhere = {"a": Model(need={"cuda:0": 4})}
    room = Room(snapshot([], elsewhere, limit=10, unloading=leaving))
    assert room.after(ticket(1, "a")) == (), "a device without a limit is never tight"


def test_a_model_that_answers_counts_with_no_less_than_it_holds() -> None:
    models = {"a": Model(resident=True, held={"host": 5}, need={"host": 4})}
    room = Room(snapshot([], models, limit=10))
    room.enter(ticket(1, "a"))
    assert room.footprints["a"] == {"host": 5}


def test_a_device_of_which_nothing_is_held_is_not_over_its_limit() -> None:
    models = {"a": resident(size=1)}
    room = Room(snapshot([], models, limits={"host": 2, "cuda:0": 0}))
    assert room.trimmed([]) == ((), {})


def test_of_those_in_use_the_one_that_went_on_first_leaves_first() -> None:
    models = {"b": resident(2, size=5), "a": resident(1, size=5), "c": wanted(5)}
    room = Room(snapshot([], models, limit=10))
    room.enter(ticket(1, "a"))
    room.enter(ticket(2, "b"))
    assert room.victims(ticket(3, "c"), leased_too=True) == ("a",)
