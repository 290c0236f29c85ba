"""Connections that say nothing, or too many of them, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from workbench.api.connections import guarded
from workbench.settings import Settings

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[int]:
    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    app = Starlette(routes=[Route("/", hello)])
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, http=guarded(settings), log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        running = asyncio.create_task(server._serve([listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = server.force_exit = True
            await running


async def ask(connection: Connection, text: bytes = GET) -> bytes:
    reader, writer = connection
    writer.write(text)
    head = await reader.readuntil(b"\r\n\r\n")
    with suppress(asyncio.IncompleteReadError):
        await reader.readexactly(5 if b"200 OK" in head else 0)
    return head


async def closed(reader: asyncio.StreamReader) -> bool:
    with suppress(ConnectionError):
        return await reader.read() == b""
    return True


async def test_one_client_holds_a_bounded_number(settings: Settings) -> None:
    bounded = settings.model_copy(update={"workbench_client_connections": 2})
    async with serving(bounded) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        assert b"200 OK" in await ask(held[0])
        assert b"200 OK" in await ask(held[1])
        refused = await ask(held[2])
        assert b"429" in refused
        assert b"retry-after" in refused.lower()
        held[0][1].close()
        await held[0][1].wait_closed()
        while True:  # the server hears of the end a moment later
            again = await asyncio.open_connection("127.0.0.1", port)
            answer = await ask(again)
            again[1].close()
            if b"200 OK" in answer:
                break
        held[1][1].close()
        held[2][1].close()


async def test_heads_must_come_in_time(settings: Settings) -> None:
    hasty = settings.model_copy(update={"workbench_body_timeout_s": 0.2})
    async with serving(hasty) as port:
        silent = await asyncio.open_connection("127.0.0.1", port)
        slow = await asyncio.open_connection("127.0.0.1", port)
        slow[1].write(b"GET / HTTP/1.1\r\nHo")
        again = await asyncio.open_connection("127.0.0.1", port)
        assert b"200 OK" in await ask(again)
        again[1].write(GET[:10])  # a second request that never ends
        for reader, writer in (silent, slow, again):
            assert await closed(reader)
            writer.close()


async def test_a_connection_outlives_the_patience_of_common_clients(settings: Settings) -> None:
    """Who closes first loses nothing; a server that does loses the request that is on its way."""
    clients_s = httpx.Limits().keepalive_expiry
    assert clients_s is not None
    assert settings.workbench_connection_idle_s > 2 * clients_s
    limits = {"workbench_connection_idle_s": 0.1, "workbench_body_timeout_s": 2}
    async with serving(settings.model_copy(update=limits)) as port:
        silent, idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        assert b"200 OK" in await ask(idle)
        ends = [asyncio.create_task(closed(reader)) for reader, _ in (silent, idle)]
        first, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        assert first == {ends[1]}, "it has a limit of its own"
        assert await ends[0]
        for _, writer in (silent, idle):
            writer.close()
