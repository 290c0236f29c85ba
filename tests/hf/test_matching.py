"""Models whose files and config do not match: no answer may come from random numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.hf import tiny
from tests.hf.asking import ask
from tests.hf.conftest import MakeProvider
from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf import matching


def configure(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


async def refused(make_provider: MakeProvider, root: Path, name: str) -> WorkbenchError:
    with pytest.raises(WorkbenchError) as caught:
        await ask(make_provider(root), name, max_tokens=2)
    assert caught.value.code is ErrorCode.HF_MODEL_LOAD_FAILED
    return caught.value


@pytest.mark.parametrize("shards", [False, True])
async def test_missing_weights_are_named_and_not_made_up(
    make_provider: MakeProvider, tmp_path: Path, shards: bool
) -> None:
    configure(tiny.save_model(tmp_path / "deep", shards=shards), num_hidden_layers=3)
    error = await refused(make_provider, tmp_path, "deep")
    assert "deep lacks 9 tensors" in error.message
    assert "model.layers.2.input_layernorm.weight" in error.message
    assert len(error.details["missing"]) == 9


async def test_other_shapes_are_named_with_both(
    make_provider: MakeProvider, tmp_path: Path
) -> None:
    configure(tiny.save_model(tmp_path / "wide"), intermediate_size=48)
    error = await refused(make_provider, tmp_path, "wide")
    told = "model.layers.0.mlp.down_proj.weight is [32, 64] in the files, but [32, 48]"
    assert told in error.message


async def test_weights_without_a_place_are_a_warning_of_every_answer(
    make_provider: MakeProvider, tmp_path: Path
) -> None:
    configure(tiny.save_model(tmp_path / "flat"), num_hidden_layers=1)
    provider = make_provider(tmp_path)
    for _ in range(2):
        answer = await ask(provider, "flat", max_tokens=2)
        (warning,) = answer.warnings
        assert warning.code == matching.UNUSED
        assert "model.layers.1.input_layernorm.weight" in warning.message


@pytest.mark.filterwarnings("ignore")
async def test_an_adapter_that_does_not_fit_is_blamed_itself(
    make_provider: MakeProvider, tmp_path: Path
) -> None:
    base = tiny.save_model(tmp_path / "base")
    weights = tiny.save_adapter(tmp_path / "lora", base, "base") / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({key.replace("layers", "blocks"): tensors[key] for key in tensors}, weights)
    error = await refused(make_provider, tmp_path, "lora")
    assert "adapter lora does not fit" in error.message
    assert "model.blocks.0.self_attn.q_proj.lora_A.weight" in error.message
    narrow = {k: v[:, :16].clone() if "lora_A" in k else v for k, v in tensors.items()}
    save_file(narrow, weights)
    error = await refused(make_provider, tmp_path, "lora")
    told = "model.layers.0.self_attn.q_proj.lora_A.weight is [4, 16] in the adapter, but [4, 32]"
    assert told in error.message


def test_what_a_model_computes_or_never_needs_is_no_matter() -> None:
    report = {
        "missing_keys": {"model.rotary_emb.inv_freq"},
        "mismatched_keys": set(),
        "unexpected_keys": {"h.0.attn.bias", "h.0.attn.masked_bias", "vision_tower.x.weight"},
    }
    assert matching.check("m", report) == []


async def test_a_broken_tokenizer_is_blamed_itself(
    make_provider: MakeProvider, tmp_path: Path
) -> None:
    (tiny.save_model(tmp_path / "mute") / "tokenizer.json").write_text('{"oops":')
    error = await refused(make_provider, tmp_path, "mute")
    assert "tokenizer of mute cannot be read" in error.message
    assert "tokenizer.json" in str(error.fix)
