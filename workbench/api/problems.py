"""Errors as HTTP tells them, for handlers and for middleware alike.

That is ``application/problem+json``, and below ``/v1`` the form that OpenAI's clients read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from workbench.errors import ErrorCode, WorkbenchError, invalid

MEDIA_TYPE: Final = "application/problem+json"

_OPENAI_STATUS: Final = {422: 400}
"""What is wrong with a request is 400 there; its clients have a class of error for it."""

_OPENAI_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}


def wrong_field(found: Mapping[str, Any]) -> WorkbenchError:
    """What is wrong with a field of a body, from pydantic's words for it."""
    if found["type"] == "json_invalid":
        at, why = found["loc"][-1], found["ctx"]["error"]
        return invalid(
            f"The body is no JSON: {why} at character {at}.",
            fix="Send one whole JSON object and nothing after it.",
        )
    where = ".".join(str(part) for part in found["loc"] if part != "body")
    if not where and isinstance(found["input"], bytes):
        return invalid(
            "The body was not read: the request does not say that it is JSON.",
            fix="Send Content-Type: application/json.",
        )
    message = found["msg"].removeprefix("Value error, ").rstrip(".")
    expected = found.get("ctx", {}).get("expected")
    fix = f"Use {expected}." if isinstance(expected, str) else "See GET /api/docs."
    return invalid(f"{where or 'The body'}: {message}.", fix=fix, option=where or None)


class Problem(JSONResponse):
    """The answer that tells of an error.

    Args:
        error: what happened.
        correlation_id: of the request.
        path: that was asked for; it decides about the form.
        status: HTTP status, None for the error's own.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        error: WorkbenchError,
        correlation_id: str | None,
        path: str = "",
        status: int | None = None,
    ) -> None:
        headers = {}
        if error.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
        if error.code is ErrorCode.UNAUTHORIZED:
            headers["WWW-Authenticate"] = 'Basic realm="Workbench", charset="UTF-8"'
        status = status or error.http_status
        if path == "/v1" or path.startswith("/v1/"):
            status = _OPENAI_STATUS.get(status, status)
            body = openai_body(error, correlation_id)
            super().__init__(body, status, headers, media_type="application/json")
        else:
            super().__init__(error.to_dict(correlation_id), status, headers)

    def render(self, content: Any) -> bytes:
        """As ASCII: an error may quote what is no valid text, half a surrogate pair for example."""
        return json.dumps(content, default=str, separators=(",", ":")).encode("ascii")


def openai_body(error: WorkbenchError, correlation_id: str | None) -> dict[str, Any]:
    """An error in the form that OpenAI's clients read, ours beside it."""
    status = _OPENAI_STATUS.get(error.http_status, error.http_status)
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": f"{error.message} {error.fix}".strip(),
            "type": _OPENAI_TYPES.get(status, kind),
            "param": error.details.get("option"),
            "code": error.code.value,
            "workbench": error.to_dict(correlation_id),
        }
    }


def closing(send: Send) -> Send:
    """The same, with the connection closed after the answer."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"].append((b"connection", b"close"))
        await send(message)

    return sent


async def answer(
    error: WorkbenchError,
    scope: Scope,
    receive: Receive,
    send: Send,
    status: int | None = None,
) -> None:
    """Refuse a request from middleware; a WebSocket is closed with the reason."""
    if scope["type"] == "websocket":
        reason = str(error).encode()[:120].decode("utf-8", "ignore")
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
        return
    correlation_id = scope.get("state", {}).get("correlation_id")
    problem = Problem(error, correlation_id, scope["path"], status)
    await problem(scope, receive, send)
