"""Opening: the file is made whole or not at all, and every refusal says what to do."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tests.store.conftest import make_session
from workbench.errors import ErrorCode, WorkbenchError
from workbench.store import Store, files, migrations, steps
from workbench.types import Message

ASKED = [Message("user", "hi")]


def refusal(path: Path, *, readonly: bool = False) -> WorkbenchError:
    with pytest.raises(WorkbenchError) as caught:
        (Store.open_readonly if readonly else Store.open)(path)
    assert caught.value.code is ErrorCode.STORE_UNAVAILABLE
    assert caught.value.fix
    assert path.name in caught.value.message
    return caught.value


def test_a_new_log_has_all_tables_and_views_and_is_private(path: Path) -> None:
    with Store.open(path) as store:
        tables = {item["name"]: item for item in store.tables()}
        assert {name for name, item in tables.items() if item["kind"] == "table"} == {
            "environments",
            "conversations",
            "messages",
            "stream_sessions",
            "token_streams",
            "memory_samples",
            "model_events",
            "errors",
            "benchmark_runs",
            "benchmark_cells",
            "benchmark_trials",
            "scores",
            "votes",
            "insights",
            "schema_migrations",
            "log_position",
            "prunes",
            "deletions",
            "rollup_position",
            "rollup_groups",
            "rollup_buckets",
        }
        assert {name for name, item in tables.items() if item["kind"] == "view"} == {
            "token_events",
            "latencies",
            "model_leaderboard",
            "team_leaderboard",
            "memory_by_session",
            "error_rates",
            "latency_percentiles",
            "session_prompts",
            "token_efficiency",
            "load_costs",
        }
        assert tables["schema_migrations"]["rows"] == steps.LATEST
        assert tables["votes"]["rows"] == 0
        assert tables["token_streams"]["columns"] == [
            "session_id",
            "t_ns",
            "n_tokens",
            "n_chars",
            "channels",
        ]
        store.log_session(make_session(), ASKED).stored.result()
        wal = path.with_name(f"{path.name}.wal")
        wal.chmod(0o644)  # as DuckDB makes it anew after a checkpoint
        store.log_session(make_session(), ASKED).stored.result()
        assert not {
            item
            for item in path.parent.rglob("*")
            if stat.S_IMODE(item.stat().st_mode) != (0o700 if item.is_dir() else 0o600)
        }
        assert wal.exists()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    spool = path.with_name(f"{path.name}.spool")
    assert {item.name for item in path.parent.iterdir()} == {path.name, spool.name}
    assert {item.name for item in spool.iterdir()} == {"checkpoint.json", "copy.duckdb"}


def test_what_was_logged_is_there_after_reopening_and_the_sequence_goes_on(path: Path) -> None:
    for _ in range(2):
        with Store.open(path) as store:
            store.log_session(make_session(), ASKED)
    with Store.open_readonly(path) as store:
        assert [row["seq"] for row in store.rows("SELECT seq FROM stream_sessions")] == [1, 2]
        assert store.tables()[0]["name"] == "benchmark_cells"


def test_a_log_held_by_another_process_names_that_process(path: Path) -> None:
    code = (
        "import sys; from workbench.store import Store; "
        "s = Store.open(sys.argv[1]); print('open', flush=True); input(); s.close()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "open\n"
    try:
        for readonly in (False, True):
            error = refusal(path, readonly=readonly)
            assert f"pid {other.pid}" in error.message
            assert error.details["pid"] == other.pid
            assert str(path) in error.message
    finally:
        other.communicate("\n", timeout=30)
    Store.open(path).close()


def test_a_log_opened_twice_in_one_process_is_refused(store: Store, tmp_path: Path) -> None:
    assert "already open in this process" in refusal(store.path).message
    assert "already open in this process" in refusal(store.path, readonly=True).message
    link = tmp_path / "link.duckdb"
    link.symlink_to(store.path)
    assert "already open in this process" in refusal(link).message


# Tests may run as root, whom no permission bits stop: the refusals of the operating system are
# provoked by a path that cannot exist, or put in at the one place where rights are asked for.


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = refusal(tmp_path / "file" / "w.duckdb")
    assert "a part of its path is a file" in error.message
    assert "WORKBENCH_DB" in error.fix


def test_a_folder_without_permission_is_refused_and_left_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.parent.mkdir()
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    error = refusal(path)
    assert str(path) in error.message
    assert "WORKBENCH_DB" in error.fix
    assert list(path.parent.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(path: Path) -> None:
    path.parent.mkdir(mode=0o500)
    assert "permission" in refusal(path).message


def test_an_error_of_the_operating_system_is_mapped(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path.parent))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert "permission" in refusal(path).message


def test_a_full_disk_is_named_and_leaves_nothing_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise duckdb.IOException("IO Error: Could not write file: No space left on device")

    monkeypatch.setattr(files, "create_views", full)
    with pytest.raises(WorkbenchError) as caught:
        Store.open(path)
    assert caught.value.code is ErrorCode.DISK_FULL
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"this is not a database\n" * 500])
def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    assert "not a DuckDB file" in refusal(path).message
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_in_the_place_of_the_log_is_refused(path: Path) -> None:
    path.mkdir(parents=True)
    assert "is a folder" in refusal(path).message


def test_somebody_elses_database_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with duckdb.connect(str(path)) as other:
        other.execute("CREATE TABLE precious AS SELECT 1 AS a")
    assert "not a log of the workbench" in refusal(path).message
    assert "not a log of the workbench" in refusal(path, readonly=True).message
    with duckdb.connect(str(path)) as other:
        assert other.execute("SHOW TABLES").fetchall() == [("precious",)]


def test_a_log_of_a_newer_workbench_is_refused(path: Path) -> None:
    Store.open(path).close()
    with duckdb.connect(str(path)) as newer:
        newer.execute("INSERT INTO schema_migrations VALUES (999, 'future', now())")
    for readonly in (False, True):
        error = refusal(path, readonly=readonly)
        assert "newer workbench (schema 999" in error.message
    with duckdb.connect(str(path)) as newer:
        newer.execute("DELETE FROM schema_migrations WHERE version = 999")
    Store.open(path).close()  # the refusals released the file


def test_an_older_log_is_brought_up_to_date_in_one_go_or_not_at_all(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(path) as store:
        store.log_session(make_session(), ASKED)
    step = steps.LATEST + 1
    half = steps.Migration(step, "half", "ALTER TABLE votes ADD COLUMN x INT; SELECT nope")
    whole = steps.Migration(step, "whole", "ALTER TABLE votes ADD COLUMN x INT")
    for migration in (half, whole):
        monkeypatch.setattr(migrations, "MIGRATIONS", (*steps.MIGRATIONS[: step - 1], migration))
        monkeypatch.setattr(migrations, "LATEST", step)
        if migration is half:
            refusal(path)
            continue
        for _ in range(2):
            with Store.open(path) as store:
                assert store.rows("SELECT x FROM votes") == []
                assert store.rows("SELECT version, name FROM schema_migrations")[-1] == {
                    "version": step,
                    "name": "whole",
                }
                assert len(store.rows("FROM latencies")) == 1


def test_reading_without_a_log_says_that_nothing_was_logged(path: Path) -> None:
    error = refusal(path, readonly=True)
    assert "Nothing was logged yet" in error.message
    assert "workbench" in error.fix
    assert not path.parent.exists()


def test_a_store_for_reading_refuses_to_write_and_to_read_other_files(path: Path) -> None:
    Store.open(path).close()
    with Store.open_readonly(path) as store:
        with pytest.raises(WorkbenchError, match="reading only"):
            store.log_session(make_session(), ASKED)
        with pytest.raises(WorkbenchError, match="INVALID_REQUEST"):
            store.query("SELECT * FROM read_text('/etc/hostname')")


def test_importing_the_values_loads_neither_duckdb_nor_pandas() -> None:
    code = (
        "import sys, workbench.store; assert not {'duckdb', 'pandas'} & set(sys.modules); "
        "from workbench.store import Store; assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
