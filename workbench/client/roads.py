"""The road of benchmarks: asynchronous, so that many requests are under way at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

from workbench import logs, wire
from workbench.errors import ErrorCode, WorkbenchError, unfinished
from workbench.types import (
    ChatRequest,
    DoneEvent,
    ErrorEvent,
    SessionEvent,
    StreamEvent,
    StreamSession,
    new_id,
)

if TYPE_CHECKING:
    import httpx

    from workbench.bench.road import Road
    from workbench.engine import Engine
    from workbench.store.rows import Mode

T = TypeVar("T")
Work = Callable[["Road"], Coroutine[Any, Any, T]]

_LOOK_S: Final = 0.25
_STOP_S: Final = 30.0
_TOLD: Final = frozenset({"session", "token", "done", "error"})
"""Events that a benchmark looks at; others are not worth decoding."""


def drive(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], watch: Callable[[], None]
) -> T:
    """Run a coroutine on a loop of another thread and look in on it meanwhile.

    An interrupt cancels it, and is raised when it has come to its end.
    """
    ended = threading.Event()

    async def running() -> T:
        try:
            return await work
        finally:
            ended.set()

    future = asyncio.run_coroutine_threadsafe(running(), loop)
    try:
        while not ended.wait(_LOOK_S):
            watch()
        watch()
        return future.result()
    except CancelledError:
        raise WorkbenchError(
            ErrorCode.CANCELLED, "The benchmark was stopped.", operation="bench"
        ) from None
    except BaseException:
        future.cancel()
        ended.wait(_STOP_S)
        raise


class LocalRoad:
    """An engine on the loop that this runs on."""

    remote = False

    def __init__(self, engine: Engine, source: str) -> None:
        self._engine = engine
        self._source = source

    async def ask(
        self, request: ChatRequest, on_event: Callable[[StreamEvent], None]
    ) -> StreamSession:
        async with contextlib.aclosing(self._engine.stream(request)) as events:
            async for event in events:
                on_event(event)
                if isinstance(event, DoneEvent | ErrorEvent):
                    return event.session
        raise unfinished("bench")

    async def cancel(self, session_id: str) -> None:
        self._engine.cancel(session_id)

    async def check(self, model: str) -> None:
        await self._engine.show(model)

    async def unload(self, model: str) -> None:
        with logs.correlation(new_id("cor"), source=self._source):
            await self._engine.unload(model)

    async def rows(self, sql: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._engine.store.rows, sql, params)

    async def log(self, table: str, rows: Sequence[Mapping[str, Any]], mode: Mode) -> None:
        from workbench.store.outside import check_rows

        await asyncio.wrap_future(self._engine.store.submit(check_rows(table, rows, mode)))


class RemoteRoad:
    """A running server's engine, over HTTP.

    Args:
        url: of its API.
        headers: with its token.
    """

    remote = True

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        import httpx

        self._http = httpx.AsyncClient(
            base_url=url,
            headers=dict(headers),
            timeout=httpx.Timeout(10, read=None, pool=None),
            # The load pattern says how many requests there are, not the client.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
            trust_env=False,
        )

    async def ask(
        self, request: ChatRequest, on_event: Callable[[StreamEvent], None]
    ) -> StreamSession:
        begun = False
        request.check_text()
        body = {"requests": [wire.encode_request(request)]}
        async with (
            _explained(),
            self._http.stream("POST", "/streams", json=body) as answer,
        ):
            if answer.is_error:
                raise _refused(answer, (await answer.aread()).decode())
            async for line in answer.aiter_lines():
                if not line.startswith("data:"):
                    continue
                told = json.loads(line.removeprefix("data:"))
                if told["type"] not in _TOLD:
                    continue
                event = wire.decode_event(told)
                on_event(event)
                begun = begun or isinstance(event, SessionEvent)
                if isinstance(event, ErrorEvent) and not begun:
                    raise event.error
                if isinstance(event, DoneEvent | ErrorEvent):
                    return event.session
        raise unfinished("bench")

    async def cancel(self, session_id: str) -> None:
        await self._call("DELETE", f"/streams/{session_id}")

    async def check(self, model: str) -> None:
        await self._call("GET", f"/models/{quote(model, safe='')}")

    async def unload(self, model: str) -> None:
        await self._call("POST", "/models/unload", {"model": model})

    async def rows(self, sql: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        body = await self._call("POST", "/query", {"sql": sql, "params": dict(params)})
        names = [column["name"] for column in body["columns"]]
        return [dict(zip(names, row, strict=True)) for row in body["rows"]]

    async def log(self, table: str, rows: Sequence[Mapping[str, Any]], mode: Mode) -> None:
        from workbench.store.outside import encode_rows

        await self._call("POST", "/log", {"items": [encode_rows(table, rows, mode)]})

    async def close(self) -> None:
        """Let the connections go."""
        await self._http.aclose()

    async def _call(self, method: str, path: str, body: object = None) -> Any:
        async with _explained():
            answer = await self._http.request(method, path, json=body)
        if answer.is_error:
            raise _refused(answer, answer.text)
        return json.loads(answer.text) if answer.text else None


@contextlib.asynccontextmanager
async def _explained() -> AsyncIterator[None]:
    import httpx

    try:
        yield
    except httpx.HTTPError as error:
        raise WorkbenchError(
            ErrorCode.SERVER_UNREACHABLE,
            f"The workbench server does not answer ({type(error).__name__}).",
            fix="Start it again with: workbench serve; then: workbench bench resume.",
            operation="http",
        ) from None


def _refused(answer: httpx.Response, text: str) -> WorkbenchError:
    from workbench.client.remote import refused

    return refused(answer.status_code, text)
