"""Presets and prompts: kept, found again, and never lost to a broken file."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from workbench import library
from workbench.errors import WorkbenchError
from workbench.library import Library, Prompt, starters
from workbench.setups import Setup
from workbench.types import Options, TimingMode

SETUP = Setup(
    ("ollama/b", None, "huggingface/a"),
    "Why?",
    "Be brief.",
    TimingMode.ISOLATED,
    Options(temperature=0, stop=("\n\n",)),
    {2: {"seed": 7}},
)


@pytest.fixture
def kept(tmp_path: Path) -> Library:
    return Library(tmp_path / "library.json")


def test_what_is_kept_is_found_by_another_reader(kept: Library, tmp_path: Path) -> None:
    kept.save_preset(" mine ", SETUP)
    kept.save_prompt("ours", Prompt("Say yes.", ("short", "short", "yes")))
    other = Library(tmp_path / "library.json")
    assert other.presets() == {"mine": SETUP}
    assert other.prompts()["ours"] == Prompt("Say yes.", ("short", "yes"))
    assert stat.S_IMODE((tmp_path / "library.json").stat().st_mode) == 0o600
    kept.save_preset("mine", Setup(("ollama/c",)))
    assert other.presets()["mine"].models == ("ollama/c",)
    kept.delete("presets", "mine")
    assert other.presets() == {}
    with pytest.raises(WorkbenchError, match="There is no 'mine'"):
        kept.delete("presets", "mine")


def test_prompts_come_with_the_workbench_and_may_be_replaced_but_not_deleted(kept: Library) -> None:
    assert len(starters()) >= 5
    name = next(iter(starters()))
    with pytest.raises(WorkbenchError, match="comes with the workbench"):
        kept.delete("prompts", name)
    kept.save_prompt(name, Prompt("My own."))
    assert kept.prompts()[name].text == "My own."
    kept.delete("prompts", name)
    assert kept.prompts()[name] == starters()[name]


def test_half_of_a_surrogate_pair_is_refused_and_the_file_stays(kept: Library) -> None:
    half = "a\ud800"
    kept.save_preset("mine", SETUP)
    for save, place in (
        (lambda: kept.save_prompt("p", Prompt("Say yes.", ("short", half))), "prompt.tags.1"),
        (lambda: kept.save_prompt("p", Prompt(half)), "prompt.text"),
        (lambda: kept.save_prompt(half, Prompt("Say yes.")), "name"),
        (lambda: kept.save_preset("p", Setup(prompt=half)), "preset.prompt"),
        (Setup(system=half).to_query, "setup.system"),
    ):
        with pytest.raises(WorkbenchError, match=f"{place} holds half of a surrogate pair"):
            save()
    assert kept.presets() == {"mine": SETUP}


def test_bounds(kept: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("", "  ", "x" * 81):
        with pytest.raises(WorkbenchError, match="A name has"):
            kept.save_preset(name, SETUP)
    with pytest.raises(WorkbenchError, match="message box"):
        kept.save_prompt("empty", Prompt(" "))
    monkeypatch.setattr(library, "MAX_ENTRIES", 1)
    kept.save_preset("one", SETUP)
    kept.save_preset("one", SETUP)
    with pytest.raises(WorkbenchError, match="Delete some first"):
        kept.save_preset("two", SETUP)
    assert list(kept.presets()) == ["one"]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"presets": []}', '{"presets": {"a": {"models": 7}}}', b"\xff\xfe"]
)
def test_a_broken_file_is_named_and_not_written_over(
    kept: Library, tmp_path: Path, content: str | bytes
) -> None:
    path = tmp_path / "library.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(WorkbenchError, match="move it away"):
        kept.presets()
    before = path.read_bytes()
    if b"models" not in before:  # that one can still be replaced by its name
        with pytest.raises(WorkbenchError, match="move it away"):
            kept.save_preset("new", SETUP)
        assert path.read_bytes() == before


def test_two_writers_lose_nothing(kept: Library) -> None:
    threads = [
        threading.Thread(target=kept.save_preset, args=(f"preset {i}", SETUP)) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept.presets()) == 8
