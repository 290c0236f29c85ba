"""Who may speak to the server.

Without an API key the server listens on loopback only, and a page from elsewhere must not reach it
through the user's browser: the Host header has to name this machine (against DNS rebinding) and
the Origin header, which browsers send, has to name this server.
"""

from __future__ import annotations

import hmac
import ipaddress
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


class HostGuard:
    """ASGI middleware that refuses foreign Host and Origin headers."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._hosts = {settings.workbench_host.lower()}
        self._open = settings.workbench_api_key is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is addressed to this server."""
        if scope["type"] in ("http", "websocket") and not self._open:
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            origin = headers.get(b"origin")
            if not self._known(headers.get(b"host", "")) or (
                origin is not None and not self._known(urlsplit(origin).netloc)
            ):
                if scope["type"] == "websocket":
                    await send({"type": "websocket.close", "code": 1008})
                    return
                error = WorkbenchError(
                    ErrorCode.UNAUTHORIZED,
                    "The request names a host or origin that is not this server.",
                    fix="Open the page by its own address, or set WORKBENCH_API_KEY.",
                    operation="http",
                )
                response = JSONResponse(error.to_dict(), 403, media_type=PROBLEM)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _known(self, netloc: str) -> bool:
        host = (urlsplit(f"//{netloc}").hostname or "").lower()
        return host in self._hosts or is_loopback(host)


def bearer(request: Request) -> str | None:
    """The bearer token or ``X-API-Key`` of a request."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value:
        return value.strip()
    return request.headers.get("x-api-key")


def require_key(request: Request) -> None:
    """Dependency of all data routes: the API key when one is set, or the server file's token."""
    settings: Settings = request.app.state.settings
    if settings.workbench_api_key is not None:
        _require(request, settings.workbench_api_key, request.app.state.token)


def require_owner(request: Request) -> None:
    """Dependency of routes for the server's own user: the token of the server file."""
    _require(request, request.app.state.token)


def _require(request: Request, *accepted: str) -> None:
    given = bearer(request) or ""
    if not any(hmac.compare_digest(given.encode(), key.encode()) for key in accepted):
        raise WorkbenchError(
            ErrorCode.UNAUTHORIZED,
            "The request carries no valid key.",
            fix="Send Authorization: Bearer <WORKBENCH_API_KEY>.",
            operation="http",
        )
