"""Faults of an endpoint and of the way to it: each has its code, and a key is told to nobody."""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils
import json
from contextlib import suppress

import httpx2
import openai
import pytest

from tests.live import free_port
from tests.providers.ollama_support import http, wire
from tests.providers.openai_support import (
    MODEL,
    answer,
    ask,
    connected,
    ends,
    events_of,
    says,
    serving,
    usage,
)
from workbench.endpoints import Endpoint
from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.base import CancellationToken
from workbench.providers.openai_errors import map_error, retry_after
from workbench.types import ProviderEvent, ProviderToken

ENDPOINT = Endpoint(name="box", base_url="http://gpu-box:8000/v1", api_key="sk-very-secret")
JSON = "Content-Type: application/json"


def said(message: str, **more: object) -> str:
    return json.dumps({"error": {"message": message, **more}})


@pytest.mark.parametrize(
    ("reply", "code", "words"),
    [
        (http(said("Rate limit reached"), "429 Too Many", JSON), ErrorCode.QUEUE_FULL, "Rate"),
        (http(said("Loading model"), "503 Unavailable", JSON), ErrorCode.QUEUE_FULL, "Loading"),
        (
            http(said("CUDA error"), "500 Internal", JSON),
            ErrorCode.ENDPOINT_GENERATION_FAILED,
            "CUDA error",
        ),
        (
            http("<html>bad gateway</html>", "502 Bad Gateway", "Content-Type: text/html"),
            ErrorCode.ENDPOINT_GENERATION_FAILED,
            "bad gateway",
        ),
        (
            http(said("no such model"), "404 Not Found", JSON),
            ErrorCode.ENDPOINT_MODEL_NOT_FOUND,
            "",
        ),
        (
            http("<html>nginx</html>", "404 Not Found", "Content-Type: text/html"),
            ErrorCode.ENDPOINT_UNREACHABLE,
            "speaks OpenAI's API",
        ),
        (http(said("bad key"), "401 Unauthorized", JSON), ErrorCode.ENDPOINT_FORBIDDEN, "bad key"),
        (
            http('{"detail": "Unexpected fields"}', "422 Unprocessable", JSON),
            ErrorCode.INVALID_REQUEST,
            "Unexpected fields",
        ),
        (
            http("", "307 Temporary Redirect", "Location: http://elsewhere.invalid/"),
            ErrorCode.ENDPOINT_STREAM_BROKEN,
            "do not follow",
        ),
        (
            http("<html>login</html>", "200 OK", "Content-Type: text/html"),
            ErrorCode.ENDPOINT_STREAM_BROKEN,
            "login",
        ),
        (events_of(b"data: {not json\n\n"), ErrorCode.ENDPOINT_STREAM_BROKEN, "cannot be read"),
        (events_of([1, 2]), ErrorCode.ENDPOINT_STREAM_BROKEN, "does not answer as"),
        (events_of(says("Hi"), done=False), ErrorCode.ENDPOINT_STREAM_BROKEN, "finish_reason"),
        (events_of(says("Hi"), ends("abort")), ErrorCode.ENDPOINT_STREAM_BROKEN, "abort"),
        (
            events_of(says("Hi"), {"error": {"message": "engine died", "code": 500}}),
            ErrorCode.ENDPOINT_GENERATION_FAILED,
            "engine died",
        ),
        (
            events_of({"error": {"message": "maximum context length is 512", "code": 400}}),
            ErrorCode.INVALID_REQUEST,
            "512",
        ),
        (events_of(says("Hi"), ends(), usage(1, -4)), ErrorCode.ENDPOINT_STREAM_BROKEN, "-4"),
        (events_of(says("Hi"), ends(), usage(10**9, 1)), ErrorCode.ENDPOINT_STREAM_BROKEN, "10000"),
    ],
    ids=lambda value: value.value if isinstance(value, ErrorCode) else None,
)
async def test_a_fault_has_its_code_and_the_servers_words(
    reply: bytes, code: ErrorCode, words: str
) -> None:
    async with serving(reply) as server, connected(server.url) as provider:
        with pytest.raises(WorkbenchError) as caught:
            await answer(provider, ask())
    error = caught.value
    assert error.code is code
    assert words in error.message
    assert error.fix
    assert error.provider == "box"


@pytest.mark.parametrize("registered", [(), (MODEL,)], ids=["list", "chat"])
@pytest.mark.parametrize("body", ['{"detail": "Not Found"}', said("File Not Found"), "nothing"])
async def test_a_wrong_path_is_no_missing_model(registered: tuple[str, ...], body: str) -> None:
    nothing = http(body, "404 Not Found", JSON)
    async with (
        wire(lambda path, asked: nothing) as server,
        connected(f"{server.url}/v2", models=registered) as provider,
    ):
        if registered:
            await provider.list_models()
        with pytest.raises(WorkbenchError) as caught:
            await (answer(provider, ask()) if registered else provider.list_models())
    assert caught.value.code is ErrorCode.ENDPOINT_UNREACHABLE
    assert f"{server.url}/v2" in caught.value.message
    assert "base_url of box" in caught.value.fix


