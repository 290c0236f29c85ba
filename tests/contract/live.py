"""Conversations with a running server that last longer than one request."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import httpx
import psutil

T = TypeVar("T")
LONG_STORY = [{"role": "user", "content": "Write a very long story about a dragon."}]
LONG_OPTIONS = {"temperature": 0.8, "seed": 3, "num_predict": 3000, "repeat_penalty": 1.2}
COLORS = [{"role": "user", "content": "Name three colors."}]


def until(probe: Callable[[], T | None], what: str, seconds: float = 10.0) -> T:
    """Ask again until ``probe`` gives something true, within a deadline."""
    deadline = time.monotonic() + seconds
    while not (value := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        threading.Event().wait(0.02)
    return value


def chat(client: httpx.Client, model: str, **fields: Any) -> dict[str, Any]:
    """A short answer in one piece (two greedy tokens unless ``options`` say otherwise)."""
    body = {
        "model": model,
        "messages": COLORS,
        "stream": False,
        "options": {"temperature": 0, "num_predict": 2},
        **fields,
    }
    response = client.post("/api/chat", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


def load(client: httpx.Client, model: str, **fields: Any) -> None:
    response = client.post("/api/chat", json={"model": model, "messages": [], **fields})
    assert response.json()["done_reason"] == "load"


def unload(client: httpx.Client, model: str) -> None:
    """Unload and wait until the list of loaded models is empty."""
    body = {"model": model, "messages": [], "keep_alive": 0}
    assert client.post("/api/chat", json=body).json()["done_reason"] == "unload"
    until(lambda: not loaded(client), "the model is unloaded")


def loaded(client: httpx.Client) -> list[dict[str, Any]]:
    """What ``/api/ps`` lists."""
    return list(client.get("/api/ps").json()["models"])


def lifetime(entry: dict[str, Any]) -> timedelta:
    """How long a listed model still stays; Go's nanoseconds are cut to what Python reads."""
    moment, _, rest = entry["expires_at"].partition(".")
    fraction = rest.rstrip("Z").split("+")[0].split("-")[0]
    offset = rest[len(fraction) :] or "Z"
    parsed = datetime.fromisoformat(f"{moment}.{fraction[:6].ljust(6, '0')}{offset}")
    return parsed - datetime.now(UTC)


@contextmanager
def long_stream(client: httpx.Client, model: str) -> Iterator[Iterator[dict[str, Any]]]:
    """A streamed story that would take minutes; the lines so far have arrived one by one."""
    body = {"model": model, "messages": LONG_STORY, "options": LONG_OPTIONS}
    with client.stream("POST", "/api/chat", json=body) as response:
        assert response.status_code == 200
        yield (json.loads(line) for line in response.iter_lines())


def is_idle(process: psutil.Process) -> bool:
    """Whether a process leaves the processor alone for a while."""
    window = 0.3
    before = sum(process.cpu_times()[:2])
    threading.Event().wait(window)
    return sum(process.cpu_times()[:2]) - before < window / 5


class InBackground(threading.Thread):
    """A call in a thread, with its result or exception kept for the test."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.result: Any = None
        self.problem: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._call()
        except Exception as problem:  # the test looks at whatever it was
            self.problem = problem

    def finished(self, seconds: float = 60.0) -> InBackground:
        """Wait for the end."""
        self.join(seconds)
        assert not self.is_alive()
        return self
