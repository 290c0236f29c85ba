"""Bringing a model into memory, inside a worker (imports torch and transformers)."""

from __future__ import annotations

import functools
import os
import shutil
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import torch
from transformers import AutoTokenizer, GenerationConfig, GgufConfig

from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf import converted, matching, quantized, vocabulary
from workbench.hf.fitting import (
    dtype_name,
    first_line,
    fit,
    give_back_memory,
    is_recorded,
    prompts_from,
)
from workbench.hf.footprint import FLOAT32_UP_TO_PARAMETERS
from workbench.hf.options import LoadOptions
from workbench.hf.protocol import Load, Loaded
from workbench.hf.recorded_layers import layers_of
from workbench.hf.sampling import Grammar
from workbench.hf.slots import (
    Runner,
    SlotRunner,
)
from workbench.hf.text import ThinkFilter


@dataclass(slots=True)
class LoadedModel:
    """A model ready to generate, with what its generations need to know."""

    model: Any
    runner: Runner
    tokenizer: Any
    device: str
    context_length: int | None
    eos_ids: frozenset[int]
    cache_bytes_per_token: int
    thinks: bool
    """Whether its answers may begin with thinking between tags."""
    description: Loaded
    files: Load
    """Where its files are."""
    layers: list[torch.nn.Module] = field(default_factory=list)
    _grammar_tokenizer: Any = None

    def grammar(self, response_format: Mapping[str, Any] | None) -> Grammar | None:
        """What ``response_format`` allows, None if anything.

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` if it cannot be followed.
        """
        if response_format is None or response_format.get("type") == "text":
            return None
        from workbench.hf.grammar import JsonGrammar, grammar_tokenizer  # rarely needed

        if self._grammar_tokenizer is None:
            vocabulary = self.model.config.get_text_config(decoder=True).vocab_size
            self._grammar_tokenizer = grammar_tokenizer(self.tokenizer, vocabulary, self.eos_ids)
        return JsonGrammar(self._grammar_tokenizer, response_format)


_FORM_DTYPES: Final = {
    "packed": "float16",
    "int8": "int8",
    "int8_dynamic": "int8",
    "int4": "int4",
}


def load(wanted: Load) -> LoadedModel:
    """Load as asked.

    Raises:
        WorkbenchError: ``HF_INVALID_CONFIG`` if a GPU is demanded and there is none, or if the
            quantisation asked for fails its quality check here; ``HF_MEMORY_EXCEEDED``;
            ``HF_MODEL_LOAD_FAILED`` with the cause. ``details.device`` says where it was loaded.
    """
    started = time.monotonic_ns()
    options = LoadOptions(**wanted.options)
    device = _device(wanted.gpu, options.device)
    torch.set_num_threads(wanted.threads)
    warnings: list[dict[str, Any]] = []
    try:
        # Before the weights: a model without one is refused in a moment, whatever its size.
        try:
            tokenizer = _tokenizer(wanted)
        except Exception as error:  # whatever the tokenizers library raises
            if "not recognize this architecture" in str(error):
                raise
            raise _bad_tokenizer(error, wanted, device) from error
        with torch.inference_mode():
            fitted = fit(
                wanted,
                options,
                device,
                tokenizer,
                lambda: _whole(wanted, options, device, warnings, tokenizer),
            )
    except Exception as error:
        raise load_error(error, wanted, device) from error
    model = fitted.model
    if isinstance(fitted.runner, SlotRunner) and device == "cpu" and not fitted.runner.recorded:
        with torch.inference_mode():
            fitted.runner.record()
    eos_ids = _end_ids(model, tokenizer)
    give_back_memory()
    packed = _is_packed(model)
    dtype = _FORM_DTYPES.get(fitted.form)
    details: dict[str, Any] = {
        "architecture": type(model).__name__,
        "attention": getattr(model.config, "_attn_implementation", None),
        "engine": "batched" if isinstance(fitted.runner, SlotRunner) else "plain",
        "form": fitted.form,
        "step": "recorded" if is_recorded(fitted.runner) else "plain",
        "prompts": "bfloat16" if prompts_from(fitted.runner) else fitted.form,
        "torch": torch.__version__,
        "eos_token_ids": sorted(eos_ids),
    }
    if options.quantization != "none":
        details["quantization"] = options.quantization
    if fitted.verdict is not None:
        details["quality"] = fitted.verdict.to_dict()
    if wanted.gguf_file:
        details["weights"] = "packed" if packed else "unpacked"
    if device != "cpu":
        details["gpu_name"] = torch.cuda.get_device_name(model.device)
    context_length = context_of(model.config)
    if options.num_ctx:
        context_length = min(options.num_ctx, context_length or options.num_ctx)
    return LoadedModel(
        model=model,
        runner=fitted.runner,
        tokenizer=tokenizer,
        device=str(model.device),
        context_length=context_length,
        eos_ids=eos_ids,
        cache_bytes_per_token=_cache_bytes_per_token(model, fitted.runner),
        thinks=_thinks(tokenizer),
        files=wanted,
        layers=layers_of(model),
        description=Loaded(
            dtype=dtype or dtype_name(model),
            device=device,
            threads=torch.get_num_threads(),
            context_length=context_length,
            parameters=fitted.parameters,
            packed=packed,
            load_ns=time.monotonic_ns() - started,
            warnings=warnings,
            details=details,
        ),
    )


