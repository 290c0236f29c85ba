"""In trouble: a start that cannot read all, two starts at once, no room for a checkpoint."""

from __future__ import annotations

import datetime as dt
import os
import random
import secrets
import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from tests.store.conftest import make_session
from workbench.errors import ErrorCode, WorkbenchError
from workbench.store import Store
from workbench.store import writer as writing
from workbench.store.blocks import DatabaseFile
from workbench.store.database import Durability
from workbench.store.files import spool_of, wal_of
from workbench.store.spool import Spool
from workbench.types import Message

ASKED = [Message("user", "hi")]
ALONE = Durability(checkpoint_s=3600, copy_bytes=0)
"""Of a log that is too large for a copy, but for its size."""


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("table", ["messages", "token_streams"])
def test_a_file_that_does_not_say_how_far_it_got_gets_each_row_of_the_spool_once(
    path: Path, tmp_path: Path, table: str
) -> None:
    """Whole entries were refused because a part was there; rows without a key came in twice."""
    chance = random.Random(1)
    known: list[str] = []

    def log(store: Store, count: int) -> None:
        for _ in range(count):
            session = make_session(text=chance.randbytes(4000).hex())  # blocks of their own
            known.append(session.session_id)
            store.log_session(session, ASKED)
            event = {"error_id": f"err_{len(known)}", "created_at": session.created_at}
            store.insert("errors", {**event, "code": "X", "message": "m", "details": {}})
        run = {"run_id": "run_1", "created_at": "2026-03-01", "name": "n", "spec": {}}
        state = {"timing_mode": "isolated", "status": f"after {len(known)}"}
        store.insert("benchmark_runs", {**run, **state}, mode="replace")
        store.flush()

    with Store.open(path, durability=ALONE) as store:
        assert store._database is not None
        for _ in range(2):
            log(store, 40)
            store._database.checkpoint()
        log(store, 6)
        rows = store._database.connection.execute(
            "SELECT block_id FROM pragma_storage_info(?) WHERE block_id >= 0", [table]
        ).fetchall()
        shutil.copytree(path.parent, tmp_path / "killed")
    path = tmp_path / "killed" / path.name
    with duckdb.connect(str(path)) as connection:
        connection.execute("PRAGMA disable_checkpoint_on_shutdown; DROP TABLE log_position")
    file = DatabaseFile(path)
    place = file.read_state(blocks=False).place(rows[0][0]) + 5000
    file.close()
    flip(path, place)
    with Store.open(path, durability=ALONE) as store:
        (told,) = store.repairs
        each = {"messages": 2, "token_streams": 1}[table]
        assert told.details["lost"] == [f"{40 * each} of {86 * each} rows of {table}"]
        found = store.rows(f"SELECT session_id, count(*) AS n FROM {table} GROUP BY session_id")
        assert {row["session_id"]: row["n"] for row in found} == dict.fromkeys(known[40:], each)
        assert {row["session_id"] for row in store.rows("FROM stream_sessions")} == set(known)
        events = Counter(row["error_id"] for row in store.rows("FROM errors WHERE code = 'X'"))
        assert events == Counter(f"err_{number}" for number in range(1, 87))
        assert store.rows("SELECT status FROM benchmark_runs") == [{"status": "after 86"}]


MENDS_WHEN_TOLD = """
import sys
from workbench.store import Store, salvage
whole = salvage.missing
def missing(*arguments):
    print("mends", file=sys.stderr)
    input()
    return whole(*arguments)
salvage.missing = missing
with Store.open(sys.argv[1]) as store:
    print(store.rows("SELECT count(*) AS n FROM stream_sessions")[0]["n"], file=sys.stderr)
    input()
"""


