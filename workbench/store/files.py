"""The file on disk: made whole or not at all, readable by its owner only."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import duckdb

from workbench.errors import WorkbenchError
from workbench.store import failures
from workbench.store.migrations import check, migrate, version_of
from workbench.store.views import create_views

CONFIG: Final[dict[str, str | bool | int | float | list[str]]] = {
    # What a query may take from the models that share this machine.
    "memory_limit": "1GiB",
    "max_temp_directory_size": "8GiB",
    # A query must not read the Python variables of its caller, nor fetch software.
    "python_enable_replacements": False,
    "autoinstall_known_extensions": False,
}

OWN: Final[dict[str, str | bool | int | float | list[str]]] = {
    **CONFIG,
    # Checkpoints are ours to make: the spool is rotated with them.
    "checkpoint_threshold": "1TB",
}

_AGAIN_S: Final = 0.05
"""Pause before the lock of a start is asked for again."""

_ANEW: Final = 8 * 2**20
"""Bytes of blocks that a checkpoint may write beyond what is new and what it finds free."""


def open_for_reading(path: Path) -> duckdb.DuckDBPyConnection:
    """Open the log read-only, without access to any other file.

    Raises:
        WorkbenchError: ``STORE_UNAVAILABLE``, for example because nothing was logged yet.
    """
    with explained(path):
        if not path.exists():
            raise failures.missing(path)
        connection = duckdb.connect(str(path), read_only=True, config=CONFIG)
        with _closed_on_error(connection):
            connection.execute("SET GLOBAL TimeZone = 'UTC'")
            if check(version_of(connection), path=path) == 0:
                raise failures.missing(path)
            for name, file in imported(path).items():
                with suppress(duckdb.Error):
                    attach_import(connection, name, file)
            connection.execute("SET GLOBAL enable_external_access = false")
            connection.execute("SET GLOBAL lock_configuration = true")
        return connection


def imported(log: Path) -> dict[str, Path]:
    """Name -> file of the imports beside a log."""
    found = sorted((exchange_folder(log) / IMPORTS).glob("*.duckdb"))
    return {file.stem: file for file in found if IMPORT_NAME.match(file.stem)}


def attach_import(connection: duckdb.DuckDBPyConnection, name: str, file: Path) -> None:
    """Attach one for reading, in place of the one of this name."""
    quoted = str(file).replace("'", "''")
    connection.execute(f"DETACH DATABASE IF EXISTS {name}")
    connection.execute(f"ATTACH '{quoted}' AS {name} (READ_ONLY)")


IMPORT_NAME: Final = re.compile(r"^[a-z][a-z0-9_]{0,40}$")
"""What an import may be called."""

IMPORTS: Final = "imports"
"""Where in the exchange folder imported logs are kept."""


def exchange_folder(path: Path) -> Path:
    """The one folder besides its own that an open log may write: what leaves it is made there."""
    return path.with_name(f".{path.name}.exchange")


def seal(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Take access to other files, to the network and to its own settings from an open log.

    It keeps its own files (write-ahead log, temporary ones) and :func:`exchange_folder`, of which
    what a killed process left behind is removed.
    """
    for left in exchange_folder(path).glob("*"):
        if left.name != IMPORTS:
            shutil.rmtree(left, ignore_errors=True)
    connection.execute("SET GLOBAL allowed_directories = [?]", [str(exchange_folder(path))])
    connection.execute("SET GLOBAL enable_external_access = false")
    connection.execute("SET GLOBAL lock_configuration = true")


def wal_of(path: Path) -> Path:
    """Where DuckDB keeps the write-ahead log of a database file."""
    return path.with_name(f"{path.name}.wal")


def spool_of(path: Path) -> Path:
    """The folder of a log's spool, journal and notes."""
    return path.with_name(f"{path.name}.spool")


def size_of(path: Path) -> int:
    """The bytes of a log with its write-ahead log, its spool and the copy of its checkpoint."""
    total = 0
    for file in (path, wal_of(path), *spool_of(path).glob("*")):
        with suppress(OSError):  # a checkpoint has just taken it away
            found = file.stat()
            total += min(found.st_size, 512 * found.st_blocks)  # without holes
    return total


