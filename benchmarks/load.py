"""The client of all HTTP peers: N requests at once, every piece stamped as the socket gives it.

While streams run, bytes are only stamped and kept; they are read as events afterwards, so that the
client takes as little as it can of the cores that the peer computes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.figures import Trace

ReadEvent = Callable[[Trace, int, Mapping[str, Any]], None]


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Raw:
    """One answer as bytes with the stamps of their arrival."""

    sent_ns: int = 0
    end_ns: int = 0
    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    error: str | None = None

    def trace(self, read: ReadEvent) -> Trace:
        """Its events; an event has the stamp of the piece that completed it."""
        trace = Trace(self.sent_ns, self.end_ns, error=self.error)
        for t_ns, data in events(self.pieces):
            read(trace, t_ns, data)
        return trace


def events(pieces: Sequence[tuple[int, bytes]]) -> list[tuple[int, dict[str, Any]]]:
    """The JSON values of server-sent ``data:`` lines with the stamp at which each was complete."""
    found: list[tuple[int, dict[str, Any]]] = []
    rest = b""
    for t_ns, piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            data = line.removeprefix(b"data:").strip()
            if line.startswith(b"data:") and data != b"[DONE]":
                found.append((t_ns, json.loads(data)))
    return found


async def stream_all(
    url: str, bodies: Sequence[Mapping[str, Any]], headers: Mapping[str, str], limit_s: float
) -> tuple[list[Raw], bool]:
    """Post all bodies at once and read every answer to its end.

    Returns:
        One answer a body, and whether the time limit stopped some of them; those have what came
        until then and an error that says so.
    """
    raws = [Raw() for _ in bodies]
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=None, trust_env=False, limits=limits) as http:
        tasks = [
            asyncio.create_task(_one(http, url, body, headers, raw))
            for body, raw in zip(bodies, raws, strict=True)
        ]
        _, late = await asyncio.wait(tasks, timeout=limit_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
    for task, raw in zip(tasks, raws, strict=True):
        if task in late and raw.error is None:
            raw.error = "stopped at the limit"
    return raws, bool(late)


async def _one(
    http: httpx.AsyncClient, url: str, body: Mapping[str, Any], headers: Mapping[str, str], raw: Raw
) -> None:
    raw.sent_ns = time.monotonic_ns()
    try:
        async with http.stream("POST", url, json=body, headers=dict(headers)) as response:
            if not response.is_success:
                text = (await response.aread()).decode("utf-8", "replace")
                raw.error = f"HTTP {response.status_code}: {text[:500]}"
                return
            async for piece in response.aiter_raw():
                raw.pieces.append((time.monotonic_ns(), piece))
    except httpx.HTTPError as error:
        raw.error = f"{type(error).__name__}: {error}"
    finally:
        raw.end_ns = time.monotonic_ns()


async def until_event(
    http: httpx.AsyncClient,
    url: str,
    body: Mapping[str, Any],
    on_event: Callable[[int, dict[str, Any]], Any],
) -> None:
    """Read one answer event by event; a coroutine that ``on_event`` returns runs beside it."""
    beside: list[asyncio.Task[Any]] = []
    rest = b""
    async with http.stream("POST", url, json=body) as response:
        async for piece in response.aiter_raw():
            t_ns = time.monotonic_ns()
            whole, _, rest = (rest + piece).rpartition(b"\n")
            for stamp, event in events([(t_ns, whole + b"\n")]):
                if (coroutine := on_event(stamp, event)) is not None:
                    beside.append(asyncio.create_task(coroutine))
    with contextlib.suppress(httpx.HTTPError):
        await asyncio.gather(*beside)
