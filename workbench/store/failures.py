"""DuckDB's errors and the operating system's, mapped to ours: in one place, with a fix for each."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import duckdb

from workbench.errors import ErrorCode, WorkbenchError, invalid, sentence

ELSEWHERE = "Set WORKBENCH_DB to a file in a folder you may write to."

_NO_SPACE = ("no space left", "disk full", "not enough disk space", "disk quota exceeded")
_NO_RIGHT = ("permission denied", "read-only file system", "operation not permitted")


def opening(error: Exception, path: Path) -> WorkbenchError:
    """Why the log at ``path`` could not be opened."""
    text = str(error)
    folded = text.lower()
    if _is_full(error):
        return disk_full(path)
    if "conflicting lock" in folded or "could not set lock" in folded:
        pid = re.search(r"PID (\d+)", text)
        holder = f"another process (pid {pid[1]})" if pid else "another process"
        return _unavailable(
            f"{path} is held by {holder}, most likely a running workbench.",
            "Wait for its end, or set WORKBENCH_DB to another file. While `workbench serve` runs, "
            "several programs share one log.",
            pid=int(pid[1]) if pid else None,
            held=True,
        )
    if "different configuration" in folded:
        return already_open(path)
    if "not a valid duckdb" in folded:
        return _unavailable(
            f"{path} exists but is not a DuckDB file.",
            "Set WORKBENCH_DB to another file, or move this one away.",
        )
    if is_damage(error):
        return damaged(path, text)
    if "version number" in folded:
        return _unavailable(
            f"{path} was written by another version of DuckDB than {duckdb.__version__}: {text}",
            "Update the workbench, or set WORKBENCH_DB to another file.",
        )
    if isinstance(error, PermissionError) or any(words in folded for words in _NO_RIGHT):
        return no_right(path)
    if isinstance(error, (NotADirectoryError, FileExistsError)) or "not a directory" in folded:
        return _unavailable(f"{path} cannot exist: a part of its path is a file.", ELSEWHERE)
    if "is a directory" in folded:
        return _unavailable(f"{path} is a folder.", "Set WORKBENCH_DB to a file.")
    return _unavailable(f"{path} could not be opened: {text}", ELSEWHERE)


def already_open(path: Path) -> WorkbenchError:
    """The log is open in this very process."""
    return _unavailable(f"{path} is already open in this process.", "Use the store that is open.")


def opened_elsewhere(path: Path, wait_s: float) -> WorkbenchError:
    """Another process opens the log just now, which takes long if it mends it."""
    return _unavailable(
        f"Another process was still opening {path} after {wait_s:g} s; perhaps it mends it.",
        "Wait for its end (its log says what it mends), or allow more time "
        "(WORKBENCH_OPEN_WAIT_S).",
        held=True,
    )


def missing(path: Path) -> WorkbenchError:
    """There is no log to read."""
    return _unavailable(
        f"Nothing was logged yet: there is no log at {path}.",
        "Run `workbench serve` or `workbench chat` first, or set WORKBENCH_DB to an existing log.",
    )


def read_only(path: Path) -> WorkbenchError:
    """The store was opened for reading."""
    return _unavailable(f"{path} was opened for reading only.", "Use Store.open to write.")


def no_right(path: Path) -> WorkbenchError:
    """The folder or the file may not be written."""
    return _unavailable(f"No permission to write {path} and beside it.", ELSEWHERE)


def disk_full(path: Path, why: str = "") -> WorkbenchError:
    """There is no room for the log."""
    return WorkbenchError(
        ErrorCode.DISK_FULL,
        f"No space left to write {path}{why}.",
        fix="Free some space; what is waiting is then written by itself.",
        operation="log",
    )


def deleted(path: Path) -> WorkbenchError:
    """The database file was deleted, moved or replaced while it is open."""
    return _unavailable(
        f"{path} was deleted or moved while the workbench uses it.",
        "Restart the workbench: it makes a new file of the copy and the spool beside it, which go "
        "on being written. Do not delete those.",
    )


def damaged(path: Path, what: str) -> WorkbenchError:
    """The database file is not as it was written."""
    return WorkbenchError(
        ErrorCode.STORE_DAMAGED,
        f"{path} is damaged: {what}.",
        fix="Restart the workbench: it keeps the file beside and makes a new one of what can be "
        "read. Then see: workbench db verify.",
        operation="log",
    )


_DAMAGE = ("corrupt", "checksum", "replaying wal", "not a valid duckdb", "deserialize")


def is_damage(error: Exception) -> bool:
    """Whether something failed because of what the files hold."""
    if isinstance(
        error, (duckdb.SerializationException, duckdb.InternalException, duckdb.FatalException)
    ):
        return not _is_full(error)
    if isinstance(error, duckdb.IOException) and "could not read" in str(error).lower():
        return True
    return isinstance(error, duckdb.Error) and any(words in str(error).lower() for words in _DAMAGE)


def closed() -> WorkbenchError:
    """The store was used after it was closed."""
    return WorkbenchError(
        ErrorCode.STORE_UNAVAILABLE,
        "The log is closed.",
        fix="Open it again: make a new Workbench(), or start the server.",
        operation="log",
    )


def being_opened() -> WorkbenchError:
    """The database is opened anew after an error it does not survive."""
    return WorkbenchError(
        ErrorCode.STORE_UNAVAILABLE,
        "The log is being opened anew after an error.",
        fix="Ask again in a moment; if it stays so, see: workbench doctor.",
        operation="query",
        retry_after_s=1.0,
    )


def writing(error: Exception, path: Path) -> WorkbenchError:
    """Why something could not be written."""
    if isinstance(error, WorkbenchError):
        return error
    if _is_full(error):
        return disk_full(path)
    if not is_about_the_database(error):
        fix = "Give what its table holds; workbench db tables lists the columns."
        return invalid(f"The log refused a row: {sentence(str(error))}", fix=fix)
    return WorkbenchError(
        ErrorCode.STORE_UNAVAILABLE,
        f"The log {path} could not be written: {error}",
        fix="See whether the disk is full or the folder was moved; then restart the workbench.",
        operation="log",
    )


def exchanging(error: Exception, path: Path) -> WorkbenchError:
    """Why a copy of the log could not be made, or read."""
    if _is_full(error):
        return disk_full(path)
    text = str(error).partition("\n")[0]
    if isinstance(error, PermissionError) or any(words in text.lower() for words in _NO_RIGHT):
        return invalid(f"No permission for {path}.", fix="Give a place that you may write to.")
    return invalid(f"{path}: {text}", fix="Give another place, or see the server's log.")


def is_about_the_database(error: Exception) -> bool:
    """Whether the same items may be written later; else it is something about an item."""
    return isinstance(
        error,
        (
            duckdb.OperationalError,
            duckdb.FatalException,
            duckdb.InternalError,
            OSError,
            MemoryError,
        ),
    )


def query_timeout(timeout_s: float | None) -> WorkbenchError:
    """A query took too long, or was stopped because the log is being closed."""
    limit = f" after {timeout_s:g} s" if timeout_s is not None else ""
    return WorkbenchError(
        ErrorCode.TIMEOUT,
        f"The query was stopped{limit}.",
        fix="Ask for less, or allow more time (WORKBENCH_QUERY_TIMEOUT_S).",
        operation="query",
    )


def query_stopped() -> WorkbenchError:
    """Who asked has gone."""
    return WorkbenchError(ErrorCode.CANCELLED, "The query was stopped.", operation="query")


def too_many_rows(max_rows: int) -> WorkbenchError:
    """A query has a larger result than is allowed."""
    return invalid(
        f"The result has more than {max_rows} rows.",
        fix="Add a LIMIT, aggregate, or raise WORKBENCH_QUERY_MAX_ROWS.",
        max_rows=max_rows,
    )


def out_of_memory(max_bytes: int) -> WorkbenchError:
    """A query was stopped because of the memory that it took."""
    return invalid(
        f"The query needs more than {max_bytes / 2**20:.0f} MiB of memory.",
        fix="Ask for less, or raise WORKBENCH_QUERY_MEMORY.",
        max_bytes=max_bytes,
    )


_LINE = re.compile(r"\bLINE (\d+):")


def querying(
    error: duckdb.Error, *, timeout_s: float | None = None, lines_before: int = 0
) -> WorkbenchError:
    """Why a query gave no result.

    Args:
        error: DuckDB's.
        timeout_s: how long it was allowed to take.
        lines_before: of our own, in front of what was asked.
    """
    if isinstance(error, duckdb.InterruptException):
        return query_timeout(timeout_s)
    if isinstance(error, duckdb.OutOfMemoryException):
        return invalid(f"The query needs too much memory: {error}", fix="Ask for less.")
    if isinstance(error, (duckdb.FatalException, duckdb.ConnectionException, duckdb.IOException)):
        return _unavailable(f"The log could not be read: {error}", "Restart the workbench.")
    if "read-only mode" in str(error):
        return invalid("The log is read-only for queries.", fix="Use SELECT.")
    text = _LINE.sub(lambda found: f"LINE {int(found[1]) - lines_before}:", str(error))
    if isinstance(error, (duckdb.CatalogException, duckdb.BinderException)):
        fix = "SHOW TABLES lists the tables, DESCRIBE latencies the columns of one."
    else:
        fix = "Correct the statement or its parameters."
    return invalid(text, fix=fix)


def _is_full(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(words in str(error).lower() for words in _NO_SPACE)


def _unavailable(message: str, fix: str, **details: object) -> WorkbenchError:
    return WorkbenchError(
        ErrorCode.STORE_UNAVAILABLE, message, fix=fix, operation="open", details=details
    )