def check_room(path: Path) -> None:
    """Look whether there is room for a checkpoint: DuckDB does not survive one that has none.

    It writes what the write-ahead log holds, and blocks anew: as many as the one before, which has
    left theirs free in the file, and in a small file perhaps all. The copy of it grows as much, and
    is given up where it has no room.

    Raises:
        WorkbenchError: ``DISK_FULL``.
    """
    try:
        new, old = wal_of(path).stat().st_size, path.stat().st_size
    except FileNotFoundError:
        return  # nothing is to be written, or to another place
    needed, free = 2 * (new + min(old, _ANEW)), shutil.disk_usage(path.parent).free
    if free < needed:
        amounts = f": {needed / 1e6:.1f} MB may be needed, {free / 1e6:.1f} MB are free"
        raise failures.disk_full(path, amounts)


def damaged_of(path: Path) -> Path:
    """The folder for what was damaged."""
    return path.with_name(f"{path.name}.damaged")


def prepare(path: Path) -> None:
    """Make the folder of a log, or find out now that it cannot be written.

    Raises:
        WorkbenchError: ``STORE_UNAVAILABLE``; DuckDB would find out only at the first commit.
        OSError: the folder cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not os.access(path.parent, os.W_OK):
        raise failures.no_right(path)


@contextmanager
def opening(path: Path, wait_s: float) -> Iterator[None]:
    """Keep others from opening, and so from mending, the log at the same time.

    DuckDB's lock does not: a file that is made anew is another one until it takes its place. A kill
    gives this one up. Where there can be no lock (no room, a file system without), there is none.

    Args:
        path: of the log.
        wait_s: for others who open it.

    Raises:
        WorkbenchError: ``STORE_UNAVAILABLE``, they were not done by then.
    """
    lock, deadline = path.with_name(f".{path.name}.opening"), time.monotonic() + wait_s
    while (descriptor := _locked(lock)) is None:
        if time.monotonic() > deadline:
            raise failures.opened_elsewhere(path, wait_s)
        time.sleep(_AGAIN_S)
    try:
        yield
    finally:
        if descriptor >= 0:
            lock.unlink(missing_ok=True)
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a fork may have it, too
            os.close(descriptor)


def _locked(lock: Path) -> int | None:
    """Its descriptor; None: somebody else has it; -1: there can be none."""
    descriptor = -1
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), lock.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass  # who had it has deleted it: there is a new one
    except OSError:
        if descriptor >= 0:
            os.close(descriptor)
        return -1
    if descriptor >= 0:
        os.close(descriptor)
    return None


def protect_wal(path: Path) -> None:
    """Take the rights of others off the write-ahead log, which DuckDB makes anew now and then."""
    wal = wal_of(path)
    with suppress(OSError):
        if wal.stat().st_mode & 0o077:
            wal.chmod(0o600)


def make(path: Path) -> None:
    """Build the file out of sight and put it in place when it is whole."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        made = Path(folder) / path.name
        connect(made).close()
        made.chmod(0o600)
        try:
            os.link(made, path)
        except FileExistsError:
            return  # another process was faster: its file is as good
        except OSError:
            made.rename(path)  # a file system without hard links


def connect(path: Path) -> duckdb.DuckDBPyConnection:
    """Open a file for writing and bring it up to date.

    Raises:
        duckdb.Error: it cannot be opened.
        WorkbenchError: ``STORE_UNAVAILABLE``, it is not ours to write.
    """
    connection = duckdb.connect(str(path), config=OWN)
    with _closed_on_error(connection):
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        migrate(connection, path=path)
        create_views(connection)
    protect_wal(path)
    return connection


@contextmanager
def _closed_on_error(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Map what goes wrong in here."""
    try:
        yield
    except WorkbenchError:
        raise
    except (duckdb.Error, OSError) as error:
        raise failures.opening(error, path) from error
