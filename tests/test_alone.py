"""Whoever is to be alone is, and does not wait for ever."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.alone import turn


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
        alone = threading.Thread(target=by_itself)
        alone.start()
        assert not began.wait(0.1)
    assert began.wait(30)
    late = threading.Thread(target=another)
    late.start()
    assert not came.wait(0.1)
    over.set()
    assert came.wait(30)
    alone.join()
    late.join()
