"""Which process is a model's runner, with real processes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil
import pytest

from workbench.providers.ollama_pids import RunnerFinder, blob_of, is_loopback

A = "sha256-" + "a" * 64
B = "sha256-" + "b" * 64

_SERVER = """
import socket, subprocess, sys
with socket.create_server(("127.0.0.1", 0)) as listening:
    print(listening.getsockname()[1], flush=True)
    children = []
    for line in sys.stdin:
        command = [sys.executable, "-c", sys.argv[1], *line.split()]
        children.append(subprocess.Popen(command, stdin=subprocess.PIPE))
        print(children[-1].pid, flush=True)
    for child in children:
        child.kill()
        child.wait()
"""

_CHILD = """
import subprocess, sys
if sys.argv[1] == "wrapper":
    # Same command line but for the last word, as a shell script in front of a runner has it.
    inner = [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"]
    child = subprocess.Popen(inner + sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
sys.stdin.read()
"""


@dataclass
class Server:
    """A process that listens and starts children on request."""

    process: subprocess.Popen[str] = field(
        default_factory=lambda: subprocess.Popen(
            [sys.executable, "-c", _SERVER, _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    )

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self._read()}"

    def _read(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def run(self, *arguments: str) -> int:
        """Start a child; returns its process id."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(arguments or ("-",)) + "\n")
        self.process.stdin.flush()
        return self._read()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.process.communicate()


def test_the_child_with_the_weights_in_its_command_is_the_runner(server: Server) -> None:
    a, b = server.run("--model", f"/models/blobs/{A}"), server.run(f"--model=/m/{B}")
    finder = RunnerFinder(server.url)
    assert finder.find(A) == (a,)
    assert finder.find(B) == (b,)
    assert finder.find(None) == ()  # two, and nothing says which


def test_of_a_runner_with_a_wrapper_the_wrapper_is_the_root(server: Server) -> None:
    pid = server.run("wrapper", "--model", A)
    wrapper = psutil.Process(pid)
    deadline = time.monotonic() + 5
    while not wrapper.children():
        assert time.monotonic() < deadline
    assert RunnerFinder(server.url).find(A) == (pid,)


def test_an_only_child_is_the_runner(server: Server) -> None:
    pid = server.run("runner")
    assert RunnerFinder(server.url).find(None) == (pid,)
    assert RunnerFinder(server.url).find(A) == (pid,)


def test_the_only_child_is_not_taken_if_it_has_other_weights(server: Server) -> None:
    server.run("--model", B)
    assert RunnerFinder(server.url).find(A) == ()


def test_a_dead_runner_is_dropped_and_its_successor_found(server: Server) -> None:
    finder = RunnerFinder(server.url)
    old = server.run(A)
    assert finder.find(A) == (old,)
    psutil.Process(old).kill()
    deadline = time.monotonic() + 5
    while finder.find(A, now=True):  # a killed child stays as a zombie: its parent never waits
        assert time.monotonic() < deadline
    new = server.run(A)
    assert finder.find(A) == ()  # a search that found nothing is not repeated at once
    assert finder.find(A, now=True) == (new,)


def test_known_runners_are_not_searched_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    finder = RunnerFinder(server.url)
    pid = server.run(A)
    assert finder.find(A) == (pid,)
    monkeypatch.setattr(psutil, "net_connections", None)
    monkeypatch.setattr(psutil.Process, "children", None)
    assert finder.find(A) == (pid,)


def test_a_server_of_another_user_hides_its_port_but_not_its_runner(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = server.run("--model", A)
    monkeypatch.setattr(psutil, "net_connections", lambda kind: [])
    assert RunnerFinder(server.url).find(A) == (pid,)
    assert RunnerFinder(server.url).find(None) == ()
    server.run("--model", A)
    assert RunnerFinder(server.url).find(A) == ()  # whose is which cannot be told


def test_searching_never_fails(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(kind: str) -> list[object]:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", denied)
    assert RunnerFinder(server.url).find(A) == ()


def test_waiting_for_the_end_of_a_runner(server: Server) -> None:
    finder = RunnerFinder(server.url)
    pid = server.run(A)
    finder.wait_gone(finder.find(A), 0.01)  # alive: the time runs out
    assert psutil.pid_exists(pid)
    finder.wait_gone((), 60)  # nothing to wait for


def test_a_server_on_another_machine_has_no_process_here() -> None:
    assert RunnerFinder("http://192.0.2.1:11434").find(None) == ()


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:1", True),
        ("http://127.9.9.9:1", True),
        ("http://localhost:1", True),
        ("http://[::1]:1", True),
        ("http://[::]:1", True),
        ("http://192.0.2.1:1", False),
        ("https://ollama.example:443", False),
    ],
)
def test_loopback(url: str, here: bool) -> None:
    assert is_loopback(url) is here


def test_the_weights_are_the_from_line_of_the_modelfile() -> None:
    text = f"# FROM smollm2:135m\n\nFROM /my models/blobs/{A}\nADAPTER /x/{B}\n"
    assert blob_of(text) == A
    assert blob_of("FROM other:latest\n") is None
