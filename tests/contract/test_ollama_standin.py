"""The stand-in by itself: faults, limits and life cycle that a real server cannot be asked for."""

from __future__ import annotations

import collections
import json
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.ollama_standin.faults import GARBAGE
from tests.ollama_standin.fixture import StandIn, wait_gone

from .live import COLORS, InBackground, chat, load, loaded, long_stream, until
from .transcripts import case, check_exact, send

pytestmark = pytest.mark.model
MODEL = "smollm2:135m"
CHAT = {"model": MODEL, "messages": COLORS, "options": {"temperature": 0, "num_predict": 8}}

Start = Callable[..., tuple[StandIn, httpx.Client]]


@pytest.fixture
def start(gguf: Path) -> Iterator[Start]:
    """Start stand-ins with options; they stop with the test."""
    running: list[StandIn] = []
    clients: list[httpx.Client] = []

    def start_one(*options: str) -> tuple[StandIn, httpx.Client]:
        running.append(StandIn(gguf, *options).start())
        clients.append(httpx.Client(base_url=running[-1].url, timeout=30.0))
        return running[-1], clients[-1]

    yield start_one
    for client in clients:
        client.close()
    for stand_in in running:
        stand_in.stop()


def test_starts_quickly_and_without_a_runner(gguf: Path) -> None:
    with StandIn(gguf, "--slow-load", "3600") as stand_in:  # which it does not wait for
        assert httpx.get(stand_in.url).text == "Ollama is running"
        assert stand_in.runner_pids() == []


def test_a_full_queue_answers_503_while_loading(start: Start) -> None:
    stand_in, client = start("--max-queue", "1", "--slow-load", "1")
    recorded = case("max_queue1_loading_2", MODEL)
    with httpx.Client(base_url=stand_in.url, timeout=30.0) as other:
        clients = [InBackground(lambda: chat(other, MODEL)) for _ in range(2)]
        stand_in.wait_for_runners(1)

        def refused() -> bool:
            answer = send(client, recorded)
            if answer.status == 503:
                check_exact(recorded.answer, answer)
            return answer.status == 503

        until(refused, "the queue is full")
        assert loaded(client) == []
        for background in clients:
            assert background.finished().problem is None


@pytest.mark.parametrize("kill", [True, False])
def test_the_end_of_the_server_breaks_the_stream_off(start: Start, kill: bool) -> None:
    stand_in, client = start()
    with long_stream(client, MODEL) as lines:
        next(lines)
        [pid] = stand_in.runner_pids()
        runner = psutil.Process(pid)
        stand_in.kill() if kill else stand_in.stop()
        with pytest.raises(httpx.RemoteProtocolError):
            collections.deque(lines, maxlen=0)
    wait_gone(runner)
    with pytest.raises(httpx.ConnectError):
        client.get("/api/version")


def test_restarts_on_the_same_port_with_nothing_loaded(start: Start) -> None:
    stand_in, client = start()
    load(client, MODEL)
    url = stand_in.url
    stand_in.restart()
    assert stand_in.url == url
    with httpx.Client(base_url=url) as fresh:
        assert loaded(fresh) == []


def test_html_answers_like_a_broken_proxy(start: Start) -> None:
    _, client = start("--html")
    answer = client.get("/api/tags")
    assert answer.status_code == 502
    assert answer.headers["content-type"] == "text/html"


def test_stall_keeps_the_connection_open_without_a_word(start: Start) -> None:
    _, client = start("--stall-after", "2")
    load(client, MODEL)
    with client.stream("POST", "/api/chat", json=CHAT) as response:
        lines = response.iter_lines()
        assert [json.loads(next(lines))["done"] for _ in range(2)] == [False, False]
        connection = response.extensions["network_stream"].get_extra_info("socket")
        # Its end could be read as a word could.
        assert select.select([connection], [], [], 0.5)[0] == []


def test_cut_ends_in_the_middle_of_a_line(start: Start) -> None:
    _, client = start("--cut-mid-line-after", "2")
    received: list[bytes] = []
    with client.stream("POST", "/api/chat", json=CHAT) as response:
        pieces = response.iter_raw()
        with pytest.raises(httpx.RemoteProtocolError):
            received.extend(pieces)
    *whole, rest = b"".join(received).split(b"\n")
    assert [json.loads(line)["done"] for line in whole] == [False, False]
    assert rest.startswith(b'{"model":')
    assert not rest.endswith(b"}")


def test_garbage_comes_between_good_lines(start: Start) -> None:
    _, client = start("--garbage-line-after", "2")
    lines = client.post("/api/chat", json=CHAT).text.splitlines(keepends=True)
    assert lines[2] == GARBAGE
    assert json.loads(lines[-1])["done"] is True
