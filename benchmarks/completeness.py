"""Do headers alone say of a checkpoint what its load says? Every family that transformers runs.

Of each a small random model is made and saved; then it is looked at whole, without one of its
tensors and with one of another shape, by :func:`workbench.hf.matching.compare` and by a real load.
``python -m benchmarks.completeness [FAMILY ...]`` prints a line per family and JSON last.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from workbench.hf import matching

_MOST_PARAMETERS: Final = 60_000_000
_SMALL: Final[Mapping[str, int]] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size", "dim"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "moe_intermediate_size"), 64),
    **dict.fromkeys(("shared_expert_intermediate_size", "expert_intermediate_size"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "encoder_attention_heads"), 2),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_top_k", "moe_k"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts"), 1),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim", "kv_lora_rank"), 16),
    **dict.fromkeys(("q_lora_rank", "qk_rope_head_dim"), 16),
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "decoder_attention_heads": 4,
    "vocab_size": 128,
    "max_position_embeddings": 128,
}
_CHANGES: Final = ("whole", "missing", "reshaped")


def small(kind: type[Any]) -> dict[str, Any]:
    """Arguments of a configuration that make it small, and the same for its parts."""
    usual = kind()
    sizes: dict[str, Any] = {name: size for name, size in _SMALL.items() if _is_whole(usual, name)}
    for name, part in getattr(kind, "sub_configs", {}).items():
        if getattr(usual, name, None) is not None and isinstance(part, type):
            part = type(getattr(usual, name))
            sizes[name] = small(part)
    return sizes


def _is_whole(config: Any, name: str) -> bool:
    """Whether a configuration has one whole number of that name, which can be set."""
    try:
        value = getattr(config, name, None)
    except Exception:  # one for each layer
        return False
    return isinstance(value, int) and not isinstance(getattr(type(config), name, None), property)


def save(family: str, folder: Path) -> None:
    """Write a small model of a family.

    Raises:
        ValueError: it is not small.
    """
    kind = CONFIG_MAPPING[family]
    config = kind(**small(kind))
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > _MOST_PARAMETERS:
        raise ValueError(f"{size / 1e6:.0f} million parameters")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def answers(folder: Path) -> tuple[str, str]:
    """What headers and what a load say: fits, a misfit in words, or the kind of an exception."""

    def said(ask: Any) -> str:
        try:
            found = ask()
        except Exception as error:
            return type(error).__name__
        return "fits" if found is None else str(found.problem)

    def loaded() -> matching.Misfit | None:
        return matching.misfit(matching.open_model(str(folder))[1])

    return said(lambda: matching.compare(folder)), said(loaded)


def judged(headers: str, load: str) -> str:
    """How the two go together."""
    if headers == load:
        return "same: " + ("fits" if load == "fits" else "raises" if _raised(load) else "named")
    if headers == "fits" or _raised(headers):
        return "silent"
    return "FALSE ALARM" if load == "fits" else "other words"


def _raised(said: str) -> bool:
    return said.endswith("Error") and " " not in said


def examined(family: str, folder: Path) -> Iterator[tuple[str, str, str]]:
    """What both say of a family's files, whole and not."""
    save(family, folder)
    for change in _CHANGES:
        if change != "whole":
            weights = sorted(folder.glob("*.safetensors"))[0]
            tensors = load_file(weights)
            matrices = [name for name in sorted(tensors) if tensors[name].dim() == 2]
            name = matrices[len(matrices) // 2]
            if change == "missing":
                kept = tensors.pop(name)
            else:
                tensors[name] = torch.zeros(3, *tensors[name].shape[1:])
            save_file(tensors, weights, {"format": "pt"})
            headers, load = answers(folder)
            if change == "missing":
                save_file({**tensors, name: kept}, weights, {"format": "pt"})
        else:
            headers, load = answers(folder)
        yield change, headers, load


def main() -> None:
    """Examine all families, or those that are named."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    counts = {change: Counter[str]() for change in _CHANGES}
    unmade: dict[str, str] = {}
    for family in sys.argv[1:] or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        with tempfile.TemporaryDirectory() as made:
            try:
                for change, headers, load in examined(family, Path(made)):
                    verdict = judged(headers, load)
                    counts[change][verdict] += 1
                    if verdict not in ("same: fits", "same: named") or (
                        verdict == "same: named" and change == "whole"
                    ):
                        print(f"{family} {change}: {verdict}\n  {headers}\n  {load}", flush=True)
            except Exception as error:
                unmade[family] = f"{type(error).__name__}: {str(error)[:120]}"
        print(family, unmade.get(family, "done"), flush=True)
    print(json.dumps({"unmade": unmade, "counts": {k: dict(v) for k, v in counts.items()}}))


if __name__ == "__main__":
    main()
