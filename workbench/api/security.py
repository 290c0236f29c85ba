"""Who may speak to the server.

Without an API key the server listens on loopback only, and a page from elsewhere must not reach it
through the user's browser: the Host header has to name this machine (against DNS rebinding) and
the Origin header, which browsers send, has to name this server.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from fastapi import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from workbench.errors import ErrorCode, WorkbenchError
from workbench.settings import Settings

PROBLEM = "application/problem+json"


def check_address(settings: Settings) -> None:
    """Refuse to listen beyond loopback without an API key.

    Raises:
        WorkbenchError: ``INVALID_REQUEST`` that names both settings.
    """
    if settings.workbench_api_key is None and not is_loopback(settings.workbench_host):
        raise WorkbenchError(
            ErrorCode.INVALID_REQUEST,
            f"WORKBENCH_HOST={settings.workbench_host} would let other machines in without a key.",
            fix="Set WORKBENCH_API_KEY, or listen on 127.0.0.1.",
            operation="serve",
        )


def is_loopback(host: str) -> bool:
    """True for names and addresses that only this machine reaches."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware before the page and the API alike.

    Args:
        app: what it guards.
        settings: the API key and the address.
        token: of the server file; accepted wherever the key is.
    """

    def __init__(self, app: ASGIApp, settings: Settings, token: str) -> None:
        self._app = app
        self._host = settings.workbench_host.lower()
        self._key = settings.workbench_api_key
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is addressed to this server by someone who may."""
        if scope["type"] in ("http", "websocket"):
            headers = {
                name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
            }
            refusal = self._refusal(scope.get("path", ""), headers)
            if refusal is not None:
                await self._refuse(refusal, scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, path: str, headers: Mapping[str, str]) -> WorkbenchError | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        # With a key the server may go by any name; without one, only by this machine's.
        addressed = self._key is not None or self._ours(host)
        if not addressed or (origin is not None and not self._same(urlsplit(origin).netloc, host)):
            return WorkbenchError(
                ErrorCode.FORBIDDEN_ORIGIN,
                "The request names a host or origin that is not this server.",
                fix="Open the page by its own address, or set WORKBENCH_API_KEY.",
                operation="http",
            )
        if self._key is None or path == "/health/live":
            return None
        if any(matches(given, (self._key, self._token)) for given in credentials(headers)):
            return None
        return WorkbenchError(
            ErrorCode.UNAUTHORIZED,
            "The request carries no valid key.",
            fix="Send Authorization: Bearer <WORKBENCH_API_KEY>; in a browser, the key is the "
            "password.",
            operation="http",
        )

    def _same(self, origin: str, host: str) -> bool:
        return origin.lower() == host.lower() or (self._ours(origin) and self._ours(host))

    def _ours(self, netloc: str) -> bool:
        name = (urlsplit(f"//{netloc}").hostname or "").lower()
        return name == self._host or is_loopback(name)

    @staticmethod
    async def _refuse(error: WorkbenchError, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {}
        if error.code is ErrorCode.UNAUTHORIZED:
            headers["WWW-Authenticate"] = 'Basic realm="Workbench", charset="UTF-8"'
        answer = JSONResponse(error.to_dict(), error.http_status, headers, media_type=PROBLEM)
        await answer(scope, receive, send)


def credentials(headers: Mapping[str, str]) -> list[str]:
    """Keys that a request offers: bearer token, basic password, ``X-API-Key``."""
    found = [headers["x-api-key"]] if "x-api-key" in headers else []
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        found.append(value.strip())
    elif scheme.lower() == "basic":
        with suppress(ValueError):
            found.append(base64.b64decode(value, validate=True).decode().partition(":")[2])
    return found


def matches(given: str, accepted: Sequence[str]) -> bool:
    """Compare each in constant time."""
    return any(hmac.compare_digest(given.encode(), key.encode()) for key in accepted)


def require_owner(request: Request) -> None:
    """Dependency of routes for the server's own user: the token of the server file."""
    if not any(
        matches(given, (request.app.state.token,)) for given in credentials(request.headers)
    ):
        raise WorkbenchError(
            ErrorCode.UNAUTHORIZED,
            "This is for the server's own user.",
            fix="Use the workbench command on the server's machine.",
            operation="http",
        )
