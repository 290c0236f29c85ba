"""A copy of the database file as it was at the last checkpoint that was proven.

The spool holds what came since; the copy holds what was there before, so that a block that goes
bad costs nothing. It is brought up to date with every checkpoint, and only by the blocks that are
in use and new: a block carries its own checksum in front, so eight bytes of each are compared. A
block is copied only if it is what its checksum says; one that went bad on the disk later still
carries its old sum, and the copy keeps the good one.

A block's sum is written after the rest of it, and the headers last. So a kill leaves a block half
written but with its old sum, by which the next update finds it; what a loss of power leaves is
found by reading the whole copy, which a start does where it reads the whole file.

DuckDB never writes over a block of the checkpoint before (it is free only once the header of the
next one is written), but for blocks of metadata: of these it uses the parts that are free where
they are, and writes the whole block anew. A kill in the middle of that leaves parts that are in use
as they were under a sum that is not theirs, and DuckDB would refuse the file. The copy has the
block as it was (:func:`restore_metadata`).

Where there is more than one checkpoint between the two, the copy's headers are taken away first,
and it counts as no copy until it is complete. Of a file that is too large for a copy, headers and
blocks of metadata are copied all the same, a few megabytes in a file with holes.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from workbench import logs
from workbench.store.blocks import HEADERS_BYTES, SUM_BYTES, DatabaseFile, FileState, is_whole
from workbench.store.files import spool_of

_log = logs.get(__name__)

_NAME: Final = "copy.duckdb"
_METADATA: Final = "metadata.duckdb"


def mirror_of(path: Path) -> Path:
    """Where the copy of a log is."""
    return spool_of(path) / _NAME


def metadata_of(path: Path) -> Path:
    """Where the copy of the metadata is, of a log that is too large for a whole one."""
    return spool_of(path) / _METADATA


def forget(path: Path) -> None:
    """There is no copy from now on."""
    for copy in (mirror_of(path), metadata_of(path)):
        with suppress(OSError):
            copy.unlink(missing_ok=True)


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


def is_current(path: Path, file: DatabaseFile) -> bool:
    """Whether there is a copy of the very checkpoint that the file has."""
    for copy in (mirror_of(path), metadata_of(path)):
        with suppress(OSError), copy.open("rb") as old:
            if old.read(HEADERS_BYTES) == file.read(0, HEADERS_BYTES):
                return True
    return False


def restore_metadata(path: Path, file: DatabaseFile) -> None:
    """Give a file back the blocks of metadata that a kill has torn, before it is opened.

    Only from the copy of the same checkpoint, and only where all that this checkpoint uses of the
    block is as it is in the copy: otherwise it was no kill, and is left to be found.

    Args:
        path: of the log; this process has it not open.
        file: the same from outside.
    """
    copies = [copy for copy in (mirror_of(path), metadata_of(path)) if copy.exists()]
    if not copies:
        return
    with suppress(OSError):  # without right to write, or held by another process
        old = DatabaseFile(copies[0])
        try:
            if not _torn_metadata(file, old):
                return
            descriptor = os.open(path, os.O_RDWR)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as DuckDB does
                torn = _torn_metadata(file, old)
                for place, block in torn.items():
                    _write(descriptor, block, place)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        finally:
            old.close()
        _log.info("store_metadata_restored", places=list(torn))


def _torn_metadata(file: DatabaseFile, old: DatabaseFile) -> Mapping[int, bytes]:
    """Place -> block as the copy has it."""
    state = old.read_state(blocks=False)
    if state.broken or file.read(0, HEADERS_BYTES) != old.read(0, HEADERS_BYTES):
        return {}
    torn = {}
    for index, used in old.read_space(state).metadata.items():
        if file.read_block(state, index) is not None:
            continue
        place = state.place(index)
        block, good = file.read(place, state.block_bytes), old.read_block(state, index)
        if good and all(block[begin:end] == good[begin:end] for begin, end in used):
            torn[place] = good
    return torn


def _write(descriptor: int, data: bytes, place: int) -> None:
    """Write all of it: a disk that becomes full ends a write early, and without an error.

    Raises:
        OSError: there was no room for all.
    """
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, place)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rest, place = rest[written:], place + written


def update(
    path: Path, file: DatabaseFile, max_bytes: int, *, every_block: bool = False
) -> tuple[str, ...]:
    """Bring the copy up to date, right after a checkpoint.

    Args:
        path: of the log.
        file: the log from outside; nobody writes to it meanwhile.
        max_bytes: of a larger file only the metadata is copied; 0: nothing ever.
        every_block: read the blocks that the copy has already, too, and mend them.

    Returns:
        Blocks of the file that are not as they were written, or that the disk cannot read; the copy
        is left as it was then. Where there is no room for a copy, there is none, and nothing is
        said but in the log.

    Raises:
        OSError: the headers of the file cannot be read; the copy is left as it was.
    """
    if not max_bytes:
        forget(path)
        return ()
    copy, other = mirror_of(path), metadata_of(path)
    if file.size_bytes > max_bytes:
        copy, other = other, copy
    state, headers = file.read_state(blocks=False), file.read(0, HEADERS_BYTES)
    if state.broken:
        return state.broken
    try:
        other.unlink(missing_ok=True)
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(copy, os.O_RDWR | os.O_CREAT, 0o600)
        old = DatabaseFile(copy)
        try:
            whole = copy == mirror_of(path)
            changed, broken = _compare(file, state, old, whole=whole, every_block=every_block)
            if not broken:
                broken = _copy(file, state, changed, old, descriptor)
            if not broken:
                _write(descriptor, headers, 0)
                os.ftruncate(descriptor, state.place(state.blocks))
                os.fsync(descriptor)
            return tuple(f"block {index}" for index in broken)
        finally:
            old.close()
            os.close(descriptor)
    except OSError as error:
        _log.warning("store_copy_failed", reason=str(error))
        forget(path)
        return ()


def _compare(
    file: DatabaseFile, state: FileState, old: DatabaseFile, *, whole: bool, every_block: bool
) -> tuple[Sequence[int], Sequence[int]]:
    """Blocks that the copy has not, and those of the file that are broken."""
    space = file.read_space(state)
    if not space.metadata and state.lists_free:
        return (), (state.list_block,)
    used = [index for index in range(state.blocks) if index not in space.free]
    compared = state.block_bytes if every_block else SUM_BYTES
    changed: list[int] = []
    broken: list[int] = []
    for index in used if whole else space.metadata:
        kept = old.read(state.place(index), compared)
        same = file.read_sum(state, index) == kept[:SUM_BYTES]
        if same and (not every_block or (len(kept) == compared and is_whole(kept))):
            continue
        (changed if file.read_block(state, index) else broken).append(index)
    return changed, broken


def _copy(
    file: DatabaseFile,
    state: FileState,
    changed: Sequence[int],
    old: DatabaseFile,
    descriptor: int,
) -> Sequence[int]:
    """Copy blocks; one that can no longer be read ends it, and is returned."""
    before = old.read_state(blocks=False).iteration
    if before not in (state.iteration, state.iteration - 1):
        _write(descriptor, bytes(HEADERS_BYTES), 0)
        os.fsync(descriptor)
    sums: dict[int, bytes] = {}
    for index in changed:
        block = file.read_block(state, index)
        if block is None:
            return (index,)
        _write(descriptor, block[SUM_BYTES:], state.place(index) + SUM_BYTES)
        sums[index] = block[:SUM_BYTES]
    os.fsync(descriptor)
    for index, word in sums.items():
        _write(descriptor, word, state.place(index))
    return ()
