"""Notebooks are kept without results: whoever opens one sees what their own machine says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem
)
def test_a_notebook_holds_prose_and_code_but_no_results(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    assert all(set(cell["metadata"]) == set() for cell in cells), "no times of an execution"
    assert cells[0]["source"][0].startswith("# ")
    assert len(cells) - len(code) >= len(code) // 2, "it tells a story"
