"""Whether headers and blocks of a database file are as they were written, seen from outside.

DuckDB keeps a checksum with every block and compares it when it reads the block, which may be
never. The layout (magic, two headers that take turns, blocks of one size) is DuckDB's storage
format, src/include/duckdb/storage/storage_info.hpp; the sum is its src/common/checksum.cpp.

A process that is killed in the middle of a checkpoint leaves a block half written. Nobody needs it:
the headers are still those of the checkpoint before, for which it is free. The list of free blocks
tells such a one from damage (LoadFreeList and WriteHeader in its src/storage/
single_file_block_manager.cpp): how many, and each; those that several tables share; the blocks of
metadata, to which the list itself belongs, with the parts of each that are free. What is in none of
these lists is in use, by a table or an index. Blocks of metadata are the exception: they are
written over while in use (:mod:`workbench.store.mirror`).
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

MAGIC: Final = b"DUCK"
_HEADER: Final = 4096
HEADERS_BYTES: Final = 3 * _HEADER
"""Of the three headers in front of the blocks."""
_FACTOR: Final = 0xBF58476D1CE4E5B9
_SEED: Final = 5381
_WAL_HEAD: Final = 64
SUM_BYTES: Final = 8
"""Of a block, in front of what it holds."""
_PARTS: Final = 64
"""Of a block of metadata (METADATA_BLOCK_COUNT): each is written, and is free, by itself."""
_NOWHERE: Final = 2**64 - 1
_INDEX: Final = 2**56 - 1
"""Of a pointer to a part of a block of metadata: its lower bits are the block."""


@dataclass(frozen=True, slots=True)
class FileState:
    """What a database file says of itself.

    ``iteration`` counts its checkpoints. ``broken`` names what is in use and not as it was written.
    ``unfinished`` are blocks that the last checkpoint does not use and that are not whole: never
    written, or torn by a kill. ``blocks`` and ``block_bytes`` are how many there are, and how long
    each is; ``free_list`` is where the list of free ones begins.
    """

    iteration: int
    broken: tuple[str, ...] = ()
    unfinished: frozenset[int] = frozenset()
    blocks: int = 0
    block_bytes: int = 0
    free_list: int = _NOWHERE

    def place(self, index: int) -> int:
        """Where a block begins."""
        return HEADERS_BYTES + index * self.block_bytes

    @property
    def lists_free(self) -> bool:
        """Whether there is a list of free blocks, which names the blocks of metadata, too."""
        return self.free_list != _NOWHERE

    @property
    def list_block(self) -> int:
        """The block in which that list begins."""
        return self.free_list & _INDEX


@dataclass(frozen=True, slots=True)
class Space:
    """What the last checkpoint does not use.

    ``free`` are blocks. ``metadata`` has, for each block of metadata, which bytes of it are in use:
    pairs of begin and end.
    """

    free: frozenset[int] = frozenset()
    metadata: Mapping[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)


class DatabaseFile:
    """The file, held open for looking at it.

    It is opened before DuckDB opens it and closed after DuckDB has closed it: closing any
    descriptor of a file gives up the locks that this process has on it (POSIX), DuckDB's too.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    def close(self) -> None:
        """Release the file; harmless if repeated."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def is_at(self, path: Path) -> bool:
        """Whether it is the file of this name; not if that was deleted, moved or replaced."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), path.stat())
        except OSError:
            return False

    @property
    def size_bytes(self) -> int:
        """On disk."""
        return os.fstat(self._descriptor).st_size

    @property
    def is_database(self) -> bool:
        """Whether it begins as a DuckDB database does."""
        return os.pread(self._descriptor, 12, 0)[8:] == MAGIC

    def read(self, offset: int, length: int) -> bytes:
        """A part of it; shorter at its end.

        Raises:
            OSError: the file cannot be read.
        """
        return os.pread(self._descriptor, length, offset)

    def read_state(self, *, blocks: bool) -> FileState:
        """Read the headers, and every block if asked to; free blocks too.

        No checkpoint may be made meanwhile.

        Raises:
            OSError: the file cannot be read.
        """
        heads = [self.read(n * _HEADER, _HEADER) for n in range(3)]
        names = ("main header", "header 1", "header 2")
        whole = [len(head) == _HEADER and is_whole(head) for head in heads]
        broken = [name for name, good in zip(names, whole, strict=True) if not good]
        good = [head for head, fine in zip(heads[1:], whole[1:], strict=True) if fine]
        if not good:
            return FileState(0, tuple(broken))
        iteration, _, free_list, count, size = max(
            struct.unpack("<QQQQQ", head[8:48]) for head in good
        )
        state = FileState(iteration, tuple(broken), frozenset(), count, size, free_list)
        if not blocks:
            return state
        bad = [index for index in range(count) if self.read_block(state, index) is None]
        free = self.read_space(state).free if bad else frozenset()
        broken += [f"block {index}" for index in bad if index not in free]
        return replace(state, broken=tuple(broken), unfinished=free.intersection(bad))

    def read_block(self, state: FileState, index: int) -> bytes | None:
        """A block; None if it is not as it was written, never was, or the disk cannot read it.

        Raises:
            OSError: the file cannot be read, for a reason that is not the block's.
        """
        block = self._read_if_readable(state.place(index), state.block_bytes) or b""
        return block if len(block) == state.block_bytes and is_whole(block) else None

    def read_sum(self, state: FileState, index: int) -> bytes | None:
        """What a block carries as its checksum; None if the disk cannot read it.

        Raises:
            OSError: as :meth:`read_block`.
        """
        return self._read_if_readable(state.place(index), SUM_BYTES)

    def _read_if_readable(self, offset: int, length: int) -> bytes | None:
        try:
            return self.read(offset, length)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return None

    def read_space(self, state: FileState) -> Space:
        """What the last checkpoint does not use; nothing if its list is not whole.

        Raises:
            OSError: the file cannot be read.
        """
        try:
            return self._read_space(state)
        except struct.error:
            return Space()

    def _read_space(self, state: FileState) -> Space:
        stream = bytearray()
        blocks: dict[int, bytes] = {}
        seen = set()
        length = _part_bytes(state)
        pointer = state.free_list
        while pointer != _NOWHERE:
            index, part = pointer & _INDEX, pointer >> 56
            if pointer in seen or index >= state.blocks or part >= _PARTS:
                return Space()
            seen.add(pointer)
            if index not in blocks:
                block = self.read_block(state, index)
                if block is None:
                    return Space()
                blocks[index] = block
            data = blocks[index][SUM_BYTES + part * length :][:length]
            (pointer,) = struct.unpack_from("<Q", data)
            stream += data[8:]
        (count,) = struct.unpack_from("<Q", stream)
        free = frozenset(struct.unpack_from(f"<{count}Q", stream, 8))
        offset = 8 + 8 * count
        (shared,) = struct.unpack_from("<Q", stream, offset)
        offset += 8 + 12 * shared
        (count,) = struct.unpack_from("<Q", stream, offset)
        pairs = struct.unpack_from(f"<{2 * count}Q", stream, offset + 8)
        metadata = {
            index: tuple(
                (SUM_BYTES + part * length, SUM_BYTES + (part + 1) * length)
                for part in range(_PARTS)
                if not unused >> part & 1
            )
            for index, unused in zip(pairs[::2], pairs[1::2], strict=True)
        }
        if free & metadata.keys() or not blocks.keys() <= metadata.keys():
            return Space()
        return Space(free, metadata)


def _part_bytes(state: FileState) -> int:
    """Of a part of a block of metadata: a multiple of eight (GetMetadataBlockSize)."""
    return (state.block_bytes - SUM_BYTES) // _PARTS // 8 * 8


def is_torn(wal: bytes) -> bool:
    """Whether a write-ahead log ends in the middle of an entry; DuckDB passes over that.

    It begins with a short entry about itself; after that each has its length and sum in front.
    """
    return bool(wal) and not any(_walks_to_the_end(wal, start) for start in range(_WAL_HEAD))


def _walks_to_the_end(wal: bytes, offset: int) -> bool:
    while offset + 16 <= len(wal):
        (length,) = struct.unpack_from("<Q", wal, offset)
        if not length:
            return False
        offset += 16 + length
    return offset == len(wal)


def is_whole(block: bytes) -> bool:
    """Whether a header or block is as its checksum says."""
    import numpy as np

    words = np.frombuffer(block, dtype="<u8")
    with np.errstate(over="ignore"):
        mixed = words[1:] * np.uint64(_FACTOR)
    return int(np.bitwise_xor.reduce(mixed)) ^ _SEED == int(words[0])
