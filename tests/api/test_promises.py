"""The list of security promises in benchmarks/RESULTS.md names places and tests that exist."""

from __future__ import annotations

import re

from tests.conftest import ROOT

SECTION = "## Security: what is promised, where it is, what shows it"


def test_every_promise_has_a_place_and_a_test() -> None:
    text = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    section = text.split(SECTION)[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) > 20
    for promise, places, tests in rows[1:]:
        named = re.findall(r"`([\w./]+\.py|\.ci/\w+)(?:::(\w+))?`", f"{places} {tests}")
        assert named, promise
        for path, name in named:
            found = next(
                (base / path for base in (ROOT / "workbench", ROOT) if (base / path).is_file()),
                None,
            )
            assert found is not None, (promise, path)
            assert not name or f"def {name}(" in found.read_text(), (promise, path, name)
