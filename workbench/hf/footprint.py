"""What a model will hold at its peak, from its files: before its first load nobody knows better.

Measured against the demo model's forms in benchmarks/RESULTS.md; its own loads replace it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from workbench.hf import converted
from workbench.hf.folder import read_json
from workbench.hf.found import ModelFile
from workbench.hf.headers import read_gguf
from workbench.hf.options import LoadOptions
from workbench.providers.base import Footprint

# A GGUF whose weights cannot stay packed is unpacked. float32 holds the unpacked values exactly;
# above this many parameters (8 GB of float32) memory matters more than the last bits. Decided by
# the model alone, so that two machines do not silently compare different arithmetic.
FLOAT32_UP_TO_PARAMETERS: Final = 2_000_000_000
_PROCESS: Final = 200 * 2**20
"""A worker before its weights: its share of what it was forked from, and its own libraries."""
_GPU_PROCESS: Final = 1_500 * 2**20
_GPU_CONTEXT: Final = 500 * 2**20
"""CUDA's libraries on the host, and its context on the GPU (not measured yet)."""
_PACK_BLOCK: Final = 512
"""Packed float16 matrices are padded to a multiple of this many inputs."""
_DTYPE_BYTES: Final[Mapping[str, float]] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1,
    "float8_e5m2": 1, "int8": 1, "uint8": 1,
}  # fmt: skip
_INT4_BYTES: Final = 0.5 + 4 / 32
"""A number, and its part of the scale and the zero of a group of 32."""
_CHECK_TOKENS: Final = 512
"""At most so many tokens' logits, twice, are held by the quality check."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a decoder that decide its memory, in numbers of elements."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    kv_width: int
    """Heads for keys times their size."""
    vocabulary: int
    tied: bool
    """Whether one matrix is both embedding and head."""
    context: int | None

    @property
    def head(self) -> int:
        """Elements of the embedding or of the head."""
        return self.vocabulary * self.hidden

    @property
    def linear(self) -> int:
        """Elements in matrix products, the head among them."""
        return max(self.parameters - (0 if self.tied else self.head), 0)


def footprint(
    model: ModelFile,
    options: LoadOptions,
    *,
    device: str,
    known_verdict: Mapping[str, Any] | None,
    num_ctx: int | None,
    copy_there: bool,
    prompts: bool = False,
) -> Footprint | None:
    """Peak bytes by device, and what each token of context adds to them.

    Args:
        model: on disk.
        options: how it will be loaded.
        device: ``cpu`` or ``cuda:N``.
        known_verdict: of the quality check; None if the load will make it.
        num_ctx: tokens of context that are wanted, None for the model's own.
        copy_there: whether an unpacked copy of a GGUF is there.
        prompts: see :func:`keeps_for_prompts`.

    Returns:
        None if the files do not say enough.
    """
    shape = _shape(model)
    file_bytes = int(model.info.details.get("expected_bytes") or model.info.size_bytes or 0)
    if shape is None:
        if not file_bytes:
            return None
        guess = _on(device, 2 * file_bytes)
        return Footprint(guess, guess)
    wide = 4 if shape.parameters <= FLOAT32_UP_TO_PARAMETERS else 2
    stored = _DTYPE_BYTES.get(options.dtype) or _stored_bytes(model, wide)
    form = options.quantization
    if form == "none" and device == "cpu" and (options.dtype, options.engine) == ("auto", "auto"):
        form = "packed"
        if known_verdict is not None and not known_verdict.get("passed"):
            form = "plain"
    elif form == "none":
        form = "plain"
    weights = stored * shape.parameters
    mapped = file_bytes if model.gguf_file is None or copy_there else 0
    checked = form != "plain" and known_verdict is None
    if form == "plain":
        kept = weights
        # Weights in the files' own type are the mapped file; in another, both are there for a time.
        own_type = _stored_bytes(model, wide) == stored
        load = weights + (0 if own_type else mapped)
    else:
        kept = _form_bytes(shape, form) + stored * shape.head
        load = max(weights, mapped) + _form_bytes(shape, form)
        if checked:
            logits = 2 * 4 * shape.vocabulary * _CHECK_TOKENS
            load = max(wide, stored) * shape.parameters + _form_bytes(shape, form) + logits
        if prompts and (known_verdict is None or known_verdict.get("prompts_from")):
            second = 2 * max(shape.linear - shape.head, 0)  # in bfloat16; the head is in one form
            kept, load = kept + second, load + second
        if form != "packed":
            load += 2 * 4 * shape.head  # float32 in between, of the largest matrix
    width = 4 if form != "plain" else max(stored, 2)
    limits = (num_ctx, options.num_ctx, shape.context)
    return Footprint(
        _on(device, int(max(load, kept))),
        _on(device, int(kept)),
        "check" if checked else "",
        {_home(device): int(2 * shape.layers * shape.kv_width * width)},
        min((tokens for tokens in limits if tokens), default=None),
    )


def keeps_for_prompts(model: ModelFile, options: LoadOptions, limit_bytes: int) -> bool:
    """Whether matrices may be kept in bfloat16 beside packed weights, to read prompts with.

    Args:
        model: on disk.
        options: how it will be loaded, on the CPU.
        limit_bytes: the largest file for which that is done.
    """
    file_bytes = int(model.info.details.get("expected_bytes") or model.info.size_bytes or 0)
    automatic = (options.dtype, options.engine, options.prompts) == ("auto", "auto", "auto")
    return (
        automatic
        and options.quantization == "none"
        and model.gguf_file is None
        and model.adapter is None
        and model.info.dtype == "bfloat16"
        and 0 < file_bytes <= limit_bytes
        and multiplies_bfloat16()
    )


@lru_cache(maxsize=1)
def multiplies_bfloat16() -> bool:
    """Whether this machine's processor has instructions for products of bfloat16 matrices."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(line.split())


