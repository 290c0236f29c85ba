"""The journal of running streams: what a killed process leaves of answers that had not ended.

One file per stream, written by a thread of its own every so often, never synced: a kill of the
process keeps what the operating system was given. The file goes when the stream's row is safe.
What is found at the next start is of streams whose process was killed.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from workbench import logs
from workbench.store.files import spool_of
from workbench.store.spool import line_of, parse_line

_log = logs.get(__name__)

_FOLDER: Final = "streams"

Items = Sequence[Sequence[Any]]

Look = Callable[[int, int], tuple[Mapping[str, Any], Items, Items]]
"""The state of a stream now, and its tokens and memory readings, each from a position on.

Called by the journal's thread.
"""


@dataclass(slots=True, eq=False)
class _Stream:
    path: Path
    header: Mapping[str, Any]
    look: Look
    written: int = -1  # tokens; -1: not even the header
    readings: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Journaled:
    """A stream that never ended: as it was ``at_ns``, when its journal was last written."""

    path: Path
    header: Mapping[str, Any]
    state: Mapping[str, Any]
    at_ns: int
    tokens: Items = field(default_factory=tuple)
    memory: Items = field(default_factory=tuple)

    def forget(self) -> None:
        """Its row is safe."""
        self.path.unlink(missing_ok=True)


class Journal:
    """Writes down what runs.

    Args:
        log: path of the database file, beside which it is kept.
        interval_s: time between two looks at a stream.
    """

    def __init__(self, log: Path, interval_s: float) -> None:
        self._folder = spool_of(log) / _FOLDER
        self._interval_s = interval_s
        self._streams: dict[str, _Stream] = {}
        self._begun: list[_Stream] = []
        self._ended: list[_Stream] = []
        self._changed = threading.Condition()
        self._closing = False
        self._broken = False
        self._thread: threading.Thread | None = None

    def begin(self, session_id: str, header: Mapping[str, Any], look: Look) -> None:
        """Write down a stream from now on; returns at once."""
        name = hashlib.sha256(session_id.encode("utf-8", "replace")).hexdigest()[:32]
        stream = _Stream(self._folder / f"{name}.ndjson", header, look)
        with self._changed:
            self._streams[session_id] = stream
            self._begun.append(stream)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="store-journal", daemon=True)
                self._thread.start()
            self._changed.notify()

    def end(self, session_id: str) -> None:
        """The row of a stream is safe; returns at once."""
        with self._changed:
            if (stream := self._streams.pop(session_id, None)) is not None:
                self._ended.append(stream)

    def close(self) -> None:
        """Remove what has ended, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        with suppress(OSError):
            self._folder.rmdir()

    def _run(self) -> None:
        due = time.monotonic() + self._interval_s
        closing = False
        while not closing:
            with self._changed:
                self._changed.wait_for(lambda: self._begun or self._closing, self._pause(due))
                closing, ended, streams = self._closing, self._ended, self._begun
                self._ended, self._begun = [], []
                if time.monotonic() >= due:
                    streams = list(self._streams.values())
                    due = time.monotonic() + self._interval_s
            self._look(streams, ended)
            del ended, streams  # what they hold must go, however long nothing runs now

    def _look(self, streams: Sequence[_Stream], ended: Sequence[_Stream]) -> None:
        for stream in streams:
            if stream not in ended:
                self._write(stream)
        for stream in ended:
            with suppress(OSError):
                stream.path.unlink(missing_ok=True)

    def _pause(self, due: float) -> float | None:
        """Seconds to sleep; for ever while nothing runs."""
        if not self._streams and not self._ended:
            return None
        return max(0.0, due - time.monotonic())

    def _write(self, stream: _Stream) -> None:
        try:
            state, tokens, memory = stream.look(max(stream.written, 0), stream.readings)
            now = {
                "at_ns": time.monotonic_ns(),
                "state": state,
                "tokens": tokens,
                "memory": memory,
            }
            text = _line(now)
            if stream.written < 0:
                text = _line({"header": stream.header}) + text
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                stream.path.touch(mode=0o600)
            with stream.path.open("ab") as file:
                file.truncate(stream.size_bytes)  # of a write that failed, a part may be there
                file.write(text)
            stream.size_bytes += len(text)
            stream.written = max(stream.written, 0) + len(tokens)
            stream.readings += len(memory)
            self._broken = False
        except Exception as error:  # of a look too: one stream must not end the journal of all
            if not self._broken:
                _log.warning("journal_failed", reason=type(error).__name__, exc_info=error)
            self._broken = True


def interrupted(log: Path) -> Iterator[Journaled]:
    """The streams that a killed process has left. Changes nothing: somebody may be writing."""
    return (found for path in _files(log) if (found := _read(path)) is not None)


def drop_unread(log: Path) -> None:
    """Remove what was killed before its first look was written: nothing is known of it.

    Nobody may be writing.
    """
    for path in _files(log):
        if _read(path) is None:
            path.unlink(missing_ok=True)


def _files(log: Path) -> list[Path]:
    folder = spool_of(log) / _FOLDER
    return sorted(folder.glob("*.ndjson")) if folder.is_dir() else []


def _read(path: Path) -> Journaled | None:
    """A stream; None without its header or any look at it."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:  # it has ended meanwhile
        return None
    parsed = [parse_line(line) for line in lines]
    looks = [item for item in parsed[1:] if item is not None]
    if not looks or parsed[0] is None or "header" not in parsed[0]:
        return None
    return Journaled(
        path,
        parsed[0]["header"],
        looks[-1]["state"],
        looks[-1]["at_ns"],
        [token for item in looks for token in item["tokens"]],
        [reading for item in looks for reading in item.get("memory", ())],
    )


def _line(values: Mapping[str, Any]) -> bytes:
    return line_of(orjson.dumps(values, default=str)[1:])
