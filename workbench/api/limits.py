"""How much a client may ask for: headers, bodies, requests at once, requests a second.

Every refusal is a problem with the setting's name; what would be well a moment later says when.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workbench.api.problems import answer, closing
from workbench.errors import ErrorCode, WorkbenchError
from workbench.settings import Settings

BURST_S: Final = 10.0
"""Seconds' worth of requests that a client may send at once after a silence."""

_REMEMBERED: Final = 10_000
_ALWAYS: Final = ("/health", "/health/live", "/health/ready", "/metrics")
"""Answered however many other requests are under way: they tell why those take so long."""


class Rate:
    """A token bucket for each client.

    Args:
        per_s: requests a second in the long run; 0 is no limit.
        clock: seconds, monotonic.
    """

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, client: str) -> float:
        """Account for a request: 0 if it may go on, else seconds after which the next one may."""
        if not self._per_s:
            return 0.0
        now, most = self._clock(), max(1.0, self._per_s * BURST_S)
        left, since = self._buckets.pop(client, (most, now))
        left = min(most, left + (now - since) * self._per_s)
        wait = 0.0 if left >= 1 else (1 - left) / self._per_s
        self._buckets[client] = (left - 1 if not wait else left, now)
        if len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)
        return wait


def client_of(scope: Scope) -> str:
    """Whom a request is counted for: an address, of IPv6 the network that one customer has."""
    host = scope["client"][0] if scope.get("client") else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        if not address.is_loopback:
            return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Limits:
    """ASGI middleware that refuses what is too much, before it costs anything.

    Args:
        app: what it protects.
        settings: the bounds.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._rate = Rate(settings.workbench_rate_limit)
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is within bounds."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await answer(refusal, scope, receive, send)
            return
        self._running += 1
        try:
            if scope["type"] == "http":
                body = Body(self._settings, scope, receive, send)
                await self._app(scope, body.receive, body.send)
            else:
                await self._app(scope, receive, send)
        finally:
            self._running -= 1

    def _refusal(self, scope: Scope) -> WorkbenchError | None:
        settings = self._settings
        size = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
        size += len(scope.get("query_string", b"")) + len(scope.get("raw_path", b""))
        if size > settings.workbench_max_header_bytes:
            return too_large("headers and address", size, "WORKBENCH_MAX_HEADER_BYTES", settings)
        wait_s = self._rate.wait_s(client_of(scope))
        if wait_s:
            return WorkbenchError(
                ErrorCode.RATE_LIMITED,
                f"More than {settings.workbench_rate_limit:g} requests a second.",
                fix="Wait as Retry-After says, or raise WORKBENCH_RATE_LIMIT.",
                operation="http",
                retry_after_s=wait_s,
            )
        if self._running >= settings.workbench_max_requests and scope["path"] not in _ALWAYS:
            return WorkbenchError(
                ErrorCode.QUEUE_FULL,
                f"{self._running} requests are under way, which is the limit.",
                fix="Try again shortly, or raise WORKBENCH_MAX_REQUESTS.",
                operation="http",
                retry_after_s=1.0,
            )
        if scope["type"] == "http":
            length = Headers(scope=scope).get("content-length", "")
            if length.isdecimal() and int(length) > settings.workbench_max_body:
                return too_large("body", int(length), "WORKBENCH_MAX_BODY", settings)
        return None


def too_large(what: str, size: int, setting: str, settings: Settings) -> WorkbenchError:
    """The refusal of a size."""
    limit = getattr(settings, setting.lower())
    return WorkbenchError(
        ErrorCode.TOO_LARGE,
        f"The request's {what} has {size:,} bytes or more; the limit is {limit:,}.",
        fix=f"Send less, or raise {setting}.",
        operation="http",
        details={"limit_bytes": limit},
    )


class Body:
    """One request's body as it comes: no more than allowed, and in time.

    A body that breaks a bound is answered here, whatever the application makes of it: the
    application sees a client that has left, and what it says after that goes nowhere.
    """

    def __init__(self, settings: Settings, scope: Scope, receive: Receive, send: Send) -> None:
        self._settings = settings
        self._scope, self._receive, self._send = scope, receive, send
        self._size = 0
        self._complete = self._started = self._refused = False
        self._deadline = time.monotonic() + settings.workbench_body_timeout_s

    async def receive(self) -> Message:
        """The next piece, or the client's leaving."""
        if self._refused:
            return {"type": "http.disconnect"}
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout(max(0.0, self._deadline - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            return await self._refuse(
                WorkbenchError(
                    ErrorCode.REQUEST_TIMEOUT,
                    f"The request's body took longer than "
                    f"{self._settings.workbench_body_timeout_s:g} s.",
                    fix="Send it faster, or raise WORKBENCH_BODY_TIMEOUT_S.",
                    operation="http",
                )
            )
        self._size += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._size > self._settings.workbench_max_body:
            return await self._refuse(
                too_large("body", self._size, "WORKBENCH_MAX_BODY", self._settings)
            )
        return message

    async def send(self, message: Message) -> None:
        """The application's answer, unless the request was refused meanwhile."""
        if self._refused:
            return
        self._started = self._started or message["type"] == "http.response.start"
        await self._send(message)

    async def _refuse(self, error: WorkbenchError) -> Message:
        self._refused = True
        if not self._started:
            await answer(error, self._scope, self._receive, closing(self._send))
        return {"type": "http.disconnect"}
