"""``workbench-source.json``: where a model's files came from, with the hash of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf.folder import SOURCE_FILE, read_source
from workbench.hf.found import PROVIDER

_BLOCK: Final = 4 * 2**20
Counter = Callable[[int], None]
"""Receives the number of bytes of each block that was read; may raise to stop."""


def _uncounted(count: int) -> None:
    pass


def sha256(path: Path, counter: Counter = _uncounted) -> str:
    """SHA-256 of a file in hexadecimal."""
    return _hash(path, hashlib.sha256(), counter)


def git_sha1(path: Path, counter: Counter = _uncounted) -> str:
    """The name that git gives a file's content; the hub gives no other hash of small files."""
    start = f"blob {path.stat().st_size}\0".encode()
    return _hash(path, hashlib.sha1(start, usedforsecurity=False), counter)


def _hash(path: Path, digest: Any, counter: Counter) -> str:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            counter(len(block))
    return str(digest.hexdigest())


def recorded_files(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """What was recorded of each file (``sha256``, ``size``, ``revision``), by its name."""
    files = read_source(folder).get("files")
    if not isinstance(files, dict):
        return {}
    return {str(name): entry for name, entry in files.items() if isinstance(entry, dict)}


def write(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the record in one step."""
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    new = folder / f".{SOURCE_FILE}.new"
    new.write_text(text, encoding="utf-8")
    new.replace(folder / SOURCE_FILE)


def rewrite_without(folder: Path, name: str) -> None:
    """Take one file out of the record."""
    facts = dict(read_source(folder))
    files = recorded_files(folder)
    if name in files:
        facts["files"] = {other: entry for other, entry in files.items() if other != name}
        write(folder, facts)


def restrict(folder: Path) -> None:
    """Give the folder and all in it to its owner alone (0700, 0600)."""
    folder.chmod(0o700)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() else 0o600)


def in_words(count: int) -> str:
    """Bytes in decimal units."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def disk_full(message: str) -> WorkbenchError:
    """``DISK_FULL`` with the usual way out."""
    return WorkbenchError(
        ErrorCode.DISK_FULL,
        message,
        fix="Free some space (workbench models rm), or set HF_MODEL_PATH to another disk.",
        operation="download",
        provider=PROVIDER,
    )
