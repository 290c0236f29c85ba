"""Runs code that nobody has read: in namespaces of its own, with hard limits.

The process sees no network, no other process and no file but Python and the system's libraries,
read-only, and an empty folder in memory; its environment is empty and its user owns nothing. It is
ended at its time limit, and all that it started with it. The namespaces are made by util-linux's
``unshare``, which needs no privileges where the kernel lets users have namespaces. Where it does
not, only limits and an empty environment are left (``contained`` is False): that stops accidents,
not attacks, and happens only if the caller asks for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

Ending = Literal["ok", "failed", "timeout", "output", "died"]

_CHILD: Final = Path(__file__).with_name("enclosure.py")
_SYSTEM: Final = ("/usr", "/lib", "/lib64", "/bin", "/sbin")
_SEARCH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
_WORK_BYTES: Final = 16 * 2**20
_FILES: Final = 32
_TAIL: Final = 2_000
_FIRST_UID: Final = 1_000_000_000
"""Far above the users of any machine: what runs as one of these owns nothing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What code may take; time in seconds, sizes in bytes. ``processes`` beside the first."""

    time_s: float = 10.0
    memory_bytes: int = 512 * 2**20
    output_bytes: int = 65_536
    processes: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended.

    ``ok``: code and tests ran to their end; ``failed``: they raised or exited; ``timeout``,
    ``output`` (it wrote too much) and ``died`` (by a signal): it was ended. ``output`` is the last
    part of what it wrote. ``contained`` says whether it ran in namespaces of its own.
    """

    ending: Ending
    output: str
    contained: bool


async def run(code: str, tests: str, limits: Limits, *, contain: bool = True) -> Outcome:
    """Run the code, then the tests in the same module.

    Args:
        code: Python source.
        tests: Python source that raises if the code is wrong.
        limits: what both together may take.
        contain: False leaves the namespaces out, see above.

    Raises:
        OSError: a process cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="workbench-code-") as folder:
        given = _request(code, tests, limits, folder if contain else None)
        process = await asyncio.create_subprocess_exec(
            *_command(contain),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={},
            cwd=folder,
            start_new_session=True,
        )
        ending: Ending | None = None
        written = bytearray()
        try:
            async with asyncio.timeout(limits.time_s):
                await _feed(process, json.dumps(given).encode())
                if not await _read(process, written, limits.output_bytes):
                    ending = "output"
                else:
                    await process.wait()
        except TimeoutError:
            ending = "timeout"
        finally:
            await _end(process)
    output = written.decode(errors="replace")
    if ending is None:
        ending = _ending(process.returncode or 0, output.endswith(given["mark"]))
    return Outcome(ending, output.replace(given["mark"], "")[-_TAIL:], contain)


@cache
def can_contain() -> bool:
    """Whether this machine lets us make the namespaces: tried once, with Python in them."""
    if sys.platform != "linux" or shutil.which("unshare", path=_SEARCH) is None:
        return False
    with tempfile.TemporaryDirectory(prefix="workbench-code-") as folder:
        given = _request("", "", Limits(), folder)
        try:
            tried = subprocess.run(
                _command(contain=True),
                input=json.dumps(given).encode(),
                capture_output=True,
                timeout=20,
                env={},
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
    return bool(tried.stdout == given["mark"].encode())


def _request(code: str, tests: str, limits: Limits, root: str | None) -> dict[str, Any]:
    """What the child is told: see :mod:`workbench.bench.scorers.enclosure`."""
    drawn = random.SystemRandom()
    return {
        "code": code,
        "tests": tests,
        "mark": f"\n{drawn.getrandbits(128):032x}\n",
        "root": root,
        "visible": _visible(),
        "work_bytes": _WORK_BYTES,
        "uid": _FIRST_UID + drawn.randrange(1_000_000_000) if os.geteuid() == 0 else None,
        "limits": {
            # Behind the clock's: what computes all the time would else be killed by either of them,
            # whichever is first, and only the clock's is told as what it is.
            "CPU": math.ceil(limits.time_s) + 1,
            "AS": limits.memory_bytes,
            "FSIZE": _WORK_BYTES,
            "NOFILE": _FILES,
            "CORE": 0,
            "NPROC": limits.processes + 1,
        },
    }


def _command(contain: bool) -> list[str]:
    python = Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")
    interpreter = str(python) if python.is_file() else os.path.realpath(sys.executable)
    child = [interpreter, "-I", "-S", "-B", str(_CHILD)]
    if not contain:
        return child
    return [
        shutil.which("unshare", path=_SEARCH) or "unshare",
        *(() if os.geteuid() == 0 else ("--user", "--map-root-user")),
        *("--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child=KILL", "--"),
        *child,
    ]


def _visible() -> Sequence[str]:
    """The folders that the code may read: the system's programs and libraries, and Python."""
    folders = [folder for folder in _SYSTEM if os.path.lexists(folder)]
    prefix = Path(sys.base_prefix).resolve()
    return folders if prefix.is_relative_to("/usr") else [*folders, str(prefix)]


def _ending(returncode: int, marked: bool) -> Ending:
    if returncode == 0 and marked:
        return "ok"
    # unshare ends by the signal that ended its child, or with 128 and its number.
    return "died" if returncode < 0 or returncode > 128 else "failed"


async def _feed(process: asyncio.subprocess.Process, payload: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(ConnectionError):  # it ended before it read all
        process.stdin.write(payload)
        await process.stdin.drain()
    process.stdin.close()


async def _read(process: asyncio.subprocess.Process, into: bytearray, most: int) -> bool:
    """Read to the end; False if there is more than ``most`` bytes, of which the last are kept."""
    assert process.stdout is not None
    while part := await process.stdout.read(65_536):
        into += part
        if len(into) > most:
            del into[:-_TAIL]
            return False
    return True


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill it and all that it started: the end of a PID namespace's first process ends the rest."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    # asyncio's wait() returns when the pipes have closed as well, and asyncio stops watching a pipe
    # whose reader has fallen behind: unread, it would never be seen to close.
    assert process.stdout is not None
    while await process.stdout.read(65_536):
        pass
    await process.wait()
