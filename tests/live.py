"""A real server process, started as a user starts it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests import warm
from tests.conftest import ROOT


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measured() -> dict[str, str]:
    """What a process needs of our environment to be measured with us, and by the same Python."""
    given = ("COVERAGE_", "PYTHON")  # the first of ``make coverage``
    return {name: value for name, value in os.environ.items() if name.startswith(given)}


class LiveServer:
    """``python app.py`` with its own database.

    Args:
        folder: for the database and the log of the process.
        cold: an interpreter of its own, that shares no memory with another process.
        environment: further variables.
    """

    def __init__(self, folder: Path, *, cold: bool = False, **environment: str) -> None:
        self.folder = folder
        self._cold = cold
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("WORKBENCH_", "HF_"))},
            "WORKBENCH_DB": str(folder / "workbench.duckdb"),
            "WORKBENCH_PORT": str(self.port),
            "WORKBENCH_OFFLINE": "true",
            "HF_MODEL_PATH": str(folder / "models"),
            "HF_HUB_CACHE": str(folder / "hub-cache"),
            "OLLAMA_HOST": "127.0.0.1:9",
            **environment,
        }
        self._process: warm.Process | subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.log = (self.folder / "server.log").open("w+")
        self._process = warm.popen(
            [str(ROOT / "app.py")],
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=self.log,
            cold=self._cold,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()  # it prints its address once it listens
        self.said = line
        if self.url not in line:
            self.__exit__(None, None, None)
            raise AssertionError(f"no address but {line!r}\n{self.read_log()}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self.log.close()
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        """Process id of the server."""
        assert self._process is not None
        return self._process.pid

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; returns its exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(timeout=30)

    def read_log(self) -> str:
        """What it logged so far."""
        return (self.folder / "server.log").read_text()

    def announced(self) -> dict[str, Any]:
        """Its server file."""
        beside = Path(self.environment["WORKBENCH_DB"]).with_name("server.json")
        return dict(json.loads(beside.read_text()))

    def client(self) -> httpx.Client:
        """A client with the owner's token."""
        headers = {"Authorization": f"Bearer {self.announced()['token']}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def query(self, sql: str) -> list[list[Any]]:
        """Rows of the running server's log."""
        with self.client() as http:
            return list(http.post("/api/v1/query", json={"sql": sql}).json()["rows"])

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``workbench ...`` beside it, in the same environment."""
        return run_cli(*arguments, env=self.environment, cwd=self.folder)


def run_cli(
    *arguments: str,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``workbench ...`` as a process of its own."""
    with (
        tempfile.TemporaryFile("w+") as asked,
        tempfile.TemporaryFile("w+") as said,
        tempfile.TemporaryFile("w+") as complained,
    ):
        asked.write(stdin or "")
        asked.seek(0)
        process = warm.popen(
            ["-m", "workbench.cli", *arguments],
            env=os.environ if env is None else env,
            cwd=cwd or Path.cwd(),
            stdin=asked,
            stdout=said,
            stderr=complained,
        )
        try:
            status = process.wait(170)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        said.seek(0)
        complained.seek(0)
        return subprocess.CompletedProcess(arguments, status, said.read(), complained.read())
