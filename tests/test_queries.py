"""Queries are kept by name beside the log, and those that come with the workbench run."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from workbench.errors import WorkbenchError
from workbench.queries import SHIPPED, Queries
from workbench.store import Store


def test_every_shipped_query_runs(store: Store) -> None:
    for query in SHIPPED:
        store.query(query.sql)


def test_one_s_own_are_kept_replaced_and_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "kept" / "queries.json"
    kept = Queries(path)
    assert kept.all() == [*SHIPPED]
    kept.save("  my   speeds ", "SELECT 1")
    kept.save("Another", "SELECT 2")
    kept.save("my speeds", "SELECT 3")
    again = Queries(path).all()
    assert [(one.name, one.sql) for one in again if one.own] == [
        ("Another", "SELECT 2"),
        ("my speeds", "SELECT 3"),
    ]
    assert path.stat().st_mode & 0o077 == 0
    kept.delete("Another")
    kept.delete("nothing of this name")
    assert [one.name for one in kept.all() if one.own] == ["my speeds"]
    for name, sql in (("", "SELECT 1"), (SHIPPED[0].name, "SELECT 1"), ("x", "  ")):
        with pytest.raises(WorkbenchError):
            kept.save(name, sql)


def test_a_file_that_somebody_broke_is_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "queries.json"
    path.write_text("{ not json")
    kept = Queries(path)
    assert kept.all() == [*SHIPPED]
    kept.save("mine", "SELECT 1")
    assert kept.get("mine")
    assert (tmp_path / "queries.json.broken").read_text() == "{ not json"


def test_saves_at_once_lose_none(tmp_path: Path) -> None:
    kept = Queries(tmp_path / "queries.json")
    threads = [threading.Thread(target=kept.save, args=(f"q{n}", "SELECT 1")) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([one for one in kept.all() if one.own]) == 8
