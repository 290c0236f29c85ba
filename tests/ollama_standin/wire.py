"""Framing: one HTTP answer as Go's net/http would send it, over ASGI.

Header names keep Go's capitals and order, a body over 2,048 bytes goes out chunked instead of with
a Content-Length (Go's response buffer has that size), and streams are newline-delimited JSON.
"""

from __future__ import annotations

from typing import Any

from starlette.types import Send

from .faults import Faults
from .gojson import encode
from .gotime import http_date

JSON = "application/json; charset=utf-8"
BARE_JSON = "application/json"
NDJSON = "application/x-ndjson"
_GO_BUFFER = 2048


class Answer:
    """Writes exactly one response; a stream is ``start``, ``line``..., ``end``."""

    def __init__(self, send: Send, faults: Faults, *, head: bool = False) -> None:
        self._send = send
        self._faults = faults
        self._head = head
        self._lines = 0
        self.started = False

    async def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def whole(
        self,
        body: str,
        content_type: str | None,
        status: int = 200,
        first: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """A complete body; ``first`` are headers that Go puts around Content-Type."""
        payload = body.encode("utf-8")
        names = dict(first)
        if content_type is not None:
            names["Content-Type"] = content_type
        headers = [(k.encode(), v.encode()) for k, v in sorted(names.items())]
        headers.append((b"Date", http_date()))
        if len(payload) <= _GO_BUFFER:
            headers.append((b"Content-Length", str(len(payload)).encode()))
        await self._begin(status, headers)
        await self._send({"type": "http.response.body", "body": b"" if self._head else payload})

    async def json(self, value: Any, status: int = 200, content_type: str = JSON) -> None:
        """One JSON value as the whole body."""
        await self.whole(encode(value), content_type, status)

    async def start(self, content_type: str = NDJSON, status: int = 200) -> None:
        """The head of a chunked answer."""
        await self._begin(
            status, [(b"Content-Type", content_type.encode()), (b"Date", http_date())]
        )

    async def chunk(self, text: str) -> None:
        """One chunk as it is."""
        await self._send(
            {"type": "http.response.body", "body": text.encode("utf-8"), "more_body": True}
        )

    async def line(self, value: Any) -> None:
        """One line of a stream, in one chunk; starts the stream when it is the first."""
        if not self.started:
            await self.start()
        text = encode(value) + "\n"
        await self._faults.before_line(self._lines, text, self.chunk)
        await self.chunk(text)
        self._lines += 1

    async def end(self) -> None:
        """The last chunk."""
        await self._send({"type": "http.response.body", "body": b""})

    async def stillborn_stream(self, value: Any, status: int) -> None:
        """An error where a stream was about to begin: chunked, plain JSON, no newline."""
        await self.start(BARE_JSON, status)
        await self.chunk(encode(value))
        await self.end()