async def test_a_server_without_a_list_may_still_say_that_a_model_is_missing() -> None:
    missing = http(said(f"The model {MODEL} does not exist"), "404 Not Found", JSON)
    async with (
        wire(lambda path, asked: missing) as server,
        connected(server.url, models=(MODEL,)) as provider,
    ):
        await provider.list_models()
        with pytest.raises(WorkbenchError) as caught:
            await answer(provider, ask())
    assert caught.value.code is ErrorCode.ENDPOINT_MODEL_NOT_FOUND


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("<!DOCTYPE html><html><head><title>502 Bad &amp; ugly</title>", "502 Bad & ugly"),
        ("<html><style>p {x: y}</style><body><h1>Oops</h1><p>It died</p>", "Oops It died"),
        ("<html><body>half <a hre", "half"),
    ],
)
@pytest.mark.parametrize("status", ["200 OK", "500 Oops"])
async def test_of_a_web_page_its_words_are_shown_as_a_sentence(
    page: str, words: str, status: str
) -> None:
    reply = http(page, status, "Content-Type: text/html")
    async with serving(reply) as server, connected(server.url) as provider:
        with pytest.raises(WorkbenchError) as caught:
            await answer(provider, ask())
    assert words in caught.value.message
    assert "<" not in caught.value.message
    assert caught.value.message.endswith(".")


async def test_nobody_there_is_said_with_the_address() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with connected(url) as provider:
        for attempt in (provider.list_models(), answer(provider, ask())):
            with pytest.raises(WorkbenchError) as caught:
                await attempt
            assert caught.value.code is ErrorCode.ENDPOINT_UNREACHABLE
            assert url in caught.value.message
            assert "OPENAI_COMPAT_ENDPOINTS" in caught.value.fix


async def test_a_connection_cut_inside_a_chunk_keeps_what_had_come() -> None:
    def reply(body: object) -> bytes:
        whole = events_of(says("Hi"), says(" you"), ends(), usage(1, 3))
        return whole[: whole.index(b" you")]  # less than was announced

    seen: list[ProviderEvent] = []
    async with serving(reply) as server, connected(server.url) as provider:
        with pytest.raises(WorkbenchError) as caught:
            await answer(provider, ask(), each=seen.append)
    assert caught.value.code is ErrorCode.ENDPOINT_STREAM_BROKEN
    assert [event.text for event in seen if isinstance(event, ProviderToken)] == ["Hi"]


@pytest.mark.parametrize("closings", [1, 2])
async def test_a_connection_that_is_closed_in_place_of_an_answer_is_tried_once_more(
    closings: int,
) -> None:
    """llama.cpp's server keeps no connection after a stream, whatever it says."""
    replies = [b""] * closings + [events_of(says("Hi"), ends(), usage(1, 1))] * 2
    asked = iter(replies)
    async with serving(lambda body: next(asked)) as server, connected(server.url) as provider:
        if closings == 1:
            events = await answer(provider, ask())
            assert [event.text for event in events if isinstance(event, ProviderToken)] == ["Hi"]
        else:
            with pytest.raises(WorkbenchError) as caught:
                await answer(provider, ask())
            assert caught.value.code is ErrorCode.ENDPOINT_STREAM_BROKEN
    assert len(list(asked)) == closings, "asked twice"


async def test_a_busy_server_says_when_to_come_back() -> None:
    busy = http(said("slow down"), "429 Too Many Requests", JSON, "Retry-After: 17")
    async with serving(busy) as server, connected(server.url) as provider:
        with pytest.raises(WorkbenchError) as caught:
            await answer(provider, ask())
    assert caught.value.retry_after_s == 17
    assert len(server.bodies) == 1, "nothing is tried again behind the engine's back"


def test_retry_after_is_seconds_or_a_date() -> None:
    later = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=90)
    assert 80 < retry_after(email.utils.format_datetime(later, usegmt=True)) <= 90
    assert retry_after("2.5") == 2.5
    assert retry_after("nan") == retry_after("soon") == retry_after(None) == 1
    assert retry_after("-3") == 0
    assert retry_after("1e9") == 3600


async def test_cancelling_closes_the_connection_while_the_server_is_silent() -> None:
    cancel = CancellationToken()
    async with serving(None) as server, connected(server.url) as provider:
        running = asyncio.create_task(answer(provider, ask(), cancel=cancel))
        while not any("chat" in path for path in server.paths):
            await asyncio.sleep(0.01)
        cancel.cancel("user")
        async with asyncio.timeout(30):
            assert await running == []
            await server.closed.wait()


async def test_the_key_is_sent_and_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-private")
    refused = http(said("no such key: sk-very-secret"), "401 Unauthorized", JSON)
    heads: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(refused)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, connected(url, api_key="sk-very-secret") as provider:
        with pytest.raises(WorkbenchError) as caught:
            await answer(provider, ask())
    assert "Bearer sk-very-secret" in heads[0]
    assert "org-private" not in heads[0]
    assert "sk-very-secret" not in json.dumps(caught.value.to_dict())
    assert "[hidden]" in caught.value.message


def _every_error() -> list[Exception]:
    found: list[Exception] = []

    def walk(kind: type[Exception]) -> None:
        if kind.__module__.startswith("httpx2"):
            with suppress(TypeError):  # made from a response, and never raised by a connection
                found.append(kind("gone"))
        for below in kind.__subclasses__():
            walk(below)

    walk(httpx2.HTTPError)
    walk(httpx2.StreamError)
    assert len(found) > 12
    return found


@pytest.mark.parametrize("cause", _every_error(), ids=lambda cause: type(cause).__name__)
def test_every_failure_of_the_connection_is_mapped(cause: Exception) -> None:
    wrapped = openai.APIConnectionError(request=httpx2.Request("POST", ENDPOINT.base_url))
    wrapped.__cause__ = cause
    for error in (cause, wrapped):
        mapped = map_error(error, "stream", ENDPOINT, MODEL)
        assert mapped.code in {
            ErrorCode.ENDPOINT_UNREACHABLE,
            ErrorCode.ENDPOINT_TIMEOUT,
            ErrorCode.ENDPOINT_STREAM_BROKEN,
        }
        assert mapped.fix
