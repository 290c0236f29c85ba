"""Where answers part and what that says, on distributions known by construction."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.cli.insight import _print_divergence
from workbench.insight.divergence import SAYS, Answer, Divergence
from workbench.insight.probabilities import (
    Step,
    Top,
    divergence_nats,
    entropy_bits,
    perplexity,
)


def top(**shares: float) -> Top:
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return tuple((text, math.log(share)) for text, share in ordered)


def step(text: str, **shares: float) -> Step:
    return Step(text, math.log(shares[text]) if text in shares else None, top(**shares))


def sure(*texts: str) -> tuple[Step, ...]:
    return tuple(step(text, **{text: 0.9}) for text in texts)


def test_entropy_of_known_distributions() -> None:
    fair = top(a=0.25, b=0.25, c=0.25, d=0.25)
    assert entropy_bits(fair) == pytest.approx(2)
    assert entropy_bits(top(a=0.5)) == pytest.approx(1), "the unknown half counts as one outcome"


def test_divergence_is_that_of_the_textbook_and_never_more_when_tokens_are_hidden() -> None:
    p, q = {"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 0.2, "b": 0.3, "c": 0.5}
    whole = sum(p[x] * math.log(p[x] / q[x]) for x in p)
    assert divergence_nats(top(**p), top(**q)) == pytest.approx(whole)
    assert divergence_nats(top(**p), top(**p)) == pytest.approx(0, abs=1e-9)
    hidden = divergence_nats(top(**p)[:2], top(**q)[:2])
    assert hidden is not None
    assert 0 <= hidden <= whole + 1e-12
    assert divergence_nats(top(a=1.0), top(b=1.0)) is None


@given(
    st.lists(st.floats(0.01, 1), min_size=3, max_size=8),
    st.lists(st.floats(0.01, 1), min_size=3, max_size=8),
    st.integers(1, 3),
)
def test_hiding_tokens_never_raises_the_bounds(p: list[float], q: list[float], kept: int) -> None:
    size = min(len(p), len(q))
    one = {f"t{i}": x / sum(p[:size]) for i, x in enumerate(p[:size])}
    two = {f"t{i}": x / sum(q[:size]) for i, x in enumerate(q[:size])}
    whole = divergence_nats(top(**one), top(**two))
    part = divergence_nats(top(**one)[:kept], top(**two))
    assert whole is not None
    assert part is not None
    assert part <= whole + 1e-9
    assert entropy_bits(top(**one)[:kept]) <= entropy_bits(top(**one)) + 1e-9


def test_perplexity_says_when_it_is_a_bound() -> None:
    assert perplexity([step("a", a=0.5), step("b", b=0.125)]) == (pytest.approx(4), False)
    value, bounded = perplexity([step("a", a=0.5), step("x", b=0.5, c=0.125)])
    assert value == pytest.approx(4)
    assert bounded
    assert perplexity([Step("a", None, ())]) == (None, True)


def test_equal_answers() -> None:
    found = Divergence(Answer("a", sure("1", ".")), Answer("b", sure("1", ".")))
    assert found.parting is None
    assert found.verdict == "same"


def test_a_coin_toss_is_told_from_sure_models_and_from_another_model() -> None:
    shared = sure("The", " sky")
    forced = (*shared, step(" blue", **{" grey": 0.5, " blue": 0.45}))
    tossed = Divergence(
        Answer("a", (*shared, step(" blue", **{" blue": 0.5, " grey": 0.45}))),
        Answer("b", (*shared, step(" grey", **{" grey": 0.5, " blue": 0.45}))),
        forced,
    )
    assert tossed.parting == (2, 2)
    assert tossed.shared_text == "The sky"
    assert tossed.verdict == "coin_toss"
    assert tossed.odds_nats == pytest.approx((math.log(0.5 / 0.45),) * 2)

    rounded = Divergence(
        Answer("a", (*shared, step(" blue", **{" blue": 0.6, " grey": 0.2}))),
        Answer("b", (*shared, step(" grey", **{" grey": 0.6, " blue": 0.2}))),
        (*shared, step(" blue", **{" grey": 0.6, " blue": 0.2})),
    )
    assert rounded.verdict == "rounding"

    strange = Divergence(
        Answer("a", sure("The", " sky", " blue")),
        Answer("b", sure("Rain")),
        tuple(step(text, **{"Rain": 0.9, text: 0.001}) for text in ("The", " sky", " blue")),
    )
    assert strange.verdict == "different"
    assert strange.agreement == 0
    assert strange.perplexities[1] == pytest.approx(1000)


def test_drawn_answers_are_dice_and_only_the_reading_speaks_of_the_weights() -> None:
    ours = (*sure("The"), step(" sky", **{" sky": 0.5, " sea": 0.45}))
    others = (*sure("The"), step(" sea", **{" sky": 0.5, " sea": 0.45}))
    a, b = Answer("a", ours, ("The sky", "The sky")), Answer("b", others, ("The sea",))
    greedy = Divergence(a, b, ours)
    assert greedy.verdict == "coin_toss"
    assert greedy.steady(a) == "the same in 2 of 2 repeats"
    drawn = replace(greedy, temperature=0.8, seed=7)
    assert drawn.verdict == "drawn"
    assert drawn.says == SAYS["drawn"]
    assert drawn.steady(a) == "the same in 2 of 2 repeats, all with the seed 7"
    assert "all with the seed 7" in drawn._repr_html_()
    assert drawn.steady(Answer("c", ours)) == ""
    assert "each with its own seed" in replace(drawn, seed=None).steady(b)
    read = tuple(step(one.text, **{one.text: 0.001, "Rain": 0.9}) for one in ours * 4)
    strange = replace(drawn, a=Answer("a", ours * 4), forced=read)
    assert strange.verdict == "different"
    assert "drawn, at temperature 0.8" in strange.says
    assert Divergence.from_dict(json.loads(json.dumps(drawn.to_dict()))) == drawn


@pytest.mark.parametrize(
    ("tokens", "share", "verdict"),
    [
        (48, 0.79, "rounding"),
        (48, 0.62, "different"),
        (4, 0.5, "rounding"),  # two of four are no proof
        (3, 0.0, "different"),
    ],
)
def test_how_many_tokens_must_differ(tokens: int, share: float, verdict: str) -> None:
    sayings = [f"t{number}" for number in range(tokens)]
    same = round(tokens * share)
    read = [
        step(one, **{one: 0.5, "x": 0.4} if n < same else {"x": 0.5, one: 0.4})
        for n, one in enumerate(sayings)
    ]
    mine = [step(one, **{one: 0.5, "x": 0.4}) for one in sayings]
    other = (*mine[:-1], step("no", no=0.99))
    found = Divergence(Answer("a", tuple(mine)), Answer("b", other), tuple(read))
    assert found.verdict == verdict


@pytest.mark.parametrize(("tokens", "verdict"), [(20, "different"), (10, "rounding")])
def test_a_mean_divergence_needs_tokens(tokens: int, verdict: str) -> None:
    mine = [step(f"t{n}", **{f"t{n}": 0.9, "x": 0.1}) for n in range(tokens)]
    read = [step(f"t{n}", **{f"t{n}": 0.51, "x": 0.49}) for n in range(tokens)]
    other = (*mine[:-1], step("no", no=0.99))
    found = Divergence(Answer("a", tuple(mine)), Answer("b", other), tuple(read))
    assert found.mean_divergence_nats == pytest.approx(0.9 * math.log(0.9 / 0.51), abs=0.2)
    assert found.mean_divergence_nats > 0.2
    assert found.verdict == verdict


def test_answers_that_are_cut_into_other_tokens_are_aligned_by_their_characters() -> None:
    found = Divergence(
        Answer("a", sure("Thir", "ty", " days")),
        Answer("b", sure("Thirty", " nights")),
    )
    assert found.parting == (2, 1)
    assert found.aligned
    assert found.shared_text == "Thirty"
    askew = Divergence(Answer("a", sure("ab", "cd")), Answer("b", sure("abc", "e")))
    assert askew.parting == (1, 1)
    assert not askew.aligned
    assert askew.odds_nats is None
    assert askew.verdict == "unknown"


def test_an_answer_that_ends_sooner_parts_after_its_last_token() -> None:
    found = Divergence(Answer("a", sure("Yes")), Answer("b", sure("Yes", ",")))
    assert found.parting == (1, 1)
    assert found.entropies_bits is None


def test_it_survives_json() -> None:
    found = Divergence(
        Answer("a", sure("x"), ("x", "y")), Answer("b", sure("z")), (Step("x", None, ()),)
    )
    assert found.a.same_repeats == 1
    assert Divergence.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_tokens_that_look_like_markup_are_printed_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    end = "[/INST]"
    _print_divergence(
        Divergence(
            Answer("a", sure("Yes", end), ("Yes", "No")), Answer("b[b]", sure("Yes", "[b]", "!"))
        )
    )
    told = capsys.readouterr().out
    assert "B b[b]: Yes[b]!" in told
    assert "the same in 0 of 2 repeats" in told
    assert [line.split() for line in told.splitlines() if "INST" in line or "'[b]'" in line][
        -2:
    ] == [
        ["'[/INST]'", "90.0%", "-"],
        ["'[b]'", "-", "90.0%"],
    ]
