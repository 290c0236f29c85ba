"""Ratings from votes: the model's numbers, and what the log's votes become."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from tests.analysis.conftest import answer, log
from workbench import analysis
from workbench.analysis.bradley_terry import Ballot, connected, fit
from workbench.store import Store
from workbench.votes import ALL_BAD, TIE, Candidate, rows

A, B, C, D = "huggingface/a", "ollama/b:latest", "ollama/c:latest", "ollama/d:latest"


def votes(*said: tuple[int, int, float], prompt: str = "") -> list[Ballot]:
    """Each over a prompt of its own, unless they share one."""
    return [Ballot(*one, prompt=prompt or str(i)) for i, one in enumerate(said)]


def test_two_models_are_as_far_apart_as_the_votes_with_half_a_vote_for_each() -> None:
    found = fit(votes(*[(0, 1, 1.0)] * 7, *[(0, 1, 0.0)] * 2, (1, 0, 0.5)), 2)
    # 7.5 to 2.5, and half a vote more on each side: Jeffreys' prior, which is Firth's penalty here.
    assert found.values[0] - found.values[1] == pytest.approx(math.log(8 / 3), abs=1e-5)


def test_whoever_won_every_vote_has_a_finite_rating_and_one_vote_says_little() -> None:
    one, many = fit(votes((0, 1, 1.0)), 2), fit(votes(*[(0, 1, 1.0)] * 30), 2)
    assert 0 < one.values[0] < many.values[0] < 5
    assert one.interval(0)[0] < 0 < many.interval(0)[0]
    assert one.p(0, 1) > 0.5
    assert many.p(0, 1) < 0.01
    assert many.votes_needed(0, 1) == 0


def test_strengths_are_recovered_from_many_votes() -> None:
    random = np.random.default_rng(7)
    true = np.array([0.9, 0.2, -0.3, -0.8])
    cast = []
    for number in range(4_000):
        first, second = random.choice(4, 2, replace=False)
        won = random.random() < 1 / (1 + math.exp(true[second] - true[first]))
        cast.append(Ballot(int(first), int(second), float(won), str(number)))
    found = fit(cast, 4)
    assert found.values == pytest.approx(true, abs=0.12)
    for model, strength in enumerate(true):
        low, high = found.interval(model)
        assert low < strength < high
        assert high - low < 0.25


def test_what_is_said_again_of_one_prompt_counts_for_less() -> None:
    said = [(0, 1, 1.0)] * 30 + [(0, 1, 0.0)] * 15
    apart = fit([Ballot(*one, prompt=str(i)) for i, one in enumerate(said)], 2)
    same = fit([Ballot(*one, prompt=str(i // 15)) for i, one in enumerate(said)], 2)
    assert same.values == pytest.approx(apart.values)
    assert same.p(0, 1) > apart.p(0, 1)
    few, more = apart.votes_needed(0, 1), same.votes_needed(0, 1)
    assert few is not None
    assert more is not None
    assert more > few


def test_so_many_further_votes_do_show_the_difference() -> None:
    said = [(0, 1, 1.0)] * 6 + [(0, 1, 0.0)] * 4
    before = fit(votes(*said), 2)
    needed = before.votes_needed(0, 1)
    assert needed is not None
    share = 1 / (1 + math.exp(before.values[1] - before.values[0]))
    won = round(needed * share)
    after = fit(votes(*said, *[(0, 1, 1.0)] * won, *[(0, 1, 0.0)] * (needed - won)), 2)
    # As seen, z is then 1.96 + 0.84: p is 0.005.
    assert 0.002 < after.p(0, 1) < 0.01
    equal = fit(votes(*[(0, 1, 1.0)] * 5, *[(0, 1, 0.0)] * 5), 2)
    assert equal.votes_needed(0, 1) is None


def test_groups_without_a_vote_between_them_are_told_apart() -> None:
    assert connected(votes((0, 3, 1.0), (3, 4, 0.0), (1, 2, 1.0)), 5) == [[0, 3, 4], [1, 2]]


def test_the_leaderboard_of_a_log(store: Store) -> None:
    asked = [
        answer(0.1, model=model, session_id=f"ses_{model}_{i}")
        for i in range(12)
        for model in (A, B)
    ]
    for i in range(12):
        log(store, *asked[2 * i : 2 * i + 2], prompt=f"Question {i % 4}?")

    def cast(a: str, b: str, winner: int | str, i: int, *, blind: bool = True) -> None:
        both = [Candidate(a, f"ses_{a}_{i}"), Candidate(b, f"ses_{b}_{i}")]
        store.insert("votes", *rows(f"cmp_{i}", both, winner, blind=blind)).stored.result(10)

    assert analysis.arena_leaderboard(store.query).empty
    for i in range(9):
        cast(B, A, 0, i)
    cast(A, B, 0, 9)
    cast(A, B, TIE, 10)
    cast(A, B, ALL_BAD, 11)
    cast(C, D, 0, 20)  # whose sessions are no longer in the log
    cast(A, C, 0, 21, blind=False)  # nobody was blind
    cast(A, A, 0, 22)
    found = analysis.arena_leaderboard(store.query)
    assert list(found.columns) == list(analysis.ARENA_LEADERBOARD)
    assert found["model"].tolist() == [B, A, C, D]
    assert found["group"].tolist() == [1, 1, 2, 2]
    best, second = found.iloc[0], found.iloc[1]
    assert (best["votes"], best["wins"], best["losses"], best["ties"]) == (12, 9, 1, 2)
    assert (second["wins"], second["losses"], second["both_bad"]) == (1, 9, 1)
    assert best["prompts"] == 4
    assert best["rating"] == pytest.approx(-second["rating"])
    assert best["rating_low"] < best["rating"] < best["rating_high"]
    assert best["lead"] == pytest.approx(best["rating"] - second["rating"])
    assert (best["lead_p"] < 0.05) == (best["votes_needed"] == 0) == (best["rank_high"] == 1)
    assert (found["rank_low"].iloc[2], found["rank_high"].iloc[2]) == (1, 2)
    assert pd.isna(second["votes_needed"])
    open_too = analysis.arena_leaderboard(store.query, blind=False)
    assert open_too["group"].nunique() == 1
    figure = analysis.plot_arena_leaderboard(found)
    assert [trace.y[0] for trace in figure.data][-1] == "ollama/b:latest (group 1)"
