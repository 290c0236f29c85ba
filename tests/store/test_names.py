"""A model has one name in the log, however old the log is and however a row came into it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import duckdb
import orjson
import pytest

from workbench.model_ids import spelled
from workbench.store import Store, rollup, salvage
from workbench.store.files import spool_of
from workbench.store.migrations import migrate
from workbench.store.repair import reports
from workbench.store.spool import line_of
from workbench.store.steps import MIGRATIONS
from workbench.store.views import create_views

UNTAGGED: Final = 10
"""The last version whose names of Ollama may lack their tag."""

NAMES: Final = (
    *("ollama/m", "ollama/m:latest", "ollama/m:135m", "ollama/Big", "ollama/team/m"),
    *("ollama/hf.co/org/m", "ollama/hf.co/org/m:Q4", "ollama/box:5000/team/m"),
    *("ollama@attic/m", "ollama@attic/m:latest", "ollama@attic/box:5000/m"),
    *("huggingface/org/m", "huggingface/ollama/m", "ollamas/m", "m", "ollama", "ollama/", ""),
    *("ollama/m?quantization=int8", "ollama/m\nx", "ollama/team/"),
)

TEXT: Final = {
    "VARCHAR": "'x'",
    "JSON": "'{}'",
    "BOOLEAN": "false",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ '2026-03-01 12:00:00+00'",
    "VARCHAR[]": "[]",
    "BIGINT[]": "[]",
    "INTEGER[]": "[]",
}

KEYS: Final = ("session_id", "cell_id", "vote_id", "insight_id")

MODELS: Final = {
    "stream_sessions": ("model", "fallback_from", "requested_model"),
    "memory_samples": ("model",),
    "model_events": ("model",),
    "errors": ("model",),
    "benchmark_cells": ("model",),
    "votes": ("model_a", "model_b"),
    "insights": ("model_a", "model_b"),
}


def make_old(connection: duckdb.DuckDBPyConnection) -> None:
    """The tables of an older workbench, with a row for each name in each that names models."""
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(
        "CREATE TABLE schema_migrations "
        "(version INTEGER PRIMARY KEY, name VARCHAR NOT NULL, applied_at TIMESTAMPTZ NOT NULL)"
    )
    for step in MIGRATIONS[:UNTAGGED]:
        connection.execute(step.sql)
        connection.execute(
            "INSERT INTO schema_migrations VALUES (?, ?, now())", [step.version, step.name]
        )
    for table, columns in MODELS.items():
        kinds = dict(
            connection.execute(
                "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ?", [table]
            ).fetchall()
        )
        values = {name: TEXT.get(kind, "0") for name, kind in kinds.items()}
        values |= {name: "'k' || i" for name in KEYS if name in kinds}
        values |= {"status": "'ok'"} if "status" in kinds else {}
        values |= {name: "i + 1" for name in kinds if name == "seq"}
        values |= dict.fromkeys(columns, "name")
        connection.execute(
            f"INSERT INTO {table} BY NAME SELECT "
            + ", ".join(f"{value} AS {name}" for name, value in values.items())
            + " FROM (SELECT unnest($names) AS name, unnest(range($n)) AS i)",
            {"names": NAMES, "n": len(NAMES)},
        )


def make_old_log(path: Path) -> Path:
    path.parent.mkdir()
    with duckdb.connect(str(path)) as connection:
        make_old(connection)
    return path


def named(store: Store, table: str, column: str, schema: str = "main") -> list[str]:
    rows = store.rows(f"SELECT {column} AS name FROM {schema}.{table} ORDER BY name")
    return [row["name"] for row in rows]


def assert_renamed(store: Store, schema: str = "main") -> None:
    expected = sorted(map(spelled, NAMES))
    for table, columns in MODELS.items():
        for column in columns:
            if column == "requested_model":
                assert named(store, table, column, schema) == sorted(NAMES), "as it was typed"
            else:
                assert named(store, table, column, schema) == expected, f"{table}.{column}"


DIE: Final = """
import os, signal, sys
import duckdb
from workbench.store.migrations import migrate
from workbench.store.steps import MIGRATIONS
connection = duckdb.connect(sys.argv[1])
if sys.argv[2] == "during":
    connection.execute("BEGIN")
    connection.execute(MIGRATIONS[10].sql)
