"""What is read from transformers' files is what it says of itself once it is imported."""

from __future__ import annotations

from typing import Any

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AutoHfQuantizer

from workbench.hf import quantized, supported
from workbench.hf.found import Unusable


def accepted(family: str) -> bool:
    try:
        supported.check_family({"model_type": family})
    except Unusable:
        return False
    return True


def test_families_are_those_that_generate_text_in_the_installed_release() -> None:
    known = CONFIG_MAPPING_NAMES
    texts = {known[name] for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name in known}
    expected = {name for name, kind in known.items() if kind in texts}
    assert {name for name in known if accepted(name)} == expected | (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() & known.keys()
    )
    assert not accepted("nobody")


def test_architectures_of_gguf_files_are_those_of_the_installed_release() -> None:
    from transformers.integrations.gguf import GGUF_ARCHS
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    silent = {"general", "tokenizer", "t5", "umt5"}
    for name in {*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_ARCHS} - silent:
        supported.check_gguf(name)
    for name in ("qwen2moe", "gpt-oss", "minimax-m2"):  # as llama.cpp writes them
        supported.check_gguf(name)
    for name in ("t5", "rwkv7"):
        with pytest.raises(Unusable):
            supported.check_gguf(name)


def test_methods_of_quantisation_are_those_of_the_installed_release() -> None:
    tables = supported.supported()
    assert tables is not None
    assert tables.quantizations == AUTO_QUANTIZATION_CONFIG_MAPPING.keys()


@pytest.mark.parametrize(
    "entry",
    [
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "awq", "bits": 4},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        {"quant_method": "hqq"},
        {"quant_method": "aqlm"},
        {"quant_method": "quanto", "weights": "int8"},
        {"quant_method": "auto-round", "bits": 4},
    ],
    ids=lambda entry: str(entry["quant_method"]),
)
def test_a_method_without_its_packages_is_refused_as_transformers_would(
    entry: dict[str, Any],
) -> None:
    with pytest.raises(Unusable) as caught:
        quantized.check({"model_type": "llama", "quantization_config": entry})
    with pytest.raises(ImportError) as theirs:
        AutoHfQuantizer.from_config(dict(entry)).validate_environment()
    named = caught.value.fix.partition("pip install ")[2].partition(";")[0].split()
    assert named
    assert any(package in str(theirs.value).lower() for package in named), theirs.value


def test_what_needs_no_package_or_is_not_quantised_passes() -> None:
    for config in ({}, {"quantization_config": {"quant_method": "fp8"}}):
        quantized.check(config)
    with pytest.raises(Unusable, match="quant_method"):
        quantized.check({"quantization_config": {"bits": 4}})


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("GPU is required to run SpQR quantized model.", True),
        ("HIGGS quantization is only supported on GPU. Please use a different quantizer.", True),
        ("No GPU found. A GPU is needed for quantization.", True),
        ("Error while deserializing header: incomplete metadata", False),
    ],
)
def test_a_method_for_gpus_says_so_and_blames_no_file(message: str, wanted: bool) -> None:
    assert quantized.wants_gpu(RuntimeError(message)) is wanted
