"""Open connections: how many one client may hold, how long, and how long a request's head may take.

ASGI begins once a request's head is there. A client that opens connections and says nothing, or
one byte a minute, is dealt with here, in uvicorn's protocol.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from workbench.api.limits import client_of
from workbench.api.problems import answer, closing
from workbench.errors import ErrorCode, WorkbenchError
from workbench.settings import Settings


def guarded(settings: Settings) -> type[H11Protocol]:
    """The protocol for ``uvicorn.Config(http=...)``, one server's connections counted together."""
    most, patience_s = settings.workbench_client_connections, settings.workbench_body_timeout_s
    opened: defaultdict[str, set[asyncio.Transport]] = defaultdict(set)

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        error = WorkbenchError(
            ErrorCode.RATE_LIMITED,
            f"This client holds {most} connections, which is the limit.",
            fix="Close some, or raise WORKBENCH_CLIENT_CONNECTIONS.",
            operation="http",
            retry_after_s=1.0,
        )
        await answer(error, scope, receive, closing(send))

    class Protocol(H11Protocol):
        _head_timer: asyncio.TimerHandle | None = None
        _whose = ""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            # uvicorn's type says whole seconds; it is handed to call_later.
            self.timeout_keep_alive = settings.workbench_connection_idle_s  # type: ignore[assignment]
            self._whose = client_of({"client": self.client})
            mine = opened[self._whose]
            # A WebSocket's end is not told here, so closed ones are looked for.
            mine.difference_update([other for other in mine if other.is_closing()])
            if len(mine) >= most:
                self.app = refuse
            else:
                mine.add(transport)
            self._await_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is h11.IDLE:
                self._await_head()
            else:
                self._got_head()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._got_head()  # between requests uvicorn's own timer runs

        def connection_lost(self, exc: Exception | None) -> None:
            self._got_head()
            mine = opened[self._whose]
            mine.discard(self.transport)
            if not mine:
                del opened[self._whose]
            super().connection_lost(exc)

        def handle_websocket_upgrade(self, event: h11.Request) -> None:
            self._got_head()
            if self.app is refuse:  # an upgrade has no answer of ours
                self.transport.close()
                return
            super().handle_websocket_upgrade(event)

        def _await_head(self) -> None:
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(patience_s, self._give_up)

        def _got_head(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _give_up(self) -> None:
            if not self.transport.is_closing():
                self.transport.close()

    return Protocol
