"""Workbench: compare Ollama and Hugging Face models side by side, with numbers that can be trusted.

``from workbench import Workbench`` is what notebooks and scripts need. The import is light: torch,
transformers and gradio are loaded only when something needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.client import Workbench

__version__ = "0.1.0"
__all__ = ["Workbench", "__version__"]


def __getattr__(name: str) -> object:
    """Resolve ``Workbench`` on first use, so that ``import workbench`` stays fast."""
    if name == "Workbench":
        from workbench.client import Workbench

        return Workbench
    raise AttributeError(f"module 'workbench' has no attribute {name!r}")
