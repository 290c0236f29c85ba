"""Intervals cover, tests keep their level, lines find what was put in."""

from __future__ import annotations

import math

import numpy as np
import pytest

from workbench.analysis import statistics
from workbench.analysis.statistics import difference, holm, prompts_needed, ratio, robust_line
from workbench.errors import WorkbenchError

EXPERIMENTS = 500


@pytest.fixture
def few_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "SUBSETS", 499)


@pytest.mark.usefixtures("few_subsets")
@pytest.mark.parametrize(("prompts", "repeats"), [(10, 3), (24, 1)])
def test_the_same_model_twice_differs_in_five_of_a_hundred_comparisons(
    prompts: int, repeats: int
) -> None:
    """Prompts differ far more than repeats do, as real ones; times are skewed."""
    draw = np.random.default_rng(11)
    by_interval = by_test = 0
    for experiment in range(EXPERIMENTS):
        of_prompt = draw.normal(0, 1, prompts)
        pairs = {
            i: [
                (math.exp(of_prompt[i] + a), math.exp(of_prompt[i] + b))
                for a, b in draw.normal(0, 0.3, (repeats, 2))
            ]
            for i in range(prompts)
        }
        found = ratio(pairs, seed=experiment)
        assert found.low is not None
        assert found.high is not None
        assert found.p is not None
        by_interval += not found.low <= 1 <= found.high
        by_test += found.p < 0.05
    # Of 500 at 5 %, 99.9 % of all runs give 10 to 42.
    assert 10 <= by_test <= 42
    assert by_interval == by_test


@pytest.mark.usefixtures("few_subsets")
def test_answers_that_stall_and_long_prompts_make_no_more_false_alarms() -> None:
    """One answer in twenty takes ten times as long: a bootstrap errs in 9 of 100 seconds' means."""
    draw = np.random.default_rng(4)
    wrong = 0
    for experiment in range(EXPERIMENTS):
        late = np.where(draw.random((10, 5, 2)) < 0.05, 10, 1)
        times = late * np.exp(draw.normal(0, 1, (10, 1, 1)) + draw.normal(0, 0.1, (10, 5, 2)))
        pairs = {i: [(a, b) for a, b in repeats] for i, repeats in enumerate(times.tolist())}
        found = difference(pairs, seed=experiment)
        assert found.low is not None
        assert found.high is not None
        wrong += not found.low <= 0 <= found.high
    assert 10 <= wrong <= 42


@pytest.mark.parametrize("prompts", [6, 7, 10, 11, 40])
def test_the_interval_and_p_never_contradict_each_other(prompts: int) -> None:
    draw = np.random.default_rng(prompts)
    shown = set()
    for _ in range(60):
        values = draw.normal(0.5, 1.2, prompts)
        found = statistics.estimate(values.tolist(), prompts)
        assert found.low is not None
        assert found.high is not None
        assert found.p is not None
        assert found.low < found.value < found.high
        assert (found.low <= 0 <= found.high) == (found.p >= 0.05)
        shown.add(found.p >= 0.05)
    assert shown == {True, False}


def test_scores_that_cancel_but_for_rounding_speak_for_nobody() -> None:
    found = statistics.estimate([0.1, 0.2, -0.3] * 3, 9)
    assert found.p == 1
    assert statistics.sign_flip_p([0.1, 0.2, -0.3]) == 1


@pytest.mark.usefixtures("few_subsets")
def test_repeats_of_few_prompts_are_not_taken_for_many_prompts() -> None:
    """A prompt that suits one model shows in all its repeats: unclustered they would shout."""
    draw = np.random.default_rng(3)
    wrong = 0
    for experiment in range(200):
        suits = draw.normal(0, 1, 8)
        pairs = {
            i: [(0.0, suits[i] + noise) for noise in draw.normal(0, 0.1, 20)] for i in range(8)
        }
        wrong += (difference(pairs, seed=experiment).p or 1.0) < 0.05
    assert wrong <= 22


def test_a_known_ratio_is_found_with_its_interval() -> None:
    draw = np.random.default_rng(6)
    pairs = {
        i: [(base, base * 2 * noise)]
        for i, (base, noise) in enumerate(
            zip(draw.uniform(0.1, 5, 20), draw.lognormal(0, 0.05, 20), strict=True)
        )
    }
    found = ratio(pairs)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 2 < found.high
    assert found.value == pytest.approx(2, rel=0.05)
    assert found.high / found.low < 1.1
    assert (found.prompts, found.pairs) == (20, 20)
    assert found.p is not None
    assert found.p <= 0.001 + 1e-9
    assert found.detectable is not None
    assert 1 < found.detectable < 1.1


