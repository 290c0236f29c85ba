"""Every sickness that the doctor knows, made on purpose, and the words it has for it."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import socket
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tests.conftest import EngineFactory
from workbench.discovery import announce, database, server_file
from workbench.doctor import Finding, examine, machine, services
from workbench.settings import Settings, load_settings
from workbench.store import Store
from workbench.types import ChatRequest, Message


def only(findings: Iterable[Finding] | Finding, part: str, status: str) -> Finding:
    """The one finding of this part and status; it names a fix unless all is well."""
    listed = [findings] if isinstance(findings, Finding) else list(findings)
    (found,) = [item for item in listed if (item.part, item.status) == (part, status)]
    assert found.fix or status != "bad"
    return found


def test_a_well_machine(settings: Settings) -> None:
    assert only(machine.software(), "software", "ok").message.startswith("Python 3.")
    assert only(machine.clock(), "clock", "ok")
    assert only(machine.open_files(4096), "files", "ok")
    assert only(machine.permissions(settings), "permissions", "ok")
    assert only(machine.disk(settings, low_bytes=0), "disk", "ok"), "one file system, told once"
    assert only(services.address(settings), "settings", "ok")


def test_versions() -> None:
    wrong = only(machine.software(["psutil>=9999", "no-such-package"]), "software", "bad")
    assert f"psutil is {psutil.__version__}, but >=9999 is needed" in wrong.message
    assert "no-such-package is missing" in wrong.message
    assert wrong.fix == "Run: make install."
    assert only(machine.software(["x>=1; extra == 'dev'"]), "software", "ok"), "extras may be away"


def test_an_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.sys, "version_info", (3, 10, 1))
    assert "too old" in only(machine.software(), "software", "bad").message


def test_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("1000000000\n")
    low = SimpleNamespace(available=10**9, total=64 * 10**9)
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: low)
    found = list(machine.memory(limit))
    assert [item.status for item in found] == ["note", "note"]
    assert found[1].fix.endswith("WORKBENCH_MEMORY_BUDGET=1000MB.")
    limit.write_text("max\n")
    assert len(list(machine.memory(limit))) == 1


def test_clock_and_files() -> None:
    wrong = machine.clock(dt.datetime(1970, 1, 1, tzinfo=dt.UTC))
    assert "1970" in only(wrong, "clock", "bad").message
    assert "ulimit" in only(machine.open_files(256), "files", "note").fix


def test_disk(settings: Settings) -> None:
    assert "models rm" in only(machine.disk(settings, low_bytes=2**63), "disk", "note").fix


def test_permissions(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(settings.workbench_db).parent
    folder.mkdir(parents=True)
    settings.workbench_db.write_bytes(b"")
    settings.workbench_db.chmod(0o644)
    assert "chmod 600" in only(machine.permissions(settings), "permissions", "note").fix
    monkeypatch.setattr(machine.os, "access", lambda path, mode: False)
    wrong = [item for item in machine.permissions(settings) if item.status == "bad"]
    assert ["WORKBENCH_DB" in wrong[0].fix, "HF_MODEL_PATH" in wrong[1].fix] == [True, True]


class Nvml:
    """NVIDIA's library as a machine with a GPU has it, or without."""

    class NVMLError(Exception):
        value = 9

    def __init__(self, cuda: int = 12040, fails: int | None = None) -> None:
        self._cuda, self._fails = cuda, fails

    def nvmlInit(self) -> None:
        if self._fails is not None:
            error = self.NVMLError("Driver/library version mismatch")
            error.value = self._fails
            raise error

    def nvmlSystemGetDriverVersion(self) -> str:
        return "550.54"

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return self._cuda


