"""A kill tears what is being written at that moment. None of that needs a repair, and none is told.

A write that a kill ends has done its first pages: here they are put together by hand, from the
files before and after.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import duckdb
import pytest

from tests.store.conftest import make_session
from workbench.errors import ErrorCode, WorkbenchError
from workbench.store import Store, files, mirror, repair, salvage
from workbench.store.blocks import DatabaseFile, FileState, Space
from workbench.store.database import Durability
from workbench.store.entries import Encoder, columns_in
from workbench.store.files import damaged_of, spool_of, wal_of
from workbench.store.mirror import metadata_of, mirror_of
from workbench.store.rows import RowsItem, SessionItem
from workbench.store.salvage import blocks_of, fill_in
from workbench.store.spool import read_spools
from workbench.types import Message

ASKED = [Message("user", "hi")]
PAGES = 4096
"""So much of a block is written when the kill comes."""


@dataclass(frozen=True)
class Killed:
    """A log that was killed with entries in its write-ahead log, and the checkpoint it was at."""

    folder: Path
    known: list[str]
    state: FileState
    space: Space
    tables: set[int]
    before: bytes
    after: bytes
    """Of the database file: at the last checkpoint, and as the next one makes it."""

    def copy(self, folder: Path) -> Path:
        shutil.copytree(self.folder, folder)
        return folder / "workbench.duckdb"

    def rewritten(self) -> list[int]:
        """Blocks that the next checkpoint writes."""
        return [
            index
            for index in range(self.state.blocks)
            if self.block(self.before, index) != self.block(self.after, index) != b""
        ]

    def block(self, data: bytes, index: int) -> bytes:
        return data[self.state.place(index) : self.state.place(index + 1)]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = tmp_path_factory.mktemp("killed")
    path = folder / "log" / "workbench.duckdb"
    known, chance = [], random.Random(1)
    with Store.open(path, durability=Durability(checkpoint_s=3600)) as store:
        database = store._database
        assert database is not None
        for _ in range(2):  # the second leaves free blocks
            for _ in range(8):
                session = make_session(text=chance.randbytes(1000).hex())  # of several pages
                known.append(session.session_id)
                store.log_session(session, ASKED).stored.result(60)
            database.checkpoint()
        file = DatabaseFile(path)
        state = file.read_state(blocks=True)
        space = file.read_space(state)
        tables = blocks_of(database.connection)
        session = make_session()
        known.append(session.session_id)
        store.log_session(session, ASKED).stored.result(60)
        shutil.copytree(path.parent, folder / "killed")
        before = path.read_bytes()
        database.checkpoint()
        after = path.read_bytes()
    file.close()
    return Killed(folder / "killed", known, state, space, tables, before, after)


def ids(store: Store) -> list[str]:
    rows = store.rows("SELECT session_id, seq FROM stream_sessions ORDER BY seq")
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["session_id"] for row in rows]


def put(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("copy_bytes", [2**30, 1])
@pytest.mark.parametrize("kind", ["free", "metadata"])
def test_a_kill_in_the_middle_of_a_checkpoint_needs_no_repair(
    killed: Killed, tmp_path: Path, kind: str, copy_bytes: int
) -> None:
    path = killed.copy(tmp_path / "log")
    file = DatabaseFile(path)
    assert mirror.update(path, file, copy_bytes) == ()
    kinds = {"free": killed.space.free, "metadata": killed.space.metadata.keys()}
    torn = sorted(kinds[kind] & set(killed.rewritten()))
    assert torn
    for index in torn:
        put(path, killed.state.place(index), killed.block(killed.after, index)[:PAGES])
    assert None in [file.read_block(killed.state, index) for index in torn]
    file.close()
    with Store.open(path, durability=Durability(copy_bytes=copy_bytes)) as store:
        assert store.repairs == []
        assert ids(store) == killed.known
        assert {check.status for check in store.verify()} == {"ok"}
    assert not damaged_of(path).exists()
    assert (mirror.iteration_of(path) is None) == (copy_bytes == 1)


@pytest.mark.parametrize("kind", ["table", "index", "metadata", "free"])
def test_a_flipped_bit_is_damage_where_the_block_is_in_use(
    killed: Killed, tmp_path: Path, kind: str
) -> None:
    path = killed.copy(tmp_path / "log")
    metadata = killed.space.metadata
    used = set(range(killed.state.blocks)) - killed.space.free - metadata.keys()
    assert killed.tables < used, "what else is in use are indexes"
    blocks = {
        "table": killed.tables,
        "index": used - killed.tables,
        "metadata": metadata,
        "free": killed.space.free,
    }
    index = min(blocks[kind])  # the last free ones are not in the file
    offset = metadata[index][0][0] + 100 if kind == "metadata" else 5000
    place = killed.state.place(index) + offset
    put(path, place, bytes([killed.before[place] ^ 4]))
    with Store.open(path) as store:
        assert ids(store) == killed.known
        told = [error.message for error in store.repairs]
    if kind == "free":
        assert told == []
    else:
        (message,) = told
        assert "The copy of its last checkpoint took its place." in message


def test_rows_in_a_block_that_only_the_write_ahead_log_names_are_in_use(path: Path) -> None:
    """A large transaction writes there before it commits; for the file such a block is free."""
    with Store.open(path):
        pass
    with duckdb.connect(str(path)) as connection:
        connection.execute("PRAGMA disable_checkpoint_on_shutdown")
        connection.execute("CREATE TABLE gone AS SELECT hash(range) AS i FROM range(300_000)")
        connection.execute("CHECKPOINT; DROP TABLE gone; CHECKPOINT")
        connection.execute("CREATE TABLE large AS SELECT hash(range) AS i FROM range(300_000)")
        used = blocks_of(connection)
    file = DatabaseFile(path)
    state = file.read_state(blocks=False)
    index = min(used & file.read_space(state).free)
    file.close()
    place = state.place(index) + 5000
    put(path, place, bytes([path.read_bytes()[place] ^ 4]))
    with Store.open(path) as store:
        (told,) = store.repairs
        assert f"block {index}" in told.message or "checksum" in told.message


def test_a_write_ahead_log_that_a_kill_cut_off_is_told_only_without_its_spool(
    killed: Killed, tmp_path: Path
) -> None:
    for name in ("whole", "without"):
        path = killed.copy(tmp_path / name)
        os.truncate(wal_of(path), wal_of(path).stat().st_size - 20)
        if name == "without":
            shutil.rmtree(spool_of(path))
        with Store.open(path) as store:
            if name == "whole":
                assert store.repairs == []
                assert ids(store) == killed.known
            else:
                (told,) = store.repairs
                assert "ended in the middle of an entry" in told.message


def test_a_copy_that_an_earlier_kill_has_torn_is_whole_after_the_next_start(
    killed: Killed, tmp_path: Path
) -> None:
    """Its block had the new sum and the old end, and so counted as copied ever after."""
    path = killed.copy(tmp_path / "log")
    index = min(killed.tables)
    place = killed.state.place(index) + PAGES
    put(mirror_of(path), place, random.Random(2).randbytes(PAGES))
    assert mirror.iteration_of(path) is None
    with Store.open(path):
        assert mirror.iteration_of(path) is not None
    assert mirror.iteration_of(path) is not None


def test_a_block_that_is_broken_for_two_checkpoints_leaves_the_copy_as_it_was(
    killed: Killed, tmp_path: Path
) -> None:
    """The second time the copy's headers were taken away, and with them the only good block."""
    path = killed.copy(tmp_path / "log")
    good = mirror_of(path).read_bytes()
    path.write_bytes(killed.after)
    wal_of(path).unlink()
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE log_position SET n = n + 1")
    file = DatabaseFile(path)
    state = file.read_state(blocks=True)
    assert state.iteration >= killed.state.iteration + 2
    index = min(killed.tables - file.read_space(state).free)
    flipped = file.read(killed.state.place(index), 1)[0] ^ 4
    put(path, killed.state.place(index), bytes([flipped]))
    assert mirror.update(path, file, 2**30) == (f"block {index}",)
    file.close()
    assert mirror_of(path).read_bytes() == good
    assert mirror.iteration_of(path) == killed.state.iteration


