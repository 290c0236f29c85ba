"""Deleting and checking what is on disk: exactly a model's files, every byte of them."""

from __future__ import annotations

import json
import os
import shlex
import threading
from pathlib import Path

import pytest

from tests.hf import tiny
from tests.hf.downloads import Run, contents, fill, model_files
from tests.hub_standin import Hub, sha256
from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf import deletion, files, verification
from workbench.settings import Settings


def disk_use(root: Path) -> int:
    """What ``du`` says, files only."""
    seen = {(s.st_dev, s.st_ino): s.st_blocks * 512 for s in (p.lstat() for p in root.rglob("*"))}
    return sum(seen.values())


def delete(settings: Settings, name: str) -> int:
    plan = deletion.plan(settings, name)
    freed = deletion.carry_out(settings, plan)
    assert freed == plan.size_bytes
    return freed


def below(root: Path) -> set[str]:
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}


def test_a_folder_goes_with_its_empty_parents_and_frees_what_it_took(settings: Settings) -> None:
    root = settings.hf_model_path
    folder = tiny.write_folder(root / "org" / "gone")
    tiny.write_safetensors(folder / "model.safetensors", tensors=1000)
    tiny.write_folder(root / "other" / "stays")
    before = disk_use(root)
    freed = delete(settings, "org/gone")
    assert freed > 256_000
    # The parent folder that went too is not the model's.
    assert 0 <= before - disk_use(root) - freed <= 8192
    assert not (root / "org").exists()
    assert [info.name for info in files.scan(root)] == ["other/stays"]


def test_a_broken_model_can_be_deleted(settings: Settings) -> None:
    folder = tiny.write_folder(settings.hf_model_path / "bad")
    (folder / "config.json").unlink()
    delete(settings, "bad")
    assert below(settings.hf_model_path) == set()


def test_a_name_that_no_command_takes_is_unusable_and_says_rename(settings: Settings) -> None:
    tiny.write_folder(settings.hf_model_path / "q?x")
    (info,) = files.scan(settings.hf_model_path)
    assert info.status == "unusable"
    assert "'?' begins load options" in (info.problem or "")
    assert "Rename the folder" in (info.problem or "")


def test_load_options_are_no_part_of_what_is_deleted(settings: Settings) -> None:
    tiny.write_folder(settings.hf_model_path / "mine")
    with pytest.raises(WorkbenchError) as caught:
        deletion.plan(settings, "mine?dtype=float32")
    assert "Delete mine, without" in caught.value.fix


def test_the_tokenizer_goes_with_the_last_gguf_only(settings: Settings) -> None:
    root = settings.hf_model_path
    for name in ("a.gguf", "b.gguf"):
        tiny.write_gguf(root / "g" / name)
    (root / "g" / "tokenizer.json").write_text(json.dumps(tiny.TOKENIZER))
    (root / "g" / "my-notes.txt").write_text("mine")
    (root / "g" / "workbench-source.json").write_text(json.dumps({"files": {"a.gguf": {}}}))
    delete(settings, "g/a.gguf")
    assert "g/tokenizer.json" in below(root)
    assert "a.gguf" not in (root / "g" / "workbench-source.json").read_text()
    delete(settings, "g/b.gguf")
    assert below(root) == {"g/my-notes.txt"}


def test_a_gguf_in_the_model_folder_itself_takes_nothing_along(settings: Settings) -> None:
    root = settings.hf_model_path
    tiny.write_gguf(root / "a.gguf")
    (root / "README.md").write_text("mine")
    delete(settings, "a.gguf")
    assert below(root) == {"README.md"}


def test_models_inside_and_beside_stay(settings: Settings) -> None:
    root = settings.hf_model_path
    tiny.write_folder(root / "m")
    tiny.write_folder(root / "m" / "inner")
    tiny.write_gguf(root / "m" / "a.gguf")
    delete(settings, "m")
    assert {info.name for info in files.scan(root)} == {"m/inner", "m/a.gguf"}


def test_a_link_goes_and_what_it_leads_to_stays(settings: Settings) -> None:
    root = settings.hf_model_path
    (root / "alias").parent.mkdir(parents=True, exist_ok=True)
    (root / "alias").symlink_to(tiny.write_folder(root / "m"))
    delete(settings, "alias")
    assert [info.name for info in files.scan(root)] == ["m"]


@pytest.mark.parametrize("name", ["../secret", "/etc", "a/../../secret", ".downloads", "link"])
def test_nothing_outside_the_model_folder_is_deleted(
    settings: Settings, tmp_path: Path, name: str
) -> None:
    secret = tiny.write_folder(tmp_path / "secret")
    settings.hf_model_path.mkdir()
    (settings.hf_model_path / "link").symlink_to(secret)
    with pytest.raises(WorkbenchError) as caught:
        deletion.plan(settings, name)
    assert caught.value.code is ErrorCode.FORBIDDEN_PATH
    assert secret.is_dir()


def test_a_base_names_the_adapters_that_need_it(settings: Settings) -> None:
    root = settings.hf_model_path
    tiny.write_folder(root / "base")
    lora = root / "lora"
    lora.mkdir()
    (lora / "adapter_config.json").write_text('{"base_model_name_or_path": "base"}')
    tiny.write_safetensors(lora / "adapter_model.safetensors")
    assert deletion.plan(settings, "base").orphans == ("huggingface/lora",)
    delete(settings, "lora")
    assert [info.name for info in files.scan(root)] == ["base"]


