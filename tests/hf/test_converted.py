"""Unpacked copies of GGUF files: used for the very state of the file that they were made of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.hf import tiny
from workbench.hf import converted, deletion, files
from workbench.settings import Settings

NAME = "g/a.gguf"


@pytest.fixture
def gguf(settings: Settings) -> Path:
    path = settings.hf_model_path / NAME
    tiny.write_gguf(path)
    return path


def place(root: Path) -> Path:
    """Where the copy of the file, as it is now, would be."""
    model = files.find(root, NAME)
    folder = converted.folder_of(root, model.info.digest, model.path)
    assert folder is not None
    return folder


def make_copy(root: Path, gguf: Path) -> Path:
    folder = place(root)
    temporary = folder.with_name(f".{folder.name}-1")
    temporary.mkdir(parents=True)
    (temporary / "config.json").write_text("{}")
    converted.put(temporary, folder, gguf)
    return folder


def test_a_file_that_was_mended_is_unpacked_anew(settings: Settings, gguf: Path) -> None:
    """Its digest, of samples, may be the same as that of the damaged one."""
    root = settings.hf_model_path
    before = make_copy(root, gguf)
    assert converted.is_there(place(root))
    digest = files.find(root, NAME).info.digest
    os.utime(gguf, ns=(1, 1))
    assert files.find(root, NAME).info.digest == digest
    assert not converted.is_there(place(root))
    after = make_copy(root, gguf)
    assert converted.is_there(place(root))
    assert [before.exists(), after.exists()] == [False, True]


def test_a_copy_from_before_the_checks_is_not_used_and_goes(
    settings: Settings, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = settings.hf_model_path
    old = root / converted.FOLDER / ("0" * 32)  # they had a name by the digest, and no note
    old.mkdir(parents=True)
    (old / "config.json").write_text("{}")
    assert not converted.is_there(place(root))
    first = make_copy(root, gguf)
    assert not old.exists()
    monkeypatch.setattr(converted, "_MADE", 3)
    assert not converted.is_there(place(root))
    second = make_copy(root, gguf)
    assert [first.exists(), second.exists()] == [False, True]


def test_other_files_copies_stay_and_all_of_a_file_go_with_it(
    settings: Settings, gguf: Path
) -> None:
    root = settings.hf_model_path
    other = root / "other.gguf"
    tiny.write_gguf(other, architecture="qwen2")
    make_copy(root, gguf)
    model = files.find(root, "other.gguf")
    folder = converted.folder_of(root, model.info.digest, other)
    assert folder is not None
    temporary = folder.with_name(".new")
    temporary.mkdir()
    (temporary / "config.json").write_text("{}")
    converted.put(temporary, folder, other)
    assert converted.is_there(place(root))
    os.utime(gguf, ns=(1, 1))  # its copy is of another state now, and still its own
    deletion.carry_out(settings, deletion.plan(settings, NAME))
    assert [path.name for path in (root / converted.FOLDER).iterdir()] == [folder.name]
