"""How many workbenches a list of models passes through: two that know each other must not circle.

A workbench that asks a server for its models says in :data:`HEADER` for how many it does so. Other
servers ignore it; a workbench that reads it asks no third one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

HEADER: Final = "X-Workbench-Hops"

_count: ContextVar[int] = ContextVar("hops", default=0)


def count() -> int:
    """How many workbenches are between this one and whoever wants to know; 0 is none."""
    return _count.get()


@contextmanager
def arriving(header: str | None) -> Iterator[None]:
    """What is asked inside is asked for whoever sent this header; None: no workbench."""
    number = 0 if header is None else int(header) if re.fullmatch("[0-9]{1,3}", header) else 1
    token = _count.set(number)
    try:
        yield
    finally:
        _count.reset(token)