def test_two_starts_on_one_damaged_log_do_not_mend_it_at_the_same_time(path: Path) -> None:
    """The second deleted what the first was making, and put its own in its place."""
    with Store.open(path, durability=ALONE) as store:
        for _ in range(5):
            store.log_session(make_session(), ASKED)
        store.flush()
        shutil.copytree(spool_of(path), path.with_name("spool"))
    shutil.rmtree(spool_of(path))
    path.with_name("spool").rename(spool_of(path))
    flip(path, 10)
    with subprocess.Popen(
        [sys.executable, "-c", MENDS_WHEN_TOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # for what is logged
        stderr=subprocess.PIPE,
        text=True,
    ) as first:
        assert first.stdin is not None
        assert first.stderr is not None
        assert first.stderr.readline() == "mends\n"
        with pytest.raises(WorkbenchError, match="was still opening") as raised:
            Store.open(path, durability=replace(ALONE, open_wait_s=0))
        assert raised.value.code is ErrorCode.STORE_UNAVAILABLE
        assert "WORKBENCH_OPEN_WAIT_S" in raised.value.fix
        with ThreadPoolExecutor(1) as threads:
            second = threads.submit(Store.open, path)
            first.stdin.write("\n")
            first.stdin.flush()
            error = second.exception(60)
        assert isinstance(error, WorkbenchError)
        assert error.details["pid"] == first.pid, "it waited, and found the log in use"
        assert first.stderr.readline() == "5\n"
        first.communicate("\n", timeout=60)
    assert first.returncode == 0
    with Store.open(path) as store:
        assert len(store.rows("FROM stream_sessions")) == 5
        assert len(store.repairs) == 1
    assert [item.name for item in path.parent.iterdir() if item.name.startswith(".")] == []


def test_a_lock_that_a_kill_left_keeps_nobody_out(path: Path) -> None:
    path.parent.mkdir()
    lock = path.with_name(f".{path.name}.opening")
    lock.touch()
    Store.open(path, durability=replace(ALONE, open_wait_s=0)).close()
    assert not lock.exists()


def test_a_start_without_room_for_a_checkpoint_puts_it_off_and_keeps_the_spool(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "RETRY_S", 0.05)
    with Store.open(tmp_path / "log" / "w.duckdb", durability=ALONE) as store:
        known = [make_session(text=secrets.token_hex(1_000_000)) for _ in range(2)]
        for session in known:
            store.log_session(session, ASKED).stored.result(60)
        shutil.copytree(store.path.parent, small_disk / "log")
    path = small_disk / "log" / "w.duckdb"
    ballast = small_disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free - 1_000_000)
    eager = replace(ALONE, checkpoint_bytes=1)
    with Store.open(path, durability=eager) as store:
        late = make_session()
        store.log_session(late, ASKED).result(60)
        ids = {row["session_id"] for row in store.rows("SELECT session_id FROM stream_sessions")}
        assert ids >= {session.session_id for session in known}
        assert len(list(spool_of(path).glob("spool-*"))) == 2, "the old one is kept"
        deadline = time.monotonic() + 60
        while (told := store.last_error) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert told.code is ErrorCode.DISK_FULL
        ballast.unlink()
        while store.last_error is not None or wal_of(path).exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    with Store.open(path) as store:
        ids = {row["session_id"] for row in store.rows("SELECT session_id FROM stream_sessions")}
        assert ids == {session.session_id for session in [*known, late]}
        assert store.repairs == []


@pytest.mark.parametrize("way", ["delete", "prune"])
def test_what_was_deleted_is_not_told_as_failed_for_want_of_room_for_a_checkpoint(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(writing, "RETRY_S", 0.05)
    path, sessions = small_disk / "log" / "w.duckdb", [make_session() for _ in range(3)]
    with Store.open(path, durability=ALONE) as store:
        for session in sessions:
            store.log_session(session, ASKED).stored.result(60)
        ballast = small_disk / "ballast"
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free - 500_000)
        if way == "delete":
            done = store.delete_sessions([sessions[0].session_id], dry_run=False)
            assert done["stream_sessions"] == 1
        else:
            later = sessions[0].created_at + dt.timedelta(days=1)
            done = store.prune(later, [], dry_run=False)
            assert (done["sessions"], done["sessions_left"]) == (3, 0)
        assert wal_of(path).stat().st_size > 0, "the checkpoint is still to come"
        ballast.unlink()
    with Store.open(path) as store:
        left = {row["session_id"] for row in store.rows("SELECT session_id FROM stream_sessions")}
    kept = sessions[1:] if way == "delete" else []
    assert left == {session.session_id for session in kept}


class Kill(BaseException):
    """Ends a process, as far as its files go."""


@pytest.mark.parametrize("when", ["start", "checkpoint"])
def test_a_kill_while_the_spool_is_deleted_leaves_a_note_of_what_the_file_had(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The note came after it: what was lost with the file later was not named."""
    whole = Spool.rotate

    def rotate(self: Spool, proven_n: int, *, surely: bool) -> None:
        whole(self, proven_n, surely=surely)
        shutil.copytree(path.parent, tmp_path / "killed", dirs_exist_ok=True)
        raise Kill

    with Store.open(path, durability=ALONE) as store:
        for _ in range(3):
            store.log_session(make_session(), ASKED).stored.result(60)
        if when == "checkpoint":
            assert store._database is not None
            store._database.checkpoint()
            store.log_session(make_session(), ASKED).stored.result(60)
            with monkeypatch.context() as patched:
                patched.setattr(Spool, "rotate", rotate)
                with pytest.raises(Kill):
                    store._database.checkpoint()
        else:
            shutil.copytree(path.parent, tmp_path / "left")
    if when == "start":
        path = tmp_path / "left" / path.name
        with monkeypatch.context() as patched:
            patched.setattr(Spool, "rotate", rotate)
            with pytest.raises(Kill):
                Store.open(path, durability=ALONE)
    path = tmp_path / "killed" / path.name
    logged = 4 if when == "checkpoint" else 3
    path.unlink()
    wal_of(path).unlink(missing_ok=True)
    with Store.open(path) as store:
        (told,) = store.repairs
        gone = logged - len(store.rows("FROM stream_sessions"))
    assert gone
    assert told.details["lost"][0] == f"{gone} of {logged} sessions"
