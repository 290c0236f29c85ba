"""A client that leaves: its work stops in every phase, its row says so, its place is free."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.conftest import DEMO_GGUF
from tests.hf.tiny import save_model
from tests.live import LiveServer
from tests.ollama_standin.fixture import StandIn

PATIENCE_S = 60
OLLAMA = "ollama/smollm2:135m"
SUBSCRIPTION = "/graphql"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that answers one request to a model at a time, so that a second one waits."""
    folder = tmp_path_factory.mktemp("small")
    save_model(folder / "models" / "tiny")
    save_model(folder / "models" / "deep", layers=24, context=32_768)
    with (
        StandIn(DEMO_GGUF, "--models", "smollm2:135m", "--slow-load", "2") as ollama,
        LiveServer(
            folder,
            OLLAMA_HOST=ollama.url,
            HF_MODEL_PATH=str(folder / "models"),
            HF_MAX_BATCH="1",
            WORKBENCH_THREADS="1",
        ) as running,
    ):
        yield running


class Caller:
    """A client that sends a request and may hang up at any time."""

    def __init__(self, server: LiveServer, path: str, body: dict[str, Any]) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port))
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
            "\r\n"
        )
        self._socket.sendall(head.encode() + data)

    def hang_up(self) -> None:
        self._socket.close()


class Subscriber:
    """A client that subscribes and whose connection breaks, without a word."""

    def __init__(self, server: LiveServer, body: dict[str, Any]) -> None:
        self._stack = ExitStack()
        self._connection = self._stack.enter_context(
            connect(
                f"ws://127.0.0.1:{server.port}/graphql",
                subprotocols=[Subprotocol("graphql-transport-ws")],
                proxy=None,
            )
        )
        self._connection.send(json.dumps({"type": "connection_init"}))
        query = "subscription ($input: StreamMessageInput!) { streamMessage(input: $input) {seq} }"
        payload = {"query": query, "variables": {"input": body}}
        self._connection.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))

    def hang_up(self) -> None:
        self._connection.socket.shutdown(socket.SHUT_RDWR)
        self._stack.close()


def call(
    server: LiveServer, path: str, model: str, prompt: str = "Hi", **options: Any
) -> Caller | Subscriber:
    body = request(path, model, prompt, **options)
    return Subscriber(server, body) if path == SUBSCRIPTION else Caller(server, path, body)


def request(path: str, model: str, prompt: str = "Hi", **options: Any) -> dict[str, Any]:
    if path == SUBSCRIPTION:
        spelt = {"max_tokens": "maxTokens", "num_ctx": "numCtx"}
        options = {spelt.get(name, name): value for name, value in options.items()}
    if path.startswith("/v1/completions"):
        return {"model": model, "prompt": prompt, "max_tokens": 512, "stream": "stream" in path}
    if path.startswith("/v1"):
        messages = [{"role": "user", "content": prompt}]
        return {"model": model, "messages": messages, "stream": "stream" in path, **options}
    return {"model": model, "message": prompt, "options": options}


PATHS = [
    "/v1/chat/completions",
    "/v1/chat/completions?stream",
    "/api/v1/generate",
    "/api/v1/stream-message",
    SUBSCRIPTION,
]


def row(server: LiveServer, model: str, before: int) -> list[Any]:
    """The newest row of a model, once there is one more than before."""
    sql = (
        "SELECT status, termination_reason, sent_ns IS NOT NULL, streamed_tokens "
        f"FROM stream_sessions WHERE model = '{model}' ORDER BY seq DESC"
    )
    until = time.monotonic() + PATIENCE_S
    while len(rows := server.query(sql)) <= before:
        assert time.monotonic() < until, "the work was not stopped"
        time.sleep(0.05)
    return rows[0]


def count(server: LiveServer, model: str) -> int:
    sql = f"SELECT count(*) FROM stream_sessions WHERE model = '{model}'"
    return int(server.query(sql)[0][0])


def wait_for_phases(server: LiveServer, *phases: str) -> None:
    """Until the streams that run are in these phases, the oldest first."""
    until = time.monotonic() + PATIENCE_S
    with server.client() as http:
        while True:
            now = tuple(item["phase"] for item in http.get("/api/v1/streams").json()["streams"])
            if now == phases:
                return
            assert time.monotonic() < until, now
            time.sleep(0.02)


@pytest.mark.parametrize("path", PATHS)
def test_while_loading(small: LiveServer, path: str) -> None:
    """The row is there long before the two seconds of the load are over."""
    model = "scripted/slow-load"
    with small.client() as http:
        http.post("/api/v1/models/unload", json={"model": model})
    before = count(small, model)
    caller = call(small, path, model)
    wait_for_phases(small, "loading")
    caller.hang_up()
    assert row(small, model, before)[:3] == ["cancelled", "disconnect", False]


@pytest.mark.parametrize("path", PATHS)
def test_in_the_prompt(small: LiveServer, path: str) -> None:
    """A real model reads a prompt that takes it long."""
    model = "huggingface/deep"
    with small.client() as http:
        http.post("/api/v1/models/load", json={"model": model})
    before = count(small, model)
    caller = call(small, path, model, "word " * 6000)
    wait_for_phases(small, "prompt")
    caller.hang_up()
    got = row(small, model, before)
    assert got[:3] == ["cancelled", "disconnect", True]
    assert got[3] == 0


