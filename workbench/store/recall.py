"""Finished sessions as the values they were, with what the model had been given before."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from workbench.errors import ErrorCode, WorkbenchError
from workbench.types import (
    Message,
    Options,
    ProviderWarning,
    Stamps,
    Status,
    StreamSession,
    TimingMode,
)

if TYPE_CHECKING:
    from workbench.store.store import Store

MAX_SESSIONS: Final = 64
"""The most sessions that are recalled at once."""

_SAME: Final = frozenset(item.name for item in fields(StreamSession)) - {
    *("status", "stamps", "options", "timing_mode", "error", "warnings", "timeline"),
    *("runtime_ns", "metrics", "details", "text", "reasoning"),
}
"""Columns that are fields by the same name."""

_STAMPS: Final = ("queued", "end", "intended", "slot", "sent", "first_any", "first_content", "last")

_TOGETHER: Final = """
FROM stream_sessions WHERE session_id = $id
UNION
FROM stream_sessions WHERE comparison_id = coalesce(
    (SELECT comparison_id FROM stream_sessions WHERE session_id = $id), $id)
ORDER BY seq
"""

# A turn that was asked again is stored beside the first one, at the same place: what a session was
# given is the latest that is older than itself.
_GIVEN: Final = """
SELECT role, content FROM messages
WHERE conversation_id = $conversation AND session_id IS DISTINCT FROM $session
    AND created_at <= $created AND position < coalesce((
        SELECT min(position) FROM messages
        WHERE session_id = $session AND conversation_id = $conversation), 0)
QUALIFY row_number() OVER (PARTITION BY position ORDER BY created_at DESC) = 1
ORDER BY position
"""


@dataclass(frozen=True, slots=True)
class Recalled:
    """One session: ``given`` is the history before its ``prompt``, a system prompt first."""

    session: StreamSession
    given: tuple[Message, ...]
    prompt: str

    @property
    def system(self) -> str:
        """The system prompt; empty: none."""
        return next((message.content for message in self.given if message.role == "system"), "")


def recall(store: Store, id: str) -> list[Recalled]:
    """The sessions of a comparison in the order in which they ended; token stamps are left out.

    Args:
        store: the log.
        id: a comparison, or a session: then its whole comparison, if it was part of one.

    Raises:
        WorkbenchError: ``SESSION_NOT_FOUND``; as ``Store.query``.
    """
    rows = store.rows(_TOGETHER, {"id": id}, limit=MAX_SESSIONS)
    if not rows:
        raise WorkbenchError(
            ErrorCode.SESSION_NOT_FOUND,
            f"There is no finished session or comparison {id[:80]!r} in the log.",
            fix="It may have been deleted; look for it in History.",
            operation="show",
        )
    return [_recalled(store, row) for row in rows]


def _recalled(store: Store, row: Mapping[str, Any]) -> Recalled:
    said = store.rows(
        "SELECT role, content, reasoning FROM messages WHERE session_id = $id ORDER BY position",
        {"id": row["session_id"]},
    )
    answer: Mapping[str, Any] = next((one for one in said if one["role"] == "assistant"), {})
    prompt = next((one["content"] for one in said if one["role"] != "assistant"), "")
    return Recalled(
        _session(row, answer.get("content") or "", answer.get("reasoning") or ""),
        _given(store, row),
        prompt,
    )


def _given(store: Store, row: Mapping[str, Any]) -> tuple[Message, ...]:
    params = {
        "conversation": row["conversation_id"],
        "session": row["session_id"],
        "created": row["created_at"],
    }
    earlier = store.rows(_GIVEN, params)
    return tuple(Message(one["role"], one["content"]) for one in earlier)


def _session(row: Mapping[str, Any], text: str, reasoning: str) -> StreamSession:
    metrics = json.loads(row["metrics"])
    return StreamSession(
        **{name: row[name] for name in _SAME if name in row},
        status=Status(row["status"]),
        timing_mode=TimingMode(row["timing_mode"]),
        options=Options.from_mapping(json.loads(row["options"])),
        stamps=Stamps(
            **{name: row[f"{name}_ns"] for name in _STAMPS},
            load_ns=row["load_ns"],
            retry_ns=row["retry_ns"] or 0,
        ),
        error=_error(row),
        warnings=_warnings(json.loads(row["warnings"])),
        metrics={**metrics, "mem_peak_bytes": row["mem_peak_bytes"]},
        details=json.loads(row["details"]),
        text=text,
        reasoning=reasoning,
    )


def _error(row: Mapping[str, Any]) -> WorkbenchError | None:
    if row["error_code"] is None:
        return None
    known = row["error_code"] in set(ErrorCode)
    code = ErrorCode(row["error_code"]) if known else ErrorCode.INTERNAL
    return WorkbenchError(code, row["error_message"] or "", provider=row["provider"])


def _warnings(stored: Sequence[Mapping[str, Any]]) -> tuple[ProviderWarning, ...]:
    return tuple(ProviderWarning(one["code"], one["message"]) for one in stored)
