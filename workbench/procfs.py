"""What the kernel says of one process: whether it lives, and its memory at two prices.

``status`` costs some 30 µs whatever the size of the process. ``rollup`` walks all its pages (10 ms
for a gigabyte) and holds its locks meanwhile. Between two walks PSS follows from RSS.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

_KIB: Final = 1024
_FIELD: Final = re.compile(r"^(\w+):\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Resident:
    """Bytes in memory, shared pages counted in full: now, and at the process's peak."""

    rss_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Rollup:
    """The pages of a process, bytes.

    ``pss_bytes`` counts shared pages by share. ``file_bytes`` is the part of it that are pages of
    files, which the kernel may drop and which it counts as available.
    """

    rss_bytes: int
    pss_bytes: int
    file_bytes: int


def status(pid: int) -> Resident | None:
    """Cheap, also for other users' processes; None if the process is gone.

    A process that was forked has its parent's memory of that moment in its peak.
    """
    fields = _fields(f"/proc/{pid}/status")
    if "VmRSS" in fields:
        return Resident(fields["VmRSS"], max(fields.get("VmHWM", 0), fields["VmRSS"]))
    try:  # not Linux
        rss = int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None
    return Resident(rss, rss) if rss else None


def rollup(pid: int) -> Rollup | None:
    """Dear; None if the process is gone or another user's."""
    fields = _fields(f"/proc/{pid}/smaps_rollup")
    if "Pss" not in fields:
        return None
    return Rollup(fields["Rss"], fields["Pss"], fields.get("Pss_File", 0))


def held_bytes(pid: int) -> int | None:
    """What a process holds, shared pages by share; None if it is gone.

    Where the kernel does not tell, they are counted in full.
    """
    if (pages := rollup(pid)) is not None:
        return pages.pss_bytes
    public = status(pid)
    return public.rss_bytes if public is not None else None


def _fields(path: str) -> dict[str, int]:
    try:
        text = Path(path).read_text()
    except OSError:
        return {}
    return {name: int(kib) * _KIB for name, kib in _FIELD.findall(text)}


def this_process() -> dict[str, Any]:
    """Who runs it, so that a run without its process can be told from one under way."""
    return {"pid": os.getpid(), "started": psutil.Process().create_time()}


def is_alive(process: Mapping[str, Any]) -> bool:
    """Whether the process that ran it still does."""
    try:
        found = psutil.Process(int(process["pid"]))
        return abs(found.create_time() - float(process["started"])) < 1
    except (psutil.Error, KeyError, ValueError, TypeError):
        return False
