"""What was acknowledged is there after kills, cut logs, flipped bits and full disks."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import duckdb
import pytest

from benchmarks import store_torture as torture
from tests import disks
from tests.store.conftest import make_session
from workbench.errors import ErrorCode, WorkbenchError
from workbench.store import Store, files, mirror
from workbench.store import store as store_module
from workbench.store import writer as writing
from workbench.store.blocks import DatabaseFile
from workbench.store.database import Durability
from workbench.store.files import damaged_of, spool_of, wal_of
from workbench.store.mirror import metadata_of, mirror_of
from workbench.types import Message

ASKED = [Message("user", "hi")]


def ids(store: Store) -> list[str]:
    rows = store.rows("SELECT session_id, seq FROM stream_sessions ORDER BY seq")
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["session_id"] for row in rows]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A log whose process was killed, and the sessions it had acknowledged."""
    return torture.prepared(tmp_path_factory.mktemp("killed"), 12)


def assert_whole(tally: torture.Tally) -> None:
    assert (tally.lost, tally.torn, tally.gaps, tally.refused_to_start) == (0, 0, 0, 0), (
        tally.problems
    )


def test_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    tally = torture.kills(tmp_path, 6, seed=3)
    assert tally.attempts == 6
    assert tally.acknowledged > 0
    assert_whole(tally)
    assert tally.repairs == 0, tally.kept


