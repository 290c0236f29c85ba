"""The log: everything that happened is a row in one DuckDB file.

The values to be logged import lightly; DuckDB itself comes with :class:`Store`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.store.rows import Environment, MemorySample, ModelEvent

if TYPE_CHECKING:
    from workbench.store.store import Store

__all__ = ["Environment", "MemorySample", "ModelEvent", "Store"]


def __getattr__(name: str) -> object:
    """Resolve ``Store`` on first use: importing DuckDB takes a tenth of a second."""
    if name == "Store":
        from workbench.store.store import Store

        return Store
    raise AttributeError(f"module 'workbench.store' has no attribute {name!r}")
