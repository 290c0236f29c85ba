"""Processes of this machine that are not ours: who listens at an address, and is it still there."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import psutil

RETRY_NS: Final = 2_000_000_000
"""A search walks all processes (some 10 ms); a fruitless one is not repeated sooner."""


def is_loopback(url: str) -> bool:
    """Whether the URL names this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def alive(process: psutil.Process) -> bool:
    """Whether this very process still runs; a reused process id or a zombie does not count."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


class Listener:
    """The process that listens at a URL of this machine; safe to call from several threads.

    Args:
        url: None finds nobody.
    """

    def __init__(self, url: str | None) -> None:
        parts = urlsplit(url or "")
        self.port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        self._process: psutil.Process | None = None
        self._retry_at = 0

    def process(self) -> psutil.Process | None:
        """The process, looked for anew if the one that is known has ended.

        Raises:
            psutil.Error, OSError: the system does not tell.
        """
        if self.port is None:
            return None
        if self._process is not None and alive(self._process):
            return self._process
        self._process = None
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and connection.laddr
                and connection.laddr.port == self.port
                and connection.pid is not None
            ):
                self._process = psutil.Process(connection.pid)
                break
        return self._process

    def pids(self) -> Sequence[int]:
        """Its process id, or none; never raises, and cheap enough for a sampler."""
        now = time.monotonic_ns()
        if self._process is None and now < self._retry_at:
            return ()
        try:
            found = self.process()
        except (psutil.Error, OSError):
            found = None
        if found is None:
            self._retry_at = now + RETRY_NS
            return ()
        return (found.pid,)
