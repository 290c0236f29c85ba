"""LoRA adapters: which local model is the base of one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from shlex import quote
from typing import Any

from workbench.hf.found import ModelFile, Unusable, broken_model


def linked(models: Sequence[ModelFile]) -> list[ModelFile]:
    """The same models, each adapter with its base's folder and facts.

    An adapter whose base is not there, or cannot be used, is listed as unusable.
    """
    bases = [model for model in models if model.adapter is None and model.gguf_file is None]
    return [_linked(model, bases) if model.adapter is not None else model for model in models]


def _linked(adapter: ModelFile, models: Sequence[ModelFile]) -> ModelFile:
    own = adapter.info.details["adapter"]
    assert adapter.place is not None
    base = _base(str(own["base"]).strip("/ "), models)
    if base is None:
        reason = Unusable(
            f"is a LoRA adapter whose base {own['base']} is not here", _fix(str(own["base"]))
        )
    elif base.broken is not None:
        reason = Unusable(
            f"is a LoRA adapter whose base {base.name} {base.broken.problem}", base.broken.fix
        )
    else:
        return _joined(adapter, base)
    size = adapter.info.size_bytes
    broken = broken_model(adapter.place, adapter.path, "safetensors", reason, size)
    return replace(broken, adapter=adapter.adapter)


def _base(wanted: str, models: Sequence[ModelFile]) -> ModelFile | None:
    """By full name, by where it was downloaded from, or by the last part of its path.

    Adapters trained from a local folder name that folder's path, of which only the end can fit.
    """
    usable_first = sorted(models, key=lambda model: model.broken is not None)
    last = wanted.rsplit("/", 1)[-1]
    tests: tuple[Callable[[ModelFile], bool], ...] = (
        lambda model: model.name == wanted,
        lambda model: model.info.details.get("repo") == wanted,
        lambda model: model.name.rsplit("/", 1)[-1] == last,
    )
    for fits in tests:
        for model in usable_first:
            if fits(model):
                return model
    return None


def _joined(adapter: ModelFile, base: ModelFile) -> ModelFile:
    own, below = adapter.info, base.info
    digest = hashlib.sha256(f"{below.digest}\0{own.digest}".encode()).hexdigest()
    details: dict[str, Any] = {
        **own.details,
        "adapter": {**own.details["adapter"], "base_id": below.id, "digest": own.digest},
        "architecture": below.details.get("architecture"),
        "model_type": below.details.get("model_type"),
        "expected_bytes": own.details["expected_bytes"] + below.details.get("expected_bytes", 0),
    }
    info = replace(
        own,
        dtype=below.dtype,
        quantization=below.quantization,
        parameters=(own.parameters or 0) + (below.parameters or 0),
        context_length=below.context_length,
        chat_template=own.chat_template or below.chat_template,
        digest=f"sample-sha256:{digest}",
        details=details,
    )
    return replace(adapter, folder=base.folder, info=info)


def _fix(base: str) -> str:
    if base.count("/") == 1 and not base.startswith((".", "/")):
        return f"Download the base: workbench models pull {quote(base)}."
    return "Download the base, or write its name (ORG/NAME) into adapter_config.json."
