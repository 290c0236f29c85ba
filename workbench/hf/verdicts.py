"""What the quality checks of fast forms said, kept beside the models (no torch here).

A verdict holds for one model's weights, one kind of processor and one set of library versions; a
change of any of them, or of how forms are made, asks again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import tempfile
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final

FILE: Final = ".workbench-quality.json"
_WAYS: Final = "4"
"""Raised when forms are made in another way, so that all models are asked again."""
_LIBRARIES: Final = ("torch", "transformers")


class Verdicts:
    """The verdicts of one model folder.

    Args:
        root: the model folder. One that cannot be written to only means that checks are repeated.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / FILE

    def get(self, state: str | None, form: str) -> dict[str, Any] | None:
        """The verdict on weights in a form, None if these have not been checked here.

        ``state`` is :func:`workbench.hf.digest.state_of`.
        """
        return self._read().get(_key(state, form)) if state else None

    def put(self, state: str | None, verdict: dict[str, Any]) -> None:
        """Keep a verdict; its ``form`` says which form it is about."""
        if not state:
            return
        entries = {**self._read(), _key(state, str(verdict["form"])): verdict}
        with (
            contextlib.suppress(OSError),
            tempfile.NamedTemporaryFile(
                "w", dir=self._path.parent, prefix=".quality-", delete=False
            ) as file,
        ):
            json.dump(entries, file, indent=1)
            Path(file.name).replace(self._path)

    def _read(self) -> dict[str, Any]:
        try:
            entries = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}


def _key(state: str | None, form: str) -> str:
    parts = [str(state), form, _WAYS, _machine()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


@lru_cache(maxsize=1)
def _machine() -> str:
    """What the numbers depend on besides the weights."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = "".join(
            sorted({line for line in lines if line.startswith(("model name", "flags"))})
        )
    except OSError:
        processor = platform.processor()
    return "\0".join([processor, *(metadata.version(name) for name in _LIBRARIES)])
