"""Ids of requests, defects, and the headers of every answer."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route, Router

from workbench.api.edge import Edge
from workbench.api.headers import SecurityHeaders, named


def client() -> httpx.AsyncClient:
    async def fail(request: Request) -> PlainTextResponse:
        raise ValueError("/home/someone/secret is broken")

    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse("<html><script>1</script><script src=a></script><scripty></html>")

    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(iter(["a", "b"]), media_type="text/event-stream")

    routes = [Route("/fail", fail), Route("/page", page), Route("/stream", stream)]
    transport = httpx.ASGITransport(Edge(SecurityHeaders(Router(routes))))
    return httpx.AsyncClient(transport=transport, base_url="http://box")


async def test_defect_tells_its_class_and_nothing_else() -> None:
    async with client() as http:
        got = await http.get("/fail", headers={"x-correlation-id": "mine-1"})
    assert got.status_code == 500
    assert got.json()["code"] == "INTERNAL"
    assert got.json()["correlation_id"] == got.headers["x-correlation-id"] == "mine-1"
    assert "ValueError" in got.json()["message"]
    assert "someone" not in got.text


@pytest.mark.parametrize("given", ["", "a b", "ä", 'x"y', "<b>", "x" * 65, "{}", "a\tb"])
async def test_odd_ids_are_replaced(given: str) -> None:
    async with client() as http:
        got = await http.get("/stream", headers={"x-correlation-id": given.encode()})
    assert re.fullmatch(r"cor_\w+", got.headers["x-correlation-id"])


async def test_scripts_of_the_page_have_the_nonce_of_its_policy() -> None:
    async with client() as http:
        first, second = await http.get("/page"), await http.get("/page")
    nonce = re.search(r"script-src [^;]*'nonce-([\w-]+)'", first.headers["content-security-policy"])
    assert nonce
    assert first.text == (
        f'<html><script nonce="{nonce[1]}">1</script><script nonce="{nonce[1]}" src=a></script>'
        "<scripty></html>"
    )
    assert int(first.headers["content-length"]) == len(first.content)
    assert "unsafe-inline" not in first.headers["content-security-policy"].split("style-src")[0]
    assert nonce[1] not in second.text


async def test_every_answer_has_the_headers() -> None:
    async with client() as http:
        for path in ("/page", "/stream", "/none"):
            got = await http.get(path)
            assert got.headers["x-content-type-options"] == "nosniff"
            assert got.headers["referrer-policy"] == "no-referrer"
            assert "frame-ancestors 'none'" in got.headers["content-security-policy"]


def test_the_page_goes_by_its_own_name() -> None:
    gradio = find_spec("gradio")
    assert gradio is not None
    assert gradio.origin is not None
    given = Path(gradio.origin).with_name("templates") / "frontend" / "index.html"
    page = named(given.read_bytes(), b"<head><title>Workbench</title><link rel='ours'>").decode()
    for foreign in ("og:", "twitter:", "githubusercontent", "Click to try"):
        assert foreign not in page
    assert page.count("<title>Workbench</title>") == 1
    assert page.count("<link rel='ours'>") == 1
    other = b"<html><head></head></html>"
    assert named(other, b"<head>ours") == other
