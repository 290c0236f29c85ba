"""The notebooks as tests: ``pytest -p nbmake.pytest_plugin -p tests.notebooks --nbmake notebooks``.

Each logs into a folder of its own that is gone afterwards, so that two may run at a time.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

from tests.alone import among_others

MEASURES_MEMORY: Final = ("03_memory_and_rotation.ipynb",)
"""A file of weights that two processes have mapped counts half for each."""


def _is_notebook(item: pytest.Item) -> bool:
    return bool(getattr(item, "nbmake", False))


@pytest.hookimpl(tryfirst=True)  # before those that run alone are put last
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They may take longer than tests, and what is warned of is no failure."""
    for item in filter(_is_notebook, items):
        item.add_marker(pytest.mark.timeout(600))
        item.add_marker(pytest.mark.filterwarnings("default"))
        if item.path.name in MEASURES_MEMORY:
            item.add_marker(pytest.mark.alone)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A notebook's kernel inherits this environment."""
    if not _is_notebook(item):
        return (yield)
    with (
        among_others(item),
        tempfile.TemporaryDirectory() as log,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("WORKBENCH_DB", str(Path(log) / "workbench.duckdb"))
        patch.setenv("HF_MODEL_TIMEOUT_MS", "120000")
        if "PYTEST_XDIST_WORKER" in os.environ:
            # Two runtimes that spin on the same cores slow each other down tenfold.
            patch.setenv("WORKBENCH_THREADS", "1")
        return (yield)
