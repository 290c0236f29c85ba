"""The parity sheet: two inspections of one request side by side. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Final, Self

from workbench.insight.causes import Cause, beginning_shared, causes
from workbench.inspection import Inspection

MAX_CHARACTERS: Final = 20_000
"""Longest stretch that differs within which letters are aligned; the time grows with the square at
worst. A longer one is shown as a whole."""
_FACTS: Final[Mapping[str, str]] = {
    "runtime": "runtime",
    "architecture": "architecture",
    "parameters": "weights",
    "digest": "digest",
    "weights": "stored or rounded as",
    "computed_in": "computed in",
    "device": "device",
    "context_length": "context for this request (tokens)",
    "trained_context_length": "context of the model (tokens)",
    "left_out": "left out of the prompt (tokens)",
    "refuses": "would not answer",
    "default_system": "own system prompt",
    "special_tokens": "special tokens",
    "adds_bos": "adds a begin token",
    "end_tokens": "end tokens (ids)",
    "stop": "stop strings",
    "sampler": "sampling, in its order",
    "defaults": "the files' own settings",
    "rope": "positions (RoPE)",
    "tokenizer": "tokenizer",
}


_OWN_WORDS: Final = frozenset({"runtime", "digest", "computed_in", "tokenizer", "stop"})
"""Facts that every runtime names in its own way."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of the prompts: ``same`` in both, or what each has instead."""

    same: bool
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the sheet: both sides as text, a dash for what is not told.

    ``differs`` is None where one side does not tell, or each has words of its own for it that need
    not mean different things.
    """

    name: str
    a: str
    b: str
    differs: bool | None


@dataclass(frozen=True, slots=True)
class ParitySheet:
    """What two models make of one request.

    Attributes:
        a, b: what the runtimes tell.
        causes: named reasons for different answers, the most effective first.
    """

    a: Inspection
    b: Inspection
    causes: tuple[Cause, ...]

    @classmethod
    def of(cls, a: Inspection, b: Inspection) -> Self:
        """Compare two inspections of one request."""
        return cls(a, b, causes(a, b))

    @property
    def same_prompt(self) -> bool | None:
        """Whether both models see the same token ids; None if a runtime does not tell."""
        if self.a.token_ids is None or self.b.token_ids is None:
            return None
        return self.a.token_ids == self.b.token_ids

    @property
    def prompt_hashes(self) -> tuple[str | None, str | None]:
        """SHA-256 of each rendered prompt, in hexadecimal."""
        first, second = (
            hashlib.sha256(one.rendered.encode()).hexdigest() if one.rendered is not None else None
            for one in (self.a, self.b)
        )
        return first, second

    def stretches(self) -> tuple[Stretch, ...]:
        """The rendered prompts, character by character; empty if one is not told."""
        if self.a.rendered is None or self.b.rendered is None:
            return ()
        left, right = self.a.rendered, self.b.rendered
        head = beginning_shared(left, right)
        tail = beginning_shared(left[head:][::-1], right[head:][::-1])
        ends = (left[:head], left[len(left) - tail :])
        left, right = left[head : len(left) - tail], right[head : len(right) - tail]
        within = [Stretch(False, left, right)] if left or right else []
        if max(len(left), len(right)) <= MAX_CHARACTERS:
            matcher = SequenceMatcher(None, left, right, autojunk=False)
            within = [
                Stretch(tag == "equal", left[i:j], right[k:m])
                for tag, i, j, k, m in matcher.get_opcodes()
            ]
        first, last = (Stretch(True, text, text) for text in ends)
        return tuple(one for one in (first, *within, last) if one.a or one.b)

    def facts(self) -> tuple[Fact, ...]:
        """All other facts, a line each; those that neither side tells are left out."""
        lines = []
        for attribute, name in _FACTS.items():
            left, right = (_plain(getattr(one, attribute)) for one in (self.a, self.b))
            if left or right:
                known = left and right and (attribute not in _OWN_WORDS or left == right)
                if known and attribute == "digest":
                    name = "digest (equal: the same weights)"
                lines.append(
                    Fact(name, left or "-", right or "-", left != right if known else None)
                )
        return tuple(lines)

    def _repr_html_(self) -> str:
        from workbench.insight import markup

        return markup.sheet(self)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; ``same_prompt`` and the hashes are told besides."""
        return {
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
            "causes": [cause.to_dict() for cause in self.causes],
            "same_prompt": self.same_prompt,
            "prompt_sha256": list(self.prompt_hashes),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        return cls(
            Inspection.from_dict(values["a"]),
            Inspection.from_dict(values["b"]),
            tuple(Cause(**cause) for cause in values["causes"]),
        )


def _plain(value: Any) -> str:
    """A value as a reader takes it in; empty for what is not told."""
    if value is None or value in ((), {}):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items() if _plain(part))
    if isinstance(value, tuple):
        return ", ".join(
            " ".join(_plain(part) for part in one) if isinstance(one, tuple) else _plain(one)
            for one in value
        )
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() else f"{value:g}"
    return str(value)
