"""Where things lie: the data of this user, and the files that come with the workbench."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import platformdirs

_NAME: Final = "llm-workbench"


def checkout() -> Path | None:
    """The checkout this package runs from; None where it was installed from a wheel."""
    folder = Path(__file__).parent.parent
    return folder if (folder / "pyproject.toml").is_file() else None


def data_folder() -> Path:
    """Where models and log are unless a setting says otherwise: ``data/`` of the checkout.

    Without one it is the user's data folder as the platform has it, on Linux
    ``~/.local/share/llm-workbench``. Never the working directory: notebooks run in their own
    folder, and they must find the same models and the same log.
    """
    folder = checkout()
    return folder / "data" if folder else platformdirs.user_data_path(_NAME, appauthor=False)


def config_folder() -> Path:
    """Where ``.env`` is looked for: the checkout, without one the user's folder for such files."""
    return checkout() or platformdirs.user_config_path(_NAME, appauthor=False)


def shipped(folder: str) -> Path:
    """A folder of data files that come with the workbench.

    Args:
        folder: its path in the checkout, ``data/datasets`` for example; a wheel has its last part
            in the package.
    """
    root = checkout()
    return root / folder if root else Path(__file__).parent / "shipped" / Path(folder).name
