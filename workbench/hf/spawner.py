"""The server's side of the zygote: starts it, asks it for workers, hears how they ended."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import IO, Final

from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf import child
from workbench.hf.protocol import Decoder, Exited, Fork, Forked, ProtocolError, encode

# Enough for the stacks of all threads, as faulthandler writes them.
_TAIL_BYTES: Final = 12_000
_STOP_S: Final = 5.0
FEW_CORES: Final = 4
_BRIEF: Final = "5000"
"""Turns of the loop in which a thread of libgomp waits before it sleeps: some 50 us."""


class OutputFile:
    """What a child process writes to stdout and stderr: a file without a name.

    Nothing is left behind, the terminal stays clean, and nobody has to keep reading a pipe.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as self
        # Appending, as stdout and stderr are written independently.
        fcntl.fcntl(self._file, fcntl.F_SETFL, os.O_APPEND)

    def fileno(self) -> int:
        """The descriptor to hand to the child."""
        return self._file.fileno()

    def tail(self) -> str:
        """The last few kilobytes of what was written."""
        if self._file.closed:
            return ""
        size = os.fstat(self.fileno()).st_size
        data = os.pread(self.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        return data.decode("utf-8", "replace").strip()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a worker process ended; both None if the zygote could not say."""

    exit_code: int | None = None
    signal: int | None = None


def _with_large_pages(tunables: str) -> str:
    """Have malloc ask for pages of 2 MiB, where the system gives them to those who ask.

    A decoding step reads all weights, and spent a sixth of its time on looking up their pages.
    Other C libraries ignore the variable, glibc reads it since 2.35.
    """
    return ":".join(filter(None, [tunables, "glibc.malloc.hugetlb=1"]))


class Zygote:
    """A running zygote. Any thread may use it.

    Args:
        environment: variables for it and its workers, on top of this process's own. Those that
            OpenMP reads count only before torch is imported, hence here and not later.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._output = OutputFile()
        self._lock = threading.Lock()
        self._next = 0
        self._forks: dict[int, Future[int]] = {}
        self._ends: dict[int, Future[Ended]] = {}
        self.closed = False
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                child.command("workbench.hf.zygote", str(theirs.fileno())),
                env=child.environment(
                    # Threads of numpy's BLAS would be a second thread in the zygote.
                    OPENBLAS_NUM_THREADS="1",
                    # Asking for a GPU through CUDA would make it unusable after a fork.
                    PYTORCH_NVML_BASED_CUDA_CHECK="1",
                    # Workers read local files only; whatever they load must not reach out.
                    HF_HUB_OFFLINE="1",
                    GLIBC_TUNABLES=_with_large_pages(os.environ.get("GLIBC_TUNABLES", "")),
                    **environment,
                ),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output.fileno(),
                stderr=self._output.fileno(),
                # Ctrl-C in the terminal goes to the server alone, which ends its workers in order.
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True, name="zygote-reader")
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id of the zygote."""
        return self._process.pid

    def fork(self, sock: socket.socket, output: OutputFile) -> Future[int]:
        """Start a worker that serves ``sock``; the future gives its process id.

        Raises:
            WorkbenchError: ``HF_PIPELINE_ERROR``, at once or from the future, if the zygote is
                gone; ``details.transient`` is true.
        """
        with self._lock:
            if self.closed:
                raise self._gone()
            self._next += 1
            future: Future[int] = Future()
            self._forks[self._next] = future
            try:
                socket.send_fds(
                    self._control, [encode(Fork(self._next))], [sock.fileno(), output.fileno()]
                )
            except OSError:
                del self._forks[self._next]
                raise self._gone() from None
        return future

    def ended(self, pid: int) -> Future[Ended]:
        """A future that is done when the worker has ended and was reaped."""
        with self._lock:
            future = self._ends.setdefault(pid, Future())
            if self.closed and not future.done():
                future.set_result(Ended())
            return future

    def forget(self, pid: int) -> None:
        """Nobody will ask again how this worker ended."""
        with self._lock:
            self._ends.pop(pid, None)

    def close(self) -> None:
        """End the zygote; its workers end when their own sockets close."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        if not self._next:  # it may be importing, and sees nothing before that is done
            self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(_STOP_S)
        self._control.close()
        self._output.close()

    def _read(self) -> None:
        decoder = Decoder()
        with contextlib.suppress(OSError, ProtocolError):
            while data := self._control.recv(65536):
                for message in decoder.feed(data):
                    self._handle(message)
        with self._lock:
            self.closed = True
            forks, ends = list(self._forks.values()), list(self._ends.values())
            self._forks.clear()
        error = self._gone()
        for fork in forks:
            with contextlib.suppress(InvalidStateError):  # nobody waits for it any more
                fork.set_exception(error)
        for end in ends:
            with contextlib.suppress(InvalidStateError):
                end.set_result(Ended())

    def _handle(self, message: object) -> None:
        with self._lock:
            if isinstance(message, Forked):
                self._ends.setdefault(message.pid, Future())
                future = self._forks.pop(message.worker, None)
                if future is not None:
                    # Cancelled meanwhile: the caller closes the socket and the worker exits.
                    with contextlib.suppress(InvalidStateError):
                        future.set_result(message.pid)
            elif isinstance(message, Exited):
                end = self._ends.setdefault(message.pid, Future())
                with contextlib.suppress(InvalidStateError):
                    end.set_result(Ended(message.exit_code, message.signal))

    def _gone(self) -> WorkbenchError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        return WorkbenchError(
            ErrorCode.HF_PIPELINE_ERROR,
            f"The process that starts Hugging Face workers ended "
            f"(exit code {self._process.returncode}).",
            fix="Check that torch and transformers can be imported; `workbench doctor` tells more.",
            operation="load",
            provider="huggingface",
            details={"transient": True, "output": self._output.tail()},
        )


