"""Sessions of one log as another log takes them: read here, checked there.

They travel as rows, so that nothing is lost that this log has of them, and keep their ids: what
comes twice is known by its session's id and stored once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from workbench.errors import ErrorCode, WorkbenchError, invalid
from workbench.store.entries import SHARED
from workbench.store.rows import Row, SharedItem

if TYPE_CHECKING:
    from workbench.store.store import Store

WRITER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
"""What a writer may be called."""

MAX_SESSIONS: Final = 200
"""The most sessions in one request."""

_OF: Final[Mapping[str, str]] = {
    "environments": "environment_id IN (SELECT environment_id FROM chosen)",
    "conversations": "conversation_id IN (SELECT conversation_id FROM chosen)",
    "stream_sessions": "session_id IN (SELECT session_id FROM chosen)",
    "token_streams": "session_id IN (SELECT session_id FROM chosen)",
    "messages": (
        "session_id IN (SELECT session_id FROM chosen) OR session_id IS NULL "
        "AND conversation_id IN (SELECT conversation_id FROM chosen)"
    ),
    "memory_samples": "session_id IN (SELECT session_id FROM chosen)",
}


@dataclass(frozen=True, slots=True)
class Shareable:
    """One session with its number in this log, and its rows by table as JSON values."""

    seq: int
    session_id: str
    rows: Mapping[str, Sequence[Row]]


def own_sessions(store: Store, after: int, limit: int) -> list[Shareable]:
    """Sessions that this workbench measured, in the order of their numbers.

    Args:
        store: the log.
        after: the number of the last one that is not wanted any more.
        limit: the most.
    """
    sql = "SELECT seq FROM stream_sessions WHERE seq > $after AND writer_id IS NULL ORDER BY seq"
    chosen = [row["seq"] for row in store.rows(sql, {"after": after}, limit=limit)]
    if not chosen:
        return []
    tables = {table: list(_rows(store, table, chosen)) for table in SHARED}
    return [_shareable(row, tables) for row in tables["stream_sessions"]]


def _rows(store: Store, table: str, chosen: Sequence[int]) -> Iterator[dict[str, Any]]:
    order = {"stream_sessions": "seq", "messages": "position", "memory_samples": "t_ns"}
    sql = (
        "WITH chosen AS (SELECT * FROM stream_sessions WHERE seq IN (SELECT unnest($chosen))) "  # noqa: S608
        f"SELECT to_json(t)::VARCHAR AS row FROM {table} AS t WHERE {_OF[table]} "
        f"ORDER BY {order.get(table, 'ALL')}"
    )
    for found in store.rows(sql, {"chosen": list(chosen)}):
        yield json.loads(found["row"])


def _shareable(session: dict[str, Any], tables: Mapping[str, Sequence[Row]]) -> Shareable:
    own, conversation = session["session_id"], session["conversation_id"]
    rows: dict[str, Sequence[Row]] = {
        "environments": _with(tables["environments"], "environment_id", session["environment_id"]),
        "conversations": _with(tables["conversations"], "conversation_id", conversation),
        "stream_sessions": [session],
        "token_streams": _with(tables["token_streams"], "session_id", own),
        "messages": [
            row
            for row in tables["messages"]
            if row["session_id"] == own
            or (row["session_id"] is None and row["conversation_id"] == conversation)
        ],
        "memory_samples": _with(tables["memory_samples"], "session_id", own),
    }
    return Shareable(session["seq"], own, rows)


def _with(rows: Sequence[Row], column: str, value: object) -> list[Row]:
    return [row for row in rows if row[column] == value]


def shared_items(writer_id: str, sessions: Sequence[Mapping[str, Any]]) -> list[SharedItem]:
    """The sessions that a writer has sent, as :func:`own_sessions` made them.

    Args:
        writer_id: who sent them.
        sessions: of each the rows by table.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``.
    """
    if not WRITER.fullmatch(writer_id):
        raise invalid(
            f"{writer_id[:80]!r} is no name of a writer.",
            fix="Set WORKBENCH_WRITER_ID to letters, digits and ._@-, 64 characters at most.",
        )
    return [SharedItem(writer_id, _checked(rows)) for rows in sessions]


def _checked(tables: Mapping[str, Any]) -> dict[str, list[Row]]:
    if not set(tables) <= SHARED.keys():
        raise invalid(f"A shared session has rows in {', '.join(SHARED)}, and nowhere else.")
    found: dict[str, list[Row]] = {}
    for table, rows in tables.items():
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise invalid(f"The rows of {table} are no list of objects.")
        found[table] = rows
    sessions = found.get("stream_sessions", ())
    if len(sessions) != 1 or not isinstance(sessions[0].get("session_id"), str):
        raise invalid("A shared session has one row in stream_sessions, with its session_id.")
    own = sessions[0]["session_id"]
    for table in ("token_streams", "memory_samples"):
        if any(row.get("session_id") != own for row in found.get(table, ())):
            raise invalid(f"A row of {table} belongs to another session.")
    if any(row.get("session_id") not in (own, None) for row in found.get("messages", ())):
        raise invalid("A message belongs to another session.")
    return found


def known(store: Store, items: Sequence[SharedItem]) -> set[str]:
    """Ids of those that the log has already.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, one of them is another writer's.
    """
    ids = [item.session_id for item in items]
    stored = store.rows(
        "SELECT session_id, writer_id FROM stream_sessions "
        "WHERE session_id IN (SELECT unnest($ids))",
        {"ids": ids},
    )
    writer = items[0].writer_id
    for row in stored:
        if row["writer_id"] != writer:
            raise WorkbenchError(
                ErrorCode.INVALID_REQUEST,
                f"The session {row['session_id']} is in the log under another writer's name.",
                fix="Give each workbench a WORKBENCH_WRITER_ID of its own, and keep it.",
                operation="share",
            )
    return {row["session_id"] for row in stored}
