"""A copy of the database file as it was at the last checkpoint that was proven.

The spool holds what came since; the copy holds what was there before, so that a block that goes
bad costs nothing. It is brought up to date with every checkpoint, and only by the blocks that are
new: a block carries its own checksum in front, so eight bytes of each are compared. A block is
copied only if it is what its checksum says; one that went bad on the disk later still carries its
old sum, and the copy keeps the good one.

DuckDB never writes over a block of the checkpoint before (it is free only once the header of the
next one is written), so new blocks can be copied first and the headers last: whenever that is
broken off, the copy is still the checkpoint before. Where there is more than one checkpoint
between the two, its headers are taken away first, and it counts as no copy until it is complete.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from workbench import logs
from workbench.store.blocks import HEADERS_BYTES, DatabaseFile, is_whole
from workbench.store.files import spool_of

_log = logs.get(__name__)

_NAME: Final = "copy.duckdb"
_SUM_BYTES: Final = 8
_LOOKS: Final = 5
_PAUSE_S: Final = 0.02


def mirror_of(path: Path) -> Path:
    """Where the copy of a log is."""
    return spool_of(path) / _NAME


def forget(path: Path) -> None:
    """There is no copy from now on."""
    with suppress(OSError):
        mirror_of(path).unlink(missing_ok=True)


def iteration_of(path: Path) -> int | None:
    """Which checkpoint the copy is of, if every block of it is whole; None if there is none."""
    copy = mirror_of(path)
    if not copy.exists():
        return None
    try:
        file = DatabaseFile(copy)
        try:
            state = file.read_state(blocks=True)
        finally:
            file.close()
    except OSError:
        return None
    return state.iteration if state.iteration and not state.broken else None


def update(path: Path, file: DatabaseFile, max_bytes: int) -> tuple[str, ...]:
    """Bring the copy up to date, right after a checkpoint.

    Args:
        path: of the log.
        file: the log from outside; nobody writes to it meanwhile.
        max_bytes: a larger file has no copy.

    Returns:
        Blocks of the file that are not as they were written; the copy is left as it was then.
        Where there is no room for a copy, there is none, and nothing is said but in the log.
    """
    if file.size_bytes > max_bytes:
        forget(path)
        return ()
    copy = mirror_of(path)
    try:
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(copy, os.O_RDWR | os.O_CREAT, 0o600)
        old = DatabaseFile(copy)
        try:
            return _update(file, old, descriptor)
        finally:
            old.close()
            os.close(descriptor)
    except OSError as error:
        _log.warning("store_copy_failed", reason=str(error))
        forget(path)
        return ()


def _update(file: DatabaseFile, old: DatabaseFile, descriptor: int) -> tuple[str, ...]:
    state, before = file.read_state(blocks=False), old.read_state(blocks=False)
    if state.broken:
        return state.broken
    if before.iteration not in (state.iteration, state.iteration - 1):
        os.pwrite(descriptor, bytes(HEADERS_BYTES), 0)
        os.fsync(descriptor)
    broken = []
    for index in range(state.blocks):
        place = state.place(index)
        if file.read(place, _SUM_BYTES) == old.read(place, _SUM_BYTES):
            continue
        block = _settled(file, place, state.block_bytes)
        if len(block) < state.block_bytes or not any(block):
            continue  # free, and never written
        if is_whole(block):
            os.pwrite(descriptor, block, place)
        else:
            broken.append(f"block {index}")
    if broken:
        return tuple(broken)
    os.fsync(descriptor)
    os.pwrite(descriptor, file.read(0, HEADERS_BYTES), 0)
    os.ftruncate(descriptor, state.place(state.blocks))
    os.fsync(descriptor)
    return ()


def _settled(file: DatabaseFile, place: int, length: int) -> bytes:
    """A block; a transaction that is running may be writing a free one just now."""
    for _ in range(_LOOKS):
        block = file.read(place, length)
        if len(block) < length or is_whole(block) or not any(block):
            break
        time.sleep(_PAUSE_S)
    return block
