"""What a loaded model makes of a request: the facts of an inspection, inside a worker.

Only the files and the tokenizer are asked; nothing is computed (imports torch).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import transformers

from workbench.errors import WorkbenchError
from workbench.hf.folder import weight_files
from workbench.hf.loading import LoadedModel
from workbench.hf.prompting import Prompt, make_prompt
from workbench.hf.protocol import Inspect
from workbench.inspection import kinds_of_weights
from workbench.types import Options

_SAMPLING_DEFAULTS: Final = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def facts(loaded: LoadedModel, request: Inspect) -> dict[str, Any]:
    """Fields of ``inspection.Inspection``, as JSON has them.

    Raises:
        WorkbenchError: ``INVALID_REQUEST`` if the prompt cannot be made, as for an answer; one that
            is only too long is no error here but the fact ``refuses``.
    """
    options = Options.from_mapping(request.options)
    tokenizer = loaded.tokenizer
    prompt, refusal = _prompt(loaded, request, options)
    config = loaded.model.config.get_text_config(decoder=True)
    cut = [w.details for w in prompt.warnings if w.code == "PROMPT_TRUNCATED"]
    return {
        "architecture": config.model_type,
        "parameters": loaded.description.parameters,
        "rendered": prompt.text,
        "token_ids": prompt.ids,
        "token_texts": [_text(tokenizer, one) for one in prompt.ids],
        "template": tokenizer.chat_template or None,
        "special_tokens": {
            role: one
            for role in ("bos", "eos", "pad")
            if (one := getattr(tokenizer, f"{role}_token_id", None)) is not None
        },
        "begin_text": tokenizer.bos_token,
        "adds_bos": _adds_bos(tokenizer),
        "end_tokens": sorted(loaded.eos_ids),
        "stop": list(options.stop),
        "sampler": _sampler(options),
        "defaults": _defaults(Path(loaded.files.folder)),
        "context_length": prompt.limit if refusal is None else refusal.details["limit"],
        "refuses": None if refusal is None else refusal.message,
        "trained_context_length": loaded.context_length,
        "left_out": cut[0]["prompt_tokens"] - len(prompt.ids) if cut else 0,
        "weights": _held(
            kinds_of_weights(_stored(loaded.files.folder, loaded.files.gguf_file)),
            loaded.description.details.get("quantization"),
        ),
        "computed_in": _computed_in(loaded),
        "rope": _rope(config),
        "tokenizer": {"kind": type(tokenizer).__name__, "vocabulary": len(tokenizer)},
        "device": loaded.device,
        "runtime": f"transformers {transformers.__version__}",
    }


def _prompt(
    loaded: LoadedModel, request: Inspect, options: Options
) -> tuple[Prompt, WorkbenchError | None]:
    """The prompt; one that does not fit is made all the same, with the refusal it would meet."""
    make = functools.partial(make_prompt, loaded.tokenizer, request.messages, tools=request.tools)
    try:
        return make(options, loaded.context_length), None
    except WorkbenchError as error:
        if "prompt_tokens" not in error.details:
            raise
        return make(replace(options, num_ctx=None), None), error


def _held(stored: Mapping[str, str], quantization: str | None) -> dict[str, str]:
    """Types of the weights as they are computed with: matrices may be rounded while loading."""
    if quantization is None:
        return dict(stored)
    rounded = f"{quantization.upper()} (from"
    return {
        kind: f"{rounded} {types})" if kind in ("attention", "feed-forward") else types
        for kind, types in stored.items()
    }


def _text(tokenizer: Any, one: int) -> str:
    return str(tokenizer.decode([one], clean_up_tokenization_spaces=False))


def _adds_bos(tokenizer: Any) -> bool | None:
    if tokenizer.bos_token_id is None:
        return False
    return bool(tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id])


def _sampler(options: Options) -> list[tuple[str, float]]:
    """As ``hf.sampling`` applies them."""
    penalty = ("repetition_penalty", options.repetition_penalty)
    if options.temperature == 0:
        return [penalty, ("temperature", 0.0)]
    return [
        penalty,
        ("top_k", options.top_k),
        ("temperature", options.temperature),
        ("top_p", options.top_p),
    ]


def _defaults(folder: Path) -> dict[str, Any]:
    """What the files ask for; requests of the workbench name every setting themselves."""
    with suppress(OSError, ValueError):
        values = json.loads((folder / "generation_config.json").read_text())
        if isinstance(values, dict):
            return {name: values[name] for name in _SAMPLING_DEFAULTS if name in values}
    return {}


@functools.lru_cache(maxsize=1)
def _stored(folder: str, gguf_file: str | None) -> Mapping[str, str]:
    """Types of the tensors in the files, by name."""
    if gguf_file is not None:
        import gguf

        reader = gguf.GGUFReader(Path(folder) / gguf_file)
        return {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    from safetensors import safe_open

    types: dict[str, str] = {}
    for path in weight_files(Path(folder)):
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            types |= {name: file.get_slice(name).get_dtype() for name in names}
    return types


def _computed_in(loaded: LoadedModel) -> str:
    details = loaded.description.details
    form, prompts = details.get("form", "plain"), details.get("prompts", "plain")
    weights = loaded.description.dtype
    if form == "plain":
        return weights
    return f"{weights} weights" if prompts == form else f"{weights} weights, prompts in {prompts}"


def _rope(config: Any) -> dict[str, Any]:
    given = getattr(config, "rope_parameters", None) or {}
    rope = {key: value for key, value in given.items() if isinstance(value, (int, float, str))}
    if rope.get("rope_type") == "default":
        del rope["rope_type"]
    if "rope_theta" not in rope and (theta := getattr(config, "rope_theta", None)):
        rope["rope_theta"] = theta
    return rope
