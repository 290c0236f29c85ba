"""Coverage is measured in pieces: what is done stays done, what is not is done the next time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.coverage_pieces import FILES, Measurement, pieces, state

SOON = float("inf")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    names = ["workbench/a.py", "tests/test_top.py", "tests/live.py"]
    names += [f"tests/store/test_{number}.py" for number in range(FILES + 1)]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "pyproject.toml").write_text("")
    return tmp_path


def test_every_file_of_tests_is_in_one_piece(root: Path) -> None:
    found = pieces(root)
    assert [(piece.name, len(piece.files)) for piece in found] == [
        ("tests-store-1", FILES),
        ("tests-store-2", 1),
        ("tests-1", 1),
    ]
    assert found[2].files == ("tests/test_top.py",)
    assert pieces(root, ["tests/store"]) == found[:2]
    assert pieces(root, ["tests/store/test_6.py", "tests/test_top.py"]) == found[1:]


def test_what_is_done_stays_done_until_the_code_is_another(root: Path) -> None:
    ran: list[str] = []
    codes = {"tests-store-1": 0, "tests-store-2": 1, "tests-1": 2}

    def run(files: Sequence[str], data: Path) -> int:
        ran.append(data.parent.name)
        assert list(data.parent.iterdir()) == [], "nothing is left of a run that was cut short"
        data.touch()
        return codes[data.parent.name]

    def ended() -> list[str | None]:
        return [measurement.how(piece) for piece in pieces(root)]

    measurement = Measurement(root / "out", state(root), run)
    measurement.go_on(pieces(root), 0.0)
    assert ran == [], "its time was over"
    with pytest.raises(RuntimeError, match="tests-1 did not come to its end"):
        measurement.go_on(pieces(root), SOON)
    assert ran == ["tests-store-1", "tests-store-2", "tests-1"]
    assert ended() == ["passed", "failed", None]
    codes |= dict.fromkeys(codes, 0)
    measurement.go_on(pieces(root), SOON)
    assert ran[3:] == ["tests-store-2", "tests-1"]
    assert ended() == ["passed"] * 3
    (root / "workbench" / "a.py").write_text("1")
    measurement = Measurement(root / "out", state(root), run)
    assert ended() == [None] * 3


def test_a_run_that_measured_nothing_ends_it_and_says_why(root: Path) -> None:
    measurement = Measurement(root / "out", state(root), lambda files, data: 1)
    with pytest.raises(RuntimeError, match="tests-store-1 measured nothing: is coverage installed"):
        measurement.go_on(pieces(root), SOON)
    assert measurement.how(pieces(root)[0]) is None
