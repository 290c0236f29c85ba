"""Structured JSON logs on stderr; every line carries the correlation id of its request.

Prompts, answers and secrets are never logged here: they belong to the store. So a traceback names
files, lines and classes but not the exception's message, which may quote anything; and secrets
that were made known with :func:`hide` are blotted out wherever they turn up.

A process that wants its last lines to be read again keeps them in memory (:func:`keep`), as they
were written.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, Final, TextIO, cast

import structlog

Sink = Callable[[Mapping[str, Any]], None]

HIDDEN: Final = "[hidden]"
_SHORTEST_SECRET: Final = 6
_MOST_CHARS: Final = 8_000
"""Of a line that is kept."""
_secrets: set[str] = set()
_kept: deque[str] = deque(maxlen=0)


def configure(level: str = "INFO", sink: Sink | None = None) -> None:
    """Set up structlog for this process, and the standard library's logging behind it.

    Args:
        level: a standard level name; lines below it cost next to nothing. Other packages' lines
            are shown from WARNING on, whatever the level: theirs may quote what a request holds.
        sink: takes the lines in place of stderr, as mappings.
    """
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _traceback,
    ]
    if sink is not None:
        processors += [_to(sink)]
    else:
        processors += [structlog.processors.JSONRenderer(default=str), _blot, _keep]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.PrintLoggerFactory(file=cast(TextIO, _Stderr())),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Standard()], level=logging.WARNING, force=True)


def configure_default(level: str) -> None:
    """Set up logging unless the program that uses us has done so already."""
    if not structlog.is_configured():
        configure(level)


def get(name: str) -> Any:
    """A logger whose lines name the module that wrote them."""
    return structlog.get_logger(module=name)


def hide(*secrets: str | None) -> None:
    """Never write these, whatever brings them into a line."""
    _secrets.update(secret for secret in secrets if secret and len(secret) >= _SHORTEST_SECRET)


def keep(lines: int) -> None:
    """Keep so many of the last lines from now on; 0: none."""
    global _kept
    _kept = deque(_kept, maxlen=lines)


def kept(part: str = "", most: int = 200) -> list[dict[str, Any]]:
    """The last lines that were kept, the oldest of them first.

    Args:
        part: only lines that hold this: a correlation id, a session id, a word.
        most: of these the last so many.
    """
    found = [line for line in _kept.copy() if part in line][-most:] if most else []
    return [_read(line) for line in found]


@contextmanager
def correlation(correlation_id: str, **context: Any) -> Iterator[None]:
    """Bind the correlation id, and whatever else names the request, to all lines inside."""
    with structlog.contextvars.bound_contextvars(correlation_id=correlation_id, **context):
        yield


def bound(name: str) -> str | None:
    """What :func:`correlation` has bound here: ``correlation_id``, ``source``, ``client``."""
    value = structlog.contextvars.get_contextvars().get(name)
    return None if value is None else str(value)


def _traceback(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """The exception's classes, causes first, and where each was raised."""
    info = event.pop("exc_info", None)
    error = sys.exc_info()[1] if info is True else info[1] if isinstance(info, tuple) else info
    if not isinstance(error, BaseException):
        return event
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    event["traceback"] = [
        {
            "type": f"{type(link).__module__}.{type(link).__qualname__}",
            "at": [
                f"{frame.filename}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_tb(link.__traceback__)
            ],
        }
        for link in reversed(chain)
    ]
    return event


def _blot(logger: Any, method: str, line: str) -> str:
    for secret in _secrets:
        line = line.replace(json.dumps(secret)[1:-1], HIDDEN)
    return line


def _keep(logger: Any, method: str, line: str) -> str:
    _kept.append(line)
    return line


def _read(line: str) -> dict[str, Any]:
    if len(line) > _MOST_CHARS:
        return {"event": f"{line[:_MOST_CHARS]}…"}
    values: dict[str, Any] = json.loads(line)
    return values


def _to(sink: Sink) -> Callable[..., Any]:
    def give(logger: Any, method: str, event: Mapping[str, Any]) -> Any:
        sink(event)
        raise structlog.DropEvent

    return give


class _Stderr:
    """What stderr is when a line is written: notebooks and tests replace it, and close theirs."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _Standard(logging.Handler):
    """Lines of other packages, in our form."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        structlog.get_logger(module=record.name).log(
            record.levelno, record.getMessage(), **({"exc_info": error} if error else {})
        )
