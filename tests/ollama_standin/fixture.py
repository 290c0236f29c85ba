"""Run the stand-in from tests and scripts: start, kill, stop, restart on the same port."""

from __future__ import annotations

import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

import psutil

_ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0


def wait_gone(process: psutil.Process) -> None:
    """Wait for the end of a process that is not our child.

    A zombie counts as gone: an orphan's exit status waits for init, which may take its time.
    """
    deadline = time.monotonic() + _STOP_SECONDS
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {process.pid} still runs")
        time.sleep(0.01)


class StandIn:
    """One stand-in server as a separate process.

    ``extra`` are command line options, for example ``"--slow-load", "2"``. As a context manager it
    starts on entering and stops on leaving.
    """

    def __init__(self, gguf: Path, *extra: str, port: int = 0) -> None:
        self._gguf = gguf
        self._extra = extra
        self._port = port
        self._process: subprocess.Popen[str] | None = None
        self._store: tempfile.TemporaryDirectory[str] | None = None
        self.url = ""

    def start(self) -> StandIn:
        """Start the process and wait for the line that tells its address."""
        self._store = tempfile.TemporaryDirectory(prefix="ollama-standin-")
        command = [sys.executable, "-m", "tests.ollama_standin", "--gguf", str(self._gguf)]
        command += ["--port", str(self._port), "--store", self._store.name, *self._extra]
        self._process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            line = self._process.stdout.readline() if selector.select(_START_SECONDS) else ""
        if not line:
            self.kill()
            raise RuntimeError(f"the Ollama stand-in did not start: {' '.join(command)}")
        self.url = line.split()[-1]
        self._port = int(self.url.rsplit(":", 1)[1])
        return self

    @property
    def port(self) -> int:
        """The port it listens on; kept over a restart."""
        return self._port

    @property
    def pid(self) -> int:
        """The id of the listening process."""
        assert self._process is not None
        return self._process.pid

    def runner_pids(self) -> list[int]:
        """Ids of the runner processes, one per loaded (or loading) model."""
        try:
            children = psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return []
        return [
            child.pid
            for child in children
            if child.status() != psutil.STATUS_ZOMBIE and "--model" in child.cmdline()
        ]

    def kill(self) -> None:
        """SIGKILL: running answers break off."""
        self._end(kill=True)

    def stop(self) -> None:
        """SIGTERM, as a service manager would send it."""
        self._end(kill=False)

    def _end(self, *, kill: bool) -> None:
        if self._process is not None:
            runners = [psutil.Process(pid) for pid in self.runner_pids()]
            if kill:
                self._process.kill()
            else:
                self._process.terminate()
            self._process.wait(timeout=_STOP_SECONDS)
            for runner in runners:
                wait_gone(runner)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None
        if self._store is not None:
            self._store.cleanup()
            self._store = None

    def restart(self) -> StandIn:
        """Start again on the same port, with empty memory as after any restart."""
        self.stop()
        return self.start()

    def wait_for_runners(self, count: int, seconds: float = 10.0) -> list[int]:
        """Wait until exactly ``count`` runners exist."""
        deadline = time.monotonic() + seconds
        while len(pids := self.runner_pids()) != count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(pids)} runners instead of {count}")
            time.sleep(0.02)
        return pids

    def __enter__(self) -> StandIn:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
