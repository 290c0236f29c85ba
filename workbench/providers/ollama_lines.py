"""The lines of one answer of Ollama, up to the one that says it is done."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from workbench.providers.base import CancellationToken
from workbench.providers.lines import Line, read_apart
from workbench.providers.ollama_errors import MalformedAnswer

if TYPE_CHECKING:
    from workbench.providers.ollama_client import OllamaClient


async def answer_lines(
    client: OllamaClient, path: str, body: Mapping[str, Any], cancel: CancellationToken
) -> AsyncGenerator[Line, None]:
    """The lines up to ``done`` or the cancellation; see :func:`read_apart`."""

    def done(line: Mapping[str, Any]) -> bool:
        return bool(line.get("done"))

    complete = False
    async with aclosing(read_apart(client.lines(path, body), cancel, done)) as lines:
        async for item in lines:
            yield item
            complete = done(item[1])
    if not complete and not cancel.cancelled:
        raise MalformedAnswer("the answer ended without its last line")
