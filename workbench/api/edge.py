"""The outermost layer: a correlation id for every request, and a problem for every defect."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workbench import logs, wire
from workbench.api.problems import answer
from workbench.errors import unforeseen
from workbench.types import new_id

_log = logs.get(__name__)
_ID: Final = re.compile(r"[A-Za-z0-9._:@/+=-]{1,64}")


class Edge:
    """ASGI middleware around everything else.

    The id comes from the request's ``X-Correlation-ID`` if that is one (64 letters, digits and a
    few signs at most), else it is made here. It is in ``request.state``, in every log line below,
    and in the answer. What nobody expected is logged and answered as any other error is.

    Args:
        app: what it surrounds.
        on_response: told method and status of every answer.
    """

    def __init__(
        self, app: ASGIApp, on_response: Callable[[str, int], None] = lambda method, status: None
    ) -> None:
        self._app = app
        self._on_response = on_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its id."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-correlation-id", "")
        correlation_id = given if _ID.fullmatch(given) else new_id("cor")
        scope.setdefault("state", {})["correlation_id"] = correlation_id
        started = False

        async def stamped(message: Message) -> None:
            nonlocal started
            if message["type"] in ("http.response.start", "websocket.accept"):
                started = True
                MutableHeaders(scope=message)["X-Correlation-ID"] = correlation_id
            if message["type"] == "http.response.start":
                self._on_response(scope["method"], message["status"])
            await send(message)

        client = scope.get("client")
        face = Headers(scope=scope).get(wire.SOURCE_HEADER, "")
        with logs.correlation(
            correlation_id,
            source=face if face in ("cli", "python") else "api",
            client=client[0] if client else None,
        ):
            try:
                await self._app(scope, receive, stamped)
            except ClientDisconnect:  # in the middle of its body: nobody is there to be told
                _log.debug("client_left", path=scope["path"])
            except Exception as error:
                _log.error("request_failed", path=scope["path"], exc_info=error)
                if not started:
                    await answer(unforeseen(error, "http", told=False), scope, receive, stamped)
