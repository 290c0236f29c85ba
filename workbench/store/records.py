"""What the log holds of sessions, conversations and runs, page by page, as JSON values.

Pages go from new to old. A cursor is a place in the log, not a count, so that a page does not
shift while new sessions come in.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from workbench.errors import ErrorCode, WorkbenchError, invalid

if TYPE_CHECKING:
    from workbench.store.store import Store

MAX_PAGE: Final = 200
"""The most rows of one page."""

FILTERS: Final = (
    "model",
    "provider",
    "status",
    "source",
    "timing_mode",
    "error_code",
    "conversation_id",
    "comparison_id",
    "correlation_id",
    "run_id",
)
"""Columns of sessions that a reader may ask for by value."""

_JSON: Final = frozenset({"options", "warnings", "details", "spec", "load", "results"})


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, and the cursor of the page after them (None: there are no more)."""

    rows: list[dict[str, Any]]
    next: str | None


def sessions(
    store: Store,
    filters: Mapping[str, str | None],
    *,
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page:
    """Finished sessions with the figures of ``latencies``, the newest first.

    Args:
        store: the log.
        filters: wanted values by column (:data:`FILTERS`); None is any.
        since: only those created then or later.
        until: only those created before.
        limit: rows of the page, at most :data:`MAX_PAGE`.
        cursor: ``next`` of the page before; None or empty for the first one.

    Raises:
        WorkbenchError: ``INVALID_REQUEST`` for a cursor that is none; as ``Store.query``.
    """
    wanted = {name: value for name, value in filters.items() if value is not None}
    params: dict[str, Any] = {**wanted, "limit": limit + 1}
    clauses = [f"{name} = ${name}" for name in wanted]
    if cursor:
        params["seq"] = number(cursor)
        clauses.append("seq < $seq")
    for name, value, comparison in (("since", since, ">="), ("until", until, "<")):
        if value is not None:
            params[name] = value
            clauses.append(f"created_at {comparison} ${name}")
    where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
    # The names come from FILTERS, never from outside. The place in the log is found first, because
    # the view would compute the figures of all sessions before it left out most of them.
    found = store.rows(
        f"SELECT seq FROM stream_sessions {where} ORDER BY seq DESC LIMIT $limit",  # noqa: S608
        params,
    )
    if not found:
        return Page([], None)
    places = [row["seq"] for row in found]
    rows = store.rows(
        "FROM latencies WHERE seq BETWEEN $low AND $high AND list_contains($places, seq) "
        "ORDER BY seq DESC",
        {"low": places[-1], "high": places[0], "places": places},
    )
    return _page(rows, limit, "seq")


def session(store: Store, session_id: str) -> dict[str, Any]:
    """One session: its figures, its options, its question and its answer.

    Raises:
        WorkbenchError: ``SESSION_NOT_FOUND``; as ``Store.query``.
    """
    found = store.rows(
        "SELECT l.*, s.options, s.warnings, s.details, s.error_message "
        "FROM latencies l JOIN stream_sessions s USING (session_id) WHERE session_id = $id",
        {"id": session_id},
    )
    if not found:
        raise WorkbenchError(
            ErrorCode.SESSION_NOT_FOUND,
            f"There is no finished session {session_id[:80]!r} in the log.",
            fix="GET /api/v1/sessions lists them; a running one is at /api/v1/streams/{id}/events.",
            operation="show",
        )
    said = store.rows(
        "SELECT role, content, reasoning FROM messages WHERE session_id = $id ORDER BY position",
        {"id": session_id},
    )
    answer: Mapping[str, Any] = next((m for m in said if m["role"] == "assistant"), {})
    return {
        **plain(found[0]),
        "prompt": next((m["content"] for m in said if m["role"] != "assistant"), None),
        "text": answer.get("content"),
        "reasoning": answer.get("reasoning"),
    }


def conversation(store: Store, conversation_id: str) -> dict[str, Any]:
    """A conversation and its messages in order, those of edited turns beside each other.

    Raises:
        WorkbenchError: ``SESSION_NOT_FOUND``; as ``Store.query``.
    """
    params = {"id": conversation_id}
    found = store.rows("FROM conversations WHERE conversation_id = $id", params)
    if not found:
        raise WorkbenchError(
            ErrorCode.SESSION_NOT_FOUND,
            f"There is no conversation {conversation_id[:80]!r} in the log.",
            fix="The rows of GET /api/v1/sessions name theirs.",
            operation="show",
        )
    messages = store.rows(
        "SELECT message_id, session_id, position, role, content, reasoning, created_at "
        "FROM messages WHERE conversation_id = $id ORDER BY position, created_at",
        params,
    )
    return {**plain(found[0]), "messages": [plain(message) for message in messages]}


def benchmark_runs(store: Store, *, limit: int = 50, cursor: str | None = None) -> Page:
    """Benchmark runs, the newest first; limit and cursor as for :func:`sessions`."""
    params: dict[str, Any] = {"limit": limit + 1}
    where = ""
    if cursor:
        params["before"] = number(cursor)
        where = "WHERE epoch_us(created_at) < $before"
    rows = store.rows(
        f"SELECT *, epoch_us(created_at) AS place FROM benchmark_runs {where} "  # noqa: S608
        "ORDER BY created_at DESC LIMIT $limit",
        params,
    )
    page = _page(rows, limit, "place")
    for row in page.rows:
        del row["place"]
    return page


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON values: times as text with their zone, JSON columns read."""
    return {name: _value(name, value) for name, value in row.items()}


def _value(name: str, value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if name in _JSON and isinstance(value, str):
        return json.loads(value)
    return value


def _page(rows: Sequence[Mapping[str, Any]], limit: int, place: str) -> Page:
    shown = rows[:limit]
    more = str(shown[-1][place]) if len(rows) > limit and shown else None
    return Page([plain(row) for row in shown], more)


def number(cursor: str) -> int:
    """The place that a cursor names.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, it is none.
    """
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 19):
        raise invalid(
            f"{cursor[:40]!r} is no cursor.",
            fix="Use the next of the page before.",
            option="cursor",
        )
    return int(cursor)
