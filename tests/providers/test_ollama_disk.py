"""Models come to an Ollama server and go from it: pulls as jobs, deletions with what they free.

A pull that succeeds cannot be recorded without a network: the lines here are those that Ollama's
API documentation shows. What fails and what is deleted goes to the stand-in, which is recorded.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.conftest import DEMO_GGUF
from tests.ollama_standin.fixture import StandIn
from workbench.disk import ModelDisk
from workbench.engine import Engine, build
from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers import ollama_disk
from workbench.settings import Settings
from workbench.store import Store

LAYERS = {"sha256:aa": 3_000_000, "sha256:bb": 1_000}
PULL: list[dict[str, Any]] = [
    {"status": "pulling manifest"},
    {"status": "pulling aa", "digest": "sha256:aa", "total": 3_000_000},
    {"status": "pulling aa", "digest": "sha256:aa", "total": 3_000_000, "completed": 1_000_000},
    {"status": "pulling aa", "digest": "sha256:aa", "total": 3_000_000, "completed": 3_000_000},
    {"status": "pulling bb", "digest": "sha256:bb", "total": 1_000, "completed": 1_000},
    {"status": "verifying sha256 digest"},
    {"status": "writing manifest"},
    {"status": "success"},
]


class Registry(ThreadingHTTPServer):
    """Speaks the part of the protocol that a pull needs."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lines = PULL
        self.hold = threading.Event()
        """Not set: the answer stops after its third line."""
        self.hold.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Registry

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        for place, line in enumerate(self.server.lines):
            if place == 3 and not self.server.hold.wait(20):
                return
            self.wfile.write(json.dumps(line).encode() + b"\n")
            self.wfile.flush()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        model = {"name": "x:latest", "model": "x:latest", "size": 3_001_000, "digest": "d"}
        self.wfile.write(json.dumps({"models": [model]}).encode())

    def log_message(self, *unused: object) -> None:
        """Silent."""


@pytest.fixture
def registry() -> Iterator[Registry]:
    server = Registry()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.hold.set()
    server.shutdown()
    server.server_close()
    thread.join()


DiskOf = Callable[[str], ModelDisk]


@pytest.fixture
def disk_of(settings: Settings, store: Store) -> Iterator[DiskOf]:
    """Makes the disk of an Ollama server at an address."""
    made: list[Engine] = []

    def make(url: str) -> ModelDisk:
        made.append(build(settings.model_copy(update={"ollama_host": url}), store))
        return made[-1].disk

    yield make
    for engine in made:
        asyncio.run(engine.close())


def test_a_pull_adds_its_layers_up_and_is_logged(
    registry: Registry, disk_of: DiskOf, store: Store
) -> None:
    disk = disk_of(registry.url)
    registry.hold.clear()
    job = disk.download("ollama/x")
    assert disk.download("ollama/x:latest").id == job.id, "one pull of a model at a time"
    while disk.jobs.get(job.id).bytes_done < 1_000_000:
        assert not disk.jobs.get(job.id).ended
    assert disk.jobs.get(job.id).bytes_total == 3_000_000
    registry.hold.set()
    done = disk.jobs.wait(job.id, 20)
    assert (done.status, done.bytes_done, done.bytes_total) == ("done", 3_001_000, 3_001_000)
    assert done.result == {"id": "ollama/x:latest", "size_bytes": 3_001_000, "digest": "d"}
    store.flush()
    (row,) = store.rows("SELECT event, provider, model, ok FROM model_events")
    assert row == {
        "event": "download",
        "provider": "ollama",
        "model": "ollama/x:latest",
        "ok": True,
    }


def test_a_pull_is_stopped_although_its_server_is_silent(
    registry: Registry, disk_of: DiskOf, store: Store
) -> None:
    disk = disk_of(registry.url)
    registry.hold.clear()
    job = disk.download("ollama/x")
    while disk.jobs.get(job.id).bytes_done < 1_000_000:
        assert not disk.jobs.get(job.id).ended
    disk.jobs.cancel(job.id)
    assert disk.jobs.wait(job.id, 20).status == "cancelled"


def test_pulls_that_fail_say_why(registry: Registry, disk_of: DiskOf) -> None:
    disk = disk_of(registry.url)
    nowhere = "pull model manifest: file does not exist"
    for lines, code in (
        ([{"status": "pulling manifest"}, {"error": nowhere}], ErrorCode.OLLAMA_MODEL_NOT_FOUND),
        ([{"error": "write: no space left on device"}], ErrorCode.OLLAMA_PULL_FAILED),
        (PULL[:3], ErrorCode.OLLAMA_STREAM_BROKEN),
    ):
        registry.lines = lines
        ended = disk.jobs.wait(disk.download("ollama/x").id, 20)
        assert ended.error is not None
        assert ended.error.code is code
        assert ended.error.fix
    gone = disk_of("http://127.0.0.1:9")
    ended = gone.jobs.wait(gone.download("ollama/x").id, 20)
    assert ended.error is not None
    assert ended.error.code is ErrorCode.OLLAMA_UNREACHABLE


async def test_one_of_several_hosts_is_named_as_its_user_named_it(
    registry: Registry, settings: Settings, store: Store
) -> None:
    hosts = {"attic": "http://127.0.0.1:9", "cellar": registry.url}
    engine = build(settings.model_copy(update={"ollama_hosts": hosts}), store)
    try:
        job = engine.disk.download("ollama@attic/x")
        silent = (await asyncio.to_thread(engine.disk.jobs.wait, job.id, 60)).error
        with pytest.raises(WorkbenchError) as asked:
            await engine.disk.delete("ollama@attic/x")
        for error in (silent, asked.value):
            assert error is not None
            assert error.code is ErrorCode.OLLAMA_UNREACHABLE
            assert error.provider == "ollama@attic"
            assert "at attic, http://127.0.0.1:9" in error.message
            assert "set attic of OLLAMA_HOSTS to where it runs" in error.fix
        with pytest.raises(WorkbenchError, match="Ollama on cellar has no model 'y:latest'"):
            await engine.disk.delete("ollama@cellar/y")
        plan = await engine.disk.plan_deletion("ollama@cellar/x")
        assert plan.location == f"Ollama server at cellar, {registry.url}"
    finally:
        await engine.close()


@pytest.mark.parametrize("name", ["", "  ", "../x", "a b", "-x", "x" * 300, "a//b", "a\nb"])
def test_names_that_no_model_can_have(name: str) -> None:
    with pytest.raises(WorkbenchError) as caught:
        ollama_disk.checked(name)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.model
async def test_deleting_says_what_is_freed_and_by_which_names_it_stays(
    disk_of: DiskOf, store: Store
) -> None:
    with StandIn(DEMO_GGUF, "--models", "smollm2:135m") as ollama:
        disk = disk_of(ollama.url)
        ended = disk.jobs.wait(disk.download("ollama/none-of-this-name").id, 20)
        assert ended.error is not None
        assert ended.error.code is ErrorCode.OLLAMA_PULL_FAILED
        plan = await disk.plan_deletion("ollama/smollm2:135m")
        assert plan.size_bytes > 50_000_000
        gone = await disk.delete("ollama/smollm2:135m")
        assert gone["freed_bytes"] == plan.size_bytes
        with pytest.raises(WorkbenchError) as caught:
            await disk.delete("ollama/smollm2:135m")
        assert caught.value.code is ErrorCode.OLLAMA_MODEL_NOT_FOUND
    store.flush()
    events = store.rows("SELECT event, model, ok FROM model_events WHERE event = 'delete'")
    assert events == [{"event": "delete", "model": "ollama/smollm2:135m", "ok": True}]
