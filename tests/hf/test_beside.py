"""What is kept beside the models is never torn, nor lost to another writer or a bad moment."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.hf import tiny
from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf import beside, verification
from workbench.hf.digest import mark_of
from workbench.hf.noted import NotedHashes
from workbench.settings import Settings


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """As a full disk: what is beyond that many bytes cannot be written."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_the_good_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    beside.merge(path, {"old": 1})
    with largest_file(1024):
        beside.merge(path, {"new": "x" * 2000})
    assert beside.read(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]
    beside.merge(path, {"new": 2})
    assert beside.read(path) == {"old": 1, "new": 2}


def test_what_cannot_be_read_now_is_not_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.symlink_to(path)  # an error of the system that also root gets
    beside.merge(path, {"new": 1})
    assert beside.read(path) == {}
    assert path.is_symlink()
    path.unlink()
    path.write_text("{torn")
    beside.merge(path, {"new": 1})
    assert beside.read(path) == {"new": 1}


def test_the_model_folder_is_made_for_it(tmp_path: Path) -> None:
    path = tmp_path / "models" / "table.json"
    beside.merge(path, {"new": 1})
    assert beside.read(path) == {"new": 1}
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_two_checks_at_once_keep_each_other_s_hashes(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    checks = [NotedHashes(tmp_path), NotedHashes(tmp_path)]
    for path, check in zip(paths, checks, strict=True):
        path.write_text(path.name)
        check.put(path, mark_of(path), path.name)
    for check in checks:
        check.save()
    assert [NotedHashes(tmp_path).get(path) for path in paths] == ["a", "b"]
    paths[0].unlink()
    checks[1].save()
    assert list(beside.read(tmp_path / ".workbench-hashes.json")) == [str(paths[1])]


def test_a_check_that_is_stopped_keeps_the_hashes_it_has(settings: Settings) -> None:
    root, cancelled = settings.hf_model_path, threading.Event()
    for name in "abc":
        tiny.write_folder(root / name)

    def report(step: str, *_: object) -> None:
        if step == "checking b":
            cancelled.set()

    with pytest.raises(WorkbenchError) as caught:
        verification.verify(settings, None, report, cancelled)
    assert caught.value.code is ErrorCode.CANCELLED
    assert NotedHashes(root).get(root / "a" / "model.safetensors") is not None
