"""Framing, refusals and bad peers, byte by byte."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from tests.providers.ollama_support import MODEL, answer, ask, done, http, ndjson, says, wire
from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.base import CancellationToken
from workbench.providers.ollama import OllamaProvider
from workbench.providers.ollama_client import OllamaClient
from workbench.types import ProviderEvent, ProviderFinish, ProviderToken, ProviderWarning

Connect = Callable[..., OllamaProvider]

_REFUSED = json.dumps(
    {
        "error": json.dumps(
            {
                "error": {
                    "code": 400,
                    "message": "request (3610 tokens) exceeds the available context size",
                    "type": "exceed_context_size_error",
                    "n_prompt_tokens": 3610,
                    "n_ctx": 512,
                }
            }
        )
    }
)


def _error(text: str) -> str:
    return json.dumps({"error": text})


STREAM_FAILURES: list[tuple[str, bytes, ErrorCode]] = [
    ("no done line", ndjson(says("a")), ErrorCode.OLLAMA_STREAM_BROKEN),
    ("empty answer", http(b""), ErrorCode.OLLAMA_STREAM_BROKEN),
    ("error line", ndjson(says("a"), {"error": "EOF"}), ErrorCode.OLLAMA_GENERATION_FAILED),
    ("error line, JSON", ndjson({"error": "[]"}), ErrorCode.OLLAMA_GENERATION_FAILED),
    ("error line, object", ndjson({"error": {"a": 1}}), ErrorCode.OLLAMA_GENERATION_FAILED),
    ("invalid UTF-8", ndjson(says("a"), b'{"message":"\xff"}'), ErrorCode.OLLAMA_STREAM_BROKEN),
    ("not JSON", ndjson(says("a"), b"oops"), ErrorCode.OLLAMA_STREAM_BROKEN),
    ("not an object", ndjson(b"[1]"), ErrorCode.OLLAMA_STREAM_BROKEN),
    ("nested too deep", ndjson(b"[" * 100_000), ErrorCode.OLLAMA_STREAM_BROKEN),
    ("another API", ndjson({"choices": []}, done("load")), ErrorCode.OLLAMA_STREAM_BROKEN),
    ("HTML", http("<html>hi</html>"), ErrorCode.OLLAMA_STREAM_BROKEN),
    ("not HTTP", b"220 mail ESMTP\r\n", ErrorCode.OLLAMA_STREAM_BROKEN),
    ("closed at once", b"", ErrorCode.OLLAMA_STREAM_BROKEN),
    ("cut short", ndjson(says("a"), done())[:-20], ErrorCode.OLLAMA_STREAM_BROKEN),
    ("bad gzip", http("x", "200 OK", "Content-Encoding: gzip"), ErrorCode.OLLAMA_STREAM_BROKEN),
    ("plain 404", http("404 page not found", "404 Not Found"), ErrorCode.OLLAMA_STREAM_BROKEN),
    ("proxy page", http("<h1>Bad</h1>", "502 Bad Gateway"), ErrorCode.OLLAMA_STREAM_BROKEN),
    ("JSON list", http("[]", "500 Oops"), ErrorCode.OLLAMA_STREAM_BROKEN),
    ("other 404", http('{"detail": "no"}', "404 Not Found"), ErrorCode.OLLAMA_STREAM_BROKEN),
    ("redirect", http("", "307 Moved", "Location: https://e.org"), ErrorCode.OLLAMA_STREAM_BROKEN),
    (
        "unknown model",
        http(_error("model 'x' not found"), "404 Not Found"),
        ErrorCode.OLLAMA_MODEL_NOT_FOUND,
    ),
    ("busy", http(_error("server busy"), "503 Busy"), ErrorCode.QUEUE_FULL),
    ("bad input", http(_error("invalid model name"), "400 Bad"), ErrorCode.INVALID_REQUEST),
    ("failed", http(_error("it crashed"), "500 Oops"), ErrorCode.OLLAMA_GENERATION_FAILED),
    ("number", http(_error("500"), "500 Oops"), ErrorCode.OLLAMA_GENERATION_FAILED),
]


@pytest.mark.parametrize(
    ("data", "code"), [c[1:] for c in STREAM_FAILURES], ids=[c[0] for c in STREAM_FAILURES]
)
async def test_a_stream_that_fails(connect_ollama: Connect, data: bytes, code: ErrorCode) -> None:
    async with wire(lambda path, body: data) as server:
        with pytest.raises(WorkbenchError) as caught:
            await answer(connect_ollama(server.url), ask())
    assert caught.value.code is code
    assert caught.value.fix
    assert "<html" not in caught.value.message


@pytest.mark.parametrize(
    ("data", "code"), [c[1:] for c in STREAM_FAILURES[9:]], ids=[c[0] for c in STREAM_FAILURES[9:]]
)
async def test_a_plain_call_that_fails(
    connect_ollama: Connect, data: bytes, code: ErrorCode
) -> None:
    async with wire(lambda path, body: data) as server:
        with pytest.raises(WorkbenchError) as caught:
            await connect_ollama(server.url).list_models()
    assert caught.value.code is code


def _loads(path: str, body: dict[str, Any]) -> bytes:
    listing = {"models": [{"name": MODEL, "size": 5}]}
    return http(json.dumps(listing if path in ("/api/tags", "/api/ps") else {"done": True}))


@pytest.mark.parametrize("path", ["/api/tags", "/api/show", "/api/chat", "/api/ps"])
async def test_a_load_survives_that_its_connection_breaks_off(
    connect_ollama: Connect, path: str
) -> None:
    breaks = [path]

    def reply(asked: str, body: dict[str, Any]) -> bytes:
        if asked in breaks:
            breaks.remove(asked)
            return b""
        return _loads(asked, body)

    async with wire(reply) as server:
        provider = connect_ollama(server.url)
        assert (await provider.load(MODEL, keep_alive_s=9)).name == MODEL
    sent = [body for asked, body in zip(server.paths, server.bodies, strict=True) if asked == path]
    assert breaks == []
    assert sent[0] == sent[1]
    assert provider.resident(MODEL) is not None


@pytest.mark.parametrize(
    ("gone", "code"),
    [(False, ErrorCode.OLLAMA_STREAM_BROKEN), (True, ErrorCode.OLLAMA_UNREACHABLE)],
)
async def test_a_load_that_breaks_off_again_fails_soon(
    connect_ollama: Connect, gone: bool, code: ErrorCode
) -> None:
    def reply(path: str, body: dict[str, Any]) -> bytes:
        if path != "/api/chat":
            return _loads(path, body)
        if gone:
            server.listener.close()
        return b""

    async with wire(reply) as server:
        provider = connect_ollama(server.url)
        with pytest.raises(WorkbenchError) as caught:
            await provider.load(MODEL, keep_alive_s=9)
    assert (caught.value.code, caught.value.operation) == (code, "load")
    assert server.paths.count("/api/chat") == (1 if gone else 2)
    assert provider.resident(MODEL) is None


@pytest.mark.parametrize("how", ["given up", "closed"])
async def test_a_load_that_nobody_wants_is_not_tried_again(
    connect_ollama: Connect, how: str
) -> None:
    async with wire(lambda p, b: None if p == "/api/chat" else _loads(p, b)) as server:
        provider = connect_ollama(server.url)
        load = asyncio.create_task(provider.load(MODEL, keep_alive_s=9))
        async with asyncio.timeout(10):
            while "/api/chat" not in server.paths:
                await asyncio.sleep(0.01)
            if how == "closed":
                await provider.close()
                with pytest.raises(WorkbenchError) as caught:
                    await load
                assert caught.value.code is ErrorCode.OLLAMA_STREAM_BROKEN
            else:
                load.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await load
    assert server.paths.count("/api/chat") == 1


async def test_text_before_the_failure_is_delivered(connect_ollama: Connect) -> None:
    data = ndjson(says("a"), says("b"), {"error": "unexpected EOF"})
    async with wire(lambda path, body: data) as server:
        received: list[ProviderEvent] = []
        with pytest.raises(WorkbenchError):
            await answer(connect_ollama(server.url), ask(), each=received.append)
    assert [getattr(event, "text", None) for event in received] == ["a", "b"]


async def test_broken_last_lines_use_up_no_connections(connect_ollama: Connect) -> None:
    """A hundred that were never given back, and every later request waited for ever."""
    data = ndjson(says("a"), done(eval_count="many"))
    async with wire(lambda path, body: data) as server:
        provider = connect_ollama(server.url)
        async with asyncio.timeout(60):
            for _ in range(110):
                with pytest.raises(WorkbenchError) as caught:
                    await answer(provider, ask())
                assert caught.value.code is ErrorCode.OLLAMA_STREAM_BROKEN


async def test_requests_given_up_use_up_no_connections(connect_ollama: Connect) -> None:
    """In each moment of a request, many times; of the client's own cancelling each left one."""
    async with wire(_loads) as server:
        provider = connect_ollama(server.url)
        await provider.list_models()
        for steps in range(24):
            for _ in range(60):
                asked = asyncio.create_task(provider.list_models())
                for _ in range(steps):
                    await asyncio.sleep(0)
                asked.cancel()
                with suppress(asyncio.CancelledError):
                    await asked
        async with asyncio.timeout(60):
            assert [info.name for info in await provider.list_models()] == [MODEL]


