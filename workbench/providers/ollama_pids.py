"""Which process holds an Ollama model: the server starts one runner per model as its child.

Only on this machine, and only as far as the operating system shows other users' processes: the
command line of a runner is public, its server's open port may not be.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Final

import psutil

from workbench.providers.processes import RETRY_NS, Listener, alive, is_loopback

_BLOB: Final = re.compile(r"sha256-[0-9a-f]{64}")


def blob_of(modelfile: str) -> str | None:
    """The file name of the weights (``sha256-...``) in a Modelfile as ``/api/show`` gives it."""
    match = re.search(r"^FROM\s.*?(sha256-[0-9a-f]{64})", modelfile, re.MULTILINE)
    return match[1] if match else None


class RunnerFinder:
    """Finds runners and remembers them; safe to call from several threads, never raises.

    A remembered runner costs some 0.1 ms per call, so that a memory sampler can ask every time.
    """

    def __init__(self, url: str) -> None:
        self._listener = Listener(url if is_loopback(url) else None)
        self._runners: dict[str | None, tuple[psutil.Process, ...]] = {}
        self._retry_at: dict[str | None, int] = {}

    def find(self, blob: str | None, *, now: bool = False) -> Sequence[int]:
        """Process ids of the runners of these weights, empty if there are none to be found.

        Args:
            blob: file name of the weights; None means "the only runner there is".
            now: search again even if the last search was fruitless and recent.
        """
        if self._listener.port is None:
            return ()
        known = self._runners.get(blob, ())
        if known and all(alive(process) for process in known):
            return tuple(process.pid for process in known)
        if not now and time.monotonic_ns() < self._retry_at.get(blob, 0):
            return ()
        try:
            found = self._search(blob)
        except (psutil.Error, OSError):
            found = ()
        self._runners[blob] = found
        self._retry_at[blob] = 0 if found else time.monotonic_ns() + RETRY_NS
        return tuple(process.pid for process in found)

    def wait_gone(self, pids: Sequence[int], timeout_s: float) -> None:
        """Block until these processes have ended and their memory is free, or the time is up."""
        processes = [
            process for group in self._runners.values() for process in group if process.pid in pids
        ]
        psutil.wait_procs(processes, timeout=timeout_s)

    def _search(self, blob: str | None) -> tuple[psutil.Process, ...]:
        server = self._listener.process()
        if server is not None:
            candidates = server.children(recursive=True)
        elif blob is not None:
            # The server belongs to another user, who hides its port but not its runners.
            candidates = list(psutil.process_iter())
        else:
            return ()
        # A killed child stays as a zombie until its parent looks after it.
        candidates = [process for process in candidates if alive(process)]
        lines = {process: _command(process) for process in candidates}
        if blob is not None:
            exact = [process for process in candidates if blob in lines[process]]
            # A runner that works for other weights is never the answer.
            candidates = [process for process in candidates if not _BLOB.search(lines[process])]
            if exact:
                # Without the server we cannot tell its runner from another server's.
                return _roots(exact) if server is not None or len(exact) == 1 else ()
        alone = _roots(candidates)
        return alone if server is not None and len(alone) == 1 else ()


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _roots(processes: Sequence[psutil.Process]) -> tuple[psutil.Process, ...]:
    """Leave out those whose parent is in the list: the memory of a tree is read from its root."""
    pids = {process.pid for process in processes}
    return tuple(process for process in processes if _parent(process) not in pids)


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None
