"""``/api/pull`` of a machine without a network: the only case that could be recorded."""

from __future__ import annotations

import re

from .catalog import full_name
from .errors import invalid_name
from .requests import NamedRequest
from .wire import BARE_JSON, Answer

_RESOLVER = "127.0.0.53:53"
_ADDRESS = re.compile(r"[\d.]+:\d+")


def _failure(name: str) -> str:
    scheme, separator, rest = name.partition("://")
    if not separator:
        scheme, rest = "https", name
    path, tag = full_name(rest).rsplit(":", 1)
    parts = path.split("/")
    defaults = ["registry.ollama.ai", "library"]
    host, space, model = *defaults[: 3 - len(parts)], *parts
    cause = (
        f"dial tcp {host}: connect: connection refused"
        if _ADDRESS.fullmatch(host)
        else f"dial tcp: lookup {host} on {_RESOLVER}: no such host"
    )
    return (
        f'pull model manifest: Get "{scheme}://{host}/v2/{space}/{model}/manifests/{tag}": {cause}'
    )


async def pull(request: NamedRequest, answer: Answer) -> None:
    """Fail the way a pull without a network fails."""
    if not request.wanted:
        raise invalid_name()
    error = {"error": _failure(request.wanted)}
    if not request.stream:
        await answer.json(error, 500, BARE_JSON)
        return
    await answer.line({"status": "pulling manifest"})
    await answer.line(error)
    await answer.end()