async def test_line_breaks_of_unicode_do_not_break_lines(connect_ollama: Connect) -> None:
    data = ndjson(says("a\u0085b\u2028c"), done())
    async with wire(lambda path, body: data) as server:
        token, _ = await answer(connect_ollama(server.url), ask())
    assert isinstance(token, ProviderToken)
    assert token.text == "a\u0085b\u2028c"


async def test_a_line_that_arrives_in_pieces_is_one_line(connect_ollama: Connect) -> None:
    text = "ä" * 500_000  # more than any read gives at once, cut inside characters
    async with wire(lambda path, body: ndjson(says(text), done())) as server:
        token, _ = await answer(connect_ollama(server.url), ask())
    assert isinstance(token, ProviderToken)
    assert token.text == text


async def test_a_line_of_many_pieces_is_read_in_time_that_grows_with_it(
    connect_ollama: Connect,
) -> None:
    """The event loop serves everybody: 66 MB, copied at every piece, held it up for 20 s."""

    async def cpu_s(size: int) -> float:
        async with wire(lambda path, body: ndjson(says("x" * size), done())) as server:
            began = time.process_time()
            await answer(connect_ollama(server.url), ask())
            return time.process_time() - began

    small = min([await cpu_s(2**22) for _ in range(2)])
    assert await cpu_s(2**25) < 20 * small, "eight times the bytes"


