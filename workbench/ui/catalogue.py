"""The models to choose from: listed once for all open pages, labelled, ordered, preselected."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from workbench import figures
from workbench.engine import Engine
from workbench.hosts import family
from workbench.router import Listing
from workbench.types import ModelInfo

_ORDER: Final = ("huggingface", "ollama", "openai")
"""Providers in the order of the list; others follow, ``scripted`` is last."""


class Catalogue:
    """The engine's listing, kept for a moment so that many open pages ask the runtimes once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._asking = asyncio.Lock()
        self._listing = Listing([], {})
        self._listed_at = float("-inf")

    async def listing(self, *, max_age_s: float = 0.0) -> Listing:
        """All models, asked for anew when what is known is older than ``max_age_s``."""
        asked_at = time.monotonic()
        async with self._asking:
            if self._listed_at < asked_at - max_age_s:
                self._listing = await self._engine.list_models()
                self._listed_at = time.monotonic()
            return self._listing

    @property
    def known(self) -> Listing:
        """The latest listing; nobody is asked."""
        return self._listing


def ordered(models: Sequence[ModelInfo]) -> list[ModelInfo]:
    """By provider, then name; the scripted ones are for tests and come last."""

    def key(info: ModelInfo) -> tuple[int, str, str]:
        if info.provider == "scripted":
            return len(_ORDER) + 1, "", info.name
        runtime = family(info.provider)
        place = _ORDER.index(runtime) if runtime in _ORDER else len(_ORDER)
        return place, info.provider, info.name

    return sorted(models, key=key)


def label(info: ModelInfo, *, residency: bool = True) -> str:
    """A line of the dropdown: the model id, then what tells it from its siblings.

    Args:
        info: the model.
        residency: whether to say if it is in memory.
    """
    untold = ("available",) if residency else ("available", "loading", "resident")
    words = [
        info.quantization or figures.dtype(info.dtype),
        info.format,
        figures.size(info.size_bytes) if info.size_bytes else None,
        info.status if info.status not in untold else None,
    ]
    facts = ", ".join(word for word in words if word)
    return f"{info.id}  ·  {facts}" if facts else info.id


def choices(
    models: Sequence[ModelInfo], chosen: Sequence[str | None] = (), *, residency: bool = True
) -> list[tuple[str, str]]:
    """(label, model id) of every model that generates text.

    Args:
        models: as listed.
        chosen: ids selected now; one that is no longer listed stays, marked, so that the
            selection is not lost when a runtime stops for a while.
        residency: whether to say which are in memory.
    """
    entries = [
        (label(info, residency=residency), info.id)
        for info in ordered(models)
        if info.task == "text-generation"
    ]
    listed = {model for _, model in entries}
    missing = dict.fromkeys(model for model in chosen if model and model not in listed)
    return entries + [(f"{model}  ·  not listed now", model) for model in missing]


def preselect(models: Sequence[ModelInfo], count: int = 2) -> list[str | None]:
    """The models of the first panes of a fresh page, so that one click compares two.

    The first Hugging Face model beside the first Ollama model; with one runtime alone, its first
    model beside the first of another format (safetensors and GGUF of the same weights, say).
    Scripted models and unusable ones are never chosen for the user.
    """
    usable = [
        info
        for info in ordered(models)
        if info.status != "unusable"
        and info.provider != "scripted"
        and info.task == "text-generation"
    ]
    by_kind: dict[tuple[str, str | None], ModelInfo] = {}
    by_provider: dict[str, ModelInfo] = {}
    for info in usable:
        by_kind.setdefault((info.provider, info.format), info)
        by_provider.setdefault(info.provider, info)
    preferred = [*by_provider.values(), *by_kind.values(), *usable]
    picked = list(dict.fromkeys(info.id for info in preferred))
    return [*picked[:count], *[None] * (count - len(picked))]


def has_models(models: Sequence[ModelInfo]) -> bool:
    """Whether there is any real model."""
    return any(info.provider != "scripted" for info in models)
