"""A spec from the fields of a form: the common keys; the text holds all of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from workbench.bench import library

MADE: Final = "prompts made here"
"""In place of a dataset."""

LOADS: Final = (
    ("one request at a time", "isolated"),
    ("users who ask again at once", "closed"),
    ("requests a second, whatever becomes of them", "open"),
    ("more and more users, to the knee of the SLO", "sweep"),
    ("several turns", "conversation"),
    ("a shared beginning against a new one", "prefix"),
    ("a cold model against a warm one", "cold"),
    ("all models at once", "storm"),
)
"""In words, and as the spec says it."""

POINTS: Final = {
    "closed": "users",
    "open": "rate_per_s",
    "sweep": "most",
    "conversation": "turns",
    "storm": "users",
}
"""What the field of load points means."""

_REQUESTS: Final = 32


@dataclass(frozen=True, slots=True)
class Form:
    """The values as the page gives them; an empty number is 0, lists are written ``32, 512``."""

    name: str
    models: Sequence[str]
    source: str
    count: float | None
    input_tokens: str
    output_tokens: str
    repeats: float | None
    temperature: float | None
    mode: str
    pattern: str
    points: str
    ttft_s: float | None
    tpot_s: float | None


def write(form: Form) -> str:
    """The text of the spec. What is wrong with a value is said where the spec is read."""
    spec: dict[str, Any] = {
        "name": form.name.strip(),
        "models": [*form.models],
        "seed": 1,
        "repeats": _whole(form.repeats, 5),
    }
    if form.mode != "as the load asks":
        spec["timing_mode"] = form.mode
    if form.temperature is not None:
        spec["options"] = {"temperature": form.temperature}
    if form.source == MADE:
        spec["prompts"] = {
            "count": _whole(form.count, 6),
            "input_tokens": _numbers(form.input_tokens) or [64],
            "output_tokens": _numbers(form.output_tokens) or [64],
        }
    else:
        limit = {"limit": _whole(form.count, 6)} if form.count else {}
        lengths = _numbers(form.output_tokens)
        if lengths:
            spec.setdefault("options", {})["max_tokens"] = lengths[0]
        spec["datasets"] = [{"source": form.source, **limit, "scorers": ["item"]}]
    if form.pattern != "isolated":
        spec["load"] = _load(form)
    slo = {"ttft_s": form.ttft_s, "tpot_s": form.tpot_s}
    if kept := {name: value for name, value in slo.items() if value}:
        spec["slo"] = kept
    return library.to_toml(spec)


def _load(form: Form) -> dict[str, Any]:
    load: dict[str, Any] = {"pattern": form.pattern}
    points = _numbers(form.points)
    key = POINTS.get(form.pattern)
    if key in ("users", "rate_per_s"):
        load[key] = points or [1]
    elif key is not None and points:
        load[key] = points[-1]
    if form.pattern == "open":
        load["requests"] = _REQUESTS
    return load


def _numbers(text: str) -> list[Any]:
    """``32, 512`` as numbers; a word that is none stays one, and is refused by name."""
    return [_number(word) for word in text.replace(",", " ").split()]


def _number(word: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def _whole(value: float | None, otherwise: int) -> int | float:
    if not value:
        return otherwise
    return int(value) if value == int(value) else value