def test_every_prompt_counts_the_same() -> None:
    pairs = {"a": [(0.0, 1.0)] * 9, **{str(i): [(0.0, 0.0)] for i in range(9)}}
    assert difference(pairs).value == pytest.approx(0.1)


def test_below_six_prompts_nothing_is_claimed() -> None:
    found = difference({i: [(0.0, 1.0 + i)] for i in range(5)})
    assert (found.value, found.low, found.high, found.p) == (3.0, None, None, None)
    assert difference({i: [(0.0, 1.0 + i)] for i in range(6)}).p == pytest.approx(2 / 64)


def test_differences_that_are_all_equal_need_no_resampling() -> None:
    nothing = difference({i: [(1.0, 1.0)] for i in range(8)})
    assert (nothing.low, nothing.high, nothing.p) == (0.0, 0.0, 1.0)
    same = difference({i: [(1.0, 2.0)] for i in range(8)})
    assert (same.low, same.high) == (1.0, 1.0)
    assert same.p == pytest.approx(2 / 2**8)


def test_a_ratio_needs_values_above_zero() -> None:
    with pytest.raises(WorkbenchError, match="above 0"):
        ratio({1: [(0.0, 1.0)]})
    with pytest.raises(WorkbenchError, match="no pairs"):
        difference({})


@pytest.mark.usefixtures("few_subsets")
def test_the_detectable_effect_is_detected_four_times_in_five() -> None:
    draw = np.random.default_rng(8)
    effect = statistics.detectable(draw.normal(0, 1, 4_000)) * math.sqrt(4_000 / 20)
    found = sum(
        (difference({i: [(0.0, v)] for i, v in enumerate(draw.normal(effect, 1, 20))}).p or 1)
        < 0.05
        for _ in range(300)
    )
    assert 0.7 <= found / 300 <= 0.87


def test_prompts_needed_is_the_inverse_of_the_detectable_effect() -> None:
    values = np.random.default_rng(2).normal(0, 1, 40)
    assert abs(prompts_needed(values, statistics.detectable(values)) - 40) <= 2
    assert prompts_needed(values, 100.0) == statistics.MIN_PROMPTS


def test_holm_adjusts_as_in_his_paper() -> None:
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == pytest.approx(
        [0.03, None, 0.06, 0.06, 0.02], nan_ok=True
    )
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_line_survives_points_far_off() -> None:
    draw = np.random.default_rng(4)
    x = draw.uniform(0, 1_000, 200)
    y = 0.05 + 0.0004 * x + draw.normal(0, 0.005, 200)
    y[:30] += 5.0
    line = robust_line(x.tolist(), y.tolist())
    assert line is not None
    assert line.slope_low < 0.0004 < line.slope_high
    assert line.slope == pytest.approx(0.0004, rel=0.1)
    assert line.intercept == pytest.approx(0.05, abs=0.02)
    assert robust_line([1.0] * 9, list(range(9))) is None
    assert robust_line([1.0, 2.0], [1.0, 2.0]) is None


def test_families_of_questions_count_as_what_they_are() -> None:
    """Four copies of a question tell no more than one: the interval must not shrink."""
    draw = np.random.default_rng(5)
    once = {i: [value] for i, value in enumerate(draw.normal(0.2, 1, 20))}
    copied = {i: values * 4 for i, values in once.items()}
    one, four = statistics.clustered(once, 20), statistics.clustered(copied, 80)
    assert (four.value, four.low, four.high) == pytest.approx((one.value, one.low, one.high))
    uneven = statistics.clustered({**once, 0: once[0] * 30}, 49)
    assert uneven.low is not None
    assert uneven.high is not None
    assert one.low is not None
    assert one.high is not None
    assert uneven.high - uneven.low > one.high - one.low, "one family makes most of it"
    assert uneven.low < uneven.value < uneven.high


def test_a_share_has_an_interval_also_where_all_are_right() -> None:
    sure = statistics.share({i: [1.0] for i in range(20)})
    assert sure.value == sure.high == 1
    assert sure.low is not None
    assert 0.75 < sure.low < 0.9
    together = statistics.share({i: [1.0] * 5 for i in range(20)})
    assert together.low == sure.low, "five alike tell no more than one"
    assert statistics.share({1: [1.0]}).low is None
    draw = np.random.default_rng(9)
    held = 0
    for _ in range(300):
        shares = draw.beta(1.6, 0.4, 20)
        found = statistics.share({i: list(draw.binomial(1, p, 2)) for i, p in enumerate(shares)})
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.8 <= found.high
    assert held >= 270