def test_a_log_cut_anywhere_opens_and_the_spool_restores_it(
    killed: tuple[Path, set[str]], tmp_path: Path
) -> None:
    origin, known = killed
    size = wal_of(origin).stat().st_size
    tally = torture.Tally()
    for place in (0, 1, 100, size // 3, size // 2, size - 200, size - 1):
        path = torture.copy_log(origin, tmp_path / "cut")
        os.truncate(wal_of(path), place)
        torture.look(path, known, tally, f"cut at {place}")
    assert_whole(tally)
    assert tally.lost_but_named == 0


def test_a_flipped_bit_anywhere_is_mended_or_named(
    killed: tuple[Path, set[str]], tmp_path: Path
) -> None:
    origin, known = killed
    tally = torture.Tally()
    for name, share in [("wal", 0.5), ("db", 0.0), ("db", 0.5), ("db", 0.9), ("spool", 0.5)]:
        path = torture.copy_log(origin, tmp_path / "flip")
        (spool,) = spool_of(path).glob("spool-*.ndjson")
        victim = {"wal": wal_of(path), "db": path, "spool": spool}[name]
        data = bytearray(victim.read_bytes())
        data[int(len(data) * share)] ^= 4
        victim.write_bytes(data)
        torture.look(path, known, tally, f"{name} at {share}")
    assert_whole(tally)
    assert tally.repairs == 5


def test_a_repair_is_told_until_what_was_kept_is_deleted(
    killed: tuple[Path, set[str]], tmp_path: Path
) -> None:
    origin, known = killed
    path = torture.copy_log(origin, tmp_path / "log")
    data = bytearray(wal_of(path).read_bytes())
    data[len(data) // 2] ^= 1
    wal_of(path).write_bytes(data)
    with Store.open(path) as store:
        store.flush()
        assert known <= set(ids(store))
        (told,) = store.repairs
        (row,) = store.rows("SELECT code, message, fix FROM errors")
    assert row["code"] == told.code == ErrorCode.STORE_DAMAGED
    assert row["message"] == told.message
    assert "could not be replayed" in told.message
    (kept,) = damaged_of(path).iterdir()
    assert str(kept) in told.fix
    assert (kept / wal_of(path).name).read_bytes() == bytes(data)
    with Store.open(path) as store:
        assert [error.message for error in store.repairs] == [told.message]
        assert len(store.rows("FROM errors")) == 1
        shutil.rmtree(damaged_of(path))
        assert store.repairs == []


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(data)


def tables_of(path: Path, byte: int) -> int:
    """Where in the file something is that was written before the last checkpoint."""
    return path.read_bytes().index(b"ses_") + byte


@pytest.mark.parametrize("harm", ["block", "header", "gone"])
def test_a_damaged_database_file_is_replaced_by_the_copy_of_its_last_checkpoint(
    killed: tuple[Path, set[str]], tmp_path: Path, harm: str
) -> None:
    origin, known = killed
    path = torture.copy_log(origin, tmp_path / "log")
    if harm == "gone":
        path.unlink()
    else:
        flip(path, tables_of(path, 2) if harm == "block" else 10)
    with Store.open(path) as store:
        assert known <= set(ids(store)), "the old ones from the copy, the others from the spool"
        (told,) = store.repairs
        assert "The copy of its last checkpoint took its place." in told.message
        assert told.details["lost"] == []
        assert told.details["restored_sessions"] >= 12
        assert all(check.status != "bad" for check in store.verify())
    assert mirror_of(path).exists(), "and there is a new one"


def test_without_a_copy_what_is_lost_is_named_in_sessions(
    killed: tuple[Path, set[str]], tmp_path: Path
) -> None:
    path = torture.copy_log(killed[0], tmp_path / "log")
    mirror_of(path).unlink()
    path.unlink()
    with Store.open(path) as store:
        assert len(ids(store)) >= 12  # those of the time since the file was proven
        (told,) = store.repairs
    assert "was gone" in told.message
    assert told.details["lost"][0] == "40 of 40 sessions"
    assert "40 of 40 rows of token_streams" in told.details["lost"]

    path = torture.copy_log(killed[0], tmp_path / "other")
    mirror_of(path).unlink()
    flip(path, tables_of(path, 2))
    with Store.open(path) as store:
        (told,) = store.repairs
        gone = 40 + told.details["restored_sessions"] - len(ids(store))
    lost = [words for words in told.details["lost"] if words.endswith(" sessions")]
    assert lost == ([f"{gone} of 40 sessions"] if gone else [])


def test_a_copy_that_the_spool_does_not_go_on_from_is_not_taken(path: Path, tmp_path: Path) -> None:
    eager = Durability(checkpoint_bytes=1)
    with Store.open(path, durability=eager) as store:
        store.log_session(make_session(), ASKED).stored.result()
    old = tmp_path / "old"
    shutil.copy2(mirror_of(path), old)
    for _ in range(2):
        with Store.open(path, durability=eager) as store:
            store.log_session(make_session(), ASKED).stored.result()
    shutil.copy2(old, mirror_of(path))
    flip(path, 10)
    with Store.open(path) as store:
        (told,) = store.repairs
        assert "took its place" not in told.message
    (kept,) = damaged_of(path).iterdir()
    assert {item.name for item in kept.iterdir()} >= {path.name, mirror_of(path).name}


def test_the_copy_is_as_large_as_it_may_be(path: Path) -> None:
    with Store.open(path) as store:
        store.log_session(make_session(), ASKED)
    assert mirror_of(path).stat().st_mode & 0o777 == 0o600
    assert mirror_of(path).read_bytes()[:12] == path.read_bytes()[:12]
    with Store.open(path) as store:
        assert store.size_bytes() > 1.5 * path.stat().st_size, "what it takes is told with the copy"
    with Store.open(path, durability=Durability(copy_bytes=1)) as store:
        store.log_session(make_session(), ASKED)
        assert not mirror_of(path).exists()
        assert metadata_of(path).exists()
    with Store.open(path, durability=Durability(copy_bytes=0)) as store:
        store.log_session(make_session(), ASKED)
    assert not mirror_of(path).exists()
    assert not metadata_of(path).exists()


def test_a_block_that_goes_bad_is_not_copied_and_a_checkpoint_says_so(path: Path) -> None:
    with Store.open(path) as store:
        store.log_session(make_session(), ASKED)
    whole = mirror_of(path).read_bytes()
    file = DatabaseFile(path)
    state = file.read_state(blocks=False)
    number = next(n for n in range(state.blocks) if n != state.list_block)  # that one is read
    block = state.place(number)
    flip(path, block + 3)  # its checksum itself
    assert mirror.update(path, file, 2**30) == (f"block {number}",)
    assert mirror_of(path).read_bytes() == whole
    flip(path, block + 3)
    flip(path, block + 900)  # what it holds
    assert mirror.update(path, file, 2**30) == ()
    assert mirror_of(path).read_bytes()[4096 * 3 :] == whole[4096 * 3 :]
    file.close()


def test_a_checkpoint_rotates_the_spool_and_keeps_other_processes_out(path: Path) -> None:
    with Store.open(path, durability=Durability(checkpoint_bytes=1)) as store:
        for _ in range(4):
            store.log_session(make_session(), ASKED).stored.result()
            store.flush()
        store.query("SELECT 1")
        assert len(list(spool_of(path).glob("spool-*.ndjson"))) <= 3
        code = "import sys, duckdb; duckdb.connect(sys.argv[1])"
        other = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True)
        assert b"lock" in other.stderr.lower()
    assert {item.name for item in spool_of(path).iterdir()} == {"checkpoint.json", "copy.duckdb"}


def test_a_full_disk_loses_nothing_that_was_acknowledged(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "RETRY_S", 0.05)
    path = small_disk / "log" / "workbench.duckdb"
    with Store.open(path) as store:
        receipts = {}
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"x" * 18_000_000)
        while store.last_error is None:
            session = make_session(text="x" * 20_000)
            receipts[session.session_id] = store.log_session(session, ASKED)
            with suppress(TimeoutError):
                receipts[session.session_id].result(timeout=0.2)
        assert store.last_error is not None
        assert store.last_error.code is ErrorCode.DISK_FULL
        late = store.log_session(make_session(), ASKED)  # serving goes on
        ballast.unlink()
        late.stored.result(timeout=30)
        store.flush(30)
        assert store.last_error is None
        assert set(receipts) <= set(ids(store))
        codes = {row["code"] for row in store.rows("SELECT code FROM errors")}
        assert codes == {"DISK_FULL"}
    with Store.open(path) as store:
        assert set(receipts) <= set(ids(store))


