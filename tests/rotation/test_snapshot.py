"""What a model counts with, and bytes by device: added, compared and in words."""

from __future__ import annotations

import pytest

from workbench.rotation.snapshot import Model, added, larger, spoken

KNOWN = {
    "need": {"host": 10, "cuda:0": 2},
    "answering": {"host": 6},
    "settled": {"host": 5, "cuda:0": 1},
    "token_bytes": {"host": 3, "cuda:0": 1},
}


def test_requests_take_rows_as_long_as_the_longest_beside_what_is_held_once_loaded() -> None:
    model = Model(**KNOWN)  # type: ignore[arg-type]
    assert model.needed(()) == model.needed((0, 0)) == {"host": 10, "cuda:0": 2}
    assert model.needed((1,)) == {"host": 10, "cuda:0": 2}, "less than the load took"
    assert model.needed((3, 1)) == {"host": 24, "cuda:0": 6}
    unknown = Model(need={"host": 10}, token_bytes={"host": 1})
    assert unknown.needed((5,)) == {"host": 15}, "beside the load, where nothing else is known"
    assert Model(need={"host": 10}).needed((5,)) == {"host": 10}


@pytest.mark.parametrize("busy", [{"running": 1}, {"loading": True}, {"running": 2}])
def test_a_leased_model_counts_with_what_it_may_come_to(busy: dict[str, int]) -> None:
    model = Model(resident=True, held={"host": 7}, tokens=(4,), **busy, **KNOWN)  # type: ignore[arg-type]
    assert model.leased
    assert model.footprint == model.measured == {"host": 18, "cuda:0": 4}
    assert model.unused == {"host": 10, "cuda:0": 2}, "at least, whatever it answers now"
    more = Model(resident=True, held={"host": 30}, **busy, **KNOWN)  # type: ignore[arg-type]
    assert more.footprint == {"host": 30, "cuda:0": 2}, "no less than it holds"


def test_an_idle_model_counts_with_what_it_holds_and_no_less_than_in_other_stays() -> None:
    model = Model(resident=True, held={"host": 4}, tokens=(4,), **KNOWN)  # type: ignore[arg-type]
    assert not model.leased
    assert model.footprint == model.unused == {"host": 5, "cuda:0": 1}
    assert model.measured == {"host": 4}
    unmeasured = Model(resident=True, **KNOWN)  # type: ignore[arg-type]
    assert unmeasured.footprint == unmeasured.measured == {"host": 10, "cuda:0": 2}


def test_a_device_that_is_missing_has_nothing() -> None:
    assert larger({"host": 3, "a": 0}, {"host": 2, "b": 0}) == {"host": 3, "a": 0, "b": 0}
    assert larger({"host": 2}, {"host": 3, "b": 1}) == {"host": 3, "b": 1}
    assert added([{"host": 3}, {"host": 2, "b": 1}, {}]) == {"host": 5, "b": 1}


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({}, "nothing"),
        ({"host": 0}, "nothing"),
        ({"host": 100_500_001}, "101 MB"),
        ({"host": 999_400_000}, "999 MB"),
        ({"host": 10**9}, "1.00 GB"),
        ({"host": 1_005_000_001}, "1.01 GB"),
        ({"host": 10**10}, "10.0 GB"),
        ({"cuda:0": 2_000_000, "host": 3_000_000}, "3 MB, cuda:0 2 MB"),
        ({"cuda:1": 2_000_000, "cuda:0": 0}, "cuda:1 2 MB"),
    ],
)
def test_bytes_in_words(sizes: dict[str, int], words: str) -> None:
    assert spoken(sizes) == words