else:
    migrate(connection, path="log")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_old_log_is_renamed_and_loses_nothing_also_when_that_is_killed(path: Path) -> None:
    make_old_log(path)
    for when in ("during", "after"):
        died = subprocess.run([sys.executable, "-c", DIE, str(path), when], check=False)
        assert died.returncode == -signal.SIGKILL
    late = {"vote_id": "late", "model_a": "ollama/m", "model_b": "ollama@attic/m", "winner": "a"}
    spooled = {"n": 1, "parts": [["votes", "add", [late | {"created_at": "2026-03-01"}]]]}
    spool_of(path).mkdir()
    (spool_of(path) / "spool-1.ndjson").write_bytes(line_of(orjson.dumps(spooled)[1:]))
    with Store.open(path) as store:
        (vote,) = store.rows("SELECT * FROM votes WHERE vote_id = 'late'")
        assert (vote["model_a"], vote["model_b"]) == ("ollama/m:latest", "ollama@attic/m:latest")
        error = {"error_id": "e", "code": "X", "message": "refused", "details": {}}
        new = {**error, "created_at": "2026-03-01", "model": "ollama/refused"}
        store.insert("errors", new).stored.result()
        (row,) = store.rows("SELECT model FROM errors WHERE error_id = 'e'")
        assert row == {"model": "ollama/refused:latest"}, "what is logged now is named alike"
    with duckdb.connect(str(path)) as later:
        later.execute(
            "DELETE FROM votes WHERE vote_id = 'late'; DELETE FROM errors WHERE code = 'X'"
        )
    with Store.open(path) as store:  # a second time there is nothing to do
        assert_renamed(store)
        assert store.repairs == []
    assert reports(path) == []


def test_the_counts_of_a_large_log_stay_those_of_its_sessions(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollup, "STEP", 1)
    late = next(step for step in MIGRATIONS if "speed_late_ns" in step.sql)
    with duckdb.connect(str(make_old_log(path))) as old:
        old.execute(late.sql)  # today's views want these columns, which the old log had not
        create_views(old)
        rollup.advance(old, 1)
        assert rollup.position(old) == len(NAMES)
        assert rollup.differences(old) == 0
        for column in ("ttft_late_ns", "speed_late_ns"):
            old.execute(f"ALTER TABLE stream_sessions DROP {column}")
        migrate(old, path=path)
        assert rollup.differences(old) == 0, "the counts of two names are those of one model"
        board = dict(old.execute("SELECT model, sessions FROM model_leaderboard").fetchall())
        assert board.keys() == {spelled(name) for name in NAMES}
        assert board["ollama/m:latest"] == 2


def test_an_older_export_is_renamed_as_well(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tables: dict[str, Any] = {}
    with duckdb.connect() as old:
        make_old(old)
        for table in MODELS:
            (out / table).mkdir(parents=True)
            old.execute(f"COPY {table} TO '{out}/{table}/a.parquet'")
            tables[table] = {"rows": len(NAMES)}
    manifest = {"format": 1, "schema_version": UNTAGGED, "tables": tables}
    (out / "manifest.json").write_text(json.dumps(manifest))
    store.import_export(out, "ada")
    assert_renamed(store, "ada")


def test_rows_of_a_damaged_old_log_are_renamed_as_they_are_copied(path: Path) -> None:
    make_old_log(path)
    with duckdb.connect() as new:
        new.execute("SET TimeZone = 'UTC'")
        migrate(new, path="new")
        salvage.copy_readable(path, new, folder=spool_of(path))
        for table, columns in MODELS.items():
            for column in columns:
                found = new.execute(f"SELECT {column} FROM {table}").fetchall()
                typed = column == "requested_model"
                names = NAMES if typed else map(spelled, NAMES)
                assert sorted(row[0] for row in found) == sorted(names), f"{table}.{column}"


def test_a_kill_before_the_checkpoint_of_new_names_leaves_the_old_log(
    path: Path, tmp_path: Path
) -> None:
    """In the write-ahead log, where a small transaction goes first, DuckDB cannot replay it."""
    make_old_log(path)
    with duckdb.connect(str(path)) as old:
        old.execute("SET GLOBAL auto_checkpoint_skip_wal_threshold = 1_000_000_000")  # all is small
        old.execute("SET GLOBAL debug_checkpoint_abort = 'before_header'")
        with pytest.raises(duckdb.FatalException):
            migrate(old, path=path)
        shutil.copytree(path.parent, tmp_path / "killed")
    with Store.open(tmp_path / "killed" / path.name) as store:
        assert_renamed(store)
        assert store.repairs == []
