"""Ids of all that is logged."""

from __future__ import annotations

import os
from typing import Final

_ID_BYTES: Final = 10
_DRAWN: Final = 256
_random: list[str] = []
"""Drawn from the system in advance: asking it for each id took longer than all else of a request
where system calls are watched (0.5 ms in a sandbox)."""
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_random.clear)


def new_id(prefix: str) -> str:
    """A unique id such as ``ses_3f2a...``; the prefix says what it names."""
    try:
        return f"{prefix}_{_random.pop()}"
    except IndexError:
        drawn = os.urandom(_ID_BYTES * _DRAWN).hex()
        _random.extend(drawn[i : i + 2 * _ID_BYTES] for i in range(0, len(drawn), 2 * _ID_BYTES))
        return new_id(prefix)