@pytest.mark.parametrize("path", [*PATHS, "/v1/completions", "/v1/completions?stream"])
def test_while_decoding(small: LiveServer, path: str) -> None:
    model = "scripted/stall"
    before = count(small, model)
    caller = call(small, path, model)
    wait_for_phases(small, "answering")
    caller.hang_up()
    got = row(small, model, before)
    assert got[:3] == ["cancelled", "disconnect", True]
    assert got[3] < 20


@pytest.mark.parametrize("path", PATHS)
def test_in_the_queue_and_in_a_real_model(small: LiveServer, path: str) -> None:
    """One answers for long, the next one waits; both leave, and the model answers a third."""
    model = "huggingface/tiny"
    with small.client() as http:
        http.post("/api/v1/models/load", json={"model": model})
    before = count(small, model)
    first = call(small, path, model, max_tokens=1500)
    wait_for_phases(small, "answering")
    second = call(small, path, model, max_tokens=1500)
    wait_for_phases(small, "answering", "queued")
    second.hang_up()
    assert row(small, model, before)[:3] == ["cancelled", "disconnect", False]
    first.hang_up()
    got = row(small, model, before + 1)
    assert got[:3] == ["cancelled", "disconnect", True]
    with small.client() as http:
        body = request("/v1", model, max_tokens=2)
        assert http.post("/v1/chat/completions", json=body).status_code == 200


STORY = "Write a very long story about a dragon."
LONG = {"max_tokens": 2000, "temperature": 0}
"""Greedy, the model tells this one to the last of its tokens; a drawn answer may be a word long."""


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/v1/stream-message", SUBSCRIPTION])
def test_from_ollama_in_every_phase(small: LiveServer, path: str) -> None:
    """While its runner loads, in the prompt, in the queue for an isolated turn, in the answer."""
    with small.client() as http:
        http.post("/api/v1/models/unload", json={"model": OLLAMA})
    before = count(small, OLLAMA)

    caller = call(small, path, OLLAMA)
    wait_for_phases(small, "loading")
    caller.hang_up()
    assert row(small, OLLAMA, before)[:3] == ["cancelled", "disconnect", False]

    with small.client() as http:
        assert http.post("/api/v1/models/load", json={"model": OLLAMA}).status_code == 200
    caller = call(small, path, OLLAMA, "word " * 3500, num_ctx=4096)
    wait_for_phases(small, "prompt")
    caller.hang_up()
    assert row(small, OLLAMA, before + 1) == ["cancelled", "disconnect", True, 0]

    with small.client() as http:
        body = {**request("", OLLAMA, STORY, **LONG), "timing_mode": "isolated"}
        with http.stream("POST", "/api/v1/stream-message", json=body):
            wait_for_phases(small, "answering")
            caller = isolated(small, path)
            wait_for_phases(small, "answering", "queued")
            caller.hang_up()
            assert row(small, OLLAMA, before + 2)[:3] == ["cancelled", "disconnect", False]
    assert row(small, OLLAMA, before + 3)[:3] == ["cancelled", "disconnect", True]

    caller = call(small, path, OLLAMA, STORY, **LONG)
    wait_for_phases(small, "answering")
    caller.hang_up()
    got = row(small, OLLAMA, before + 4)
    assert got[:3] == ["cancelled", "disconnect", True]
    assert got[3] < 1000
    with small.client() as http:
        body = request("/v1", OLLAMA, max_tokens=2)
        assert http.post("/v1/chat/completions", json=body).status_code == 200


def isolated(server: LiveServer, path: str) -> Caller | Subscriber:
    body = request(path, OLLAMA)
    if path == SUBSCRIPTION:
        return Subscriber(server, {**body, "timingMode": "ISOLATED"})
    terms = {"timing_mode": "isolated"}
    return Caller(server, path, {**body, **({"workbench": terms} if "/v1/chat" in path else terms)})


def queue(server: LiveServer, settled: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The overview, once it is as it should be."""
    until = time.monotonic() + PATIENCE_S
    with server.client() as http:
        while not settled(told := http.get("/api/v1/queue").json()):
            assert time.monotonic() < until, told
            time.sleep(0.02)
        return dict(told)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/models/load", {"model": "huggingface/tiny"}),
        ("/api/v1/models/pin", {"model": "huggingface/tiny"}),
        ("/graphql", {"query": 'mutation { loadModel(model: "huggingface/tiny") { id } }'}),
    ],
)
def test_a_load_that_waits_ends_with_its_client(
    small: LiveServer, path: str, body: dict[str, Any]
) -> None:
    model = "huggingface/tiny"
    before = count(small, model)
    answering = Caller(small, "/api/v1/generate", request("/api/v1", model, max_tokens=1500))
    wait_for_phases(small, "answering")
    loading = Caller(small, path, body)
    queue(small, lambda told: len(told["waiting"]) == 1)
    loading.hang_up()
    queue(small, lambda told: not told["waiting"])
    assert count(small, model) == before, "the other one answers on"
    answering.hang_up()
    row(small, model, before)


def test_a_load_under_way_ends_with_its_client(small: LiveServer) -> None:
    model = "scripted/slow-load"
    with small.client() as http:
        http.post("/api/v1/models/unload", json={"model": model})
    loading = Caller(small, "/api/v1/models/load", {"model": model})
    queue(small, lambda told: any(one["status"] == "loading" for one in told["residents"]))
    loading.hang_up()
    told = queue(small, lambda told: all(one["model"] != model for one in told["residents"]))
    assert not told["waiting"]
    events = f"SELECT ok FROM model_events WHERE model = '{model}' ORDER BY t_ns DESC LIMIT 1"
    assert small.query(events) == [[False]]
