"""Stands between the workbench and its Ollama server, and breaks what passes, request by request.

Everything is relayed byte by byte, but for requests that a test has marked: those are answered by a
script that may do whatever a network, a proxy or a broken server does. Nobody else's request is
touched, so that a fault can be injected among innocent ones.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

MARK: Final = re.compile(rb"mark-\d+")
_NOBODY: Final = (ConnectionError, OSError, asyncio.IncompleteReadError)


class Wire:
    """The answering end of one connection, for a script."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def raw(self, data: bytes) -> None:
        """These bytes, at once."""
        if self.writer.is_closing():
            raise ConnectionResetError("the other side has gone")
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: int = 200, *headers: str, chunked: bool = True) -> None:
        """The head of an answer, by default one of a stream in chunks."""
        lines = [f"HTTP/1.1 {status} Whatever", "Content-Type: application/x-ndjson", *headers]
        if chunked:
            lines.append("Transfer-Encoding: chunked")
        await self.raw(("\r\n".join(lines) + "\r\n\r\n").encode())

    async def chunk(self, data: bytes) -> None:
        """One chunk."""
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        """The last chunk."""
        await self.raw(b"0\r\n\r\n")

    async def whole(self, status: int, body: bytes, kind: str = "application/json") -> None:
        """A complete answer."""
        head = f"HTTP/1.1 {status} Whatever\r\nContent-Type: {kind}\r\n"
        await self.raw(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    async def say(self, *words: str) -> None:
        """The head of an answer and some lines of it."""
        await self.head()
        for word in words:
            await self.chunk(line(word))

    async def until_gone(self) -> None:
        """Say nothing more until the other side hangs up."""
        while await self.reader.read(65536):
            pass

    def reset(self) -> None:
        """Drop the connection as a machine that was switched off does."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Wire], Awaitable[None]]


def line(text: str, **more: Any) -> bytes:
    """One line of an answer, as Ollama writes it."""
    message = {"role": "assistant", "content": text}
    body = {"model": "x", "created_at": "2026-01-01T00:00:00Z", "message": message, "done": False}
    return json.dumps({**body, **more}).encode() + b"\n"


def last_line(tokens: int = 2, **more: Any) -> bytes:
    """The line that ends an answer."""
    counts = {"prompt_eval_count": 5, "eval_count": tokens, "eval_duration": 10**6}
    return line("", done=True, done_reason="length", **{**counts, **more})


@dataclass
class Fault:
    """A script for marked requests; ``times`` of them at most, the others pass."""

    script: Script
    times: int | None = None
    met: int = 0

    def takes(self) -> bool:
        """Whether the next request meets it; counts that one."""
        if self.times is not None and self.met >= self.times:
            return False
        self.met += 1
        return True


@dataclass
class Gate:
    """Listens on a port of its own and relays to ``upstream``, a port of this machine.

    Args:
        upstream: that port.
    """

    upstream: int
    port: int = 0
    marked: dict[bytes, Fault] = field(default_factory=dict)
    """By the mark in the body of a request."""
    loads: dict[str, Fault] = field(default_factory=dict)
    """By the model that is to be loaded."""
    paths: dict[str, Fault] = field(default_factory=dict)
    """By the path of any request."""
    _server: asyncio.Server | None = None
    _connections: set[asyncio.StreamWriter] = field(default_factory=set)
    _serving: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Where the workbench finds it."""
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        """Listen, after :meth:`close` on the same port again."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Nobody listens: connections are refused. Those that are open stay."""
        assert self._server is not None
        self._server.close()

    def drop(self) -> None:
        """Break every open connection off."""
        for writer in list(self._connections):
            writer.transport.abort()

    @asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        """Inside the block nobody listens, and what was open is gone."""
        await self.close()
        self.drop()
        try:
            yield
        finally:
            await self.open()

    @contextmanager
    def armed(self, where: dict[Any, Fault], key: Any, fault: Fault) -> Iterator[Fault]:
        """Inside the block the fault waits for its requests."""
        where[key] = fault
        try:
            yield fault
        finally:
            del where[key]

    async def shut(self) -> None:
        """The end: nobody listens, and every connection is closed."""
        await self.close()
        self.drop()
        if self._serving:
            await asyncio.wait(self._serving, timeout=10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        if (task := asyncio.current_task()) is not None:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        up: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        relaying: asyncio.Task[None] | None = None
        try:
            while request := await _request(reader):
                head, body = request
                fault = self._fault(head, body)
                if fault is not None:
                    await fault.script(Wire(reader, writer))
                    break
                if up is None:
                    up = await asyncio.open_connection("127.0.0.1", self.upstream)
                    relaying = asyncio.create_task(_relay(up[0], writer))
                up[1].write(head + body)
                await up[1].drain()
        except _NOBODY:
            pass
        finally:
            self._connections.discard(writer)
            if relaying is not None:
                relaying.cancel()
            for end in (writer, up[1] if up else None):
                if end is not None:
                    end.close()
                    with suppress(*_NOBODY):
                        await end.wait_closed()

    def _fault(self, head: bytes, body: bytes) -> Fault | None:
        path = head.split(b" ", 2)[1].decode().partition("?")[0]
        found = self.paths.get(path)
        mark = MARK.search(body)
        if found is None and mark is not None:
            found = self.marked.get(mark[0])
        if found is None and path == "/api/chat" and self.loads:
            asked = json.loads(body)
            if not asked["messages"]:
                found = self.loads.get(asked["model"])
        return found if found is not None and found.takes() else None


async def _request(reader: asyncio.StreamReader) -> tuple[bytes, bytes] | None:
    """Head and body of the next request; None after the last one."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return head, await reader.readexactly(int(length[1])) if length else b""


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What the server says, until it is gone: then the client's connection goes too."""
    with suppress(*_NOBODY):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()
