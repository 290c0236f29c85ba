"""A run stops when its question is answered, and looking often makes no difference of none."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import calibration
from workbench.bench import stopping
from workbench.errors import WorkbenchError


def test_looks_double_and_end_at_the_end() -> None:
    assert stopping.looks(5, 40) == (5, 10, 20, 40)
    assert stopping.looks(5, 5) == (5,)
    assert stopping.looks(3, 13) == (3, 6, 12, 13)
    with pytest.raises(WorkbenchError):
        stopping.looks(0, 5)


def test_the_same_model_twice_is_called_different_in_at_most_five_of_a_hundred_runs() -> None:
    draw = np.random.default_rng(4)
    experiments = 150
    wrong = sum(
        calibration.by_decision(calibration.experiment(draw, effect=0.0, suits=0.0))[0]
        for _ in range(experiments)
    )
    assert wrong <= 0.05 * experiments + 3 * (experiments * 0.05 * 0.95) ** 0.5


def test_a_difference_is_found_and_the_run_ends_early() -> None:
    draw = np.random.default_rng(5)
    ended = [
        calibration.by_decision(calibration.experiment(draw, effect=0.1, suits=0.0))
        for _ in range(40)
    ]
    assert all(found for found, _ in ended)
    assert np.mean([repeats for _, repeats in ended]) < calibration.REPEATS / 2


def test_what_was_answered_stays_answered_and_the_rest_stays_open() -> None:
    draw = np.random.default_rng(6)
    clear, unclear = draw.normal(0.3, 0.05, 14).tolist(), draw.normal(0, 0.3, 14).tolist()
    first = stopping.decided({"clear": clear, "unclear": unclear, "few": clear[:5]}, looks=4)
    assert first.answers == {"clear": "b is higher"}
    assert first.open == ("unclear", "few")
    assert not first.stop
    assert first.level == pytest.approx(0.05 / 12)
    again = stopping.decided({"clear": unclear}, looks=4, earlier=first.answers)
    assert again.stop


def test_models_that_are_the_same_for_all_that_matters_are_told_so() -> None:
    alike = np.random.default_rng(7).normal(0, 0.02, 20).tolist()
    assert stopping.decided({"q": alike}, looks=3).open == ("q",)
    found = stopping.decided({"q": alike}, looks=3, margin=0.05)
    assert found.answers == {"q": "no more than the margin apart"}


def test_too_few_prompts_answer_nothing_however_clear() -> None:
    assert stopping.decided({"q": [1.0] * 6}, looks=4).open == ("q",)
    assert stopping.decided({"q": [1.0, 1.1] * 4}, looks=4).stop


def test_a_ratio_is_known_when_its_interval_is_narrow() -> None:
    draw = np.random.default_rng(8)
    wide, narrow = draw.normal(2, 0.5, 20).tolist(), draw.normal(2, 0.05, 20).tolist()
    assert stopping.known({"wide": wide, "narrow": narrow, "few": narrow[:5]}, 0.05) == (
        "wide",
        "few",
    )
