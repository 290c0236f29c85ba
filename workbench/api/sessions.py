"""What was logged, over REST: sessions and conversations."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from workbench.exports import FORMATS, MAX_SELECTION, Comparison, comparison, selection
from workbench.store import Store
from workbench.store.records import MAX_PAGE, conversation, session, sessions
from workbench.types import Status

router = APIRouter(prefix="/api/v1", tags=["log"])


def _store(request: Request) -> Store:
    store: Store = request.app.state.engine.store
    return store


@router.get("/sessions")
def list_sessions(
    request: Request,
    model: str | None = None,
    provider: str | None = None,
    status: Status | None = None,
    source: str | None = None,
    error_code: str | None = None,
    conversation_id: str | None = None,
    comparison_id: str | None = None,
    correlation_id: str | None = None,
    run_id: str | None = None,
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    cursor: str | None = None,
) -> dict[str, Any]:
    """Finished sessions with their figures, the newest first; ``next`` is the next page's cursor.

    ``since`` and ``until`` are times by which a session was created (UTC unless they say).
    """
    page = sessions(
        _store(request),
        {
            "model": model,
            "provider": provider,
            "status": status,
            "source": source,
            "error_code": error_code,
            "conversation_id": conversation_id,
            "comparison_id": comparison_id,
            "correlation_id": correlation_id,
            "run_id": run_id,
        },
        since=since,
        until=until,
        limit=limit,
        cursor=cursor,
    )
    return {"sessions": page.rows, "next": page.next}


@router.get("/sessions/{session_id}")
def show_session(request: Request, session_id: str) -> dict[str, Any]:
    """One finished session: its figures, options, question and answer."""
    return session(_store(request), session_id)


@router.get("/conversations/{conversation_id}")
def show_conversation(request: Request, conversation_id: str) -> dict[str, Any]:
    """A conversation and its messages in order."""
    return conversation(_store(request), conversation_id)


Form = Literal["json", "markdown", "csv", "notebook", "spec"]


@router.get("/comparisons/{comparison_id}/{form}")
def export_comparison(request: Request, comparison_id: str, form: Form) -> Response:
    """A finished comparison as a file."""
    return _file(comparison(_store(request), comparison_id), form)


@router.get("/exports/{form}")
def export_sessions(
    request: Request, form: Form, session: Annotated[list[str], Query(max_length=MAX_SELECTION)]
) -> Response:
    """Finished sessions as a file; ``session`` is given once for each."""
    return _file(selection(_store(request), session), form)


def _file(found: Comparison, form: Form) -> Response:
    ending, media_type, write = FORMATS[form]
    name = f"{found['comparison_id']}.{ending}"
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"}
    return Response(write(found), media_type=media_type, headers=headers)