@pytest.mark.parametrize("copy_bytes", [2**30, 1])
def test_a_list_of_free_blocks_that_cannot_be_read_is_damage_and_no_copy_is_of_it(
    killed: Killed, tmp_path: Path, copy_bytes: int
) -> None:
    """The copy of the metadata counted as current, without a block of it."""
    path = killed.copy(tmp_path / "log")
    file = DatabaseFile(path)
    assert mirror.update(path, file, copy_bytes) == ()
    copy = mirror_of(path) if copy_bytes > 1 else metadata_of(path)
    good = copy.read_bytes()
    path.write_bytes(killed.after)
    index = file.read_state(blocks=False).list_block
    place = killed.state.place(index) + 5000
    put(path, place, bytes([killed.after[place] ^ 4]))
    assert f"block {index}" in mirror.update(path, file, copy_bytes)
    file.close()
    assert copy.read_bytes() == good


def unreadable(monkeypatch: pytest.MonkeyPatch, path: Path, place: int) -> None:
    """The disk cannot read the byte there any more."""
    whole, inode = os.pread, path.stat().st_ino

    def pread(descriptor: int, length: int, offset: int) -> bytes:
        if os.fstat(descriptor).st_ino == inode and offset <= place < offset + length:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return whole(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", pread)


@pytest.mark.parametrize("byte", [0, 5000])
def test_a_block_that_the_disk_cannot_read_is_broken_and_comes_back_from_the_copy(
    killed: Killed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, byte: int
) -> None:
    """The copy was given up, as if it were full, and the next start refused."""
    path = killed.copy(tmp_path / "log")
    good = mirror_of(path).read_bytes()
    index = min(killed.tables)
    file = DatabaseFile(path)
    with monkeypatch.context() as patched:
        unreadable(patched, path, killed.state.place(index) + byte)
        assert file.read_state(blocks=True).broken == (f"block {index}",)
        put(mirror_of(path), killed.state.place(index), bytes(8))  # it is to be read
        assert mirror.update(path, file, 2**30) == (f"block {index}",)
        file.close()
        put(mirror_of(path), killed.state.place(index), good[killed.state.place(index) :][:8])
        assert mirror_of(path).read_bytes() == good
        with Store.open(path) as store:
            assert ids(store) == killed.known
            (told,) = store.repairs
    assert f"block {index}" in told.message
    assert "The copy of its last checkpoint took its place." in told.message
    assert told.details["lost"] == []


def test_a_copy_that_is_broken_is_kept_where_the_file_is_gone(
    killed: Killed, tmp_path: Path
) -> None:
    """It was deleted, and with it the last of the rows."""
    path = killed.copy(tmp_path / "log")
    put(mirror_of(path), killed.state.place(min(killed.tables)), bytes(8))
    left = mirror_of(path).read_bytes()
    path.unlink()
    with Store.open(path) as store:
        (told,) = store.repairs
    assert told.details["lost"]
    (kept,) = damaged_of(path).iterdir()
    assert (kept / mirror_of(path).name).read_bytes() == left


class Kill(BaseException):
    """Ends a process, as far as its files go."""


def test_a_kill_at_any_write_to_the_copy_is_mended_by_the_next_update(
    killed: Killed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = killed.copy(tmp_path / "log")
    old = mirror_of(path).read_bytes()
    path.write_bytes(killed.after)
    whole = os.pwrite
    file = DatabaseFile(path)
    writes = 0
    for fatal in range(1000):
        mirror_of(path).write_bytes(old)
        done = 0

        def pwrite(descriptor: int, data: bytes, offset: int, fatal: int = fatal) -> int:
            nonlocal done
            done += 1
            if done > fatal:
                whole(descriptor, data[: len(data) // 2 // 4096 * 4096], offset)
                raise Kill
            return whole(descriptor, data, offset)

        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", pwrite)
            try:
                mirror.update(path, file, 2**30)
            except Kill:
                writes += 1
            else:
                break
        assert mirror.iteration_of(path) in (
            None,
            killed.state.iteration,
            killed.state.iteration + 1,
        )
        assert mirror.update(path, file, 2**30) == ()
        assert mirror.iteration_of(path) == killed.state.iteration + 1
    assert writes > 5
    file.close()


@pytest.mark.parametrize("room", [2**30, 3 * PAGES])
def test_a_write_that_ends_early_goes_on_or_there_is_no_copy(
    killed: Killed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """As on a disk that becomes full: half a block was left under its new sum."""
    path = killed.copy(tmp_path / "log")
    path.write_bytes(killed.after)
    file = DatabaseFile(path)
    whole = os.pwrite
    left = room

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal left
        written = whole(descriptor, data[: min(PAGES, left)], offset) if left else 0
        left -= written
        return written

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", pwrite)
        assert mirror.update(path, file, 2**30) == ()
    there = mirror.iteration_of(path)
    assert there == (killed.state.iteration + 1 if left else None)
    assert mirror_of(path).exists() == bool(left)
    file.close()


@pytest.mark.parametrize("harm", ["file", "gone"])
def test_a_copy_that_finds_no_room_to_be_opened_is_there_for_the_next_start(
    killed: Killed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    """It was moved to what is damaged, and the log began anew without it."""
    path = killed.copy(tmp_path / "log")
    good = mirror_of(path).read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        place = killed.state.place(min(killed.tables)) + 5000
        put(path, place, bytes([killed.before[place] ^ 4]))
    left = path.read_bytes() if harm == "file" else b""

    def full(opened: Path) -> duckdb.DuckDBPyConnection:
        if opened == path and not mirror_of(path).exists():
            raise duckdb.IOException("Could not write file: No space left on device")
        return files.connect(opened)

    with monkeypatch.context() as patched:
        patched.setattr(repair, "connect", full)
        with pytest.raises(WorkbenchError) as raised:
            Store.open(path)
    assert raised.value.code is ErrorCode.DISK_FULL
    assert mirror_of(path).read_bytes() == good
    assert (path.read_bytes() if path.exists() else b"") == left
    with Store.open(path) as store:
        assert ids(store) == killed.known
        (told,) = store.repairs
    assert "The copy of its last checkpoint took its place." in told.message
    assert told.details["lost"] == []


@pytest.mark.parametrize("harm", ["file", "gone"])
def test_a_kill_in_the_middle_of_a_repair_leaves_all_to_the_next_start(
    killed: Killed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    """The new file was there already, with a part of the rows, and counted as the log."""
    path = killed.copy(tmp_path / "log")
    mirror_of(path).unlink()
    if harm == "gone":
        path.unlink()
    else:
        place = killed.state.place(min(killed.tables)) + 5000
        put(path, place, bytes([killed.before[place] ^ 4]))

    def kill(*_: object) -> None:
        raise Kill

    with monkeypatch.context() as patched:
        patched.setattr(salvage, "missing", kill)
        with pytest.raises(Kill):
            Store.open(path)
    with Store.open(path) as store:
        (told,) = store.repairs
        found = set(ids(store))
    assert killed.known[-1] in found
    missing = len(set(killed.known) - found)
    lost = [words for words in told.details["lost"] if words.endswith(" sessions")]
    assert lost == ([f"{missing} of {len(killed.known) - 1} sessions"] if missing else [])
    assert [item.name for item in path.parent.iterdir() if item.name.startswith(".")] == []


@pytest.mark.parametrize("harm", ["file", "gone", "copy", "wal", "spool"])
def test_a_kill_right_after_a_repair_leaves_its_report(
    killed: Killed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    """It was written last of all: the next start found a whole log, and named nothing as lost."""
    path = killed.copy(tmp_path / "log")
    if harm in ("file", "gone"):
        mirror_of(path).unlink()
    (spool, *_) = sorted(spool_of(path).glob("spool-*"))[::-1]
    victim, place = {
        "wal": (wal_of(path), wal_of(path).stat().st_size // 2),
        "spool": (spool, spool.stat().st_size // 2),
    }.get(harm, (path, killed.state.place(min(killed.tables)) + 5000))
    put(victim, place, bytes([victim.read_bytes()[place] ^ 4]))
    if harm == "gone":
        path.unlink()

    def kill(*_: object) -> None:
        raise Kill

    with monkeypatch.context() as patched:
        patched.setattr(repair, "_put" if harm == "spool" else "_replay", kill)
        with pytest.raises(Kill):
            Store.open(path)
    told = repair.reports(path)[0]
    with Store.open(path) as store:
        assert told.message in [error.message for error in store.repairs]
        missing = len(set(killed.known) - set(ids(store)))
    words = {"wal": "not be replayed", "gone": "was gone", "spool": "has broken lines"}
    assert words.get(harm, "was damaged") in told.message
    lost = [words for words in told.details["lost"] if words.endswith(" sessions")]
    if harm in ("file", "gone"):
        assert lost == ([f"{missing} of {len(killed.known) - 1} sessions"] if missing else [])


class Counting:
    """A connection that counts its statements."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self.count = 0

    def execute(self, sql: str, values: Sequence[Any] = ()) -> duckdb.DuckDBPyConnection:
        self.count += 1
        return self._connection.execute(sql, values)


@pytest.fixture
def spooled(path: Path) -> Iterator[tuple[Store, duckdb.DuckDBPyConnection]]:
    """Forty sessions, some of one conversation, with a run that was brought up to date."""
    with Store.open(path) as store:
        turns: list[Message] = []
        for number in range(40):
            if number % 4:
                session, asked = make_session(), ASKED
            else:  # every other answer is the same as the one before, and so is its question
                turns.append(Message("user", f"and {number // 8}?"))
                session, asked = make_session(conversation_id="con_1"), list(turns)
                if number % 8:
                    turns.append(Message("assistant", session.text))
                else:
                    turns.pop()
            store.submit(SessionItem(session, asked)).result(60)
        run = {
            "run_id": "run_1",
            "created_at": "2026-03-01",
            "name": "n",
            "timing_mode": "isolated",
            "spec": {},
        }
        store.submit(RowsItem("benchmark_runs", [{**run, "status": "running"}])).result(60)
        for status in ("running", "done"):
            again = RowsItem("benchmark_runs", [{**run, "status": status}], "replace")
            store.submit(again).result(60)
        assert store._database is not None
        store.flush(60)
        yield store, store._database.connection


@pytest.mark.parametrize("gone_from", ["everywhere", "the end", "all of it"])
def test_sessions_that_are_filled_in_are_numbered_as_they_came(
    spooled: tuple[Store, duckdb.DuckDBPyConnection], gone_from: str
) -> None:
    """Those after the last that could be read were numbered backwards."""
    store, connection = spooled
    columns = columns_in(connection)
    encoder = Encoder(columns)
    entries = [encoder.decode(body) for body in read_spools(spool_of(store.path)).entries]
    sql = "SELECT session_id FROM stream_sessions ORDER BY seq"
    before = connection.execute(sql).fetchall()
    gone = {"everywhere": "seq % 3 = 1", "the end": "seq > 30", "all of it": "true"}[gone_from]
    connection.execute(f"DELETE FROM stream_sessions WHERE {gone}")
    fill_in(connection, columns, entries)
    assert connection.execute(sql).fetchall() == before


def test_what_the_spool_fills_in_is_what_was_there_in_few_statements(
    spooled: tuple[Store, duckdb.DuckDBPyConnection],
) -> None:
    store, connection = spooled
    columns = columns_in(connection)
    encoder = Encoder(columns)
    entries = [encoder.decode(body) for body in read_spools(spool_of(store.path)).entries]
    tables = sorted({part.table for entry in entries for part in entry.parts})
    assert len(entries) == 43

    def content() -> dict[str, list[tuple[Any, ...]]]:
        return {
            table: sorted(connection.execute(f"FROM {table}").fetchall(), key=repr)
            for table in tables
        }

    before = content()
    assert before["benchmark_runs"][0][4] == "done"
    gone = {}
    for table in tables:
        ((gone[table],),) = connection.execute(
            f"DELETE FROM {table} WHERE rowid % 3 > 0 OR 'benchmark_runs' = ?", [table]
        ).fetchall()
    assert gone["stream_sessions"] > 20
    counting = Counting(connection)
    added = fill_in(cast(duckdb.DuckDBPyConnection, counting), columns, entries)
    assert content() == before
    assert {table: added[table] for table in tables} == gone
    assert counting.count < 12
    assert sum(fill_in(connection, columns, entries).values()) == 0, "nothing is put in twice"
