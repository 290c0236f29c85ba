"""DuckDB's Quack extension: from its package, from an earlier installation, or from the network."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import Final

import duckdb

from workbench.errors import ErrorCode, WorkbenchError

NEEDED: Final = ("httpfs", "quack")
"""In this order: quack speaks HTTP through httpfs."""


def load_quack(connection: duckdb.DuckDBPyConnection, *, offline: bool = False) -> None:
    """Load the extension into an open database.

    Args:
        connection: to the database.
        offline: True never asks the network.

    Raises:
        WorkbenchError: ``STORE_UNAVAILABLE`` with how to get it.
    """
    reasons = []
    for name in NEEDED:
        reason = _load(connection, name, offline)
        if reason:
            reasons.append(f"{name}: {reason}")
    if reasons:
        raise WorkbenchError(
            ErrorCode.STORE_UNAVAILABLE,
            f"DuckDB's Quack extension cannot be loaded ({'; '.join(reasons)}).",
            fix=f"Run: pip install duckdb-extension-quack=={duckdb.__version__} "
            f"duckdb-extension-httpfs=={duckdb.__version__}.",
            operation="serve",
        )


def _load(connection: duckdb.DuckDBPyConnection, name: str, offline: bool) -> str:
    """Load one extension; why not, if it cannot be had."""
    packaged = packaged_file(name)
    ways = [f"LOAD '{packaged}'"] if packaged else []
    ways.append(f"LOAD {name}")
    if not offline:
        ways.append(f"INSTALL {name}; LOAD {name}")
    reason = ""
    for way in ways:
        try:
            connection.execute(way)
        except duckdb.Error as error:
            reason = str(error).partition("\n")[0]
        else:
            return ""
    return reason


def packaged_file(name: str) -> Path | None:
    """The extension as its Python package has it, if that is there and for this DuckDB."""
    found = util.find_spec(f"duckdb_extension_{name}")
    if found is None or not found.submodule_search_locations:
        return None
    file = f"extensions/v{duckdb.__version__}/{name}.duckdb_extension"
    places = [Path(folder) / file for folder in found.submodule_search_locations]
    return next((place for place in places if place.is_file() and "'" not in str(place)), None)
