"""Unpacked copies of GGUF files, so that only their first load has to unpack (no torch here).

transformers unpacks most GGUF files while it loads them, seconds each time. The result is kept as
an ordinary model folder, named by the digest of the file it came from, and goes with that file.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Final

FOLDER: Final = ".converted"
_BYTES_PER_PARAMETER: Final = 4


def folder_of(root: Path, digest: str | None) -> Path | None:
    """Where the copy of a GGUF of this digest is or would be; None for an unknown digest."""
    if not digest:
        return None
    return root / FOLDER / hashlib.sha256(digest.encode()).hexdigest()[:32]


def is_there(folder: Path) -> bool:
    """Whether the copy is whole (it appears in one step, so its config is enough)."""
    return (folder / "config.json").is_file()


def has_room(root: Path, parameters: int | None, reserve_bytes: int) -> bool:
    """Whether the disk takes a copy of that many parameters and stays as free as it should."""
    if parameters is None:
        return False
    return shutil.disk_usage(root).free > parameters * _BYTES_PER_PARAMETER + reserve_bytes
