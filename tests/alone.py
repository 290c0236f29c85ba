"""Tests marked ``alone`` run beside no other test, though the suite runs two at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_has_turn = False


@contextlib.contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """Hold this process's place among the test processes: with the others, or in none's company.

    Args:
        folder: of all of them.
        alone: waits until no test runs, and lets none begin.
    """
    # Whoever waits to be alone keeps the gate shut, or the others would pass it by for ever.
    with (folder / "gate").open("w") as gate, (folder / "turn").open("w") as place:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(place, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(gate, fcntl.LOCK_UN)
        yield


@contextlib.contextmanager
def among_others(item: pytest.Item) -> Iterator[None]:
    """The turn of this test; nothing where it is the only process, or has its turn already.

    Two hooks ask for a notebook, of `notebooks.py` and of the tests' conftest: whoever waits for
    itself to be gone waits for ever.
    """
    global _has_turn
    if "PYTEST_XDIST_WORKER" not in os.environ or _has_turn:
        yield
        return
    own: Path = item.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    with turn(own.parent, alone=item.get_closest_marker("alone") is not None):
        _has_turn = True
        try:
            yield
        finally:
            _has_turn = False
