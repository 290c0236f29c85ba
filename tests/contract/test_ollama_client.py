"""What the official Python client raises: the errors that our provider has to translate."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import ollama
import psutil
import pytest
from pydantic import ValidationError

from tests.ollama_standin.fixture import StandIn

from .conftest import Target
from .live import COLORS, LONG_OPTIONS, LONG_STORY

pytestmark = pytest.mark.model

Connect = Callable[..., ollama.Client]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Make clients whose connections end with the test, also those of a stream that broke."""
    with ExitStack() as clients:

        def connect_to(url: str, timeout: float | None = None) -> ollama.Client:
            return clients.enter_context(ollama.Client(url, timeout=timeout))

        yield connect_to


def test_an_unknown_model_is_a_response_error(target: Target, connect: Connect) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        connect(target.url).chat("nope:1b", COLORS)
    assert caught.value.status_code == 404
    assert caught.value.error == "model 'nope:1b' not found"


def test_in_a_stream_it_comes_with_the_first_line(target: Target, connect: Connect) -> None:
    lines = connect(target.url).chat("nope:1b", COLORS, stream=True)
    with pytest.raises(ollama.ResponseError) as caught:
        next(lines)
    assert caught.value.status_code == 404


def test_an_empty_model_never_leaves_the_client(target: Target, connect: Connect) -> None:
    client = connect(target.url)
    with pytest.raises(ValidationError):
        client.chat("", COLORS)


def test_a_timeout_is_httpx_s(target: Target, connect: Connect) -> None:
    client = connect(target.url, timeout=0.5)
    with pytest.raises(httpx.ReadTimeout):
        client.chat(target.model, LONG_STORY, options=LONG_OPTIONS)


def test_an_error_line_has_status_minus_one(target: Target, connect: Connect) -> None:
    stand_in = target.owned()
    lines = connect(target.url).chat(target.model, LONG_STORY, stream=True, options=LONG_OPTIONS)
    next(lines)
    [pid] = stand_in.runner_pids()
    psutil.Process(pid).kill()
    with pytest.raises(ollama.ResponseError) as caught:
        deque(lines, maxlen=0)
    assert caught.value.status_code == -1
    assert caught.value.error == "an error was encountered while running the model: unexpected EOF"


def test_a_dead_server_has_two_faces(gguf: Path, connect: Connect) -> None:
    with StandIn(gguf) as stand_in:
        url = stand_in.url
        lines = connect(url).chat("smollm2:135m", LONG_STORY, stream=True)
        next(lines)
        stand_in.kill()
        with pytest.raises(httpx.RemoteProtocolError):
            deque(lines, maxlen=0)
    client = connect(url)
    with pytest.raises(ConnectionError):
        client.chat("smollm2:135m", COLORS)
    stream = client.chat("smollm2:135m", COLORS, stream=True)
    with pytest.raises(httpx.ConnectError):
        next(stream)
