"""What a model will hold: from its files at first, then from its loads of the same kind."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from workbench.prediction import Load, error_share, keep, predict
from workbench.providers.base import Footprint

FILES = Footprint({"host": 1000}, {"host": 600})
CHECKED = Footprint({"host": 1500}, {"host": 600}, "check")


def load(peak: int, predicted: int, source: str = "loads", **more: object) -> Load:
    half = {"host": peak // 2}
    return Load({"host": peak}, half, half, {"host": predicted}, source, **more)  # type: ignore[arg-type]


def test_files_speak_until_there_was_a_load() -> None:
    first = predict(FILES, [], None)
    assert (first.bytes, first.answering) == ({"host": 1000}, {"host": 600})
    assert (first.source, first.loads, first.error_share) == ("files", 0, None)
    assert predict(None, [], None).bytes == {}


def test_largest_of_the_last_loads_is_expected() -> None:
    loads = [load(peak, peak) for peak in (5000, 900, 950, 920)]
    told = predict(FILES, loads, None)
    assert told.bytes == {"host": 950}
    assert told.answering == {"host": 475}
    assert (told.source, told.loads) == ("loads", 4)


def test_only_loads_of_the_same_kind_tell() -> None:
    """The first load with its quality check takes more; so does a longer context."""
    loads = [load(1490, 1500, "files", variant="check"), load(2000, 1900, num_ctx=8192)]
    assert predict(FILES, loads, None).source == "files"
    assert predict(CHECKED, loads, None).bytes == {"host": 1490}
    assert predict(FILES, loads, 8192).bytes == {"host": 2000}


def stay(settled: int, answering: int, tokens: int) -> Load:
    least, most = {"host": settled}, {"host": answering}
    return Load({"host": 900}, least, most, {}, "loads", tokens=tokens)


def test_a_stay_with_many_long_requests_says_nothing_against_a_short_one() -> None:
    """Base and bytes per token are told apart: 1,420 were held, but not by a small request."""
    files = replace(FILES, token_bytes={"host": 10}, context=8192)
    told = predict(files, [stay(800, 800 + 40_000 * 10, 40_000)], None)
    assert told.answering == {"host": 800}
    assert told.bytes == told.peak(5) == {"host": 900}
    assert told.peak(40_000) == {"host": 800 + 400_000}
    assert told.context == 8192


def test_measured_answers_correct_what_a_token_takes() -> None:
    files = replace(FILES, token_bytes={"host": 10})
    steeper = predict(files, [stay(800, 800 + 2000 * 15, 2000)], None)
    assert (steeper.answering, steeper.token_bytes) == ({"host": 800}, {"host": 15})
    incredible = predict(files, [stay(800, 100_800, 2000)], None)
    assert (incredible.answering, incredible.token_bytes) == ({"host": 60_800}, {"host": 20})
    short = predict(files, [stay(800, 1800, 50)], None)
    assert (short.answering, short.token_bytes) == ({"host": 1300}, {"host": 10})


def test_error_is_of_the_predictions_from_the_same_source() -> None:
    loads = [
        load(1000, 2000, "files"),
        load(1000, 1000, "loads"),
        load(1000, 1040, "loads"),
        load(1000, 980, "loads"),
        load(1000, 1000, "loads"),
    ]
    assert predict(FILES, loads, None).error_share == pytest.approx(0.02)
    assert predict(FILES, loads[:1], 4096).error_share == pytest.approx(1.0)


def test_error_is_over_all_devices() -> None:
    measured = {"host": 100, "cuda:0": 900}
    assert error_share({"host": 150, "cuda:0": 850}, measured) == pytest.approx(0.1)
    assert error_share({"host": 1000}, measured) == pytest.approx(1.8)
    assert error_share({"host": 1}, {}) is None


def test_few_loads_are_remembered_of_each_kind() -> None:
    loads: list[Load] = []
    for peak in range(1, 31):
        loads = keep(loads, load(peak, peak, variant="check" if peak == 1 else ""))
    assert [one.peak["host"] for one in loads if not one.variant] == list(range(23, 31))
    assert [one.peak["host"] for one in loads if one.variant] == [1]


def test_a_load_comes_back_from_the_log_as_it_was() -> None:
    before = load(123, 100, "files", variant="check", num_ctx=4096)
    assert Load.from_dict(json.loads(json.dumps(before.to_dict()))) == before
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        Load.from_dict({"peak_bytes": 5})
