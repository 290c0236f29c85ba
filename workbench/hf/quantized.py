"""Checkpoints that others have quantised: what reading them takes (no torch here)."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from typing import Any, Final

from workbench.errors import ErrorCode
from workbench.hf.found import Unusable
from workbench.hf.supported import supported

_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "gptq": ("optimum", "gptqmodel"),
    "awq": ("gptqmodel", "accelerate"),
    "bitsandbytes_4bit": ("bitsandbytes", "accelerate"),
    "bitsandbytes_8bit": ("bitsandbytes", "accelerate"),
    "compressed-tensors": ("compressed-tensors",),
    "torchao": ("torchao",),
    "hqq": ("hqq",),
    "quanto": ("optimum-quanto", "accelerate"),
    "aqlm": ("aqlm", "accelerate"),
    "auto-round": ("auto-round",),
    "quark": ("amd-quark",),
    "eetq": ("kernels", "accelerate"),
    "higgs": ("flute-kernel", "fast-hadamard-transform", "accelerate"),
    "fbgemm_fp8": ("fbgemm-gpu-genai", "accelerate"),
    "vptq": ("vptq", "accelerate"),
    "spqr": ("spqr_quant", "accelerate"),
    "fp_quant": ("fp_quant",),
    "fouroversix": ("fouroversix",),
    "sinq": ("sinq",),
    "fp8": ("accelerate",),
    "mxfp8": ("accelerate",),
    "mxfp4": ("accelerate",),
    "bitnet": ("accelerate",),
}
"""Packages without which transformers refuses a checkpoint of that method."""
_MODULES: Final = {
    "optimum-quanto": "optimum.quanto",
    "amd-quark": "quark",
    "flute-kernel": "flute",
    "fbgemm-gpu-genai": "fbgemm_gpu",
}
"""Of packages that are imported under another name."""
_NO_GPU: Final = re.compile(
    r"(?=.*\b(GPU|CUDA|XPU)\b).*(requir|need|only supported)", re.IGNORECASE | re.DOTALL
)
GPU_FIX: Final = "Run it where there is a GPU, or choose the model in a form for the CPU."


def check(config: Mapping[str, Any]) -> None:
    """Refuse a method that transformers does not know, or whose packages are not installed.

    transformers itself loads what it does not know as if it were not quantised at all.

    Args:
        config: of the model.

    Raises:
        Unusable: with the method and what to install.
    """
    method = method_of(config)
    if method is None:
        return
    tables = supported()
    if tables is not None and method not in tables.quantizations:
        raise Unusable(
            f"is quantised with {method!r}, which the installed transformers ({tables.version}) "
            "does not know",
            "Choose the model without quantisation, or in another one (GPTQ, AWQ, FP8, a GGUF).",
        )
    missing = [package for package in _NEEDS.get(method, ()) if not _is_there(package)]
    if missing:
        raise Unusable(
            f"is quantised with {method}, which needs packages that are not installed "
            f"({', '.join(missing)})",
            f"Install them: pip install {' '.join(missing)}; or choose the model in another form.",
            ErrorCode.HF_INVALID_CONFIG,
        )


def method_of(config: Mapping[str, Any]) -> str | None:
    """How a checkpoint is quantised, as transformers names it; None if it is not.

    Raises:
        Unusable: if it is, and its configuration does not say how.
    """
    entry = _entry(config)
    if entry is None:
        return None
    if entry.get("load_in_4bit"):
        return "bitsandbytes_4bit"
    if entry.get("load_in_8bit"):
        return "bitsandbytes_8bit"
    method = entry.get("quant_method")
    if not isinstance(method, str):
        raise Unusable(
            "has a quantization_config without quant_method", "Download config.json again."
        )
    return method


def name_of(config: Mapping[str, Any]) -> str | None:
    """How a checkpoint is quantised, for people: ``gptq-4bit``; None if it is not."""
    entry = _entry(config)
    if entry is None:
        return None
    bits = entry.get("bits") or (4 if entry.get("load_in_4bit") else None)
    method = str(entry.get("quant_method", "unknown"))
    return f"{method}-{bits}bit" if bits else method


def _entry(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    text = config.get("text_config")
    parts = (config, text if isinstance(text, dict) else {})
    entry = next(
        (part["quantization_config"] for part in parts if part.get("quantization_config")), None
    )
    return entry if isinstance(entry, dict) else None


def wants_gpu(error: BaseException) -> bool:
    """Whether a load failed because its method computes on a GPU only."""
    return _NO_GPU.search(str(error)) is not None


def _is_there(package: str) -> bool:
    module = _MODULES.get(package, package.replace("-", "_"))
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a part whose whole is not there
        return False
