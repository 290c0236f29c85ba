"""What a vote says about each pair."""

from __future__ import annotations

import pytest

from workbench.store import Store
from workbench.votes import ALL_BAD, TIE, Candidate, given, rows

THREE = [Candidate(model, f"ses_{model}") for model in "xyz"]


@pytest.mark.parametrize(
    ("winner", "said"),
    [
        (0, [("x", "y", "a"), ("x", "z", "a")]),
        (1, [("x", "y", "b"), ("y", "z", "a")]),
        (TIE, [("x", "y", "tie"), ("x", "z", "tie"), ("y", "z", "tie")]),
        (ALL_BAD, [("x", "y", "both_bad"), ("x", "z", "both_bad"), ("y", "z", "both_bad")]),
    ],
)
def test_the_best_of_several_beats_each_other(
    winner: int | str, said: list[tuple[str, str, str]]
) -> None:
    found = [(r["model_a"], r["model_b"], r["winner"]) for r in rows("cmp", THREE, winner)]
    assert found == said


def test_the_log_takes_them(store: Store) -> None:
    store.insert("votes", *rows("cmp_1", THREE[:2], 1)).stored.result(10)
    (row,) = store.rows("SELECT winner, blind, session_b, comparison_id FROM votes")
    assert row == {"winner": "b", "blind": False, "session_b": "ses_y", "comparison_id": "cmp_1"}
    assert given(store, "cmp_1") == "ses_y"
    assert given(store, "cmp_2") is None
    store.insert("votes", *rows("cmp_2", THREE, ALL_BAD)).stored.result(10)
    assert given(store, "cmp_2") == ALL_BAD
