"""Hashes of files for which nobody gave one, noted by a full check for the next one.

A listing sees that a file was changed by its size, time and samples; damage can leave all three as
they were.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from workbench.hf import beside
from workbench.hf.digest import mark_of

FILE: Final = ".workbench-hashes.json"


class NotedHashes:
    """The notes of one model folder.

    Args:
        root: the model folder.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / FILE
        self._notes = beside.read(self._path)
        self._new: dict[str, Any] = {}

    def get(self, path: Path) -> str | None:
        """SHA-256 of the file when it was noted; None if it has been written to since."""
        note = self._new.get(str(path), self._notes.get(str(path)))
        if not isinstance(note, dict) or note.get("state") != mark_of(path):
            return None
        return str(note.get("sha256"))

    def put(self, path: Path, state: str, sha256: str) -> None:
        """Note the hash of a file that was in that state (:func:`workbench.hf.digest.mark_of`)."""
        self._new[str(path)] = {"state": state, "sha256": sha256}

    def save(self) -> None:
        """Add what was noted to what others did meanwhile; files that are gone are forgotten."""
        if self._new:
            beside.merge(self._path, self._new, keep=lambda name: Path(name).is_file())
