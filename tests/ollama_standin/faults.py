"""Misbehaviour on demand: things that tests need and that nobody can ask of a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

HTML_PAGE = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
    "<center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n"
)
GARBAGE = "<!-- upstream timed out -->\n"


class CutConnection(Exception):
    """Raised on purpose inside a started answer: the server then drops the connection."""


@dataclass(frozen=True)
class Faults:
    """Which faults are on; counts are lines of one streamed answer that still go out whole."""

    html: bool = False
    slow_load: float = 0.0
    stall_after: int | None = None
    cut_mid_line_after: int | None = None
    garbage_line_after: int | None = None

    async def before_line(
        self, sent: int, text: str, send: Callable[[str], Awaitable[None]]
    ) -> None:
        """Misbehave, if it is time to, before line number ``sent`` goes out."""
        if sent == self.stall_after:
            await asyncio.Event().wait()  # until the client goes away and this task is cancelled
        if sent == self.cut_mid_line_after:
            await send(text[: len(text) // 2])
            raise CutConnection
        if sent == self.garbage_line_after:
            await send(GARBAGE)
