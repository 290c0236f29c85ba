"""What checks that take long said of models, kept beside them (no torch here).

Fast forms of the weights are checked (``hf.quality``), and whether the files hold all tensors
(``hf.completeness``). A verdict holds for one model's weights, one kind of processor and one set of
library versions; a change of any of them, or of how forms are made, asks again.
"""

from __future__ import annotations

import hashlib
import platform
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from workbench.hf import beside

FILE: Final = ".workbench-quality.json"
_WAYS: Final = "4"
"""Raised when forms are made in another way, so that all models are asked again."""
_LIBRARIES: Final = ("torch", "transformers")


class Verdicts:
    """The verdicts of one model folder.

    Args:
        root: the model folder.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / FILE

    def get(self, state: str | None, form: str) -> dict[str, Any] | None:
        """The verdict on weights in a form, or of a check by its name; None if there is none.

        ``state`` is :func:`workbench.hf.digest.state_of`.
        """
        return beside.read(self._path).get(_key(state, form)) if state else None

    def put(self, state: str | None, verdict: dict[str, Any]) -> None:
        """Keep a verdict; its ``form`` says which form or check it is about."""
        if not state:
            return
        beside.merge(self._path, {_key(state, str(verdict["form"])): verdict})


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
