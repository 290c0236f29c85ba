"""Opening for writing, whatever was left behind: never a refusal for damage, never silence.

1. A write-ahead log that ends in the middle of an entry is what a kill leaves, and DuckDB reads its
   whole part without a word. It is copied aside, and told, if the spool has not all that came since
   the last checkpoint.
2. One that cannot be replayed is moved aside, and the database opened without it.
3. A database file that cannot be opened, or has a broken block that is in use, is moved aside. The
   copy of its last checkpoint takes its place (:mod:`workbench.store.mirror`); without one that the
   spool goes on from, a new file is made of what can be read and of the spool, out of sight, and
   takes its place when it is whole (:mod:`workbench.store.salvage`).
4. The entries of the spool that the database has not had are put into it.
5. A checkpoint is made, looked at and copied. Then the spool is deleted. Without room for it, it is
   left to the running process.

A kill needs no repair, wherever it falls: blocks that it tore are free ones, or parts of the
metadata that the copy gives back.

A file that somebody holds, that is not a log of ours or is one of a newer workbench is refused.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import duckdb

from workbench import logs
from workbench.errors import ErrorCode, WorkbenchError
from workbench.figures import count
from workbench.store import failures, mirror, salvage
from workbench.store.blocks import DatabaseFile, is_torn
from workbench.store.entries import Columns, Encoder, Entry, columns_in
from workbench.store.files import (
    check_room,
    connect,
    damaged_of,
    explained,
    make,
    opening,
    prepare,
    spool_of,
    wal_of,
)
from workbench.store.inserts import Inserter
from workbench.store.spool import Spool, Spooled, read_spools

_log = logs.get(__name__)

_BATCH: Final = 1024
_REPORT: Final = "report.json"


@dataclass(slots=True)
class Repair:
    """What a start found damaged, did about it and could not bring back, in sentences."""

    path: Path
    at: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    happened: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    restored_sessions: int = 0
    restored_rows: int = 0

    @property
    def folder(self) -> Path:
        """Where what was damaged is kept."""
        return damaged_of(self.path) / f"{self.at:%Y%m%dT%H%M%S.%fZ}"

    def keep(self, path: Path, how: Literal["move", "copy", "link"] = "move") -> Path:
        """Move a damaged file aside, copy it, or give it a second name until it is replaced."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = self.folder / path.name
        if how == "copy":
            shutil.copy2(path, kept)
            return kept
        if how == "link":
            with suppress(OSError):  # a file system without hard links
                os.link(path, kept)
                return kept
        path.rename(kept)
        return kept

    def error(self) -> WorkbenchError:
        """As it is logged and shown."""
        lost = f" Lost: {'; '.join(self.lost)}." if self.lost else " Nothing is known to be lost."
        return WorkbenchError(
            ErrorCode.STORE_DAMAGED,
            f"{' '.join(self.happened)} "
            f"From the spool came {count(self.restored_sessions, 'session')}, "
            f"{count(self.restored_rows, 'row')} of all tables.{lost}",
            fix=f"What was damaged is in {self.folder}. Delete that folder when you have seen it.",
            operation="open",
            details={
                "at": self.at.isoformat(timespec="seconds"),
                "lost": self.lost,
                "restored_sessions": self.restored_sessions,
                "restored_rows": self.restored_rows,
                "folder": str(self.folder),
            },
        )

    def came_back(self, rows: Mapping[str, int]) -> None:
        """Rows of tables that the spool had."""
        self.restored_sessions += rows.get("stream_sessions", 0)
        self.restored_rows += sum(rows.values())

    def write(self) -> None:
        """Put the report beside what is kept, where every later process finds it.

        Before each step that cannot be seen afterwards, and again at the end: who is killed between
        them has told what is lost.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        body = {**asdict(self), "path": str(self.path), "at": self.at.isoformat()}
        temporary = self.folder / f".{_REPORT}"
        temporary.write_text(json.dumps(body, indent=1))
        temporary.replace(self.folder / _REPORT)

    def take_back(self) -> None:
        """There is no report: all is as it was."""
        (self.folder / _REPORT).unlink(missing_ok=True)


def reports(path: Path) -> list[WorkbenchError]:
    """The repairs of a log whose folders nobody has deleted yet, the oldest first."""
    found = []
    for report in sorted(damaged_of(path).glob(f"*/{_REPORT}")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            body: dict[str, Any] = json.loads(report.read_text())
            body["at"] = dt.datetime.fromisoformat(body["at"])
            found.append(Repair(**{**body, "path": path}).error())
    return found


@dataclass(frozen=True, slots=True)
class Opened:
    """A log open for writing.

    ``n`` is the number of the last entry that is in it, ``spooled_n`` of the last that was spooled.
    ``proven`` says that the database file has all of it; else a checkpoint is still to be made.
    """

    connection: duckdb.DuckDBPyConnection
    file: DatabaseFile
    spool: Spool
    n: int
    spooled_n: int
    repair: Repair | None
    proven: bool


def open_log(
    path: Path, *, check_bytes: int, copy_bytes: int, wait_s: float, spool: Spool | None = None
) -> Opened:
    """Open the log for writing; make it if there is none, mend it if it is damaged.

    Args:
        path: of the database file.
        check_bytes: every block is read if the file is no larger.
        copy_bytes: the last checkpoint of a file that is no larger is copied.
        wait_s: for another process that is opening it.
        spool: the one in use, if the database is opened anew in a running process.

    Raises:
        WorkbenchError: ``STORE_UNAVAILABLE`` or ``DISK_FULL``; nothing was left behind.
    """
    repair = Repair(path)
    with ExitStack() as held:
        held.enter_context(explained(path))
        prepare(path)
        held.enter_context(opening(path, wait_s))
        folder = spool_of(path)
        spooled = read_spools(folder)
        connection, file = _open_or_mend(path, repair, spooled, check_bytes)
        try:
            if repair.happened:
                repair.write()
            if not mirror.is_current(path, file):
                # An older log was committed by a checkpoint when it was brought up to date.
                mirror.update(path, file, copy_bytes)
            n = _replay(connection, spooled, repair)
            spool = spool or Spool(folder, spooled)
            whole = _checkpoint(path, connection, file, check_bytes)
            proven = (
                whole is not None
                and not mirror.update(path, file, copy_bytes, every_block=whole)
                and salvage.forget_spooled(connection, spool, n, surely=whole)
            )
            if repair.happened:
                repair.write()
                _log.error("store_repaired", reason=repair.error().message, kept=str(repair.folder))
        except BaseException:
            connection.close()
            file.close()
            raise
    told = repair if repair.happened else None
    return Opened(connection, file, spool, n, spooled.last_n, told, proven)


def _open_or_mend(
    path: Path, repair: Repair, spooled: Spooled, check_bytes: int
) -> tuple[duckdb.DuckDBPyConnection, DatabaseFile]:
    """Steps 1 to 3."""
    wal = wal_of(path)
    was_there = _left_something(path, spooled)  # before looking for the file: another may make it
    if not path.exists():
        if was_there:
            repair.happened.append("The database file was gone.")
            if wal.exists():
                repair.keep(wal)
            if (copied := _from_copy(path, repair, spooled, check_bytes, None)) is not None:
                return copied
            _make_anew(path, repair, spooled, None)
        else:
            make(path)
        mirror.forget(path)
        file = DatabaseFile(path)
        return connect(path), file
    ours = spool_of(path).is_dir()
    if wal.exists() and is_torn(wal.read_bytes()):
        if ours and _has_all_since_checkpoint(path, spooled):
            _log.info("store_wal_cut_off", bytes=wal.stat().st_size)
        else:
            repair.keep(wal, "copy")
            repair.happened.append("The write-ahead log ended in the middle of an entry.")
    file = DatabaseFile(path)
    try:
        mirror.restore_metadata(path, file)
        if not (file.is_database or ours):
            connect(path).close()  # refused, with DuckDB's reason
        try:
            return _connect_checked(path, file, check_bytes), file
        except duckdb.Error as error:
            if not failures.is_damage(error):
                raise
            first = str(error)
        if wal.exists():
            kept = repair.keep(wal)
            try:
                connection = _connect_checked(path, file, check_bytes)
            except duckdb.Error as error:
                if not failures.is_damage(error):
                    kept.rename(wal)
                    raise
            else:
                repair.happened.append(f"The write-ahead log could not be replayed ({first}).")
                return connection, file
    except BaseException:
        file.close()
        raise
    file.close()
    repair.happened.append(f"The database file was damaged ({first}).")
    kept = repair.keep(path, "link")
    if (copied := _from_copy(path, repair, spooled, check_bytes, kept)) is not None:
        return copied
    _make_anew(path, repair, spooled, kept)
    file = DatabaseFile(path)
    return connect(path), file


def _left_something(path: Path, spooled: Spooled) -> bool:
    """Whether there is something beside the file that only a log with rows leaves there."""
    return bool(
        spooled.entries
        or wal_of(path).exists()
        or mirror.mirror_of(path).exists()
        or salvage.noted(spool_of(path)).position
    )


def _make_anew(path: Path, repair: Repair, spooled: Spooled, damaged: Path | None) -> None:
    """Make the file of what can be read of the old one, if there is one, and of the spool.

    Whoever is killed meanwhile leaves all as it was.
    """
    folder = path.with_name(f".{path.name}.mending")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    made = folder / path.name
    with connect(made) as connection:
        had = salvage.noted(spool_of(path))
        if damaged is not None:
            had = salvage.copy_readable(damaged, connection, folder=spool_of(path))
        _bring_back(connection, spooled, repair, had)
        connection.execute("CHECKPOINT")
    made.chmod(0o600)
    repair.write()
    made.replace(path)
    shutil.rmtree(folder, ignore_errors=True)


def _bring_back(
    connection: duckdb.DuckDBPyConnection, spooled: Spooled, repair: Repair, had: salvage.Had
) -> None:
    """Put in what the old file had and the spool knows, and count what is missing then."""
    n = _position(connection)
    columns = columns_in(connection)
    encoder = Encoder(columns)
    entries = [encoder.decode(body) for body in spooled.entries]
    copied = had.since is not None
    # What is missing of the old file is counted before what came later is put in.
    position = max(n, had.position) if n or not copied else had.reached(entries)
    earlier = [entry for entry in entries if entry.n <= position]
    if copied:
        repair.came_back(salvage.fill_in(connection, columns, earlier))
    else:
        _put(connection, columns, earlier, repair)
    repair.lost += salvage.missing(connection, had)
    if copied and not n:
        # It may have had of the later ones, too: what is there is not put in twice.
        _tell_broken(spooled, position, repair)
        later = entries[len(earlier) :]
        repair.came_back(
            salvage.fill_in(connection, columns, salvage.parts_of(later, replacing=False))
        )
        _put(connection, columns, salvage.parts_of(later, replacing=True), repair)
        position = max(position, spooled.last_n)
    connection.execute("UPDATE log_position SET n = ?", [position])


def _position(connection: duckdb.DuckDBPyConnection) -> int:
    row = connection.execute("SELECT n FROM log_position").fetchone()
    return int(row[0]) if row else 0


def _from_copy(
    path: Path, repair: Repair, spooled: Spooled, check_bytes: int, damaged: Path | None
) -> tuple[duckdb.DuckDBPyConnection, DatabaseFile] | None:
    """Put the copy of the last checkpoint in place, if the spool has all that came after it.

    If it cannot be opened now, for want of room say, all is put back for the next start.
    """
    copy = mirror.mirror_of(path)
    if mirror.iteration_of(path) is None:
        if copy.exists():
            repair.keep(copy)
        return None
    repair.write()
    copy.rename(path)
    file = DatabaseFile(path)
    try:
        connection = _connect_checked(path, file, check_bytes)
    except (duckdb.Error, OSError, WorkbenchError) as error:
        if not failures.is_damage(error):
            file.close()
            path.rename(copy)
            wal_of(path).unlink(missing_ok=True)  # the copy's: that of the log was moved aside
            if damaged is not None:
                damaged.rename(path)
            repair.take_back()
            raise
        _log.warning("store_copy_unusable", reason=str(error))
    else:
        if _begins(path, spooled) <= _position(connection) + 1:
            repair.happened.append("The copy of its last checkpoint took its place.")
            return connection, file
        connection.close()
    file.close()
    repair.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.rename(repair.folder / copy.name)
    return None


def _begins(path: Path, spooled: Spooled) -> int:
    """The number of the first entry that the spool has, or will have."""
    first = salvage.noted(spool_of(path)).position + 1
    return min((entry["n"] for entry in spooled.entries), default=first)


def _has_all_since_checkpoint(path: Path, spooled: Spooled) -> bool:
    position = salvage.noted(spool_of(path)).position
    return not spooled.broken and _begins(path, spooled) <= position + 1


def _connect_checked(path: Path, file: DatabaseFile, check_bytes: int) -> duckdb.DuckDBPyConnection:
    """Open the file; one that opens in spite of broken blocks counts as damaged, too."""
    had_wal = wal_of(path).exists()
    connection = connect(path)
    try:
        marked = salvage.mark_of(path).exists()
        state = file.read_state(blocks=marked or file.size_bytes <= check_bytes)
        broken = list(state.broken)
        if had_wal and state.unfinished:
            # A large transaction writes its rows to free blocks, and only names these in the log.
            used = salvage.blocks_of(connection) & state.unfinished
            broken += [f"block {index}" for index in sorted(used)]
        if broken:
            connection.execute("PRAGMA disable_checkpoint_on_shutdown")
            raise duckdb.IOException(f"Corrupt database file: {', '.join(broken)}")
        salvage.mark_of(path).unlink(missing_ok=True)
    except BaseException:
        connection.close()
        raise
    return connection


def _replay(connection: duckdb.DuckDBPyConnection, spooled: Spooled, repair: Repair) -> int:
    """Step 4; the number of the last entry that is in the tables then."""
    n = _position(connection)
    columns = columns_in(connection)
    encoder = Encoder(columns)
    new = [encoder.decode(body) for body in spooled.entries if body["n"] > n]
    _tell_broken(spooled, n, repair)
    _put(connection, columns, new, repair)
    if new:
        _log.info("store_replayed", entries=len(new), last_n=new[-1].n)
    last = max([n, *(entry.n for entry in new)])
    # Entries that the database refused have their numbers all the same.
    connection.execute("UPDATE log_position SET n = ? WHERE n < ?", [last, last])
    return last


def _tell_broken(spooled: Spooled, n: int, repair: Repair) -> None:
    """Name what broken lines of the spool may have held that came after entry ``n``; once."""
    told = f"The spool has broken lines ({'; '.join(spooled.broken)})."
    if not spooled.broken or told in repair.happened:
        return
    repair.happened.append(told)
    for path in spooled.files:
        repair.keep(path, "copy")
    have = {body["n"] for body in spooled.entries if body["n"] > n}
    last = max(have, default=n)
    if missing := [number for number in range(n + 1, last + 1) if number not in have]:
        numbers = ", ".join(map(str, missing))
        repair.lost.append(f"up to {len(missing)} sessions (lines {numbers} of the spool)")
    elif spooled.cut_off and n <= spooled.last_n:
        repair.lost.append(f"sessions that were acknowledged after line {last} of the spool")
    repair.write()


def _put(
    connection: duckdb.DuckDBPyConnection,
    columns: Columns,
    entries: Sequence[Entry],
    repair: Repair,
) -> None:
    inserter = Inserter(connection, columns)
    try:
        for start in range(0, len(entries), _BATCH):
            for entry in _apply(inserter, entries[start : start + _BATCH]):
                repair.came_back(Counter({part.table: len(part.rows) for part in entry.parts}))
    finally:
        inserter.close()


def _apply(inserter: Inserter, entries: Sequence[Entry]) -> Sequence[Entry]:
    """Write entries; those that the database refuses, as it did before, are left out.

    Returns:
        Those that were written.
    """
    try:
        inserter.commit(entries)
    except duckdb.Error as error:
        if failures.is_about_the_database(error):
            raise
        if len(entries) == 1:
            _log.warning("store_refused_item", reason=type(error).__name__, n=entries[0].n)
            return ()
        half = len(entries) // 2
        return [*_apply(inserter, entries[:half]), *_apply(inserter, entries[half:])]
    return entries


def _checkpoint(
    path: Path, connection: duckdb.DuckDBPyConnection, file: DatabaseFile, check_bytes: int
) -> bool | None:
    """Step 5: True: every block is whole; None: one is not, or there was no room for a checkpoint.

    False: they were not all read.
    """
    try:
        check_room(path)
    except WorkbenchError as error:
        # What it would bring into the file is in the write-ahead log and the spool, and stays.
        _log.warning("store_checkpoint_put_off", reason=error.message)
        return None
    connection.execute("CHECKPOINT")
    small = file.size_bytes <= check_bytes
    state = file.read_state(blocks=small)
    if state.broken:
        _log.error("store_checkpoint_broken", broken=state.broken)
        return None
    return small
