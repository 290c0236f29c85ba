"""Errors as ``application/problem+json``, for handlers and for middleware alike."""

from __future__ import annotations

import json
from typing import Any, Final

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from workbench.errors import ErrorCode, WorkbenchError

MEDIA_TYPE: Final = "application/problem+json"


class Problem(JSONResponse):
    """The answer that tells of an error.

    Args:
        error: what happened.
        correlation_id: of the request.
    """

    media_type = MEDIA_TYPE

    def __init__(self, error: WorkbenchError, correlation_id: str | None) -> None:
        headers = {}
        if error.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
        if error.code is ErrorCode.UNAUTHORIZED:
            headers["WWW-Authenticate"] = 'Basic realm="Workbench", charset="UTF-8"'
        super().__init__(error.to_dict(correlation_id), error.http_status, headers)

    def render(self, content: Any) -> bytes:
        """As ASCII: an error may quote what is no valid text, half a surrogate pair for example."""
        return json.dumps(content, default=str, separators=(",", ":")).encode("ascii")


async def answer(error: WorkbenchError, scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a request from middleware; a WebSocket is closed with the reason."""
    if scope["type"] == "websocket":
        reason = str(error).encode()[:120].decode("utf-8", "ignore")
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
        return
    problem = Problem(error, scope.get("state", {}).get("correlation_id"))
    await problem(scope, receive, send)