async def test_a_redirect_is_named_and_not_followed(connect_ollama: Connect) -> None:
    async with wire(lambda path, body: http("", "302 Found", "Location: /login")) as server:
        with pytest.raises(WorkbenchError, match="-> /login"):
            await connect_ollama(server.url).list_models()
        assert server.paths == ["/api/tags"]


async def test_a_prompt_that_does_not_fit_is_cut_with_a_warning(connect_ollama: Connect) -> None:
    def reply(path: str, body: dict[str, Any]) -> bytes:
        if body.get("truncate") is False:
            return http(_REFUSED, "400 Bad Request")
        return ndjson(says("a"), done(prompt_eval_count=258, eval_count=1))

    async with wire(reply) as server:
        warning, token, finish = await answer(connect_ollama(server.url), ask())
    assert isinstance(warning, ProviderWarning)
    assert warning.code == "PROMPT_TRUNCATED"
    assert isinstance(token, ProviderToken)
    assert isinstance(finish, ProviderFinish)
    assert finish.prompt_tokens == 258
    assert finish.details["uncut_prompt_tokens"] == 3610
    assert finish.details["refused_requests"] == 1
    assert 0 < finish.details["retry_ns"] < token.t_ns
    first, second = server.bodies
    assert first == {**second, "truncate": False}


