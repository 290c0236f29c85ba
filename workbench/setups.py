"""What is compared under which conditions, before it is asked: a value that can be kept and shared.

A setup travels as plain values (a preset, a file) and as the query of the page's address. Both come
from outside, so everything is checked and bounded; a setup never starts anything by itself.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

from workbench.errors import invalid, require_text
from workbench.types import Options, TimingMode

MAX_MODELS: Final = 6
MAX_ADDRESS_CHARS: Final = 6_000
"""Of the query of an address: browsers, proxies and our own limit on headers take that much."""
MAX_TEXT_CHARS: Final = 200_000
"""Of a prompt or system prompt that is kept."""

_MODEL: Final = re.compile(r"[\w .,:/@+?=&%~()\[\]-]{1,300}")
_PLAIN: Final = " .:/@+?=&~()[]"
"""What stands for itself in a list of models; a comma does not."""
_TEXTS: Final = ("prompt", "system")
_DEFAULTS: Final = Options()
SHARED_OPTIONS: Final = (
    *("max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed", "num_ctx"),
    "stop",
)
"""The options that a setup may carry."""


@dataclass(frozen=True, slots=True)
class Setup:
    """One comparison, unasked. ``own`` are the options that differ in a pane, by its number."""

    models: tuple[str | None, ...] = ()
    prompt: str = ""
    system: str = ""
    mode: TimingMode = TimingMode.CONCURRENT
    options: Options = field(default_factory=Options)
    own: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what is as by default is left out."""
        values: dict[str, Any] = {
            "models": list(self.models),
            "prompt": self.prompt,
            "system": self.system,
            "timing_mode": "" if self.mode is TimingMode.CONCURRENT else self.mode.value,
            "options": different(self.options),
            "own": {str(place): dict(own) for place, own in self.own.items() if own},
        }
        return {name: value for name, value in values.items() if value}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Setup:
        """A setup from outside.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``, naming what is wrong with it.
        """
        if not isinstance(values, Mapping):
            raise invalid("A setup must be an object.")
        known = {"models", *_TEXTS, "timing_mode", "options", "own"}
        if unknown := sorted(str(name) for name in values.keys() - known):
            raise invalid(
                f"A setup has no {unknown[0][:60]!r}.", fix=f"It has {', '.join(sorted(known))}."
            )
        options, own = values.get("options", {}), values.get("own", {})
        if not isinstance(options, Mapping) or not isinstance(own, Mapping):
            raise invalid("The options of a setup must be objects.")
        base = _options(options)
        places = {_place(place): _own(base, one) for place, one in own.items()}
        return cls(
            models=_models(values.get("models", ())),
            prompt=_text(values, "prompt"),
            system=_text(values, "system"),
            mode=_mode(values.get("timing_mode") or TimingMode.CONCURRENT),
            options=base,
            own=places,
        )

    def to_query(self) -> str:
        """The query of an address that opens the page with this setup.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``, it would be longer than addresses may be.
        """
        pairs: dict[str, str] = {}
        if any(self.models):
            pairs["models"] = ",".join(quote(model or "", safe=_PLAIN) for model in self.models)
        pairs |= {name: getattr(self, name) for name in _TEXTS if getattr(self, name)}
        if self.mode is not TimingMode.CONCURRENT:
            pairs["mode"] = self.mode.value
        pairs |= {name: spoken(value) for name, value in different(self.options).items()}
        pairs |= {f"own{place}": line(own) for place, own in self.own.items() if own}
        require_text(pairs, "setup")
        query = urlencode(pairs)
        if len(query) > MAX_ADDRESS_CHARS:
            raise invalid(
                f"The address would have {len(query):,} characters; at most {MAX_ADDRESS_CHARS:,} "
                "work everywhere.",
                fix="Shorten the prompt, or save it as a preset.",
            )
        return query

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Setup:
        """A setup from an address; parameters that are not ours are left alone.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``, naming what is wrong with it.
        """
        if sum(len(name) + len(value) for name, value in query.items()) > MAX_ADDRESS_CHARS:
            raise invalid(
                f"The address has more than {MAX_ADDRESS_CHARS:,} characters.",
                fix="Shorten the prompt, or save it as a preset.",
            )
        values: dict[str, Any] = {name: query[name] for name in _TEXTS if name in query}
        if "models" in query:
            values["models"] = [unquote(part) or None for part in query["models"].split(",")]
        if "mode" in query:
            values["timing_mode"] = query["mode"]
        values["options"] = {
            name: _value(name, query[name]) for name in SHARED_OPTIONS if name in query
        }
        values["own"] = {
            str(place): read_line(query[f"own{place}"])
            for place in range(1, MAX_MODELS + 1)
            if f"own{place}" in query
        }
        return cls.from_dict(values)


