"""The hub's cache as huggingface_hub itself writes it: listed, told apart, fenced in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.hf import tiny
from tests.hf.downloads import contents, fill
from tests.hub_standin import Hub
from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf import files
from workbench.settings import load_settings


def test_a_cached_model_is_listed_and_found(standin: Hub, tmp_path: Path) -> None:
    cache, root = tmp_path / "cache", tmp_path / "models"
    fill(standin, cache, contents(tiny.write_folder(tmp_path / "m")))
    (info,) = files.scan(root, cache)
    assert (info.id, info.status) == ("huggingface/org/name", "available")
    assert info.details["location"] == "hub cache"
    found = files.resolve(root, "org/name", cache)
    assert (found.folder / "config.json").is_file()
    assert files.scan(root, None) == []


def test_the_model_folder_wins_over_the_cache(standin: Hub, tmp_path: Path) -> None:
    cache, root = tmp_path / "cache", tmp_path / "models"
    fill(standin, cache, contents(tiny.write_folder(tmp_path / "m")))
    tiny.write_folder(root / "org" / "name")
    (info,) = files.scan(root, cache)
    assert info.details["location"] == "model folder"
    assert files.resolve(root, "org/name", cache).folder == root / "org" / "name"


def test_another_revision_has_a_name_of_its_own(standin: Hub, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    folder = tiny.write_folder(tmp_path / "m")
    fill(standin, cache, contents(folder))
    tiny.write_safetensors(folder / "model.safetensors", 7)
    commit = standin.repos["org/name"].push(contents(folder), "v2")
    fill(standin, cache, contents(folder), "v2")
    main, other = files.scan(tmp_path / "models", cache)
    assert main.name == "org/name"
    assert other.name == f"org/name@{commit[:12]}"
    assert main.digest != other.digest
    assert files.resolve(tmp_path / "models", other.name, cache).folder.name == commit


def test_a_cached_gguf_is_a_model_and_a_lone_tokenizer_is_none(
    standin: Hub, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    tiny.write_gguf(tmp_path / "g" / "a.gguf")
    fill(
        standin,
        cache,
        {**contents(tmp_path / "g"), "tokenizer.json": json.dumps(tiny.TOKENIZER).encode()},
    )
    standin.repos["org/name"].push({"config.json": b"{}", "tokenizer.json": b"{}"}, "small")
    fill(standin, cache, {"config.json": b"{}", "tokenizer.json": b"{}"}, "small")
    (info,) = files.scan(tmp_path / "models", cache)
    assert (info.name, info.status) == ("org/name/a.gguf", "available")


def test_a_link_out_of_the_repository_s_folder_is_refused(standin: Hub, tmp_path: Path) -> None:
    cache, root = tmp_path / "cache", tmp_path / "models"
    fill(standin, cache, contents(tiny.write_folder(tmp_path / "m")))
    weights = next(cache.glob("models--org--name/snapshots/*/model.safetensors"))
    weights.unlink()
    weights.symlink_to(tmp_path / "m" / "model.safetensors")
    (info,) = files.scan(root, cache)
    assert info.status == "unusable"
    with pytest.raises(WorkbenchError) as caught:
        files.resolve(root, "org/name", cache)
    assert caught.value.code is ErrorCode.FORBIDDEN_PATH


def test_datasets_and_rubbish_are_passed_over(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    tiny.write_folder(cache / "datasets--org--name" / "snapshots" / ("a" * 40))
    tiny.write_folder(cache / "models--org--name" / "snapshots" / "not-a-commit")
    (cache / "models--org--empty").mkdir()
    (cache / "version.txt").write_text("1")
    assert files.scan(tmp_path / "models", cache) == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"HF_HUB_CACHE": "/a/b"}, "/a/b"),
        ({"HF_HOME": "/a"}, "/a/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HF_HUB_CACHE": "/a/b", "WORKBENCH_HUB_CACHE": "false"}, None),
    ],
)
def test_the_cache_is_where_huggingface_hub_has_it(
    monkeypatch: pytest.MonkeyPatch, given: Mapping[str, str], expected: str | None
) -> None:
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = load_settings(_env_file=None).hub_cache
    assert (str(found) if found else None) == expected
