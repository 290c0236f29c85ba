"""Bringing a model into memory, inside a worker (imports torch and transformers)."""

from __future__ import annotations

import ctypes
import functools
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf.headers import read_gguf
from workbench.hf.protocol import Load, Loaded

# A GGUF whose weights cannot stay packed is unpacked. float32 holds the unpacked values exactly;
# above this many parameters (8 GB of float32) memory matters more than the last bits. Decided by
# the model alone, so that two machines do not silently compare different arithmetic.
FLOAT32_UP_TO_PARAMETERS: Final = 2_000_000_000


@dataclass(slots=True)
class LoadedModel:
    """A model ready to generate, with what its generations need to know."""

    model: Any
    tokenizer: Any
    device: str
    context_length: int | None
    eos_ids: frozenset[int]
    pad_id: int | None
    description: Loaded
    layers: list[torch.nn.Module] = field(default_factory=list)


def load(wanted: Load) -> LoadedModel:
    """Load as asked.

    Raises:
        WorkbenchError: ``HF_INVALID_CONFIG`` if a GPU is demanded and there is none,
            ``HF_MEMORY_EXCEEDED``, or ``HF_MODEL_LOAD_FAILED`` with the cause; ``details.device``
            says where it was being loaded.
    """
    started = time.monotonic_ns()
    device = _device(wanted.gpu)
    torch.set_num_threads(wanted.threads)
    try:
        tokenizer = _tokenizer(wanted)
        model = _model(wanted, device)
    except Exception as error:
        raise load_error(error, wanted, device) from error
    model.eval()
    eos_ids, pad_id = _special_ids(model, tokenizer)
    # Nothing of the model's own sampling defaults may reach a generation: every setting comes from
    # the request, so that two models in two panes are asked for the same.
    model.generation_config = GenerationConfig(
        bos_token_id=model.generation_config.bos_token_id,
        eos_token_id=sorted(eos_ids) or None,
        pad_token_id=pad_id,
    )
    _give_back_memory()
    quantizer = getattr(model, "hf_quantizer", None)
    packed = bool(getattr(quantizer, "packed_modules", None))
    details: dict[str, Any] = {
        "architecture": type(model).__name__,
        "attention": getattr(model.config, "_attn_implementation", None),
        "torch": torch.__version__,
        "eos_token_ids": sorted(eos_ids),
    }
    if wanted.gguf_file:
        details["weights"] = "packed" if packed else f"unpacked to {_dtype_name(model)} at load"
    if device != "cpu":
        details["gpu_name"] = torch.cuda.get_device_name()
    context_length = context_of(model.config)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        device=device,
        context_length=context_length,
        eos_ids=eos_ids,
        pad_id=pad_id,
        layers=_layers(model),
        description=Loaded(
            dtype=_dtype_name(model),
            device=device,
            threads=torch.get_num_threads(),
            context_length=context_length,
            parameters=model.num_parameters(),
            packed=packed,
            load_ns=time.monotonic_ns() - started,
            details=details,
        ),
    )


