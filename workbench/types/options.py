"""Sampling settings of one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal

from workbench.errors import invalid


@dataclass(frozen=True, slots=True)
class Options:
    """Sampling settings of one call, the same for every provider so that panes compare.

    ``temperature`` 0 is greedy decoding. ``seed`` None draws one per request, which is logged.
    ``num_ctx`` None leaves the runtime's own context length. ``overflow`` says what happens to a
    history that is longer: ``truncate`` leaves out its oldest messages, with a warning in the row
    and on the screen, ``error`` refuses. ``logprobs`` is the number of alternatives wanted per
    token (0: none).
    """

    max_tokens: int = 512
    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 50
    seed: int | None = None
    stop: tuple[str, ...] = ()
    repetition_penalty: float = 1.0
    num_ctx: int | None = None
    logprobs: int = 0
    response_format: Mapping[str, Any] | None = None
    overflow: Literal["truncate", "error"] = "truncate"

    BOUNDS: ClassVar[Mapping[str, tuple[float, float]]] = {
        "max_tokens": (1, 131_072),
        "temperature": (0.0, 5.0),
        "top_p": (0.0, 1.0),
        "top_k": (0, 1_000_000),
        "seed": (0, 2**31 - 1),
        "repetition_penalty": (0.1, 10.0),
        "num_ctx": (16, 10_000_000),
        "logprobs": (0, 20),
    }
    INTEGERS: ClassVar[frozenset[str]] = frozenset(
        {"max_tokens", "top_k", "seed", "num_ctx", "logprobs"}
    )

    def __post_init__(self) -> None:
        for name, (low, high) in self.BOUNDS.items():
            value = getattr(self, name)
            if value is None and name in ("seed", "num_ctx"):
                continue
            whole = name in self.INTEGERS
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                kind = "a whole number" if whole else "a number"
                raise invalid(f"{name} must be {kind}, not {value!r}.", option=name)
            if not low <= value <= high:  # which NaN is not either
                bounds = f"{low} and {high}"
                raise invalid(
                    f"{name} is {value}, which is not between {bounds}.",
                    fix=f"Choose {name} between {bounds}.",
                    option=name,
                )
        if self.top_p == 0:
            raise invalid(
                "top_p is 0, which leaves no token to choose from.",
                fix="Choose top_p above 0, or temperature 0 for greedy decoding.",
                option="top_p",
            )
        if self.overflow not in ("truncate", "error"):
            raise invalid(
                f"overflow is {self.overflow!r}.", fix="Use truncate or error.", option="overflow"
            )
        if self.response_format is not None and not isinstance(self.response_format, Mapping):
            raise invalid(
                f"response_format is {self.response_format!r}.",
                fix='Give an object, for example {"type": "json_object"}.',
                option="response_format",
            )
        if isinstance(self.stop, str) or not all(isinstance(s, str) and s for s in self.stop):
            raise invalid("stop must be a list of non-empty strings.", option="stop")
        if len(self.stop) > 16:
            raise invalid("stop has more than 16 strings.", fix="Give at most 16.", option="stop")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Options:
        """Build options from user input; an unknown name is an error, never dropped."""
        known = [one.name for one in fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise invalid(
                f"Unknown option {unknown[0]!r}.", fix=f"The options are {', '.join(known)}."
            )
        given = {name: value for name, value in values.items() if value is not None}
        stop = given.get("stop", ())
        if isinstance(stop, str):
            stop = (stop,)
        elif not isinstance(stop, Sequence):
            raise invalid("stop must be a list of strings.", option="stop")
        return cls(**{**given, "stop": tuple(stop)})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as logged."""
        values = asdict(self)
        values["stop"] = list(self.stop)
        return values
