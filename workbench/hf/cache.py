"""The hub's cache: models that huggingface_hub or transformers downloaded (nothing is written).

``models--org--name/snapshots/<revision>/`` holds links into ``blobs/``; a blob of a large file is
named by its SHA-256.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from workbench.hf.found import Place

_REPO: Final = re.compile(r"^models--(?P<name>[\w.-]+)$")
_REVISION: Final = re.compile(r"^[0-9a-f]{40}$")
_SHORT: Final = 12


def snapshots(cache: Path) -> Iterator[Place]:
    """Every snapshot of every model in the cache as a place.

    That of ``main``, or else the newest one, has the repository's name; others are
    ``org/name@<start of the revision>``.
    """
    try:
        repos = sorted(os.scandir(cache), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in repos:
        match = _REPO.match(entry.name)
        if match is None or not entry.is_dir(follow_symlinks=False):
            continue
        repo = Path(entry.path)
        name = match["name"].replace("--", "/", 1)
        for number, snapshot in enumerate(_by_age(repo)):
            suffix = f"@{snapshot.name[:_SHORT]}" if number else ""
            # Files that several repositories share lie in a folder of the cache itself.
            fences = (repo, cache / "blobs")
            yield Place(snapshot, name + suffix, fences, "hub cache")


def _by_age(repo: Path) -> list[Path]:
    """The snapshots: main first, then from the newest to the oldest."""
    try:
        found = [path for path in (repo / "snapshots").iterdir() if _REVISION.match(path.name)]
        main = repo / "refs" / "main"
        current = main.read_text(encoding="ascii").strip() if main.is_file() else ""
        return sorted(found, key=lambda path: (path.name != current, -path.stat().st_mtime_ns))
    except (OSError, UnicodeDecodeError):
        return []
