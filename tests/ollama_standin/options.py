"""The ``options`` of a request: types, defaults, and what they mean for llama.cpp.

Unknown names are ignored and wrong types are a 500, both as the real server does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import bad_option

_INTEGERS = {
    "num_keep",
    "seed",
    "num_predict",
    "top_k",
    "repeat_last_n",
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "num_thread",
}
_FLOATS = {
    "top_p",
    "min_p",
    "typical_p",
    "temperature",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
}
_BOOLEANS = {"use_mmap"}
_DEFAULTS: dict[str, Any] = {
    "num_keep": 4,
    "seed": -1,
    "num_predict": -1,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repeat_last_n": 64,
    "temperature": 0.8,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "stop": [],
    "num_batch": 512,
}
_SMALLEST_CONTEXT = 4


@dataclass(frozen=True)
class LoadParameters:
    """What a runner is started with: a request that differs in one of these reloads the model."""

    num_ctx: int
    num_thread: int
    num_batch: int
    shift: bool


class Options:
    """The model's own parameters overlaid with those of the request."""

    def __init__(self, *layers: dict[str, Any]) -> None:
        self.values: dict[str, Any] = dict(_DEFAULTS)
        for layer in layers:
            self.values.update(_checked(layer))

    def load_parameters(
        self, *, default_ctx: int, trained_ctx: int, default_threads: int, shift: bool
    ) -> LoadParameters:
        """The part that a runner is started with, clamped as the real server clamps it."""
        num_ctx = max(int(self.values.get("num_ctx", default_ctx)), _SMALLEST_CONTEXT)
        return LoadParameters(
            num_ctx=min(num_ctx, trained_ctx),
            num_thread=int(self.values.get("num_thread") or default_threads),
            num_batch=int(self.values["num_batch"]),
            shift=shift,
        )

    def sampling(self, num_ctx: int) -> dict[str, Any]:
        """The part that goes with every completion, in llama.cpp's names.

        "Unlimited" still ends after ten contexts: with context shift it would never end otherwise.
        """
        values = self.values
        limit = 10 * num_ctx
        wanted = int(values["num_predict"])
        return {
            "temperature": values["temperature"],
            "top_k": values["top_k"],
            "top_p": values["top_p"],
            "min_p": values["min_p"],
            "typical_p": values["typical_p"],
            "repeat_last_n": values["repeat_last_n"],
            "repeat_penalty": values["repeat_penalty"],
            "presence_penalty": values["presence_penalty"],
            "frequency_penalty": values["frequency_penalty"],
            "seed": values["seed"],
            "stop": values["stop"],
            "n_keep": values["num_keep"],
            "n_predict": wanted if 0 < wanted < limit else limit,
        }


def _checked(layer: dict[str, Any]) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    for name, value in layer.items():
        if value is None:
            continue
        if name in _INTEGERS:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise bad_option(name, "type integer")
            checked[name] = int(value)
        elif name in _FLOATS:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise bad_option(name, "type float32")
            checked[name] = float(value)
        elif name in _BOOLEANS:
            if not isinstance(value, bool):
                raise bad_option(name, "type boolean")
            checked[name] = value
        elif name == "stop":
            if not isinstance(value, list):
                raise bad_option(name, "type array")
            if not all(isinstance(item, str) for item in value):
                raise bad_option(name, "an array of strings")
            checked[name] = value
    return checked
