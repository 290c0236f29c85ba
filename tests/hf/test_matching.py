"""Models whose files and config do not match: no answer may come from random numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.hf import tiny
from tests.hf.asking import ask
from tests.hf.conftest import MakeProvider
from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf import files, matching, vocabulary
from workbench.hf.fitting import fit
from workbench.hf.loading import load
from workbench.hf.options import LoadOptions
from workbench.hf.protocol import Load


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
    (info,) = files.scan(tmp_path)  # what the load has found out is not forgotten
    assert info.status == "unusable"
    assert "deep lacks 9 tensors" in (info.problem or "")


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


LAYER = "model.layers.0.mlp.down_proj"


def report(*unexpected: str, missing: tuple[str, ...] = ()) -> dict[str, set[str]]:
    keys = {f"{LAYER}.{name}" for name in unexpected}
    lacking = {f"{LAYER}.{name}" for name in missing}
    return {"missing_keys": lacking, "mismatched_keys": set(), "unexpected_keys": keys}


@pytest.mark.parametrize(
    "left_out",
    [
        (),  # GPTQ, AWQ, compressed-tensors: the modules have what the files have
        ("k_scale", "v_scale", "output_scale"),  # a cache in FP8, which is kept whole here
        ("input_scale", "activation_scale"),  # of weights that were unpacked
        ("weight", "weight_scale", "input_scale"),  # a module that the model does not have
        ("weight_packed", "weight_scale", "weight_shape"),
        ("qweight", "qzeros", "scales", "g_idx"),
        ("bias",),  # AutoGPTQ wrote zeros where a layer has none
    ],
)
def test_a_good_quantised_checkpoint_is_not_refused(left_out: tuple[str, ...]) -> None:
    matching.check("m", report(*left_out))


@pytest.mark.parametrize(
    ("left_out", "missing"),
    [
        (("weight_scale",), ()),
        (("weight_scale_inv",), ()),
        (("SCB", "weight_format"), ()),
        (("weight.absmax", "weight.quant_map", "weight.quant_state.bitsandbytes__nf4"), ()),
        (("qweight", "qzeros", "scales", "g_idx"), ("weight",)),
        (("weight_packed", "weight_scale", "weight_shape"), ("weight",)),
    ],
)
def test_quantised_weights_that_are_read_as_if_they_were_not_are_refused(
    left_out: tuple[str, ...], missing: tuple[str, ...]
) -> None:
    with pytest.raises(WorkbenchError) as caught:
        matching.check("m", report(*left_out, missing=missing))
    assert f"{LAYER}.{left_out[0]}" in caught.value.message
    assert "quantization_config" in str(caught.value.fix)


@pytest.mark.parametrize("scale", ["weight_scale_inv", "weight_scale"])
def test_eight_bit_floats_are_unpacked_with_their_scales_or_refused(
    tmp_path: Path, scale: str
) -> None:
    """The one kind that needs no package: as DeepSeek writes it, and as others do."""
    plain = tiny.save_model(tmp_path / "plain")
    rounded = tiny.save_model(tmp_path / "rounded")
    tensors = load_file(rounded / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        largest = tensors[name].abs().max() / 448
        tensors[name] = (tensors[name] / largest).to(torch.float8_e4m3fn)
        tensors[f"{name.removesuffix('weight')}{scale}"] = largest.reshape(1, 1)
    save_file(tensors, rounded / "model.safetensors", {"format": "pt"})
    method = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    configure(rounded, quantization_config=method)
    if scale == "weight_scale":
        with pytest.raises(WorkbenchError, match="quantised in a way"):
            load(Load(str(rounded), None, "false", 1, None))
        return
    loaded = load(Load(str(rounded), None, "false", 1, None))
    assert loaded.description.warnings == []
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        got = loaded.model(input_ids=ids).logits
        wanted = load(Load(str(plain), None, "false", 1, None)).model(input_ids=ids).logits
    assert torch.corrcoef(torch.stack([got.flatten(), wanted.flatten()]))[0, 1] > 0.99


async def test_a_broken_tokenizer_is_blamed_itself(
    make_provider: MakeProvider, tmp_path: Path
) -> None:
    broken = json.dumps({"model": {"type": "Nothing"}})  # which a scan cannot tell
    (tiny.save_model(tmp_path / "mute") / "tokenizer.json").write_text(broken)
    error = await refused(make_provider, tmp_path, "mute")
    assert "tokenizer of mute cannot be read" in error.message
    assert "tokenizer.json" in str(error.fix)


@torch.inference_mode()
def test_weights_that_others_have_quantised_are_run_as_they_are(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "m")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.is_quantized = True  # as transformers marks it; its float() raises then
    tokenizer = vocabulary.open_tokenizer(folder, None)
    wanted = Load(str(folder), None, "false", 1, None)
    fitted = fit(wanted, LoadOptions(), "cpu", tokenizer, lambda: model)
    assert fitted.form == "plain"
    with pytest.raises(WorkbenchError, match="quantised already"):
        fit(wanted, LoadOptions(quantization="int8"), "cpu", tokenizer, lambda: model)
