"""Whoever is to be alone is, and does not wait for ever."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import alone
from tests.alone import among_others, turn


def test_two_run_together_and_one_alone(tmp_path: Path) -> None:
    with turn(tmp_path, alone=False), turn(tmp_path, alone=False):
        began, over = threading.Event(), threading.Event()

        def by_itself() -> None:
            with turn(tmp_path, alone=True):
                began.set()
                over.wait(30)

        def another() -> None:
            with turn(tmp_path, alone=False):
                came.set()

        came = threading.Event()
        first = threading.Thread(target=by_itself)
        first.start()
        assert not began.wait(0.1)
    assert began.wait(30)
    late = threading.Thread(target=another)
    late.start()
    assert not came.wait(0.1)
    over.set()
    assert came.wait(30)
    first.join()
    late.join()


def test_a_test_that_two_hooks_ask_for_does_not_wait_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    monkeypatch.setattr(alone, "_has_turn", False)
    factory = SimpleNamespace(getbasetemp=lambda: tmp_path / "gw0")
    item: Any = SimpleNamespace(
        config=SimpleNamespace(_tmp_path_factory=factory), get_closest_marker=lambda name: name
    )
    done = threading.Event()

    def twice() -> None:
        with among_others(item), among_others(item):
            done.set()

    threading.Thread(target=twice, daemon=True).start()
    assert done.wait(30)
