"""Texts whose likelihood is asked for: a question, and an answer that somebody wrote.

Those of the workbench (``data/passages/``) are its own, so that no model was trained on them as
far as anyone knows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from workbench.errors import invalid
from workbench.folders import shipped

SHIPPED: Final = "english"
MAX_PASSAGES: Final = 1_000
MAX_CHARACTERS: Final = 4_000


@dataclass(frozen=True, slots=True)
class Passage:
    """``text`` answers ``prompt``; passages of one ``cluster`` are of one kind."""

    id: str
    cluster: str
    prompt: str
    text: str


def read(path: Path | None = None) -> tuple[Passage, ...]:
    """Passages of a JSONL file with ``id``, ``prompt``, ``text`` and perhaps ``cluster``.

    Args:
        path: default those of the workbench.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``; the message names the line.
    """
    path = path or shipped("data/passages") / f"{SHIPPED}.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise invalid(
            f"The passages {path} cannot be read: {error}.", fix="Check the path."
        ) from None
    found = [_passage(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not 0 < len(found) <= MAX_PASSAGES:
        raise invalid(
            f"{path} has {len(found)} passages.", fix=f"Give between 1 and {MAX_PASSAGES:,}."
        )
    if len({one.id for one in found}) < len(found):
        raise invalid(f"Two passages of {path} have the same id.", fix="Give each its own.")
    return tuple(found)


def _passage(path: Path, number: int, line: str) -> Passage:
    place = f"{path}:{number}"
    try:
        values = json.loads(line)
        made = Passage(
            str(values["id"]),
            str(values.get("cluster") or values["id"]),
            str(values["prompt"]),
            str(values["text"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise invalid(
            f"{place} is no passage.",
            fix='Write {"id": "1", "prompt": "...", "text": "..."}, one a line.',
        ) from None
    if not made.prompt.strip() or not made.text.strip() or len(made.text) > MAX_CHARACTERS:
        raise invalid(
            f"{place}: prompt and text must not be empty, and a text has at most "
            f"{MAX_CHARACTERS:,} characters.",
            fix="Cut long texts into several passages.",
        )
    return made