def test_a_cached_snapshot_goes_and_shared_blobs_stay(
    settings: Settings,
    standin: Hub,
    tmp_path: Path,
) -> None:
    assert settings.hub_cache is not None
    folder = tiny.write_folder(tmp_path / "m")
    fill(standin, settings.hub_cache, contents(folder))
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    commit = standin.repos["org/name"].push(contents(folder), "v2")
    fill(standin, settings.hub_cache, contents(folder), "v2")
    name = f"org/name@{commit[:12]}"
    plan = deletion.plan(settings, name)
    assert plan.location == "hub cache"
    deletion.carry_out(settings, plan)
    (info,) = files.scan(settings.hf_model_path, settings.hub_cache)
    assert (info.name, info.status) == ("org/name", "available")
    assert deletion.carry_out(settings, deletion.plan(settings, "org/name")) > 0
    assert files.scan(settings.hf_model_path, settings.hub_cache) == []


def test_what_an_unfinished_download_left_can_be_deleted(
    online: Settings,
    standin: Hub,
    tmp_path: Path,
) -> None:
    standin.repo("org/name", model_files(tmp_path))
    standin.faults.corrupt = {"model.safetensors"}
    Run(online).fails()
    assert below(online.hf_model_path) != {".downloads/org--name.lock"}
    delete(online, "org/name")
    assert below(online.hf_model_path) == {".downloads/org--name.lock"}


# -- the full check --------------------------------------------------------------------------------


@pytest.fixture
def pulled(online: Settings, standin: Hub, tmp_path: Path) -> Settings:
    standin.repo("org/name", model_files(tmp_path))
    Run(online)()
    return online


def check(settings: Settings, *names: str) -> list[verification.CheckedModel]:
    steps: list[tuple[int | None, int | None]] = []
    results = verification.verify(
        settings,
        names or None,
        lambda message, done=None, total=None: steps.append((done, total)),
        threading.Event(),
    )
    assert steps[-1][0] == steps[-1][1]
    return results


def test_a_downloaded_model_is_compared_file_by_file(pulled: Settings) -> None:
    (result,) = check(pulled)
    assert result.to_dict()["ok"]
    assert result.checked == 4
    assert result.unhashed == []


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "README.md"])
def test_one_changed_bit_is_found_with_the_way_to_mend_it(pulled: Settings, name: str) -> None:
    path = pulled.hf_model_path / "org" / "name" / name
    data = path.read_bytes()
    path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    os.utime(path, ns=(1, 1))
    (result,) = check(pulled, "org/name")
    assert any(name in problem for problem in result.problems)
    assert "workbench models pull org/name" in result.fix


def test_advice_for_a_name_with_blanks_can_be_pasted(settings: Settings) -> None:
    folder = settings.hf_model_path / "my model (2)"
    tiny.write_gguf(folder / "a.gguf")
    source = {"sha256": "0" * 64, "original": "org/name"}
    (folder / "workbench-source.json").write_text(json.dumps(source))
    (verdict,) = check(settings)
    assert verdict.problems
    command = verdict.fix.partition(": ")[2].partition(", then")[0]
    assert shlex.split(command) == ["workbench", "models", "rm", verdict.model.name]


def test_a_missing_file_is_found(pulled: Settings) -> None:
    (pulled.hf_model_path / "org" / "name" / "tokenizer.json").unlink()
    (result,) = check(pulled)
    assert any("tokenizer.json is missing" in problem for problem in result.problems)


def test_what_has_no_recorded_hash_is_compared_from_the_second_check_on(settings: Settings) -> None:
    weights = tiny.write_folder(settings.hf_model_path / "own") / "model.safetensors"
    tiny.write_safetensors(weights, tensors=4000)
    tiny.write_gguf(settings.hf_model_path / "g" / "a.gguf")
    digest = sha256((settings.hf_model_path / "g" / "a.gguf").read_bytes())
    (settings.hf_model_path / "g" / "workbench-source.json").write_text(
        json.dumps({"sha256": digest})
    )
    gguf, own = check(settings)
    assert (gguf.checked, gguf.problems) == (1, [])
    assert (own.checked, own.unhashed, own.problems) == (0, ["model.safetensors"], [])
    digest, stat, data = own.model.info.digest, weights.stat(), bytearray(weights.read_bytes())
    data[-600_000] ^= 1  # between the samples of the digest, and nobody wrote down that it was
    weights.write_bytes(data)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    for _ in range(2):  # it stays so
        _, own = check(settings)
        assert own.model.info.digest == digest
        assert (own.checked, own.unhashed) == (1, [])
        assert "model.safetensors was changed or damaged" in own.problems[0]
    os.utime(weights)  # written to on purpose: that is another file
    _, own = check(settings)
    assert (own.unhashed, own.problems) == (["model.safetensors"], [])


def test_a_cached_blob_is_checked_against_its_name(
    settings: Settings,
    standin: Hub,
    tmp_path: Path,
) -> None:
    assert settings.hub_cache is not None
    fill(standin, settings.hub_cache, contents(tiny.write_folder(tmp_path / "m")))
    (result,) = check(settings)
    assert (result.checked, result.problems) == (3, [])
    blob = next(
        settings.hub_cache.glob("models--org--name/snapshots/*/model.safetensors")
    ).resolve()
    data = blob.read_bytes()
    blob.write_bytes(data[:-1] + b"?")
    (result,) = check(settings)
    assert any("model.safetensors" in problem for problem in result.problems)
    assert "workbench models rm org/name" in result.fix
