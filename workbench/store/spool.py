"""The spool: what was acknowledged, as lines of JSON on disk, until the database has it for sure.

Files are ``spool-<first number>.ndjson``. Each line holds one entry and the CRC-32 of its own
text, so that a torn or flipped line is told from a whole one.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

_FILES: Final = "spool-*.ndjson"
_HEAD: Final = b'{"crc":"'
_REST: Final = len(_HEAD) + 10
"""Where the text begins that the sum is of: after eight digits, a quote and a comma."""


def line_of(body: bytes) -> bytes:
    """A line of the spool from the members of an object (``"n":1,...}``)."""
    return b'%b%08x",%b\n' % (_HEAD, zlib.crc32(body), body)


def parse_line(line: bytes) -> Mapping[str, Any] | None:
    """The object of a line; None if it is not as it was written."""
    body = line[_REST:].removesuffix(b"\n")
    try:
        stored = int(line[len(_HEAD) : len(_HEAD) + 8], 16)
        if not line.startswith(_HEAD) or stored != zlib.crc32(body):
            return None
        parsed: Mapping[str, Any] = orjson.loads(b"{" + body)
    except ValueError:
        return None
    return parsed


@dataclass(frozen=True, slots=True)
class Spooled:
    """What a folder's spools hold: entries in order of their numbers, and lines that are broken.

    ``cut_off`` says that the last line of all is broken, so that its number is unknown.
    """

    entries: Sequence[Mapping[str, Any]] = ()
    broken: Sequence[str] = ()
    files: Sequence[Path] = ()
    cut_off: bool = False

    @property
    def last_n(self) -> int:
        """The highest number; 0 if there is none."""
        return int(self.entries[-1]["n"]) if self.entries else 0


def read_spools(folder: Path) -> Spooled:
    """Read all that can be read; a last line without its end was never acknowledged."""
    entries: dict[int, Mapping[str, Any]] = {}
    broken: list[str] = []
    cut_off = False
    files = sorted(folder.glob(_FILES)) if folder.is_dir() else []
    for path in files:
        offset = 0
        for line in path.read_bytes().splitlines(keepends=True):
            parsed = parse_line(line)
            if parsed is not None:
                entries[parsed["n"]] = parsed
                cut_off = False
            elif line.endswith(b"\n"):
                broken.append(f"{path.name}, byte {offset}, {len(line)} bytes")
                cut_off = True
            offset += len(line)
    return Spooled([entries[n] for n in sorted(entries)], broken, files, cut_off)


class Spool:
    """The spool of a log that is open for writing; thread-safe.

    Args:
        folder: where its files are.
        old: what an earlier process has left there.
    """

    def __init__(self, folder: Path, old: Spooled | None = None) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._path: Path | None = None
        self._descriptor = -1
        self._size = 0
        self._last_n = 0
        self._ended = [(path, old.last_n) for path in old.files] if old else []
        self._proven = 0

    def append(self, first_n: int, lines: Sequence[bytes]) -> None:
        """Write lines, all or none; on return they are on disk.

        Args:
            first_n: the number of the first; the others follow without a gap.
            lines: as :func:`line_of` makes them.

        Raises:
            OSError: none of them counts as written.
        """
        data = b"".join(lines)
        with self._lock:
            if self._path is not None and not self._is_there(self._path):
                self._end()  # somebody deleted it: what is written to it is on no disk
            if self._path is None:
                self._begin(first_n)
            try:
                written = 0
                while written < len(data):
                    written += os.write(self._descriptor, data[written:])
                os.fdatasync(self._descriptor)
            except OSError:
                # What a failed write or sync has left is unknown: the next try is in a new file.
                with suppress(OSError):
                    os.ftruncate(self._descriptor, self._size)
                self._end()
                raise
            self._size += len(data)
            self._last_n = first_n + len(lines) - 1

    def rotate(self, proven_n: int, *, surely: bool) -> None:
        """Begin a new file, because entries up to this number are in the database file.

        Args:
            proven_n: the number.
            surely: every block was read. If not, what came since the last proof is kept until the
                next one: it mends a database file whose newest blocks turn out to be damaged.
        """
        with self._lock:
            self._end()
            old_n = proven_n if surely else self._proven
            for path, last_n in self._ended:
                if last_n <= old_n:
                    path.unlink(missing_ok=True)
            self._ended = [item for item in self._ended if item[1] > old_n]
            self._proven = proven_n

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._end()

    def _is_there(self, path: Path) -> bool:
        try:
            return os.path.samestat(os.fstat(self._descriptor), path.stat())
        except FileNotFoundError:
            return False

    def _begin(self, first_n: int) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / f"spool-{first_n:020d}.ndjson"
        # A file of this name is left over from a try that failed.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        self._descriptor = os.open(path, flags, 0o600)
        self._path, self._size, self._last_n = path, 0, first_n - 1
        sync_folder(self.folder)

    def _end(self) -> None:
        if self._path is not None:
            os.close(self._descriptor)
            self._ended.append((self._path, self._last_n))
            self._path = None


def sync_folder(folder: Path) -> None:
    """Make sure that the names in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