def load_error(error: Exception, wanted: Load, device: str) -> WorkbenchError:
    """The typed form of what went wrong while loading."""
    if isinstance(error, WorkbenchError):
        return error
    name = Path(wanted.folder).name
    if is_out_of_memory(error):
        return WorkbenchError(
            ErrorCode.HF_MEMORY_EXCEEDED,
            f"{name} does not fit into the memory of {device}.",
            fix="Unload other models, or choose a smaller or more strongly quantised one.",
            operation="load",
            provider="huggingface",
            details={"device": device, "cause": first_line(error)},
        )
    return WorkbenchError(
        ErrorCode.HF_MODEL_LOAD_FAILED,
        f"{name} could not be loaded: {type(error).__name__}: {first_line(error)}",
        fix="Check the model's files (workbench models verify), or download the model again.",
        operation="load",
        provider="huggingface",
        details={"device": device, "transient": isinstance(error, OSError) and bool(error.errno)},
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on the host or on a GPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "not enough memory" in text or "out of memory" in text
    )


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, short enough to show."""
    return next((line for line in str(error).splitlines() if line.strip()), "")[:500]


def context_of(config: Any) -> int | None:
    """The longest sequence a model was made for, in tokens."""
    text = config.get_text_config(decoder=True)
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _device(gpu: str) -> str:
    available = gpu != "false" and torch.cuda.is_available()
    if gpu == "true" and not available:
        raise WorkbenchError(
            ErrorCode.HF_INVALID_CONFIG,
            "HF_ENABLE_GPU is true, but torch finds no CUDA device.",
            fix="Set HF_ENABLE_GPU=auto, or install a CUDA build of torch and its driver.",
            operation="load",
            provider="huggingface",
        )
    return "cuda" if available else "cpu"


def _tokenizer(wanted: Load) -> Any:
    folder = Path(wanted.folder)
    if wanted.gguf_file is None or (folder / "tokenizer.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    else:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), gguf_file=wanted.gguf_file, local_files_only=True
        )
    if wanted.gguf_file and not tokenizer.chat_template:
        header = read_gguf(folder / wanted.gguf_file)
        tokenizer.chat_template = header.metadata.get("tokenizer.chat_template")
    return tokenizer


def _model(wanted: Load, device: str) -> Any:
    common: dict[str, Any] = {
        "local_files_only": True,
        "trust_remote_code": False,
    }
    if device != "cpu":
        # Straight onto the GPU, without a copy of all weights in host memory in between; over all
        # GPUs if there are several.
        common["device_map"] = "auto" if torch.cuda.device_count() > 1 else "cuda"
    if wanted.gguf_file is None:
        return AutoModelForCausalLM.from_pretrained(
            wanted.folder, dtype="auto", use_safetensors=True, **common
        )
    small = (wanted.parameters or 0) <= FLOAT32_UP_TO_PARAMETERS
    with _gguf_read_once():
        return AutoModelForCausalLM.from_pretrained(
            wanted.folder,
            gguf_file=wanted.gguf_file,
            quantization_config=GgufConfig(),
            dtype=torch.float32 if small else torch.bfloat16,
            **common,
        )


@contextmanager
def _gguf_read_once() -> Iterator[None]:
    """Let transformers' loader parse a GGUF once instead of two to four times.

    It opens the file anew for the config and for the weights, seconds each for the lists of
    tokens, and builds the same table of tensor names for every module of the model. Within one
    load nothing of that can change. And the reader slices a ``memmap`` millions of times, which
    takes three times as long as slicing the plain array under it.
    """
    reader, name_map, memmap = gguf.GGUFReader, gguf.get_tensor_name_map, np.memmap

    @functools.cache
    def read(path: str) -> Any:
        np.memmap = lambda *args, **options: np.asarray(memmap(*args, **options))  # type: ignore
        try:
            return reader(path)
        finally:
            np.memmap = memmap  # type: ignore[misc]

    gguf.GGUFReader = read
    gguf.get_tensor_name_map = functools.cache(name_map)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, name_map


def _special_ids(model: Any, tokenizer: Any) -> tuple[frozenset[int], int | None]:
    """Ids that end an answer, and the padding id (one of them if the model has none)."""
    own = model.generation_config.eos_token_id
    if own is None:
        own = tokenizer.eos_token_id
    eos_ids = frozenset([own] if isinstance(own, int) else own or [])
    pad_id = model.generation_config.pad_token_id
    if pad_id is None:
        pad_id = tokenizer.pad_token_id
    if pad_id is None and eos_ids:
        pad_id = min(eos_ids)
    return eos_ids, pad_id


def _layers(model: Any) -> list[torch.nn.Module]:
    """The model's blocks, in order: the longest list of modules in it."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return list(max(lists, key=len, default=[]))


def _dtype_name(model: Any) -> str:
    return str(model.dtype).removeprefix("torch.")


def _give_back_memory() -> None:
    """Return what loading used up and freed again, so that the measured memory is the model's."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
