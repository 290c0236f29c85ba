"""How this package starts Python helpers: the command line and the environment.

The helpers are plain ``python -m workbench.hf...`` processes, so that nothing of the user's own
script is imported again in them (a script without a main guard must work).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of this package.

    ``-P`` keeps the working directory off the import path: a ``torch.py`` or ``types.py`` lying
    there must not be imported in place of the real one.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(**extra: str) -> dict[str, str]:
    """The environment of a helper: ours, this package importable, telemetry and progress bars off.

    Args:
        extra: variables that win over the inherited ones.
    """
    inherited = os.environ.get("PYTHONPATH")
    path = [str(_PACKAGE_ROOT), *([inherited] if inherited else [])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        # The tokenizers' own thread pool gains nothing for one prompt and warns after a fork.
        "TOKENIZERS_PARALLELISM": "false",
        **extra,
    }