@pytest.mark.parametrize(
    ("wanted", "nvml", "torch", "status", "word"),
    [
        ("auto", Nvml(fails=9), "2.11+cpu", "ok", "CPU"),
        ("true", Nvml(fails=9), "2.11+cpu", "bad", "HF_ENABLE_GPU=auto"),
        ("auto", Nvml(fails=18), "2.11+cu128", "bad", "Restart"),
        ("auto", Nvml(), "2.11+cpu", "note", "torch with CUDA"),
        ("true", Nvml(), "2.11+cpu", "bad", "torch with CUDA"),
        ("auto", Nvml(cuda=11080), "2.11+cu128", "bad", "Update the NVIDIA driver"),
        ("auto", Nvml(cuda=12040), "2.11+cu128", "ok", "CUDA up to 12.4"),
        ("auto", Nvml(cuda=13000), "2.11", "ok", "CUDA up to 13.0"),
    ],
)
def test_gpu(wanted: str, nvml: Nvml, torch: str, status: str, word: str) -> None:
    found = only(machine.gpu(wanted, nvml, torch), "gpu", status)
    assert word in f"{found.message} {found.fix}"


def test_ports(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = settings.model_copy(update={"workbench_port": other.getsockname()[1]})
        assert "WORKBENCH_PORT" in only(services.port(taken), "server", "bad").fix
    monkeypatch.setattr(services.os, "geteuid", lambda: 1000)
    low = settings.model_copy(update={"workbench_port": 80})
    assert "root" in only(services.port(low), "server", "bad").message
    open_to_all = settings.model_copy(update={"workbench_host": "0.0.0.0"})
    assert "WORKBENCH_API_KEY" in only(services.address(open_to_all), "settings", "bad").fix


def test_a_server_file_that_was_left_behind(settings: Settings) -> None:
    file = Path(settings.workbench_db).with_name("server.json")
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"pid": 1, "started": 5.0, "db": str(settings.workbench_db)}))
    found = list(services.server_and_log(settings))
    assert "left by a server that is gone" in found[0].message
    assert only(found, "log", "note").message == "nothing is logged yet"


def test_a_running_server_may_speak_to_another_ollama(settings: Settings) -> None:
    path = Path(settings.workbench_db)
    path.parent.mkdir(parents=True)
    own = psutil.Process()
    body = {"pid": own.pid, "started": own.create_time(), "db": str(path), "url": "http://there"}
    file = path.with_name("server.json")
    file.write_text(json.dumps({**body, "ollama": "http://127.0.0.1:4711"}))
    told = only(services.server_and_log(settings), "ollama", "note")
    assert "http://127.0.0.1:4711" in told.message
    assert settings.ollama_host in told.message
    assert services.as_served(settings).ollama_host == "http://127.0.0.1:4711"
    file.write_text(json.dumps(body))  # as an older version wrote it
    assert services.as_served(settings) == settings
    assert not [f for f in services.server_and_log(settings) if f.part == "ollama"]


def announced(settings: Settings, served: Settings, url: str = "http://there") -> None:
    """A server with other settings runs on the same log: this process."""
    database(settings).parent.mkdir(parents=True, exist_ok=True)
    announce(served, url, "secret", SimpleNamespace(uri=None))  # type: ignore[arg-type]


def test_a_running_server_may_share_otherwise(settings: Settings) -> None:
    team = {
        "workbench_shared_log": "http://192.0.2.7:7860",
        "workbench_shared_log_key": "a shared key",
    }
    served = settings.model_copy(update={**team, "workbench_writer_id": "ada"})
    announced(settings, served)
    assert "a shared key" not in server_file(settings).read_text()
    for ours in (settings, served):
        assert not [f for f in services.server_and_log(ours) if f.part == "shared log"]
    for name in (*team, "workbench_writer_id"):
        ours = settings.model_copy(update={name: "http://192.0.2.8:7860"})
        told = only(services.server_and_log(ours), "shared log", "note")
        assert f"than {name.upper()} of" in told.message


