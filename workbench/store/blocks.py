"""Whether headers and blocks of a database file are as they were written, seen from outside.

DuckDB keeps a checksum with every block and compares it when it reads the block, which may be
never. The layout (magic, two headers that take turns, blocks of one size) is DuckDB's storage
format, src/include/duckdb/storage/storage_info.hpp; the sum is its src/common/checksum.cpp.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAGIC: Final = b"DUCK"
_HEADER: Final = 4096
HEADERS_BYTES: Final = 3 * _HEADER
"""Of the three headers in front of the blocks."""
_FACTOR: Final = 0xBF58476D1CE4E5B9
_SEED: Final = 5381
_WAL_HEAD: Final = 64


@dataclass(frozen=True, slots=True)
class FileState:
    """What a database file says of itself.

    ``iteration`` counts its checkpoints. ``broken`` names what is not as it was written.
    ``unwritten`` says that there are blocks of zeros, or none where the header counts some: they
    may be free ones that were never written, which only reading the tables can tell. ``blocks`` and
    ``block_bytes`` are how many there are, and how long each is.
    """

    iteration: int
    broken: tuple[str, ...] = ()
    unwritten: bool = False
    blocks: int = 0
    block_bytes: int = 0

    def place(self, index: int) -> int:
        """Where a block begins."""
        return HEADERS_BYTES + index * self.block_bytes


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
        iteration, _, _, count, size = max(struct.unpack("<QqqQQ", head[8:48]) for head in good)
        unwritten = False
        for index in range(count if blocks else 0):
            block = self.read(HEADERS_BYTES + index * size, size)
            if len(block) < size or not any(block):
                unwritten = True
            elif not is_whole(block):
                broken.append(f"block {index}")
        return FileState(iteration, tuple(broken), unwritten, count, size)


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
