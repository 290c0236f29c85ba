"""Who may speak to the server.

Without an API key the server listens on loopback only, and a page from elsewhere must not reach it
through the user's browser: the Host header has to name this machine (against DNS rebinding), the
Origin header, which browsers send, has to name this server, and what a foreign page embeds
(``Sec-Fetch-Site``) is refused even where no Origin comes with it.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from workbench.api.problems import answer, closing
from workbench.errors import ErrorCode, WorkbenchError
from workbench.settings import Settings

OPEN: Final = ("/health/live",)
"""What needs no key: that the process answers is no secret."""

_PAGE: Final = re.compile(
    r"/gradio_api/(queue/(join|data)|run/predict|heartbeat/\w+|startup-events|theme\.css|info|"
    r"reset/?|cancel|app_id|token|user/?|login_check/?)"
)
"""Of gradio's own routes below /gradio_api, those that the page uses (Stop is a run/predict)."""

_UNUSED: Final = ("/gradio_api", "/monitoring", "/login", "/logout", "/custom_component", "/dev")
"""Gradio's routes for files, uploads, proxies, direct calls and its own log-in: never served."""

_NETLOC: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_ONCE: Final = ("host", "origin", "authorization", "content-length", "sec-fetch-site")


def check_address(settings: Settings) -> None:
    """Refuse to listen beyond loopback without an API key, or a token for the log.

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
    if settings.workbench_log_token is None and not is_loopback(settings.workbench_log_host):
        raise WorkbenchError(
            ErrorCode.INVALID_REQUEST,
            f"WORKBENCH_LOG_HOST={settings.workbench_log_host} would let other machines read the "
            "log without a token of yours.",
            fix="Set WORKBENCH_LOG_TOKEN (16 characters or more), or leave WORKBENCH_LOG_HOST out.",
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
        host = settings.workbench_host.lower()
        self._host = f"[{host}]" if ":" in host else host
        self._key = settings.workbench_api_key
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is addressed to this server by someone who may."""
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            if "content-length" in headers and "transfer-encoding" in headers:
                # A proxy in front may have believed the other one (RFC 9112, 6.3).
                await answer(_two_lengths(), scope, receive, closing(send), 400)
                return
            refusal = self._refusal(scope.get("path", ""), headers)
            if refusal is not None:
                await answer(refusal, scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, path: str, headers: Headers) -> WorkbenchError | None:
        if any(len(headers.getlist(name)) > 1 for name in _ONCE):
            return WorkbenchError(
                ErrorCode.INVALID_REQUEST,
                "A header that may stand once stands twice.",
                fix=f"Send each of {', '.join(_ONCE)} once.",
                operation="http",
            )
        if not self._addressed(headers):
            return WorkbenchError(
                ErrorCode.FORBIDDEN_ORIGIN,
                "The request names a host or origin that is not this server.",
                fix="Open the page by its own address, or set WORKBENCH_API_KEY.",
                operation="http",
            )
        if self._key is not None and path not in OPEN:
            given = credentials(headers)
            if not matches(given, (self._key, self._token)):
                return WorkbenchError(
                    ErrorCode.UNAUTHORIZED,
                    "The request carries no valid key.",
                    fix="Send Authorization: Bearer <WORKBENCH_API_KEY>; in a browser, the key is "
                    "the password.",
                    operation="http",
                )
        if _below(path, _UNUSED) and not _PAGE.fullmatch(path):
            return WorkbenchError(
                ErrorCode.FORBIDDEN_PATH,
                "The page takes no uploads and gives out no files.",
                fix="Programs use /api/v1 and /v1, see /api/docs.",
                operation="http",
            )
        return None

    def _addressed(self, headers: Headers) -> bool:
        host, origin = headers.get("host", ""), headers.get("origin")
        # With a key the server may go by any name; without one, only by this machine's.
        if self._key is None and not self._ours(host):
            return False
        if origin is not None:
            return self._same(_netloc(origin), host)
        # A link may lead here; a picture, script or form of a foreign page may not.
        foreign = headers.get("sec-fetch-site") == "cross-site"
        return not foreign or headers.get("sec-fetch-mode") == "navigate"

    def _same(self, origin: str | None, host: str) -> bool:
        if origin is None:
            return False
        return origin.lower() == host.lower() or (self._ours(origin) and self._ours(host))

    def _ours(self, netloc: str) -> bool:
        match = _NETLOC.fullmatch(netloc)
        return match is not None and (match[1].lower() == self._host or is_loopback(match[1]))


def _two_lengths() -> WorkbenchError:
    return WorkbenchError(
        ErrorCode.INVALID_REQUEST,
        "The request gives the length of its body twice, as Content-Length and in chunks.",
        fix="Send either Content-Length or Transfer-Encoding.",
        operation="http",
    )


def _netloc(origin: str) -> str | None:
    """Host and port of an origin that is one: nothing but scheme, host and port."""
    match = re.fullmatch(r"https?://([^/?#@\\\s]+)", origin)
    return match[1] if match else None


def _below(path: str, prefixes: Sequence[str]) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in prefixes)


def credentials(headers: Headers) -> list[bytes]:
    """Keys that a request offers: bearer token, basic password, ``X-API-Key``."""
    found = [value.encode("latin-1") for value in headers.getlist("x-api-key")]
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        found.append(value.strip().encode("latin-1"))
    elif scheme.lower() == "basic":
        with suppress(ValueError):
            found.append(base64.b64decode(value, validate=True).partition(b":")[2])
    return found


def matches(given: Sequence[bytes], accepted: Sequence[str]) -> bool:
    """Whether any is one of these; the time it takes says nothing about which, or how nearly."""
    right = [hmac.compare_digest(key, good.encode()) for key in given for good in accepted]
    return any(right)


def require_writer(request: Request) -> None:
    """Dependency of routes for those with the server's key; where it has none, for its own user."""
    if request.app.state.settings.workbench_api_key is None and not _is_owner(request):
        raise WorkbenchError(
            ErrorCode.UNAUTHORIZED,
            "Others may write here only by key, and this server has none.",
            fix="Set WORKBENCH_API_KEY on the server, and send it.",
            operation="http",
            details={"server_key": False},
        )


def _is_owner(request: Request) -> bool:
    return matches(credentials(request.headers), (request.app.state.token,))


def require_owner(request: Request) -> None:
    """Dependency of routes for the server's own user: the token of the server file."""
    if not _is_owner(request):
        raise WorkbenchError(
            ErrorCode.UNAUTHORIZED,
            "This is for the server's own user.",
            fix="Use the workbench command on the server's machine.",
            operation="http",
        )