async def test_the_endpoints_of_a_running_server(settings: Settings) -> None:
    asked: list[str | None] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["Authorization"])
            parts = {
                "team": {"status": "down", "reason": "No answer. Start it.", "fix": "Start it."},
                "lab": {"status": "ok", "models": 3},
            }
            self.send_response(503)  # as where nothing can be served
            self.end_headers()
            self.wfile.write(json.dumps({"parts": parts}).encode())

        def log_message(self, *about: Any) -> None:
            pass

    served = load_settings(
        _env_file=None, openai_compat_endpoints="team=http://127.0.0.1:9/v1,lab=http://there/v1"
    ).model_copy(update={"workbench_db": settings.workbench_db})
    assert await services.endpoints(settings) == [], "no server, nothing to say"
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        announced(settings, served, f"http://127.0.0.1:{server.server_port}")
        found = await services.endpoints(settings)
    assert asked == ["Bearer secret"]
    assert "3 models" in only(found, "lab", "ok").message
    down = only(found, "team", "note")
    assert (down.message, down.fix) == ("the server says: No answer.", "Start it.")
    (silent,) = await services.endpoints(settings)
    assert "/health" in silent.fix


def test_another_workbench_is_no_stranger(settings: Settings) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("X-Correlation-ID", self.headers["X-Correlation-ID"])
            self.end_headers()
            self.wfile.write(b'{"status": "ok"}')

        def log_message(self, *about: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        number = {"workbench_port": server.server_port}
        found = only(services.port(settings.model_copy(update=number)), "server", "bad")
        server.shutdown()
    assert "a workbench listens" in found.message
    assert str(settings.workbench_db) in found.message
    assert "Stop" not in found.fix


@pytest.mark.parametrize("most", [2**28, 0])
def test_blocks_of_a_log_are_checked_or_it_is_said(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    path = settings.workbench_db
    Store.open(path).close()
    monkeypatch.setattr(services, "_CHECKED_BYTES", most)
    words = "blocks as they were written" if most else "run workbench db verify"
    assert words in only(services.log(settings), "log", "ok").message
    data = bytearray(path.read_bytes())
    data[3 * 4096] ^= 4  # the checksum of the first block
    path.write_bytes(data)
    if most:
        broken = only(services.log(settings), "log", "bad")
        assert "db verify" in broken.fix


def test_folders_that_cannot_be_are_named(settings: Settings) -> None:
    changes = {"workbench_db": Path("/proc/x.duckdb")}
    told = only(machine.disk(settings.model_copy(update=changes)), "disk", "bad")
    assert "cannot be written" in told.message
    assert "WORKBENCH_DB" in told.fix
    nowhere = settings.model_copy(update={"hf_model_path": Path("/nope")})
    found = asyncio.run(services.models(nowhere))
    assert "/nope does not exist" in only(found, "huggingface", "note").message


async def test_a_log_from_the_future(
    settings: Settings, store: Store, make_engine: EngineFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    async for _ in engine.stream(ChatRequest("scripted/steady", (Message("user", "x"),))):
        pass
    store.close()
    assert "1 session," in only(services.log(settings), "log", "ok").message
    monkeypatch.setattr(services, "_AHEAD", -dt.timedelta(days=365))
    assert "clock" in only(services.log(settings), "log", "note").fix


def test_a_log_that_is_none(settings: Settings) -> None:
    settings.workbench_db.parent.mkdir(parents=True)
    settings.workbench_db.write_text("this is no database, whatever its name says" * 100)
    assert only(services.log(settings), "log", "bad").fix


@pytest.mark.parametrize(
    ("version", "status"),
    [("0.5.7", "note"), ("0.33.0-rc2", "ok"), ("0.0.0", "ok"), ("1.2.3-rc1", "ok")],
)
async def test_the_version_of_ollama(settings: Settings, version: str, status: str) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"version": version}).encode())

        def log_message(self, *about: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        host = f"http://127.0.0.1:{server.server_port}"
        found = await services.ollama(settings.model_copy(update={"ollama_host": host}))
    assert version in only(found, "ollama", status).message
    assert await services.ollama(settings) == [], "an absent one is told with its models"


def test_bad_settings_hide_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_PORT", "none")
    found = examine()
    assert "WORKBENCH_PORT" in only(found, "settings", "bad").message
    assert only(found, "software", "ok")


def test_everything_at_once() -> None:
    parts = {finding.part for finding in examine()}
    assert {
        "settings", "software", "memory", "clock", "files", "disk", "permissions", "gpu", "server",
        "log", "huggingface", "ollama",
    } <= parts  # fmt: skip
    assert load_settings(_env_file=None)