async def test_a_prompt_that_does_not_fit_is_refused_if_so_wished(
    connect_ollama: Connect,
) -> None:
    chat = ask()
    chat = replace(chat, options=replace(chat.options, overflow="error"))
    async with wire(lambda path, body: http(_REFUSED, "400 Bad Request")) as server:
        with pytest.raises(WorkbenchError, match="3610") as caught:
            await answer(connect_ollama(server.url), chat)
        assert caught.value.code is ErrorCode.INVALID_REQUEST
        assert len(server.bodies) == 1


async def test_a_prompt_that_fits_is_sent_once(connect_ollama: Connect) -> None:
    async with wire(lambda path, body: ndjson(says("a"), done())) as server:
        events = await answer(connect_ollama(server.url), ask())
    assert [type(event) for event in events] == [ProviderToken, ProviderFinish]
    assert len(server.bodies) == 1


async def test_every_request_says_how_long_the_model_shall_stay(connect_ollama: Connect) -> None:
    def reply(path: str, body: dict[str, Any]) -> bytes:
        if path != "/api/chat":
            return http('{"models": [], "modelfile": ""}')
        return ndjson(done("load")) if body["messages"] == [] else ndjson(done())

    async with wire(reply) as server:
        provider = connect_ollama(server.url, workbench_keep_alive_s=77)
        await provider.load(MODEL, keep_alive_s=5)
        await provider.load(MODEL, keep_alive_s=0)
        await provider.load(MODEL, keep_alive_s=-1)
        await answer(provider, ask())
        await answer(provider, ask(keep_alive_s=0))
        await provider.unload(MODEL)
    stays = [body["keep_alive"] for body in server.bodies if "messages" in body]
    assert stays == [5, 77, -1, 77, 0, 0]


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY", "http_proxy"])
async def test_this_machine_is_reached_without_the_proxy(
    connect_ollama: Connect, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with wire(lambda path, body: http('{"models": []}')) as server:
        assert await connect_ollama(server.url).list_models() == []


async def test_other_machines_are_reached_through_the_proxy(
    connect_ollama: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with wire(lambda path, body: http('{"models": []}')) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert await connect_ollama("http://ollama.invalid:80").list_models() == []
        assert len(proxy.bodies) == 2


async def test_a_server_that_accepts_and_is_silent_is_a_timeout(
    connect_ollama: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OllamaClient.call.__kwdefaults__, "read_s", 0.05)
    async with wire(lambda path, body: None) as server:
        with pytest.raises(WorkbenchError) as caught:
            await connect_ollama(server.url).list_models()
    assert caught.value.code is ErrorCode.OLLAMA_TIMEOUT


@pytest.mark.parametrize("how", ["cancel", "task"])
async def test_waiting_for_the_first_token_ends_with_the_connection(
    connect_ollama: Connect, how: str
) -> None:
    """Nothing has come yet: a stop must not wait for it, and the server must see us go."""
    arrived = asyncio.Event()

    def reply(path: str, body: dict[str, Any]) -> None:
        arrived.set()

    async with wire(reply) as server:
        cancel = CancellationToken()
        stream = connect_ollama(server.url).stream(ask(), MODEL, 1, cancel)
        task = asyncio.create_task(anext(stream, None))
        await arrived.wait()
        if how == "cancel":
            cancel.cancel("user")
            assert await task is None
        else:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.wait_for(server.closed.wait(), 5)


async def test_a_token_that_is_cancelled_already_sends_nothing(connect_ollama: Connect) -> None:
    cancel = CancellationToken()
    cancel.cancel("user")
    async with wire(lambda path, body: ndjson(done())) as server:
        stream = connect_ollama(server.url).stream(ask(), MODEL, 1, cancel)
        assert [event async for event in stream] == []
        assert server.bodies == []


async def test_text_without_a_json_form_is_the_callers_mistake(connect_ollama: Connect) -> None:
    async with wire(lambda path, body: ndjson(done())) as server:
        with pytest.raises(WorkbenchError) as caught:
            await answer(connect_ollama(server.url), ask("\ud800"))
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert server.bodies == []


@pytest.mark.parametrize("name", ["", "  "])
async def test_an_empty_name_is_refused_before_anything_is_sent(
    connect_ollama: Connect, name: str
) -> None:
    provider = connect_ollama("http://127.0.0.1:1")
    for attempt in (
        provider.show(name),
        provider.load(name, keep_alive_s=1),
        provider.unload(name),
        answer(provider, ask(), name),
    ):
        with pytest.raises(WorkbenchError) as caught:
            await attempt
        assert caught.value.code is ErrorCode.INVALID_REQUEST


async def test_a_deleted_model_that_is_still_in_memory_is_listed(connect_ollama: Connect) -> None:
    running = {"name": "gone:1b", "size": 5, "digest": "d", "size_vram": 5}

    def reply(path: str, body: dict[str, Any]) -> bytes:
        return http(json.dumps({"models": [running] if path == "/api/ps" else []}))

    async with wire(reply) as server:
        provider = connect_ollama(server.url)
        (info,) = await provider.list_models()
        assert (info.status, info.details["ollama_size_bytes"]) == ("resident", 5)
        assert info.problem is not None
        resident = provider.resident("gone:1b")
        assert resident is not None
        assert resident.device == "gpu"


async def test_a_model_that_shares_its_weights_with_a_listed_one_is_resident_too(
    connect_ollama: Connect,
) -> None:
    """Ollama lists only the first of two names with one file, even if their digests differ."""
    names = ["a:1b", "b:1b", "c:1b"]
    entries = [{"name": name, "digest": name, "size": 5} for name in names]
    weights = {"a:1b": "a" * 64, "b:1b": "a" * 64, "c:1b": "c" * 64}

    def reply(path: str, body: dict[str, Any]) -> bytes:
        if path == "/api/show":
            return http(json.dumps({"modelfile": f"FROM /m/sha256-{weights[body['model']]}"}))
        return http(json.dumps({"models": entries[:1] if path == "/api/ps" else entries}))

    async with wire(reply) as server:
        provider = connect_ollama(server.url)
        for name in names:
            await provider.show(name)
        statuses = [info.status for info in await provider.list_models()]
    assert statuses == ["resident", "resident", "available"]


async def test_a_dead_server_leaves_nothing_known_as_resident(connect_ollama: Connect) -> None:
    listing = json.dumps({"models": [{"name": MODEL, "size": 5}]})
    async with wire(lambda path, body: http(listing)) as server:
        provider = connect_ollama(server.url)
        await provider.list_models()
        assert provider.resident(MODEL) is not None
    with pytest.raises(WorkbenchError):
        await provider.list_models()
    assert provider.resident(MODEL) is None


async def test_a_slow_reader_does_not_move_the_stamps(connect_ollama: Connect) -> None:
    """Stamps are taken at the socket: what happens to an event later is not the model's doing."""
    data = ndjson(*[says("a") for _ in range(5)], done())
    async with wire(lambda path, body: data) as server:
        stamps, read = [], []
        stream = connect_ollama(server.url).stream(ask(), MODEL, 1, CancellationToken())
        loop = asyncio.get_running_loop()
        async for event in stream:
            if isinstance(event, ProviderToken):
                stamps.append(event.t_ns)
                read.append(loop.time())
                await asyncio.sleep(0.02)
    assert (stamps[-1] - stamps[0]) / 1e9 < 0.01 < read[-1] - read[0]