def _whole(
    wanted: Load,
    options: LoadOptions,
    device: str,
    warnings: list[dict[str, Any]],
    tokenizer: Any,
) -> Any:
    """The model as transformers loads it, with its adapter merged into it.

    What its readers must know replaces what is in ``warnings``.
    """
    model, warnings[:] = _model(wanted, options, device)
    size = model.config.get_text_config(decoder=True).vocab_size
    if len(tokenizer) > size:
        vocabulary.check_ids(wanted.gguf_file or Path(wanted.folder).name, tokenizer, size)
    if wanted.adapter is not None:
        model = matching.with_adapter(model, Path(wanted.adapter))
    model.eval()
    eos_ids = sorted(_end_ids(model, None))
    # Nothing of the model's own sampling defaults may reach a generation: every setting comes from
    # the request, so that two models in two panes are asked for the same.
    model.generation_config = GenerationConfig(
        bos_token_id=model.generation_config.bos_token_id, eos_token_id=eos_ids or None
    )
    return model


def _cache_bytes_per_token(model: Any, runner: Runner) -> int:
    """Keys and values of one token over all layers."""
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = runner.activations.itemsize if isinstance(runner, SlotRunner) else model.dtype.itemsize
    return int(2 * config.num_hidden_layers * heads * size * width)


def _thinks(tokenizer: Any) -> bool:
    """Whether both tags of thinking are tokens of this model."""
    vocabulary = tokenizer.get_vocab()
    return ThinkFilter.OPEN in vocabulary and ThinkFilter.CLOSE in vocabulary


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
    if isinstance(error, ImportError) and not quantized.wants_gpu(error):
        return WorkbenchError(
            ErrorCode.HF_INVALID_CONFIG,
            f"{name} cannot be loaded this way: {first_line(error)}",
            fix="Install the package that is named, or choose other load options.",
            operation="load",
            provider="huggingface",
            details={"device": device},
        )
    fix = "Check the model's files (workbench models verify), or download the model again."
    if "not recognize this architecture" in str(error):
        fix = "Choose a model that transformers supports, or install a newer transformers release."
    elif quantized.wants_gpu(error):
        fix = quantized.GPU_FIX
    return WorkbenchError(
        ErrorCode.HF_MODEL_LOAD_FAILED,
        f"{name} could not be loaded: {type(error).__name__}: {first_line(error)}",
        fix=fix,
        operation="load",
        provider="huggingface",
        details={"device": device, "transient": isinstance(error, OSError) and bool(error.errno)},
    )


def _bad_tokenizer(error: Exception, wanted: Load, device: str) -> WorkbenchError:
    if is_out_of_memory(error) or isinstance(error, (ImportError, WorkbenchError)):
        return load_error(error, wanted, device)
    return vocabulary.unreadable_tokenizer(Path(wanted.folder).name, error, device=device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on the host or on a GPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "not enough memory" in text or "out of memory" in text
    )


