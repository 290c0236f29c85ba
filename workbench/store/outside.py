"""What other processes log: rows and sessions as they came over HTTP, checked, for the writer.

They go through the one writer of the server like its own, so that each is in the spool, has its
sequence number and is acknowledged when it is on disk.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, get_args

from workbench import wire
from workbench.errors import invalid
from workbench.store.rows import Item, MemorySample, Mode, Row, RowsItem, SessionItem
from workbench.types import Message, StreamSession

MAX_ITEMS: Final = 1000
"""Items in one request."""

OURS: Final = frozenset({"schema_migrations", "stream_sessions", "token_streams"})
"""Tables that take no single rows: they belong to the writer, which numbers sessions."""


def encode_rows(table: str, rows: Sequence[Row], mode: Mode) -> dict[str, Any]:
    """Rows of one table, as JSON values."""
    return {"table": table, "rows": [_plain(dict(row)) for row in rows], "mode": mode}


def encode_session(
    session: StreamSession, messages: Sequence[Message], samples: Sequence[MemorySample]
) -> dict[str, Any]:
    """A finished session with what belongs to it, as JSON values."""
    return {
        "session": _plain(wire.encode_session(session)),
        "messages": [asdict(message) for message in messages],
        "samples": [_plain(asdict(sample)) for sample in samples],
    }


def decode_items(items: Sequence[Mapping[str, Any]], environment_id: str | None) -> list[Item]:
    """The items that :func:`encode_rows` and :func:`encode_session` described.

    Args:
        items: at most :data:`MAX_ITEMS`.
        environment_id: of the machine; sessions get it.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``.
    """
    if not 0 < len(items) <= MAX_ITEMS:
        raise invalid(f"{len(items)} items are too few or too many.", fix=f"1 to {MAX_ITEMS}.")
    try:
        return [_decode(item, environment_id) for item in items]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise invalid(
            f"An item is not in the form of wb.log: {error!r}.",
            fix="Give the client the version of the workbench that the server has.",
        ) from None


def check_rows(table: str, rows: Sequence[Row], mode: str) -> RowsItem:
    """Rows that another process may log.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``.
    """
    if table in OURS:
        raise invalid(f"{table} takes no single rows.", fix="Log whole sessions: wb.log_session.")
    if mode not in get_args(Mode):
        raise invalid(f"The mode {mode!r} is unknown.", fix=f"Use {', '.join(get_args(Mode))}.")
    if not rows:
        raise invalid("There are no rows to log.", fix="Give one or more.")
    return RowsItem(table, [dict(row) for row in rows], mode)  # type: ignore[arg-type]


def _decode(item: Mapping[str, Any], environment_id: str | None) -> Item:
    if "session" not in item:
        return check_rows(item["table"], item["rows"], item.get("mode", "add"))
    samples = [
        MemorySample(**{**sample, "at": dt.datetime.fromisoformat(sample["at"])})
        for sample in item.get("samples", ())
    ]
    return SessionItem(
        wire.decode_session(item["session"]),
        tuple(wire.decode_message(message) for message in item.get("messages", ())),
        tuple(samples),
        environment_id,
    )


def _plain(value: Any) -> Any:
    """JSON values: times as ISO 8601, sequences as lists."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, dt.date | dt.datetime) else value
