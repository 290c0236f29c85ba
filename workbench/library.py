"""What a user keeps to use again: presets of comparisons, and prompts by name and tags.

Both are in one JSON file beside the log. It may be edited by hand; a file that cannot be read is
never written over.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from workbench.errors import ErrorCode, WorkbenchError, invalid, require_text
from workbench.folders import shipped
from workbench.setups import MAX_TEXT_CHARS, Setup

MAX_ENTRIES: Final = 500
"""Presets, and prompts, that are kept."""
MAX_NAME_CHARS: Final = 80
MAX_TAGS: Final = 12

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt that is kept."""

    text: str
    tags: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"text": self.text, "tags": list(self.tags)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Prompt:
        """A prompt from outside.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``, naming what is wrong with it.
        """
        text, tags = values.get("text"), values.get("tags", [])
        if not isinstance(text, str) or not text.strip() or len(text) > MAX_TEXT_CHARS:
            raise invalid(
                f"A prompt to keep must be a text of at most {MAX_TEXT_CHARS:,} characters.",
                fix="Type it into the message box first.",
            )
        if not isinstance(tags, list) or len(tags) > MAX_TAGS or not all(map(_is_name, tags)):
            raise invalid(
                f"Tags must be at most {MAX_TAGS} words of at most {MAX_NAME_CHARS} characters."
            )
        return cls(text, tuple(dict.fromkeys(tags)))


class Library:
    """The presets and prompts of a workbench.

    Args:
        path: of the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changing = threading.Lock()

    def presets(self) -> dict[str, Setup]:
        """By name, in order of their names.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``, the file is broken.
        """
        return self._entries(self._read(), "presets", Setup.from_dict)

    def prompts(self) -> dict[str, Prompt]:
        """By name, in order of their names: those that come with the workbench, and one's own.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``, the file is broken.
        """
        own = self._entries(self._read(), "prompts", Prompt.from_dict)
        return dict(sorted({**starters(), **own}.items()))

    def save_preset(self, name: str, setup: Setup) -> None:
        """Keep a comparison, in place of one of that name.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``, ``DISK_FULL``.
        """
        self._change("presets", name, Setup.from_dict(setup.to_dict()).to_dict())

    def save_prompt(self, name: str, prompt: Prompt) -> None:
        """Keep a prompt, in place of one of that name; errors as for :meth:`save_preset`."""
        self._change("prompts", name, Prompt.from_dict(prompt.to_dict()).to_dict())

    def delete(self, kind: str, name: str) -> None:
        """Forget one of ``presets`` or ``prompts``.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``, there is none, or it is not the user's.
        """
        self._change(kind, name, None)

    def _change(self, kind: str, name: str, value: Mapping[str, Any] | None) -> None:
        name = name.strip() if isinstance(name, str) else ""
        if not _is_name(name):
            raise invalid(
                f"A name has 1 to {MAX_NAME_CHARS} characters.", fix="Type one into the list."
            )
        require_text(name, "name")
        require_text(value, kind.removesuffix("s"))
        with self._changing:
            kept = self._read()
            entries = kept.setdefault(kind, {})
            if value is not None:
                entries[name] = value
                if len(entries) > MAX_ENTRIES:
                    raise invalid(
                        f"More than {MAX_ENTRIES} {kind} are not kept.", fix="Delete some first."
                    )
            elif entries.pop(name, None) is None:
                shipped = kind == "prompts" and name in starters()
                raise invalid(
                    f"{name!r} comes with the workbench."
                    if shipped
                    else f"There is no {name!r} among the {kind}.",
                    fix="Only what was saved here can be deleted.",
                )
            self._write(kept)

    def _entries(
        self, kept: Mapping[str, Any], kind: str, read: Callable[[Mapping[str, Any]], T]
    ) -> dict[str, T]:
        found: dict[str, T] = {}
        for name, values in sorted(kept.get(kind, {}).items()):
            try:
                found[name] = read(values)
            except (WorkbenchError, AttributeError) as problem:
                raise self._broken(f"{kind}, {name[:MAX_NAME_CHARS]!r}: {problem}") from None
        return found

    def _read(self) -> dict[str, Any]:
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as problem:
            raise self._broken(str(problem)) from None
        if not isinstance(kept, dict) or not all(isinstance(one, dict) for one in kept.values()):
            raise self._broken("it must hold objects by name")
        return kept

    def _broken(self, problem: str) -> WorkbenchError:
        return invalid(
            f"{self._path.name} cannot be used: {problem}",
            fix=f"Correct {self._path}, or move it away to begin anew.",
        )

    def _write(self, kept: Mapping[str, Any]) -> None:
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(kept, file, ensure_ascii=False, indent=1)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as problem:
            raise WorkbenchError(
                ErrorCode.DISK_FULL,
                f"{self._path} cannot be written: {problem.strerror}.",
                fix="Make room on that disk; nothing was changed.",
                operation="save",
            ) from None


def starters() -> dict[str, Prompt]:
    """The prompts that come with the workbench, by name."""
    path = shipped("data/prompts") / "starters.jsonl"
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {row["name"]: Prompt.from_dict(row) for row in map(json.loads, lines)}


def _is_name(text: Any) -> bool:
    return isinstance(text, str) and 0 < len(text.strip()) <= MAX_NAME_CHARS