def waiting(policy: str) -> dict[str, str]:
    """Environment of a zygote whose workers' threads wait for each other that way.

    Args:
        policy: ``active`` (threads spin for milliseconds), ``brief`` (for the few microseconds
            between two operators, then they sleep), ``passive`` (they sleep at once), or ``auto``:
            brief on up to :data:`FEW_CORES` cores, where the server, a browser and another runtime
            want the core of a thread that has nothing to do. It is as quick as ``active``.
    """
    if policy == "auto":
        policy = "brief" if (os.cpu_count() or 1) <= FEW_CORES else "active"
    ways = {"brief": {"GOMP_SPINCOUNT": _BRIEF}, "passive": {"OMP_WAIT_POLICY": "passive"}}
    return ways.get(policy, {})


# -- one zygote per environment, shared by all who use it ------------------------------------------

_Key = tuple[tuple[str, str], ...]
_lock = threading.Lock()
_zygotes: dict[_Key, tuple[Zygote, int]] = {}


class Lease:
    """The right to use the zygote of one environment; it lives while somebody holds a lease.

    Starting one takes seconds and hundreds of megabytes, so managers share it.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = dict(environment or {})
        self._key: _Key = tuple(sorted(self._environment.items()))
        self._held: Zygote | None = None

    def zygote(self) -> Zygote:
        """The zygote, started if there is none or the last one died. Does not wait for it."""
        with _lock:
            if self._held is not None:
                if not self._held.closed:
                    return self._held
                self._held.close()
                self._held = None
            zygote, holders = _zygotes.get(self._key, (None, 0))
            if zygote is None or zygote.closed:
                zygote, holders = Zygote(self._environment), 0
            _zygotes[self._key] = (zygote, holders + 1)
            self._held = zygote
            return zygote

    def release(self) -> None:
        """Give the lease back; the last one ends the zygote. Blocks until it is gone."""
        with _lock:
            held, self._held = self._held, None
            current, holders = _zygotes.get(self._key, (None, 0))
            if held is not None and held is current:
                if holders > 1:
                    _zygotes[self._key] = (held, holders - 1)
                    return
                del _zygotes[self._key]
        if held is not None:
            held.close()


@atexit.register
def _end_all() -> None:
    """Leave no zygote behind when somebody forgot to give a lease back."""
    with _lock:
        left = [zygote for zygote, _ in _zygotes.values()]
        _zygotes.clear()
    for zygote in left:
        zygote.close()
