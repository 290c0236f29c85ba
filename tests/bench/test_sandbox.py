"""Code that nobody has read can compute, and nothing else."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest

from workbench.bench.items import Item
from workbench.bench.scorers import Answer, build, sandbox
from workbench.bench.scorers.sandbox import Limits, Outcome
from workbench.errors import WorkbenchError
from workbench.settings import Settings

SHORT = Limits(time_s=20, memory_bytes=2**28)
contained = pytest.mark.skipif(
    not sandbox.can_contain(), reason="this machine allows no namespaces"
)


def run(code: str, tests: str = "", limits: Limits = SHORT, *, contain: bool = True) -> Outcome:
    return asyncio.run(sandbox.run(code, tests, limits, contain=contain))


def test_right_and_wrong() -> None:
    for contain in {sandbox.can_contain(), False}:
        code = "import math, re, collections\ndef f(x):\n    return x + 1\n"
        assert run(code, "assert f(1) == 2", contain=contain).ending == "ok"
        wrong = run(code, "assert f(1) == 3", contain=contain)
        assert wrong.ending == "failed"
        assert "AssertionError" in wrong.output


HOSTILE = {
    "memory": ("x = 'a' * 2**30", "MemoryError"),
    "fork bomb": ("import os\nwhile True: os.fork()", "BlockingIOError"),
    "threads": ("import threading\nthreading.Thread(target=print).start()", "can't start"),
    "programs": ("import subprocess\nsubprocess.run(['/bin/true'])", "BlockingIOError"),
    "network": (
        "import socket\nsocket.create_connection(('1.1.1.1', 53), 2)",
        "Network is unreachable",
    ),
    "writing": ("open('/usr/x', 'w')", "Read-only file system"),
    "a large file": ("open('/tmp/x', 'wb').write(b'x' * 10**8)", "Error"),
    "many files": ("f = [open('/tmp/%d' % i, 'w') for i in range(100)]", "Too many open files"),
    "a mount": (
        "import ctypes\nassert ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, 0) == 0",
        "AssertionError",
    ),
    "another user": ("import os\nos.setuid(0) or os.chroot('/tmp')", "PermissionError"),
    "an end without tests": ("import os\nos._exit(0)", ""),
    "an exit": ("raise SystemExit(0)", ""),
}


@contained
@pytest.mark.parametrize("attack", HOSTILE)
def test_what_it_may_not_do(attack: str) -> None:
    code, said = HOSTILE[attack]
    outcome = run(code, "pass")
    assert outcome.ending == "failed", outcome
    assert said in outcome.output


@contained
def test_it_sees_no_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    secret = tmp_path / "secret"
    secret.write_text("hf_secret")
    secret.chmod(0o644)
    outcome = run(
        "import os\n"
        "print([v for k, v in os.environ.items() if k != 'LC_CTYPE'])\n"  # Python's own doing
        f"print([p for p in ({str(secret)!r}, '/etc/passwd', '/proc/1', '/sys', '/dev/sda',"
        f" '/home', '/var', {str(Path.home() / '.ssh')!r}) if os.path.exists(p)])\n"
        "print(os.listdir('/tmp'), os.getppid())\n",
        "assert False",
    )
    assert "hf_secret" not in outcome.output
    assert outcome.output.startswith("[]\n[]\n[] ")


@contained
def test_a_server_of_this_machine_cannot_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        outcome = run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)")
    assert outcome.ending == "failed"
    assert "unreachable" in outcome.output or "refused" in outcome.output


@pytest.mark.parametrize("contain", [False, pytest.param(True, marks=contained)])
def test_an_endless_loop_and_endless_output_end(contain: bool) -> None:
    began = time.monotonic()
    assert run("while True: pass", limits=Limits(time_s=1), contain=contain).ending == "timeout"
    assert time.monotonic() - began < 30
    assert run("while True: print('x' * 1000)", contain=contain).ending == "output"


async def test_its_end_does_not_wait_for_output_that_nobody_read() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "while True: print('x' * 1000)",
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    async with asyncio.timeout(60):
        while not process.stdout._paused:  # type: ignore[union-attr]
            await asyncio.sleep(0.01)
        await sandbox._end(process)
    assert process.returncode == -signal.SIGKILL


@contained
def test_what_it_started_ends_with_it() -> None:
    """With processes allowed it still leaves none behind, also when it hides from its group."""
    mark = f"{time.monotonic_ns()}"
    code = (
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        f"    os.execv(sys.executable, ['left', '-c', 'import time; time.sleep(60)', '{mark}'])\n"
        "time.sleep(60)\n"
    )
    assert run(code, limits=Limits(time_s=1.5, processes=4)).ending == "timeout"
    left = [p for p in psutil.process_iter(["cmdline"]) if mark in (p.info["cmdline"] or ())]
    assert not left


def test_no_code_runs_where_it_cannot_be_contained(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setattr(sandbox, "can_contain", lambda: False)
    asked = Item.of("i", "Write f.", meta={"tests": "assert f() == 1"})
    answer = Answer("```python\ndef f():\n    return 1\n```")
    with pytest.raises(WorkbenchError, match="cannot be run here") as caught:
        asyncio.run(build("code", settings).score(asked, answer))
    assert "WORKBENCH_BENCH_UNCONTAINED_CODE" in caught.value.fix
    accepted = settings.model_copy(update={"workbench_bench_uncontained_code": True})
    score = asyncio.run(build("code", accepted).score(asked, answer))
    assert score.passed
    assert score.details["contained"] is False, "the score says so"
