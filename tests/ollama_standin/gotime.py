"""Instants and durations the way Go writes and reads them."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

NANOS = 1_000_000_000
FOREVER = 2**63 - 1
"""Go's largest duration in nanoseconds (292 years): how the server stores "never unload"."""

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": NANOS,
    "m": 60 * NANOS,
    "h": 3600 * NANOS,
}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)([^\d.]*)")


def _rfc3339nano(instant_ns: int, *, local: bool) -> str:
    """Go's RFC3339Nano: zeros at the end of the fraction are dropped, zero offset is ``Z``."""
    seconds, nanos = divmod(instant_ns, NANOS)
    moment = datetime.fromtimestamp(seconds, UTC)
    if local:
        moment = moment.astimezone()
    fraction = f".{nanos:09d}".rstrip("0").rstrip(".")
    offset = moment.strftime("%z")
    zone = "Z" if offset == "+0000" else f"{offset[:3]}:{offset[3:5]}"
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}{zone}"


def created_at() -> str:
    """Now in UTC, as answer lines carry it."""
    return _rfc3339nano(time.time_ns(), local=False)


def local_time(instant_ns: int) -> str:
    """An instant with the server's own offset, as ``expires_at`` carries it."""
    return _rfc3339nano(instant_ns, local=True)


def http_date() -> bytes:
    """The Date header."""
    return datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT").encode("ascii")


def parse_duration(text: str) -> int:
    """Nanoseconds of a Go duration such as ``1h30m``; ValueError carries Go's message."""
    sign, rest = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    total = 0.0
    position = 0
    while position < len(rest):
        part = _PART.match(rest, position)
        if part is None:
            break
        number, unit = part.groups()
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit not in _UNITS:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        total += float(number) * _UNITS[unit]
        position = part.end()
    if not rest or position < len(rest):
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * round(total)
