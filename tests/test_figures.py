"""Every figure has its unit; an unknown one is a dash, never 0."""

from __future__ import annotations

import pytest

from workbench import figures


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.0, "0.0 ms"),
        (0.0083, "8.3 ms"),
        (0.0612, "61 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
        (1.234, "1.23 s"),
        (9.996, "10.0 s"),
        (83.2, "83.2 s"),
        (724.0, "12 min 04 s"),
    ],
)
def test_seconds(value: float | None, shown: str) -> None:
    assert figures.seconds(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.94, "0.9 tok/s"), (26.4, "26 tok/s"), (1234.0, "1,234 tok/s")],
)
def test_rate(value: float | None, shown: str) -> None:
    assert figures.rate(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (512, "1 kB"),
        (655_000_000, "655 MB"),
        (999_600_000, "1.00 GB"),
        (1.234e9, "1.23 GB"),
        (14.36e9, "14.4 GB"),
    ],
)
def test_size(value: float | None, shown: str) -> None:
    assert figures.size(value) == shown


def test_token_count_says_when_it_is_an_estimate() -> None:
    assert figures.tokens(41, exact=False) == "~41 tok"
    assert figures.tokens(1048, exact=True) == "1,048 tok"
    assert figures.tokens(0, exact=True) == "0 tok"
    assert figures.tokens(None, exact=True) == "– tok"


def test_percent_stays_within_bounds() -> None:
    assert figures.percent(0.5, 0.67) == 75
    assert figures.percent(2, 1) == 100
    assert figures.percent(1, None) == 0
    assert figures.percent(1, 0) == 0


def test_shorten_folds_and_cuts() -> None:
    assert figures.shorten("a\n  b", 10) == "a b"
    assert figures.shorten("one two three", 8) == "one two…"


def test_one_thing_is_named_in_the_singular() -> None:
    assert figures.count(0, "model") == "0 models"
    assert figures.count(1, "model") == "1 model"
    assert figures.count(1204, "row") == "1,204 rows"
    assert [figures.count(n, "entry", "entries") for n in (1, 2)] == ["1 entry", "2 entries"]
