"""A user's own files: what is refused leaves nothing behind, what is there is not written over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workbench.bench import own
from workbench.errors import ErrorCode, WorkbenchError
from workbench.settings import Settings, load_settings

ITEM = b'{"prompt": "Why?"}\n'
SPEC = b'name = "mine"\nmodels = ["a"]\n'


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(
        _env_file=None, workbench_benchmarks=tmp_path / "own", workbench_disk_reserve=0
    )


def in_folder(settings: Settings) -> list[str]:
    """Whatever is there, hidden files too."""
    folder = settings.workbench_benchmarks
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.exe", b"MZ", "x.exe is neither a spec nor a dataset"),
        ("e.toml", b" \n", "e.toml is empty"),
        (".toml", SPEC, ".toml begins with a dot"),
        ("a\nb.toml", SPEC, "cannot be shown"),
        (f"{'x' * 300}.csv", b"prompt\nHi\n", "too long"),
        ("x.jsonl", ITEM + b"{", "x.jsonl, line 2, column 2: no JSON"),
        ("x.jsonl", b"", "x.jsonl is empty"),
        ("x.csv", b"question\nHi\n", "x.csv, line 2, column 'prompt'"),
        ("x.csv", b"prompt\n\xff\n", "x.csv, line 2: not UTF-8"),
        ("x.parquet", b"PAR1", "x.parquet cannot be read as Parquet"),
        ("x.toml", b'name = "x"\nmodels = 3\n', "line 2: models"),
        ("x.toml", b'name = "\xff"', "x.toml is not UTF-8"),
        ("x.toml", SPEC + b'[[datasets]]\nsource = "/etc/passwd"\n', "not in the folder"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    settings: Settings, name: str, content: bytes, said: str
) -> None:
    with pytest.raises(WorkbenchError) as refused:
        own.keep(settings, name, content)
    assert said in refused.value.message
    assert refused.value.fix
    assert str(settings.workbench_benchmarks / ".") not in refused.value.message
    assert in_folder(settings) == []
    assert own.files(settings) == []


def test_a_file_is_kept_once_and_never_written_over(settings: Settings) -> None:
    assert own.keep(settings, "x.jsonl", ITEM).new
    assert not own.keep(settings, "x.jsonl", ITEM).new
    with pytest.raises(WorkbenchError, match=r"Another x\.jsonl is among your files") as refused:
        own.keep(settings, "x.jsonl", ITEM * 2)
    assert "delete the one that is there" in refused.value.fix
    assert (settings.workbench_benchmarks / "x.jsonl").read_bytes() == ITEM
    assert in_folder(settings) == ["x.jsonl"]


def test_whoever_takes_the_name_meanwhile_keeps_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = own._check

    def slow(settings: Settings, path: Path, content: bytes) -> None:
        check(settings, path, content)
        (settings.workbench_benchmarks / path.name).write_bytes(theirs)

    monkeypatch.setattr(own, "_check", slow)
    theirs = ITEM * 2
    with pytest.raises(WorkbenchError, match="not written over"):
        own.keep(settings, "x.jsonl", ITEM)
    assert (settings.workbench_benchmarks / "x.jsonl").read_bytes() == theirs
    theirs = ITEM
    assert not own.keep(settings, "y.jsonl", ITEM).new


def test_without_hard_links_too(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*paths: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(own.os, "link", no)
    assert own.keep(settings, "x.jsonl", ITEM).new
    assert (settings.workbench_benchmarks / "x.jsonl").read_bytes() == ITEM


def test_room_is_left_on_the_disk(settings: Settings) -> None:
    greedy = settings.model_copy(update={"workbench_disk_reserve": 10**18})
    with pytest.raises(WorkbenchError, match="WORKBENCH_DISK_RESERVE") as refused:
        own.keep(greedy, "x.jsonl", ITEM)
    assert refused.value.code is ErrorCode.DISK_FULL
    assert in_folder(settings) == []


def test_a_spec_that_is_too_long_for_the_page_can_be_run_in_a_terminal(settings: Settings) -> None:
    with pytest.raises(WorkbenchError, match=r"more than 262,144 .WORKBENCH_MAX_PROMPT") as refused:
        own.keep(settings, "x.toml", SPEC + b"#" * 262_144)
    assert "workbench bench run FILE" in refused.value.fix
    assert in_folder(settings) == []


def test_files_are_listed_and_deleted(settings: Settings) -> None:
    own.keep(settings, "b.toml", SPEC)
    own.keep(settings, "a.csv", b"prompt\nHi\n")
    (settings.workbench_benchmarks / "notes.txt").write_text("no benchmark")
    found = own.files(settings)
    assert [(file.name, file.kind, file.size_bytes) for file in found] == [
        ("a.csv", "dataset", 10),
        ("b.toml", "spec", len(SPEC)),
    ]
    own.delete(settings, "b.toml")
    assert [file.name for file in own.files(settings)] == ["a.csv"]
    for name in ("b.toml", "notes.txt", "../own/a.csv", ""):
        with pytest.raises(WorkbenchError, match="There is no file"):
            own.delete(settings, name)
    assert in_folder(settings) == ["a.csv", "notes.txt"]