def different(options: Options) -> dict[str, Any]:
    """The options that are not as by default."""
    values, defaults = options.to_dict(), _DEFAULTS.to_dict()
    return {name: values[name] for name in SHARED_OPTIONS if values[name] != defaults[name]}


def line(values: Mapping[str, Any]) -> str:
    r"""Options as they are typed: ``temperature=0 stop='\\n\\n'``."""
    return " ".join(f"{name}={shlex.quote(spoken(value))}" for name, value in values.items())


def read_line(text: str) -> dict[str, Any]:
    """Options from ``name=value`` words; quotes hold words together.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, naming the word.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise invalid(
            f"{text[:60]!r} is not name=value words: {error}.",
            fix="Close every quote, for example: temperature=0 stop='END'.",
        ) from None
    values: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in SHARED_OPTIONS:
            raise invalid(
                f"{word[:60]!r} is no option.",
                fix="Write for example temperature=0 seed=7; there are "
                f"{', '.join(SHARED_OPTIONS)}.",
            )
        values[name] = _value(name, value)
    return values


def over(base: Options, own: Mapping[str, Any]) -> Options:
    """A pane's options: the shared ones with its own over them.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, naming the option.
    """
    return Options.from_mapping({**base.to_dict(), **own})


def spoken(value: Any) -> str:
    r"""A value as text; of stop strings one a line, with ``\n`` and ``\t`` for those characters."""
    if isinstance(value, (list, tuple)):
        return "\n".join(one.replace("\n", "\\n").replace("\t", "\\t") for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def stops(text: str) -> list[str]:
    """Stop strings from :func:`spoken`."""
    lines = (one.replace("\\n", "\n").replace("\\t", "\t") for one in text.split("\n"))
    return [one for one in lines if one]


def _value(name: str, text: str) -> Any:
    if name == "stop":
        return stops(text)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise invalid(f"{name} must be a number, not {text[:60]!r}.", option=name)


def _models(models: Any) -> tuple[str | None, ...]:
    if not isinstance(models, (list, tuple)) or len(models) > MAX_MODELS:
        raise invalid(f"models must be a list of at most {MAX_MODELS} model ids.")
    for model in models:
        if model is not None and not (isinstance(model, str) and _MODEL.fullmatch(model)):
            raise invalid(
                f"{str(model)[:60]!r} is no model id.",
                fix="Give provider/name, as in the list of models.",
            )
    return tuple(models)


def _text(values: Mapping[str, Any], name: str) -> str:
    text = values.get(name, "")
    if not isinstance(text, str) or len(text) > MAX_TEXT_CHARS:
        raise invalid(f"{name} must be a text of at most {MAX_TEXT_CHARS:,} characters.")
    return text


def _mode(mode: Any) -> TimingMode:
    try:
        return TimingMode(mode)
    except ValueError:
        raise invalid(
            f"{str(mode)[:60]!r} is no timing mode.", fix=f"Use {', '.join(TimingMode)}."
        ) from None


def _options(values: Mapping[str, Any]) -> Options:
    if unknown := sorted(str(name) for name in values.keys() - set(SHARED_OPTIONS)):
        raise invalid(
            f"A setup cannot carry the option {unknown[0][:60]!r}.",
            fix=f"It carries {', '.join(SHARED_OPTIONS)}.",
        )
    return Options.from_mapping(values)


def _own(base: Options, values: Any) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise invalid("A pane's own options must be an object.")
    _options(values)
    over(base, values)
    return dict(values)


def _place(place: Any) -> int:
    text = str(place)
    if text not in {str(one) for one in range(1, MAX_MODELS + 1)}:
        raise invalid(f"{text[:20]!r} is no pane.", fix=f"Panes are 1 to {MAX_MODELS}.")
    return int(text)
