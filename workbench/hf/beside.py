"""JSON files that the workbench keeps beside the models, of what it would have to find out again.

One that is damaged counts as empty, and a folder that cannot be written to only costs the work.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

_LOCK: Final = threading.Lock()


def read(path: Path) -> dict[str, Any]:
    """The table in the file; empty if it cannot be read."""
    try:
        return _read(path)
    except OSError:
        return {}


def merge(
    path: Path, entries: Mapping[str, Any], keep: Callable[[str], bool] = lambda name: True
) -> None:
    """Put entries into the file, in one step.

    What cannot be read now (rights, too many open files) is left as it is, not begun anew.

    Args:
        path: the file; its folder is made if it is not there.
        entries: to add, or to replace by.
        keep: whether an entry of this name stays.
    """
    with _LOCK, contextlib.suppress(OSError):
        table = {**_read(path), **entries}
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(path, {name: entry for name, entry in table.items() if keep(name)})


def _read(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def _write(path: Path, table: Mapping[str, Any]) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(table, file, indent=1)
        Path(temporary).replace(path)  # only what was written to its end
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
