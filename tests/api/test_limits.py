"""How much a client may ask for: every bound refuses, says so, and takes nothing else along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from workbench.api.edge import Edge
from workbench.api.limits import Limits, Rate, client_of
from workbench.settings import Settings


@pytest.fixture
def limited(settings: Settings) -> Callable[..., httpx.AsyncClient]:
    def make(route: Callable[[Request], Any] | None = None, **changes: Any) -> httpx.AsyncClient:
        async def echo(request: Request) -> PlainTextResponse:
            return PlainTextResponse(str(len(await request.body())))

        app = Starlette(routes=[Route("/{path:path}", route or echo, methods=["GET", "POST"])])
        guarded = Edge(Limits(app, settings.model_copy(update=changes)))
        transport = httpx.ASGITransport(guarded, client=("10.1.2.3", 4000))
        return httpx.AsyncClient(transport=transport, base_url="http://box")

    return make


async def pieces(size: int, count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * size


async def test_body_is_bounded_by_its_announcement(limited: Callable[..., Any]) -> None:
    async with limited(workbench_max_body=1000) as http:
        assert (await http.post("/", content=b"x" * 1000)).text == "1000"
        got = await http.post("/", content=b"x" * 1001)
    assert got.status_code == 413
    assert got.json()["code"] == "TOO_LARGE"
    assert "WORKBENCH_MAX_BODY" in got.json()["fix"]
    assert got.json()["correlation_id"] == got.headers["x-correlation-id"]


async def test_body_without_a_length_is_bounded_as_it_comes(limited: Callable[..., Any]) -> None:
    async with limited(workbench_max_body=1000) as http:
        assert (await http.post("/", content=pieces(100, 10))).text == "1000"
        assert (await http.post("/", content=pieces(100, 11))).status_code == 413


async def test_body_must_come_in_time(limited: Callable[..., Any]) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async with limited(workbench_body_timeout_s=0.05) as http:
        got = await http.post("/", content=slow())
    assert got.status_code == 408
    assert got.json()["code"] == "REQUEST_TIMEOUT"


async def test_headers_are_bounded(limited: Callable[..., Any]) -> None:
    async with limited(workbench_max_header_bytes=1024) as http:
        assert (await http.get("/")).status_code == 200
        assert (await http.get("/", headers={"x-much": "y" * 1024})).status_code == 413
        assert (await http.get("/" + "z" * 1024)).status_code == 413


async def test_requests_under_way_are_bounded(limited: Callable[..., Any]) -> None:
    go_on, arrived = asyncio.Event(), asyncio.Event()

    async def wait(request: Request) -> PlainTextResponse:
        if request.url.path == "/wait":
            arrived.set()
            await go_on.wait()
        return PlainTextResponse("done")

    async with limited(wait, workbench_max_requests=1) as http:
        first = asyncio.create_task(http.get("/wait"))
        await arrived.wait()
        refused = await http.get("/other")
        health = await http.get("/health")
        go_on.set()
        assert (await first).status_code == 200
        assert (await http.get("/other")).status_code == 200, "the place is free again"
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert health.status_code == 200, "health answers whatever else is going on"


async def test_rate_is_bounded_for_each_client(limited: Callable[..., Any]) -> None:
    async with limited(workbench_rate_limit=0.1) as http:
        assert (await http.get("/")).status_code == 200
        refused = await http.get("/")
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 10
    assert refused.json()["code"] == "RATE_LIMITED"


def test_bucket_fills_again_and_clients_are_apart() -> None:
    now = 0.0
    rate = Rate(2.0, clock=lambda: now)
    assert [rate.wait_s("a") for _ in range(20)] == [0.0] * 20
    assert rate.wait_s("a") == pytest.approx(0.5)
    assert rate.wait_s("b") == 0.0
    now = 0.5
    assert rate.wait_s("a") == 0.0
    assert rate.wait_s("a") == pytest.approx(0.5)
    now = 1000.0
    assert [rate.wait_s("a") for _ in range(20)] == [0.0] * 20
    assert rate.wait_s("a") > 0, "silence saves up no more than a burst"
    assert [Rate(0).wait_s("a") for _ in range(1000)] == [0.0] * 1000


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("::1", "::1"),
        ("testclient", "testclient"),
    ],
)
def test_whom_a_request_is_counted_for(address: str, client: str) -> None:
    assert client_of({"client": (address, 1)}) == client
