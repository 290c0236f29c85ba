"""JSON files that the workbench keeps beside the models, of what it would have to find out again.

One that is damaged counts as empty, and a folder that cannot be written to only costs the work.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read(path: Path) -> dict[str, Any]:
    """The table in the file."""
    try:
        table = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def write(path: Path, table: Mapping[str, Any]) -> None:
    """Replace the file in one step."""
    with (
        contextlib.suppress(OSError),
        tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file,
    ):
        json.dump(table, file, indent=1)
        Path(file.name).replace(path)
