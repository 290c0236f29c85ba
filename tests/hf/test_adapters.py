"""LoRA adapters: models of their own over a base that lies on this disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.hf import tiny
from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf import files


def write_adapter(folder: Path, base: str, **config: object) -> Path:
    folder.mkdir(parents=True)
    values = {"base_model_name_or_path": base, "peft_type": "LORA", "r": 8, **config}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    tiny.write_safetensors(folder / "adapter_model.safetensors", 5)
    return folder


@pytest.mark.parametrize("base", ["org/base", "/home/somebody/models/base", "other/base", "base/"])
def test_an_adapter_is_a_model_over_its_base(tmp_path: Path, base: str) -> None:
    below = tiny.write_folder(tmp_path / "org" / "base")
    own = write_adapter(tmp_path / "mine" / "lora", base)
    lora, plain = files.scan(tmp_path)
    assert (lora.name, lora.status) == ("mine/lora", "available")
    assert lora.details["adapter"]["base_id"] == "huggingface/org/base"
    assert lora.details["adapter"]["rank"] == 8
    assert lora.context_length == plain.context_length
    assert lora.parameters == 128
    assert lora.digest != plain.digest
    found = files.resolve(tmp_path, "mine/lora")
    assert (found.folder, found.adapter, found.gguf_file) == (below, own, None)


def test_a_full_name_wins_over_the_last_part(tmp_path: Path) -> None:
    tiny.write_folder(tmp_path / "a" / "base")
    right = tiny.write_folder(tmp_path / "b" / "base")
    write_adapter(tmp_path / "lora", "b/base")
    assert files.resolve(tmp_path, "lora").folder == right


def test_a_base_is_known_by_where_it_came_from(tmp_path: Path) -> None:
    below = tiny.write_folder(tmp_path / "renamed")
    (below / "workbench-source.json").write_text(json.dumps({"repo": "org/base"}))
    write_adapter(tmp_path / "lora", "org/base")
    assert files.resolve(tmp_path, "lora").folder == below


def test_a_missing_base_says_what_to_pull(tmp_path: Path) -> None:
    write_adapter(tmp_path / "lora", "org/base")
    (info,) = files.scan(tmp_path)
    assert info.status == "unusable"
    assert "workbench models pull org/base" in str(info.problem)
    with pytest.raises(WorkbenchError) as caught:
        files.resolve(tmp_path, "lora")
    assert caught.value.code is ErrorCode.HF_MODEL_LOAD_FAILED


def test_an_adapter_that_goes_while_it_is_looked_up_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write_folder(tmp_path / "base")
    own = write_adapter(tmp_path / "lora", "base")
    find = files.find

    def find_and_lose(*args: Any) -> files.ModelFile:
        found = find(*args)
        shutil.rmtree(own)
        return found

    monkeypatch.setattr(files, "find", find_and_lose)
    with pytest.raises(WorkbenchError) as caught:
        files.resolve(tmp_path, "lora")
    assert caught.value.code is ErrorCode.HF_MODEL_NOT_FOUND


def test_a_broken_base_is_the_adapter_s_problem_too(tmp_path: Path) -> None:
    (tiny.write_folder(tmp_path / "base") / "tokenizer.json").unlink()
    write_adapter(tmp_path / "lora", "base")
    lora = next(info for info in files.scan(tmp_path) if info.name == "lora")
    assert lora.status == "unusable"
    assert "tokenizer" in str(lora.problem)


def test_a_gguf_or_another_adapter_is_no_base(tmp_path: Path) -> None:
    tiny.write_gguf(tmp_path / "base" / "base.gguf")
    write_adapter(tmp_path / "x" / "lora", "y/lora")
    write_adapter(tmp_path / "y" / "lora", "base.gguf")
    assert {i.name for i in files.scan(tmp_path) if i.status == "unusable"} == {"x/lora", "y/lora"}


@pytest.mark.parametrize("spoil", ["kind", "cut", "nameless", "pickle"])
def test_a_broken_adapter_is_unusable(tmp_path: Path, spoil: str) -> None:
    tiny.write_folder(tmp_path / "base")
    folder = write_adapter(
        tmp_path / "lora",
        "" if spoil == "nameless" else "base",
        peft_type="IA3" if spoil == "kind" else "LORA",
    )
    weights = folder / "adapter_model.safetensors"
    if spoil == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    if spoil == "pickle":
        weights.rename(folder / "adapter_model.bin")
    lora = next(info for info in files.scan(tmp_path) if info.name == "lora")
    assert lora.status == "unusable"