def context_of(config: Any) -> int | None:
    """The longest sequence a model was made for, in tokens."""
    text = config.get_text_config(decoder=True)
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _device(gpu: str, wanted: str) -> str:
    """``cpu`` or ``cuda:N``: as asked, else the GPU with the most free memory."""
    demanded = gpu == "true" if wanted == "auto" else wanted.startswith("cuda")
    available = wanted != "cpu" and (gpu != "false" or demanded) and torch.cuda.is_available()
    index = int(wanted.partition(":")[2] or -1)
    if demanded and (not available or index >= torch.cuda.device_count()):
        raise WorkbenchError(
            ErrorCode.HF_INVALID_CONFIG,
            "A GPU is demanded (HF_ENABLE_GPU=true or device=cuda), but torch finds "
            f"{'no CUDA device' if not available else f'no device {index}'}.",
            fix="Leave device=cuda out and HF_ENABLE_GPU at auto, or install a CUDA build of torch "
            "and its driver.",
            operation="load",
            provider="huggingface",
        )
    if not available:
        return "cpu"
    if index < 0:
        free = [torch.cuda.mem_get_info(n)[0] for n in range(torch.cuda.device_count())]
        index = max(range(len(free)), key=lambda n: free[n])
    return f"cuda:{index}"


def _copy_of(wanted: Load) -> Path | None:
    """The unpacked copy of the GGUF, if there is one."""
    if wanted.gguf_file is None or wanted.converted is None:
        return None
    folder = Path(wanted.converted)
    return folder if converted.is_there(folder) else None


def _tokenizer(wanted: Load) -> Any:
    folder = Path(wanted.folder)
    if (copy := _copy_of(wanted)) is not None:
        return AutoTokenizer.from_pretrained(str(copy), local_files_only=True)
    return vocabulary.open_tokenizer(folder, wanted.gguf_file)


def _model(wanted: Load, options: LoadOptions, device: str) -> tuple[Any, list[dict[str, Any]]]:
    """The model, all of whose tensors come from the files, and warnings about it."""
    common: dict[str, Any] = {}
    if options.attention != "auto":
        common["attn_implementation"] = options.attention
    if device != "cpu":
        # Straight onto the GPU, without a copy of all weights in host memory in between.
        common["device_map"] = device
    dtype: Any = "auto" if options.dtype == "auto" else getattr(torch, options.dtype)
    name = wanted.gguf_file or Path(wanted.folder).name
    if wanted.gguf_file is None:
        model, report = matching.open_model(
            wanted.folder, dtype=dtype, use_safetensors=True, **common
        )
        return model, matching.check(name, report)
    if dtype == "auto":
        small = (wanted.parameters or 0) <= FLOAT32_UP_TO_PARAMETERS
        dtype = torch.float32 if small else torch.bfloat16
    if (copy := _copy_of(wanted)) is not None:
        model, report = matching.open_model(str(copy), dtype=dtype, use_safetensors=True, **common)
        return model, matching.check(name, report)
    with _gguf_read_once():
        model, report = matching.open_model(
            wanted.folder,
            gguf_file=wanted.gguf_file,
            quantization_config=GgufConfig(),
            dtype=dtype,
            **common,
        )
    warnings = matching.check(name, report)
    if not _is_packed(model):
        # Dense from here on: with these, transformers refuses to change its type, and a copy would
        # be read as GGUF blocks again.
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.hf_quantizer, model.is_quantized = None, False
        # A copy would hold what was used only, and be silent about the rest.
        if wanted.converted is not None and not warnings:
            source = Path(wanted.folder) / wanted.gguf_file
            _keep_copy(model, _tokenizer(wanted), Path(wanted.converted), source)
    return model, warnings


def _keep_copy(model: Any, tokenizer: Any, folder: Path, source: Path) -> None:
    """Write an unpacked GGUF as a model folder, in one step; a failure costs only time later."""
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        converted.put(temporary, folder, source)
    except Exception:  # whatever transformers or the disk raises
        traceback.print_exc()
        shutil.rmtree(temporary, ignore_errors=True)


def _is_packed(model: Any) -> bool:
    """Whether transformers kept the GGUF's own blocks."""
    return bool(getattr(getattr(model, "hf_quantizer", None), "packed_modules", None))


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


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end an answer."""
    own = model.generation_config.eos_token_id
    if own is None and tokenizer is not None:
        own = tokenizer.eos_token_id
    return frozenset([own] if isinstance(own, int) else own or [])
