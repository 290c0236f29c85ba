"""Processes of the workbench that need not import it: forked from one that has.

To import the server takes some five seconds of a core, more than most tests that start one. What is
started here is a process of its own all the same, with its own environment, folder and streams, and
it ends as any other does. ``python -m tests.warm FD`` is what forks it.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

from workbench.ui import stubs

ROOT = Path(__file__).parent.parent
# What only counts before anything is imported, and what measures a process from its start.
_EARLY: Final = ("PYTHON", "LD_", "COVERAGE_", "GLIBC_", "MALLOC_", "OTEL_")
# Not duckdb, nor what imports it: it has a thread from then on.
_IMPORTED: Final = (
    "fastapi",
    "gguf",
    "gradio",
    "ollama",
    "openai",
    "pandas",
    "plotly.graph_objects",
    "prometheus_client",
    "strawberry.fastapi",
    "uvicorn",
    "websockets",
    "workbench.cli",
    "workbench.providers.huggingface",
    "workbench.providers.ollama_client",
    "workbench.settings",
)
_MESSAGE: Final = 65_536


class Process:
    """One that was started; like :class:`subprocess.Popen`."""

    def __init__(self, pid: int, told: socket.socket, stdout: IO[str] | None) -> None:
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None
        self._told = told

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status once it ended; minus the signal's number if a signal ended it."""
        if self.returncode is None:
            self._told.settimeout(timeout)
            try:
                answer = self._told.recv(_MESSAGE)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0) from None
            if not answer:
                raise RuntimeError("the process that forks others has ended")
            self.returncode = int(answer)
            self._told.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing where it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _Forks:
    """The process that has imported everything, of this test process; ends with it."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        own = ("WORKBENCH_", "HF_", "OLLAMA_")
        # With threads of a library it could not be forked.
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(own)},
            "OPENBLAS_NUM_THREADS": "1",
        }
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

        atexit.register(self._end, process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        self._control.close()
        process.wait()

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether a process of this environment would have imported the same."""
        names = {n for n in {*environment, *self.environment} if n.startswith(_EARLY)}
        told = any(name.startswith("COVERAGE_") for name in names)
        return not told and all(environment.get(n) == self.environment.get(n) for n in names)

    def start(self, task: Mapping[str, Any], streams: Sequence[int]) -> tuple[int, socket.socket]:
        told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._control, [json.dumps(task).encode()], [theirs.fileno(), *streams])
        return int(told.recv(_MESSAGE)), told


_forks: _Forks | None = None


def popen(
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    stdout: IO[str] | int,
    stderr: IO[str] | None = None,
    stdin: IO[str] | None = None,
    cold: bool = False,
) -> Process | subprocess.Popen[str]:
    """Start ``python ARGUMENTS``, where they are a file or ``-m`` and a module.

    Args:
        arguments: of the interpreter.
        env: all of its environment. What an interpreter or its libraries read when they start makes
            it one of its own that imports everything anew.
        cwd: its folder.
        stdout: a file, or ``subprocess.PIPE``.
        stderr: a file; else it is that of the tests.
        stdin: a file; else it is empty.
        cold: an interpreter of its own in any case.
    """
    global _forks
    if _forks is None and not cold:
        _forks = _Forks()
    if _forks is None or cold or not _forks.fits(env):
        return subprocess.Popen(
            [sys.executable, *arguments],
            env=dict(env),
            cwd=cwd,
            stdin=stdin or subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
        )
    task = {"arguments": list(arguments), "environment": dict(env), "folder": str(cwd)}
    read = write = -1
    if isinstance(stdout, int):
        read, write = os.pipe()
    errors = stderr.fileno() if stderr is not None else 2
    with Path(os.devnull).open() as nothing:
        streams = (
            (stdin or nothing).fileno(),
            write if isinstance(stdout, int) else stdout.fileno(),
            errors,
        )
        pid, told = _forks.start(task, streams)
    if isinstance(stdout, int):
        os.close(write)
        return Process(pid, told, os.fdopen(read))
    return Process(pid, told, None)


# -- the process that forks ------------------------------------------------------------------------


def _serve(control: socket.socket) -> dict[str, Any]:
    """Fork what is asked for until the test process ends; returns in each child, with its task."""
    stubs.leave_out()  # as the server does
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"{threads} threads: it must not be forked"
    waiting = selectors.DefaultSelector()
    waiting.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fileobj is not control:
                pid, told = key.data
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with told:
                    told.send(str(status).encode())
                waiting.unregister(key.fileobj)
                os.close(key.fd)
                continue
            message, fds, _, _ = socket.recv_fds(control, _MESSAGE, 4)
            if not message:
                os._exit(0)
            asked, *streams = fds
            told = socket.socket(fileno=asked)
            pid = os.fork()
            if pid == 0:
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                for other in [
                    control,
                    told,
                    *(k.data[1] for k in waiting.get_map().values() if k.data),
                ]:
                    other.detach()
                waiting.close()
                os.closerange(3, os.sysconf("SC_OPEN_MAX"))
                return dict(json.loads(message))
            for stream in streams:
                os.close(stream)
            told.send(str(pid).encode())
            waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, told))


def _become(task: Mapping[str, Any]) -> None:
    """Be ``python ARGUMENTS`` from here on."""
    os.environ.clear()
    os.environ.update(task["environment"])
    os.chdir(task["folder"])
    time.tzset()
    # It read the environment when gradio was imported.
    importlib.reload(sys.modules["huggingface_hub.constants"])
    first, *rest = task["arguments"]
    if first == "-m":
        sys.argv = rest
        sys.path[0] = task["folder"]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *rest]
        sys.path[0] = str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    _become(_serve(socket.socket(fileno=int(sys.argv[1]))))
