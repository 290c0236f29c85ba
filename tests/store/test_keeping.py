"""Snapshots, exports, imports and pruning: whole, consistent while it is written, told apart."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import threading
from pathlib import Path

import duckdb
import pytest

from tests.store.conftest import make_session
from workbench.errors import ErrorCode, WorkbenchError
from workbench.store import Store
from workbench.store.files import exchange_folder
from workbench.store.retention import compact, cutoff
from workbench.store.steps import LATEST, MIGRATIONS
from workbench.types import Message, Status

ASKED = [Message("user", "hi")]
NOW = dt.datetime(2026, 11, 26, tzinfo=dt.UTC)


def fill(store: Store, count: int = 3, **changes: object) -> list[str]:
    sessions = [make_session(**changes) for _ in range(count)]
    for done in [store.log_session(session, ASKED) for session in sessions]:
        done.result(30)
    return [session.session_id for session in sessions]


def count(store: Store, table: str = "stream_sessions") -> int:
    return int(store.rows(f"SELECT count(*) AS n FROM {table}")[0]["n"])


def ballast(store: Store, rows: int, year: int = 2020) -> None:
    """Rows that belong to no session."""
    with store._connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO errors BY NAME SELECT 'e' || range AS error_id, "
            f"TIMESTAMPTZ '{year}-01-01 00:00:00+00' AS created_at, 'X' AS code, "
            f"md5(range::VARCHAR) AS message, '{{}}' AS details FROM range({rows})"
        )
        cursor.execute("CHECKPOINT")


def test_a_snapshot_is_one_state_of_a_log_that_is_written(store: Store, tmp_path: Path) -> None:
    fill(store, 5)
    stop, taken = threading.Event(), threading.Event()

    def write() -> None:
        while not stop.is_set():
            fill(store, 1)
            taken.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert taken.wait(30)
    told: list[int | None] = []
    made = store.snapshot(tmp_path / "copy.duckdb", lambda text, done, total: told.append(done))
    stop.set()
    writer.join(30)
    with Store.open_readonly(tmp_path / "copy.duckdb") as copy:
        (row,) = copy.rows(
            "SELECT count(*) AS n, max(seq) AS last, count(t.session_id) AS timelines "
            "FROM stream_sessions LEFT JOIN token_streams t USING (session_id)"
        )
        assert row["n"] == row["last"] == row["timelines"] == made["sessions"] >= 5
        assert copy.rows("SELECT count(*) AS n FROM latencies") == [{"n": row["n"]}]
    assert (tmp_path / "copy.duckdb").stat().st_mode & 0o777 == 0o600
    with Store.open(tmp_path / "copy.duckdb") as copy:  # a log like any other
        fill(copy, 1)


@pytest.mark.parametrize("name", ["there", "missing/x", "qu'ote"])
def test_a_place_that_cannot_be_used_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / "there").write_text("mine")
    for make in (store.snapshot, store.export):
        with pytest.raises(WorkbenchError) as caught:
            make(tmp_path / name)
        assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert (tmp_path / "there").read_text() == "mine"


def test_what_is_stopped_leaves_nothing_behind(store: Store, tmp_path: Path) -> None:
    fill(store)
    ballast(store, 1_000_000)
    stop = threading.Event()
    stop.set()
    with pytest.raises(WorkbenchError) as caught:
        store.snapshot(tmp_path / "taken.duckdb", cancelled=stop)
    assert caught.value.code is ErrorCode.CANCELLED
    assert not list(tmp_path.rglob("*taken*"))


def test_an_export_is_parquet_by_month_with_a_manifest(store: Store, tmp_path: Path) -> None:
    fill(store, 2, created_at=dt.datetime(2026, 1, 31, 23, 59, tzinfo=dt.UTC))
    fill(store, 3, created_at=dt.datetime(2026, 2, 1, 0, 1, tzinfo=dt.UTC))
    made = store.export(tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["tables"]["stream_sessions"] == {"rows": 5}
    assert manifest["schema_version"] == LATEST
    assert made["path"] == str(tmp_path / "out")
    with duckdb.connect() as other:
        for table in ("stream_sessions", "token_streams"):
            found = other.execute(
                f"SELECT month, count(*) FROM read_parquet('{tmp_path}/out/{table}/**/*.parquet', "
                "hive_partitioning = true, hive_types = {'month': VARCHAR}) GROUP BY 1 ORDER BY 1"
            ).fetchall()
            assert found == [("2026-01", 2), ("2026-02", 3)]


def test_an_import_stays_apart_and_can_be_repeated(store: Store, tmp_path: Path) -> None:
    with Store.open(tmp_path / "other" / "workbench.duckdb") as other:
        theirs = fill(other, 4)
        other.export(tmp_path / "out")
    mine = fill(store, 2)
    for _ in range(2):
        done = store.import_export(tmp_path / "out", "ada")
        assert (done["name"], done["sessions"]) == ("ada", 4)
    assert count(store) == 2
    assert exchange_folder(store.path).stat().st_mode & 0o777 == 0o700
    assert count(store, "ada.latencies") == 4
    both = "SELECT session_id FROM {0}latencies ORDER BY session_id"
    assert [row["session_id"] for row in store.rows(both.format("ada."))] == sorted(theirs)
    assert [row["session_id"] for row in store.rows(both.format(""))] == sorted(mine)
    assert {table["name"] for table in store.tables()} >= {"stream_sessions", "latencies"}
    fill(store, 1)
    path = store.path
    store.close()
    with Store.open(path) as again:  # it is there at the next start, and without a server
        assert (count(again), count(again, "ada.latencies")) == (3, 4)
    with Store.open_readonly(path) as reading:
        assert (count(reading), count(reading, "ada.latencies")) == (3, 4)


@pytest.mark.parametrize("version", range(1, LATEST + 1))
def test_an_export_of_an_older_workbench_is_brought_up_to_date(
    store: Store, tmp_path: Path, version: int
) -> None:
    out = tmp_path / "out"
    (out / "votes").mkdir(parents=True)
    with duckdb.connect() as old:
        for step in MIGRATIONS[:version]:
            old.execute(step.sql)
        old.execute(
            "INSERT INTO errors BY NAME SELECT 'e' AS error_id, now() AS created_at, 'X' AS code, "
            "'m' AS message, '{}' AS details"
        )
        old.execute(f"COPY (FROM errors) TO '{out}/errors.parquet'")
    (out / "errors").mkdir()
    (out / "errors.parquet").rename(out / "errors" / "a.parquet")
    manifest = {
        "format": 1,
        "schema_version": version,
        "tables": {"errors": {"rows": 1}, "stream_sessions": {"rows": 0}},
    }
    (out / "manifest.json").write_text(json.dumps(manifest))
    store.import_export(out, "old")
    assert count(store, "old.errors") == 1
    assert count(store, "old.latencies") == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema_version=LATEST + 1), "newer workbench"),
        (lambda m: m.update(format=99), "newer workbench"),
        (lambda m: m["tables"]["stream_sessions"].update(rows=9), "damaged"),
        (lambda m: m["tables"].update(evil={"rows": 0}), "does not have"),
        (lambda m: m.clear(), "no export"),
    ],
)
def test_what_cannot_be_imported_is_refused_and_the_old_one_stays(
    store: Store, tmp_path: Path, change: object, message: str
) -> None:
    fill(store, 2)
    store.export(tmp_path / "out")
    store.import_export(tmp_path / "out", "ada")
    shutil.copytree(tmp_path / "out", tmp_path / "bad")
    manifest = json.loads((tmp_path / "bad" / "manifest.json").read_text())
    change(manifest)  # type: ignore[operator]
    (tmp_path / "bad" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(WorkbenchError, match=message) as caught:
        store.import_export(tmp_path / "bad", "ada")
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert count(store, "ada.latencies") == 2


@pytest.mark.parametrize("name", ["", "main", "workbench", "a b", "a; DROP TABLE votes", "Ada"])
def test_a_name_that_sql_needs_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    store.export(tmp_path / "out")
    with pytest.raises(WorkbenchError, match="cannot be the name"):
        store.import_export(tmp_path / "out", name)


def test_pruning_takes_what_belongs_to_old_sessions_and_nothing_else(store: Store) -> None:
    old, young = NOW - dt.timedelta(days=100), NOW - dt.timedelta(days=1)
    fill(store, 3, created_at=old)
    run = fill(store, 2, created_at=old, run_id="run_1")
    scored = fill(store, 1, created_at=old)
    failed = fill(store, 1, created_at=old, status=Status.ERROR)
    kept = fill(store, 4, created_at=young)
    score = {"score_id": "s", "created_at": young, "session_id": scored[0], "scorer": "me"}
    store.insert("scores", score).result(30)
    (continued,) = fill(store, 1, created_at=young, conversation_id="con_long")
    before = cutoff("90d", NOW)

    plan = store.prune(before, ["runs", "scored"], dry_run=True)
    assert (plan["sessions"], plan["rows"]["token_streams"]) == (4, 4)
    assert count(store) == 12, "only counted"

    done = store.prune(before, ["runs", "scored"], dry_run=False)
    assert done["rows"] == plan["rows"]
    left = {row["session_id"] for row in store.rows("SELECT session_id FROM stream_sessions")}
    assert left == {*run, *scored, *kept, continued}
    assert not left & set(failed)
    for table in ("token_streams", "conversations"):
        assert count(store, table) == 8, table
    assert count(store, "messages") == 16
    fill(store, 1, created_at=young)
    assert store.prune(before, ["runs", "scored"], dry_run=False)["sessions"] == 0
    checks = {check.check: check for check in store.verify()}
    assert checks["sequence"].status == "ok"
    assert "prune" in checks["sequence"].message
    with pytest.raises(WorkbenchError, match="Cannot keep"):
        store.prune(before, ["everything"], dry_run=True)


def test_a_pruned_log_shrinks_when_it_is_compacted(store: Store) -> None:
    ballast(store, 300_000)
    ballast(store, 200_000, year=2026)
    fill(store, 2)
    done = store.prune(cutoff("2025-01-01", NOW), [], dry_run=False)
    assert done["rows"]["errors"] == 300_000
    assert done["free_bytes"] + done["freed_bytes"] > 1_000_000
    path = store.path
    with pytest.raises(WorkbenchError):
        compact(path)
    store.close()
    before = path.stat().st_size
    assert compact(path) == before - path.stat().st_size
    assert done["freed_bytes"] + before - path.stat().st_size > 1_000_000
    assert path.stat().st_mode & 0o777 == 0o600
    with Store.open(path) as again:
        assert count(again) == 2
        fill(again, 1)
        assert again.rows("SELECT max(seq) AS last FROM stream_sessions") == [{"last": 3}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90d", "2026-08-28"),
        ("2w", "2026-11-12"),
        ("6m", "2026-05-30"),
        ("1y", "2025-11-26"),
        ("2026-01-31", "2026-01-31"),
    ],
)
def test_an_age_is_a_moment(text: str, expected: str) -> None:
    assert cutoff(text, NOW).date().isoformat() == expected


@pytest.mark.parametrize("text", ["", "90", "d", "-1d", "yesterday", "1e9d", "99999d"])
def test_what_is_no_age_is_refused(text: str) -> None:
    with pytest.raises(WorkbenchError, match="is no age"):
        cutoff(text, NOW)