def test_what_is_logged_can_be_read_while_a_checkpoint_has_no_room(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckDB gave up: for as long as the disk was full nothing could be read either."""
    monkeypatch.setattr(writing, "RETRY_S", 0.05)
    path = small_disk / "log" / "workbench.duckdb"

    def wait_for(code: ErrorCode | None) -> WorkbenchError | None:
        deadline = time.monotonic() + 60
        while (error := store.last_error) is None or error.code is not code:
            if error is code is None:
                break
            assert time.monotonic() < deadline, error
            time.sleep(0.01)
        return error

    with ExitStack() as full, Store.open(path, durability=Durability(checkpoint_bytes=1)) as store:
        # The last is more than the file has free blocks for.
        kept = [make_session(), make_session(text=secrets.token_hex(500_000))]
        store.log_session(kept[0], ASKED).stored.result(30)
        # The writer fills the disk itself, right after a transaction: the checkpoint comes next.
        store.on_commit = lambda items, seconds: full.enter_context(disks.full(small_disk))
        store.log_session(kept[1], ASKED).stored.result(30)
        told = wait_for(ErrorCode.DISK_FULL)
        assert ids(store) == [session.session_id for session in kept]
        assert "MB are free" in str(told)
        store.on_commit = lambda items, seconds: None
        full.close()
        wait_for(None)
        assert not wal_of(path).exists(), "it was made by itself"
        assert ids(store) == [session.session_id for session in kept]


@pytest.mark.parametrize("when", ["before_header", "before_truncate"])
def test_a_database_that_gives_up_is_opened_anew_while_serving_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A checkpoint that fails half-way makes DuckDB refuse everything: a real fatal error."""
    opened = []

    def seal(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
        if not opened:
            connection.execute(f"SET debug_checkpoint_abort = '{when}'")
        opened.append(connection)
        files.seal(connection, path)

    monkeypatch.setattr(store_module, "seal", seal)
    with Store.open(path) as store:
        database = store._database
        assert database is not None
        sessions = [make_session() for _ in range(30)]
        early = [store.log_session(session, ASKED) for session in sessions[:15]]
        early[-1].stored.result(30)
        with pytest.raises(duckdb.FatalException):
            database.checkpoint()
        late = [store.log_session(session, ASKED) for session in sessions[15:]]
        for receipt in late:
            receipt.stored.result(30)
        assert ids(store) == [session.session_id for session in sessions]
        assert store.last_error is None
        assert len(opened) == 2
        assert database.checkpoint()
        assert all(check.status != "bad" for check in store.verify())
    with Store.open(path) as store:
        assert ids(store) == [session.session_id for session in sessions]


def test_a_row_that_a_reopening_brings_in_while_it_waits_is_stored_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came from the spool and then again from the queue, and was refused as known already."""
    monkeypatch.setattr(store_module, "seal", lambda connection, path: None)
    with Store.open(path) as store:
        database = store._database
        assert database is not None
        early, late = make_session(), make_session()
        store.log_session(early, ASKED).stored.result(30)
        database.connection.execute("SET debug_checkpoint_abort = 'before_header'")
        with database._turn:  # the writing thread waits
            with pytest.raises(duckdb.FatalException):
                database.checkpoint()
            receipt = store.log_session(late, ASKED)
            receipt.result(30)
            assert database.checkpoint()
        receipt.stored.result(30)
        assert ids(store) == [early.session_id, late.session_id]


@pytest.mark.parametrize("harm", ["file", "folder"])
def test_a_log_that_is_deleted_while_it_is_used_says_so_and_comes_back(
    tmp_path: Path, harm: str
) -> None:
    """Its rows went on to be acknowledged and were gone at the next start, without a word."""
    path = tmp_path / "log" / "workbench.duckdb"
    with Store.open(path) as store:
        sessions = [make_session() for _ in range(4)]
        for session in sessions[:2]:
            store.log_session(session, ASKED).stored.result(30)
        if harm == "file":
            path.unlink()
            wal_of(path).unlink()
        else:
            shutil.rmtree(path.parent)
        store.log_session(sessions[2], ASKED).stored.result(30)
        deadline = time.monotonic() + 60
        while store.last_error is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert store.last_error is not None
        assert store.last_error.code is ErrorCode.STORE_UNAVAILABLE
        assert "was deleted" in store.last_error.message
        store.log_session(sessions[3], ASKED).result(30)
        known = [session.session_id for session in sessions]
        if harm == "file":  # a kill, as far as the files go
            shutil.copytree(path.parent, tmp_path / "killed")
    with Store.open(path) as store:
        assert ids(store) == known
        (told,) = store.repairs
        assert "was gone" in told.message
        assert told.details["lost"] == []
    if harm == "file":
        with Store.open(tmp_path / "killed" / path.name) as store:
            assert ids(store) == known


@pytest.mark.parametrize("gone", ["file", "copy", "folder"])
def test_a_log_that_is_deleted_between_two_starts_comes_back_from_its_copy(
    path: Path, gone: str
) -> None:
    """A new one was made in silence, and the copy deleted, because the spool was empty."""
    sessions = [make_session() for _ in range(2)]
    with Store.open(path) as store:
        for session in sessions:
            store.log_session(session, ASKED).stored.result(30)
    assert list(spool_of(path).glob("spool-*")) == []
    path.unlink()
    if gone == "copy":
        mirror_of(path).unlink()
    elif gone == "folder":
        shutil.rmtree(spool_of(path))
    with Store.open(path) as store:
        found = ids(store)
        told = store.repairs
    assert found == ([session.session_id for session in sessions] if gone == "file" else [])
    if gone == "folder":
        assert told == [], "who deletes all of it wants a new one"
    else:
        (error,) = told
        assert "was gone" in error.message
        assert ("took its place" in error.message) == (gone == "file")
        assert error.details["lost"][:1] == ([] if gone == "file" else ["2 of 2 sessions"])


@pytest.fixture
def failing_disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None], Callable[[], None]]]:
    """A file system of its own; what makes it read-only as an error would, what mends it."""
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(48 * 2**20)
    mount = ["mount", "-o", "loop,errors=remount-ro", str(image), str(folder)]
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, capture_output=True)
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting is not permitted here")

    def fail() -> None:
        (device,) = (
            line.split()[0]
            for line in Path("/proc/mounts").read_text().splitlines()
            if f" {folder} " in line
        )
        trigger = Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error")
        if not trigger.exists():
            pytest.skip("this kernel makes no such errors")
        trigger.write_text("1")

    def mend() -> None:
        subprocess.run(["umount", str(folder)], check=True)
        subprocess.run(["e2fsck", "-fy", str(image)], capture_output=True)
        subprocess.run(mount, check=True)

    yield folder, fail, mend
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_turns_read_only_loses_nothing_that_was_acknowledged(
    failing_disk: tuple[Path, Callable[[], None], Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writing, "RETRY_S", 0.05)
    folder, fail, mend = failing_disk
    path = folder / "log" / "workbench.duckdb"
    with Store.open(path) as store:
        kept = [make_session() for _ in range(20)]
        for session in kept:
            store.log_session(session, ASKED).result(30)
        store.flush(30)
        fail()
        late = store.log_session(make_session(), ASKED)
        with pytest.raises(WorkbenchError, match=r"(?i)read-only"):
            store.flush(2)
        assert not late.done(), "nobody is told that it is on disk"
        assert store.last_error is not None
        assert store.last_error.code is ErrorCode.STORE_UNAVAILABLE
        assert store.last_error.fix
        assert ids(store) == [session.session_id for session in kept], "reading goes on"
    mend()
    with Store.open(path) as store:
        assert ids(store) == [session.session_id for session in kept]
        assert all(check.status != "bad" for check in store.verify())
