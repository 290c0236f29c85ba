"""What people are told: why a request goes on, what it lacks, why no waiting helps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.rotation.test_policy import MB, resident, snapshot, ticket, wanted
from workbench.rotation import words
from workbench.rotation.room import Room
from workbench.rotation.snapshot import Model

GB = 10**9
TWO = {"host": 2 * GB, "cuda:0": 2 * GB}


def test_a_load_says_beside_how_many_it_fits() -> None:
    for there, said in (
        ({}, "nothing else is in memory"),
        ({"a": resident()}, "fits beside 1 other"),
        ({"a": resident(), "b": resident(running=1)}, "fits beside 2 others"),
    ):
        room = Room(snapshot([], {**there, "new": wanted()}))
        assert words.why(room, ticket(1, "new"), (), 0, 0.0) == said
    assert words.why(room, ticket(1, "new"), (), 1, 9.6) == (
        "first in line after 10 s; 2 requests want it; fits beside 2 others"
    )
    assert words.why(room, ticket(1, "new"), ("a", "b"), 0, 0.0) == (
        "in place of a, b, least recently used and idle"
    )
    full = Room(snapshot([], {"a": resident(), "new": wanted()}, max_resident=1))
    assert words.why(full, ticket(1, "new"), ("a",), 0, 0.0) == (
        "in place of a, least recently used and idle; "
        "all 1 places for models (HF_MAX_CACHED_MODELS) are taken"
    )
    assert words.why(room, ticket(1, "a"), (), 1, 9.6) == "in memory"
    grows = Model(resident=True, held={"host": MB}, need={"host": 3 * MB})
    room = Room(snapshot([], {"a": grows, "b": resident(), "c": resident()}))
    assert words.why(room, ticket(1, "a"), ("b", "c"), 0, 0.0) == (
        "it is in memory, but its answer may take 2 MB more; "
        "b, c left, least recently used and idle"
    )


def test_what_a_request_lacks_is_told_with_who_uses_it() -> None:
    used = {"d": resident(running=1, size=4 * MB), "b": resident(running=1, size=4 * MB)}
    models = {**used, "idle": resident(size=MB), "new": wanted(3 * MB)}
    room = Room(snapshot([], models, limit=10 * MB, max_resident=3))
    assert words.no_room(room, ticket(1, "new")) == "2 MB of memory missing, in use by b, d"
    places = Room(snapshot([], models, limit=12 * MB, max_resident=3))
    assert words.no_room(places, ticket(1, "new")) == (
        "all 3 places for models (HF_MAX_CACHED_MODELS) are in use"
    )
    grows = {"a": Model(resident=True, held={"host": MB}, need={"host": 3 * MB}), "b": wanted(MB)}
    room = Room(snapshot([], grows, limit=3 * MB))
    room.reserve(ticket(1, "b"), ())
    assert words.no_room(room, ticket(2, "a")) == (
        "its prompt and answer may take 2 MB more memory, 1 MB of it missing, in use by others"
    )
    busy = Room(snapshot([], {**grows, **used}, limit=3 * MB))
    assert words.no_room(busy, ticket(2, "a")).endswith("in use by b, d")
    grows["c"] = wanted(2 * MB)
    room = Room(snapshot([], grows, limit=3 * MB))
    room.reserve(ticket(1, "b"), ())
    said = "1 MB of memory missing, in use by others"
    assert words.no_room(room, ticket(2, "c")) == said, "for whom it is kept"


def test_what_other_programs_hold_is_told_with_what_can_be_done() -> None:
    models = {"a": wanted(5 * MB), "yours": resident(size=2 * MB, foreign=True)}
    models["ours"] = resident(running=1, size=4 * MB)  # which will be given back
    room = Room(snapshot([], models, limit=10 * MB, others={"theirs": {"host": 6 * MB}}))
    lacks = "3 MB of memory missing, which other programs hold"
    assert words.held_by_others(room, ticket(1, "a")) == (
        f"{lacks}; of models that they loaded into Ollama: theirs 6 MB, yours 2 MB (unload there, "
        "or set WORKBENCH_EVICT_OTHERS=true)"
    )
    room = Room(snapshot([], {"a": wanted(5 * MB)}, limit=2 * MB))
    assert words.held_by_others(room, ticket(1, "a")) == lacks


@pytest.mark.parametrize(
    ("need", "capacity", "pinned", "needs", "most"),
    [
        ({"host": 12 * GB}, {"host": 10 * GB}, {}, "12.0 GB", "10.0 GB"),
        ({"host": 1_302_005_001}, {"host": 1_300_000_000}, {}, "1.30 GB", "1.30 GB, 2.01 MB less"),
        (
            {"host": 1_302_005_000, "cuda:0": 1_300_000_000},
            {"host": 1_300_000_000, "cuda:0": 1_300_000_001},
            {"cuda:0": 2 * MB},
            "1.30 GB, cuda:0 1.30 GB",
            "1.30 GB, cuda:0 1.30 GB, 2 MB less, of which pinned ones hold cuda:0 2 MB",
        ),
        (
            {"host": GB},
            {"host": GB},
            {"host": 2 * MB},
            "1.00 GB",
            "1.00 GB, of which pinned ones hold 2 MB",
        ),
    ],
)
def test_a_request_that_never_fits_is_told_by_how_much(
    need: dict[str, int], capacity: dict[str, int], pinned: dict[str, int], needs: str, most: str
) -> None:
    models = {"a": Model(need=need)}
    if pinned:
        models["pinned"] = Model(resident=True, held=pinned, pinned=True)
    room = Room(snapshot([], models, limits=capacity, capacity=capacity))
    told = words.too_large(room, ticket(1, "a"), [*capacity])
    assert told == f"needs {needs} at its peak; all models may hold {most}"


def test_its_own_pin_is_not_what_keeps_a_model_from_fitting() -> None:
    models = {"a": resident(size=GB, pinned=True, token_bytes={"host": MB})}
    room = Room(snapshot([], models, limit=2 * GB))
    assert words.too_large(room, ticket(1, "a", tokens=2000), ["host"]) == (
        "needs 3.00 GB at its peak, 2.00 GB of it for 2,000 tokens of prompt and answer; "
        "all models may hold 2.00 GB"
    )


def test_what_its_context_takes_is_told_where_that_is_what_does_not_fit() -> None:
    def told(model: Model, *devices: str) -> str:
        room = Room(snapshot([], {"a": model}, limits=TWO, capacity=TWO))
        return words.too_large(room, ticket(1, "a", tokens=2000), devices).partition(";")[0]

    both = {"host": GB, "cuda:0": 3 * GB}
    grows = Model(need=both, token_bytes={"host": MB})
    assert told(grows, "host", "cuda:0") == (
        "needs 3.00 GB, cuda:0 3.00 GB at its peak, "
        "2.00 GB of it for 2,000 tokens of prompt and answer"
    )
    assert told(grows, "cuda:0") == "needs cuda:0 3.00 GB at its peak"
    answers = replace(grows, resident=True, running=1, tokens=(9000,))
    assert told(answers, "host") == (
        "needs 3.00 GB at its peak, 2.00 GB of it for 2,000 tokens of prompt and answer"
    ), "alone, whatever it answers"
    loads = Model(need={"host": 5 * GB}, answering={"host": GB}, token_bytes={"host": MB})
    assert told(loads, "host") == "needs 5.00 GB at its peak", "to load it takes more"


def test_a_model_that_takes_no_more_says_how_many_it_answers() -> None:
    alone, shares = Model(shared=frozenset("a")), Model(shared=frozenset("ab"))
    assert words.busy(alone, 1) == "the model is answering another request"
    assert words.busy(shares, 1) == "the runner that it shares is answering another request"
    assert words.busy(alone, 2) == "the model is answering 2 requests, as many as it takes"
