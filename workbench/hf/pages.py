"""Weights in pages of 2 MiB: a step reads all of them, and looks up fewer page addresses (Linux).

Half of the matrices of a small model are smaller than such a page, so the system, asked for large
pages beforehand, would not give them; but they lie side by side, and what lies side by side can be
merged once it is there (``MADV_COLLAPSE``, Linux 6.1). Where it cannot be, nothing changes.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path
from typing import Final

LARGE_BYTES: Final = 2 * 2**20
_COLLAPSE: Final = 25
_FULL: Final = 0.9
"""Share of an area that is in use; merging a sparse one would make it take more memory."""

Area = tuple[int, int]
"""First address, and the one after the last."""


def areas(smaps: str, *, full: float = 0.0) -> list[Area]:
    """Areas of private memory that no file is behind, in the order of their addresses.

    Args:
        smaps: text as of ``/proc/self/smaps``.
        full: leave out areas of which a smaller share than this is in use.
    """
    found: list[Area] = []
    area: Area | None = None
    for line in smaps.splitlines():
        fields = line.split()
        if "-" in fields[0] and not fields[0].endswith(":"):
            low, high = (int(part, 16) for part in fields[0].split("-"))
            anonymous = fields[1].startswith("rw-p") and fields[4] == "0"
            named = len(fields) > 5 and fields[5] != "[heap]"
            area = (low, high) if anonymous and not named else None
        elif fields[0] == "Rss:" and area is not None:
            if int(fields[1]) * 1024 >= full * (area[1] - area[0]):
                found.append(area)
            area = None
    return found


def without(area: Area, others: list[Area]) -> list[Area]:
    """What of an area is in none of the others, which are in order."""
    low, high = area
    left: list[Area] = []
    for other_low, other_high in others:
        if other_high <= low or other_low >= high:
            continue
        if other_low > low:
            left.append((low, other_low))
        low = max(low, other_high)
    return [*left, (low, high)] if low < high else left


def present() -> list[Area]:
    """The areas of this process now; none where the system does not tell."""
    with suppress(OSError):
        return areas(Path("/proc/self/smaps").read_text())
    return []


def merge(before: list[Area]) -> int:
    """Merge the pages of what has come since; returns the bytes that are in large pages for it.

    Args:
        before: of :func:`present`; left alone, as merging would copy what this process shares with
            the one that it was forked from.
    """
    merged = 0
    with suppress(OSError, AttributeError):
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for area in areas(Path("/proc/self/smaps").read_text(), full=_FULL):
            for low, high in without(area, before):
                first = -(-low // LARGE_BYTES) * LARGE_BYTES
                size = (high - first) // LARGE_BYTES * LARGE_BYTES
                if size > 0 and madvise(first, size, _COLLAPSE) == 0:
                    merged += size
    return merged
