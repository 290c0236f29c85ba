"""Unpacked copies of GGUF files, so that only their first load has to unpack (no torch here).

transformers unpacks most GGUF files while it loads them, seconds each time. The result is kept as
an ordinary model folder. Its name stands for the file's content and state and for the checks that
it went through, so that a file that was mended, or a copy from before a check, is unpacked anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Final

from workbench.hf import beside
from workbench.hf.digest import mark_of

FOLDER: Final = ".converted"
_MADE: Final = 2
"""Raise it when a copy is checked or written in another way. 1 kept what files lacked as random
numbers."""
_NOTE: Final = "workbench-copy.json"
_BYTES_PER_PARAMETER: Final = 4


def folder_of(root: Path, digest: str | None, source: Path) -> Path | None:
    """Where the copy of a GGUF is or would be; None for an unknown digest or a file that is gone.

    The digest is of samples: a file that was damaged elsewhere, and mended, has the same one.
    """
    if not digest:
        return None
    try:
        key = f"{_MADE}\0{digest}\0{mark_of(source)}"
    except OSError:
        return None
    return root / FOLDER / hashlib.sha256(key.encode()).hexdigest()[:32]


def is_there(folder: Path) -> bool:
    """Whether the copy is whole (it appears in one step, so its config is enough)."""
    return (folder / "config.json").is_file()


def put(temporary: Path, folder: Path, source: Path) -> None:
    """Give a finished copy its place; copies of the same file's past, and unchecked ones, go.

    Raises:
        OSError: if it cannot be written there.
    """
    note = {"made": _MADE, "source": str(source.resolve())}
    (temporary / _NOTE).write_text(json.dumps(note))
    if folder.parent.name == FOLDER:
        for other in folder.parent.glob("[!.]*"):
            old = beside.read(other / _NOTE)
            if old.get("made") != _MADE or old == note:
                shutil.rmtree(other, ignore_errors=True)
    temporary.rename(folder)


def copies(root: Path, digest: str | None, source: Path) -> tuple[Path, ...]:
    """All copies that were made of a file, in whatever state it was."""
    folder, own = folder_of(root, digest, source), str(source.resolve())
    there = [path for path in (root / FOLDER).glob("*") if path.is_dir()]
    return tuple(
        path for path in there if path == folder or beside.read(path / _NOTE).get("source") == own
    )


def has_room(root: Path, parameters: int | None, reserve_bytes: int) -> bool:
    """Whether the disk takes a copy of that many parameters and stays as free as it should."""
    if parameters is None:
        return False
    return shutil.disk_usage(root).free > parameters * _BYTES_PER_PARAMETER + reserve_bytes
