"""Users of a running server: what each asked, and what became of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

ENDS: Final = ("done", "error")


@dataclass
class Told:
    """What one request was told.

    ``outcome`` is the error code, ``ok``, ``cancelled``, or ``cut``: the connection ended without
    a last word.
    """

    correlation_id: str
    model: str
    outcome: str = "cut"
    status: int = 0
    session_id: str | None = None
    """None: it never became a session."""
    text: str = ""
    events: int = 0
    warnings: list[str] = field(default_factory=list)
    message: str = ""
    fix: str = ""
    left: bool = False
    """The client hung up."""
    seconds: float = 0.0


@dataclass
class Users:
    """Asks a server and keeps book of all that was asked.

    Args:
        url: where it is.
        token: of its owner.
    """

    url: str
    token: str
    asked: list[Told] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.http = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=120,
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
        )

    async def ask(
        self,
        model: str,
        message: str,
        tokens: int = 4,
        *,
        on_event: Callable[[str, Told], Awaitable[None]] | None = None,
        **more: Any,
    ) -> Told:
        """One streamed answer.

        Args:
            model: whom.
            message: what.
            tokens: at most.
            on_event: called with each event's type; what it raises ends the request as a client
                that leaves.
            more: further fields of the body.
        """
        told = Told(f"rel-{next(self._numbers)}", model)
        self.asked.append(told)
        options = {"max_tokens": tokens, "temperature": 0.0, **more.pop("options", {})}
        body = {"model": model, "message": message, "options": options, **more}
        began = time.monotonic()
        try:
            async with self.http.stream(
                "POST",
                "/api/v1/stream-message",
                json=body,
                headers={"X-Correlation-ID": told.correlation_id},
            ) as response:
                told.status = response.status_code
                if response.status_code != 200:
                    problem = json.loads(await response.aread())
                    told.outcome, told.message = problem["code"], problem["message"]
                    told.fix = problem["fix"]
                    return told
                async for text in response.aiter_lines():
                    if text.startswith("data:"):
                        event = json.loads(text.removeprefix("data:"))
                        take(told, event)
                        if on_event is not None:
                            await on_event(event["type"], told)
        except Leave:
            told.left, told.outcome = True, "left"
        except httpx.HTTPError:
            pass
        finally:
            told.seconds = time.monotonic() - began
        return told

    async def get(self, path: str) -> Any:
        """JSON of a path."""
        return (await self.http.get(path)).raise_for_status().json()

    async def post(self, path: str, **body: Any) -> httpx.Response:
        """What the server answers to a JSON object."""
        return await self.http.post(path, json=body)

    async def query(self, sql: str) -> list[list[Any]]:
        """Rows of the log."""
        answer = await self.post("/api/v1/query", sql=sql, limit=100_000)
        return list(answer.raise_for_status().json()["rows"])

    async def close(self) -> None:
        """Hang up."""
        await self.http.aclose()


class Leave(Exception):
    """Raised by a listener that hangs up."""


def take(told: Told, event: dict[str, Any]) -> None:
    """Note what one event says."""
    kind = event["type"]
    told.events += 1
    if kind == "session":
        told.session_id = event["session_id"]
    elif kind == "token" and event["channel"] == "content":
        told.text += event["text"]
    elif kind == "warning":
        told.warnings.append(event["code"])
    elif kind == "error":
        told.outcome, told.message = event["error"]["code"], event["error"]["message"]
        told.fix = event["error"]["fix"]
    elif kind == "done":
        told.outcome = event["session"]["status"]


async def until(
    true: Callable[[], Awaitable[Any]], what: str, seconds: float = 60.0, every_s: float = 0.02
) -> Any:
    """Wait for a condition; its value, once it is one that counts.

    Raises:
        AssertionError: it did not come true in time.
    """
    deadline = time.monotonic() + seconds
    while not (value := await true()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(every_s)
    return value
