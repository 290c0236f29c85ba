"""Who makes room: the oldest decide who may go, the bytes who must."""

from __future__ import annotations

from workbench.rotation.victims import Candidate, choose


def candidates(*sizes: int) -> list[Candidate]:
    """Models a, b, ... of these sizes on the host, the least recently used first."""
    return [Candidate(name, {"host": size}, True) for name, size in zip("abcdefghijkl", sizes)]  # noqa: B905


def test_nobody_goes_where_nothing_is_missing() -> None:
    assert choose(candidates(5, 5), {"host": 0}, 0) == ()


def test_the_oldest_go_until_it_suffices() -> None:
    assert choose(candidates(2, 2, 9), {"host": 3}, 0) == ("a", "b")
    assert choose(candidates(5, 1), {"host": 3}, 0) == ("a",)


def test_a_small_old_model_stays_where_a_larger_one_must_go_anyway() -> None:
    assert choose(candidates(1, 10, 5), {"host": 5}, 0) == ("b",)


def test_all_together_may_not_be_enough() -> None:
    assert choose(candidates(1, 2), {"host": 4}, 0) is None
    assert choose([], {}, 1) is None


def test_only_models_on_the_device_that_is_short_go() -> None:
    on_host, on_gpu = Candidate("a", {"host": 9}, True), Candidate("b", {"cuda:0": 9}, True)
    assert choose([on_host, on_gpu], {"cuda:0": 1}, 0) == ("b",)
    assert choose([on_host, on_gpu], {"cuda:0": 1, "host": 1}, 0) == ("a", "b")


def test_places_are_given_back_by_models_that_take_one() -> None:
    free, counted = Candidate("a", {"host": 9}, False), Candidate("b", {}, True)
    assert choose([free, counted], {}, 1) == ("b",)


def test_of_many_the_largest_that_others_make_superfluous_stay() -> None:
    """More than eight: not all ways are looked at."""
    assert choose(candidates(*[1] * 9, 10), {"host": 10}, 0) == ("j",)
    assert choose(candidates(2, *[1] * 7, 3), {"host": 10}, 0) == tuple("bcdefghi")
    assert choose(candidates(*[1] * 9), {"host": 9}, 9) == tuple("abcdefghi")
    assert choose(candidates(*[1] * 9, 5), {"host": 12}, 0) == tuple("abcdefgj"), "of equals"


def test_up_to_eight_the_fewest_bytes_go_and_of_those_the_fewest_models() -> None:
    assert choose(candidates(1, 1, 1, 1, 1, 3, 3, 4), {"host": 12}, 0) == tuple("abfgh")


def test_who_gives_nothing_that_is_missing_is_not_looked_at() -> None:
    """Or they would be too many to look at all ways."""
    elsewhere = [Candidate(name, {"cuda:0": 9}, True) for name in "stuvwxyz"]
    assert choose([*elsewhere, *candidates(3, 2, 2, 5)], {"host": 8}, 0) == ("a", "d")
    free = [Candidate(name, {"cuda:0": 9}, False) for name in "stuvwxyz"]
    assert choose([*free, *candidates(3, 2, 2, 5)], {"host": 8}, 1) == ("a", "d")
    assert choose([*elsewhere, *candidates(1)], {"host": 1}, 2) == ("s", "a")