def copy_is_there(root: Any, model: ModelFile, options: LoadOptions) -> bool:
    """Whether a GGUF's unpacked copy will be used."""
    if model.gguf_file is None or options.dtype != "auto":
        return False
    folder = converted.folder_of(root, model.info.digest, model.path)
    return folder is not None and converted.is_there(folder)


def _home(device: str) -> str:
    return "host" if device == "cpu" else device


def _on(device: str, weights: int) -> dict[str, int]:
    if device == "cpu":
        return {"host": _PROCESS + weights}
    return {"host": _GPU_PROCESS, device: _GPU_CONTEXT + weights}


def _stored_bytes(model: ModelFile, wide: int) -> float:
    if model.gguf_file is not None:
        return wide  # unpacked
    return _DTYPE_BYTES.get(model.info.dtype or "", 2)


def _form_bytes(shape: Shape, form: str) -> int:
    if form == "int8":
        return shape.linear
    if form == "int4":
        return int(shape.linear * _INT4_BYTES)
    down = shape.layers * shape.hidden * shape.intermediate
    rest = max(shape.linear - down, 0)
    return int(2 * (rest * _padding(shape.hidden) + down * _padding(shape.intermediate)))


def _padding(inputs: int) -> float:
    return -(-inputs // _PACK_BLOCK) * _PACK_BLOCK / max(inputs, 1)


def _shape(model: ModelFile) -> Shape | None:
    parameters = model.info.parameters
    try:
        if model.gguf_file is not None:
            return _gguf_shape(model, parameters or 0)
        config = dict(read_json(model.folder / "config.json"))
        config.update(config.get("text_config") or {})
        heads = int(config["num_attention_heads"])
        hidden = int(config["hidden_size"])
        size = int(config.get("head_dim") or hidden // heads)
        return Shape(
            parameters=int(parameters or 0),
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            intermediate=int(config.get("intermediate_size") or 4 * hidden),
            kv_width=int(config.get("num_key_value_heads") or heads) * size,
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            context=model.info.context_length,
        )
    except Exception:  # another kind of model, or a file that is not what it seems
        return None


def _gguf_shape(model: ModelFile, parameters: int) -> Shape:
    header = read_gguf(model.folder / str(model.gguf_file))
    metadata = header.metadata
    architecture = str(metadata["general.architecture"])

    def value(name: str) -> Any:
        return metadata.get(f"{architecture}.{name}")

    hidden, heads = int(value("embedding_length")), int(value("attention.head_count"))
    size = int(value("attention.key_length") or hidden // heads)
    vocabulary = int(value("vocab_size") or header.vocabulary or 0)
    layers, intermediate = int(value("block_count")), int(value("feed_forward_length"))
    kv_width = int(value("attention.head_count_kv") or heads) * size
    # One that is tied has no room for a second matrix of the vocabulary's size.
    per_layer = hidden * (2 * heads * size + 2 * kv_width + 3 * intermediate)
    tied = parameters < layers * per_layer + 1.5 * vocabulary * hidden
    return Shape(
        parameters,
        layers,
        hidden,
        intermediate,
        kv_width,
        vocabulary,
        tied,
        model.info.context_length,
    )
