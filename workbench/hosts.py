"""Several hosts of one runtime: how they are named, and which one takes a request. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_NAME: Final = re.compile(r"^[a-z0-9][a-z0-9_-]{0,39}$")
LOAD_COST: Final = 1
"""Bringing a model into memory counts like so many requests ahead of this one."""


def provider(family: str, host: str) -> str:
    """The name of the provider that speaks to one of several hosts: ``ollama@attic``."""
    return f"{family}@{host}"


def family(provider: str) -> str:
    """The runtime behind a provider, or behind the provider of a model id."""
    return provider.partition("/")[0].partition("@")[0]


def read(value: object) -> object:
    """``name=host, name=host`` as a mapping; what is no text stays as it is.

    Raises:
        ValueError: a pair is none, or a name is wrong or there twice.
    """
    if not isinstance(value, str):
        return value
    found: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in value.split(","))):
        name, mark, host = (part.strip() for part in item.partition("="))
        if not mark or not host:
            raise ValueError(f"{item!r} is no pair; give name=host:port")
        if not _NAME.match(name):
            raise ValueError(f"{name!r} is no name: lower-case letters, digits, - and _")
        if name in found:
            raise ValueError(f"two hosts are named {name}")
        found[name] = host
    return found


def distinct(urls: dict[str, str]) -> dict[str, str]:
    """The same hosts, if no two are one server: it would be listed and measured twice.

    Raises:
        ValueError: two have one address; ``localhost`` is 127.0.0.1.
    """
    known: dict[str, str] = {}
    for name, url in urls.items():
        address = re.sub(r"//localhost(?=:)", "//127.0.0.1", url.lower())
        if address in known:
            raise ValueError(f"{known[address]} and {name} are one server ({url}); name it once")
        known[address] = name
    return urls


@dataclass(frozen=True, slots=True)
class Host:
    """One host as it stands. ``busy`` are requests that it has, running and waiting."""

    provider: str
    answers: bool
    has: bool
    resident: bool
    busy: int


def choose(hosts: Sequence[Host]) -> str | None:
    """Who takes a request: of those that answer and have the model, the one with least to do.

    A load counts as work too, so a busy host with the model in memory gives way to an idle one
    without. Between equals the model in memory decides, then the order of registration.
    """
    able = [host for host in hosts if host.answers and host.has]
    if not able:
        return None
    best = min(able, key=lambda h: (h.busy + (0 if h.resident else LOAD_COST), not h.resident))
    return best.provider
