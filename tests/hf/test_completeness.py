"""What a load would find missing is named without one, from the headers of the files."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.hf import tiny
from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf import child, completeness, files, matching, proving
from workbench.hf.digest import state_of
from workbench.hf.found import Unusable
from workbench.settings import Settings

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"tie_word_embeddings": True},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},  # its files lack the prefix of the model
    # Experts lie in the files one by one, and in the model as one tensor.
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}


def save(folder: Path, kind: str) -> Path:
    config = AutoConfig.for_model(kind, **{**SIZES, **KINDS[kind]})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder / "model.safetensors"


@pytest.mark.parametrize("kind", KINDS)
def test_the_headers_say_what_a_load_says(tmp_path: Path, kind: str) -> None:
    weights = save(tmp_path / kind, kind)
    assert matching.compare(tmp_path / kind) is None
    tensors = load_file(weights)
    for part in ("attn", "mlp", "experts.1."):
        names = [key for key in sorted(tensors) if tensors[key].dim() == 2 and part in key]
        if not names:
            continue
        rest = {key: tensor for key, tensor in tensors.items() if key != names[0]}
        odd = torch.zeros(3, *tensors[names[0]].shape[1:])
        for changed in (rest, {**rest, names[0]: odd}):
            save_file(changed, weights, {"format": "pt"})
            found = matching.compare(tmp_path / kind)
            assert found is not None
            assert found == matching.misfit(matching.open_model(str(tmp_path / kind))[1])


def test_no_weights_are_read(tmp_path: Path) -> None:
    """Gigabytes of nothing, of which only the header lies on the disk."""
    rows, columns = 2**18, 2**13
    size = 2 * rows * columns
    sizes = {**SIZES, "vocab_size": rows, "hidden_size": columns, "num_hidden_layers": 0}
    AutoConfig.for_model("llama", **sizes, dtype="bfloat16").save_pretrained(tmp_path)
    entry = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [0, size]}
    header = json.dumps({"model.embed_tokens.weight": entry}).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now on
    found = matching.compare(tmp_path)
    assert found is not None
    assert found.tensors == {"missing": ["lm_head.weight", "model.norm.weight"]}
    status = Path("/proc/self/status").read_text()
    (peak_kb,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    assert int(peak_kb) * 1024 - before < size / 4


def test_a_verdict_holds_until_the_files_change(tmp_path: Path) -> None:
    tiny.write_folder(tmp_path / "m")
    (model,) = files.model_files(tmp_path)
    assert not completeness.is_known(tmp_path, model)
    completeness.keep(tmp_path, state_of(model), Unusable("lacks much", "Download it again."))
    assert completeness.is_known(tmp_path, model)
    (info,) = files.scan(tmp_path)
    assert (info.status, info.problem) == ("unusable", "m lacks much. Download it again.")
    with pytest.raises(WorkbenchError, match="m lacks much") as caught:
        files.resolve(tmp_path, "m")
    assert caught.value.code is ErrorCode.HF_MODEL_LOAD_FAILED
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "adapter_config.json").write_text('{"base_model_name_or_path": "org/name"}')
    (tmp_path / "m" / "workbench-source.json").write_text('{"repo": "org/name"}')
    tiny.write_safetensors(lora / "adapter_model.safetensors")
    with pytest.raises(WorkbenchError, match="lora is a LoRA adapter whose base m lacks much"):
        files.resolve(tmp_path, "lora")
    shutil.rmtree(lora)
    config = tmp_path / "m" / "config.json"  # with another one the same weights may be all
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 2}))
    assert [info.status for info in files.scan(tmp_path)] == ["available"]
    assert not completeness.is_known(tmp_path, files.resolve(tmp_path, "m"))


def test_a_new_model_is_asked_about_once_and_silence_is_no_verdict(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, steps = settings.hf_model_path, list[str]()
    tiny.write_folder(root / "m")

    def compare_new(script: str) -> list[str]:
        monkeypatch.setattr(child, "command", lambda module: [sys.executable, "-c", script])
        proving.compare_new(settings, lambda step, *_: steps.append(step), threading.Event())
        return [info.status for info in files.scan(root)]

    assert compare_new("raise SystemExit(3)") == ["available"]
    answer = {"problem": "lacks much", "fix": "Download it again."}
    assert compare_new(f"import json; print(input() and {json.dumps(answer)!r})") == ["unusable"]
    assert compare_new("raise SystemExit(3)") == ["unusable"]
    assert steps == 2 * ["comparing the tensors of m"]


def test_of_what_others_have_quantised_nothing_is_said(tmp_path: Path) -> None:
    tiny.write_folder(tmp_path / "q", quantization_config={"quant_method": "fp8"})
    tiny.write_gguf(tmp_path / "g" / "m.gguf")
    assert not any(map(completeness.can_be_asked, files.model_files(tmp_path)))
