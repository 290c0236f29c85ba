"""Requests to make, and a server whose every byte a test decides."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from workbench.providers.base import CancellationToken
from workbench.providers.ollama import OllamaProvider
from workbench.types import ChatRequest, Message, Options, ProviderEvent

MODEL = "smollm2:135m"


def ask(
    text: str = "Say hi.", keep_alive_s: float | None = None, raw: bool = False, **options: Any
) -> ChatRequest:
    return ChatRequest(
        f"ollama/{MODEL}",
        (Message("user", text),),
        Options(**{"temperature": 0.0, "max_tokens": 8, **options}),
        keep_alive_s=keep_alive_s,
        raw=raw,
    )


async def answer(
    provider: OllamaProvider,
    request: ChatRequest,
    model: str = MODEL,
    seed: int = 42,
    each: Callable[[ProviderEvent], None] = lambda event: None,
) -> list[ProviderEvent]:
    """All events of one stream; ``each`` sees them as they come."""
    events = []
    async for event in provider.stream(request, model, seed, CancellationToken()):
        events.append(event)
        each(event)
    return events


class Wire:
    """A server that answers every request with prepared bytes and keeps what it was sent."""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.closed = asyncio.Event()
        self.listener: asyncio.Server


@asynccontextmanager
async def wire(reply: Callable[[str, dict[str, Any]], bytes | None]) -> AsyncIterator[Wire]:
    """Serve ``reply(path, body)`` and close the connection; None leaves the client waiting.

    ``closed`` is set when a client that was left waiting has gone.
    """
    state = Wire()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = next(
                (
                    int(line.split(":")[1])
                    for line in head.split("\r\n")
                    if "content-length" in line
                ),
                0,
            )
            body = json.loads(await reader.readexactly(length) or b"{}")
            path = head.split()[1]
            state.bodies.append(body)
            state.paths.append(path)
            data = reply(path, body)
            if data is None:
                await reader.read()
                state.closed.set()
            else:
                writer.write(data)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = state.listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    state.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield state
    finally:
        server.close()


def http(body: bytes | str, status: str = "200 OK", *headers: str) -> bytes:
    """An HTTP answer that ends with the connection's announced length."""
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + data


def ndjson(*lines: Any) -> bytes:
    """A streamed answer of these objects (bytes are passed as they are)."""
    texts = [
        x if isinstance(x, bytes) else json.dumps(x, ensure_ascii=False).encode() for x in lines
    ]
    return http(b"\n".join(texts) + b"\n")


def says(content: str, **more: Any) -> dict[str, Any]:
    """One line of a chat stream."""
    return {"message": {"role": "assistant", "content": content}, "done": False, **more}


def done(reason: str = "length", **more: Any) -> dict[str, Any]:
    """The last line of a chat stream."""
    return {
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": reason,
        **more,
    }
