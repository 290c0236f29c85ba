"""Models on the disk of an Ollama server: pulled with progress, measured, deleted."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

from workbench.errors import ErrorCode, WorkbenchError, invalid
from workbench.jobs import Reporter
from workbench.providers import ollama_wire as wire
from workbench.providers.ollama_errors import broken, seam

_NAME: Final = re.compile(r"[A-Za-z0-9][\w.:/-]{0,199}")
_LOOK_S: Final = 0.2
_DELETE_S: Final = 60.0
_NOT_THERE: Final = ("file does not exist", "not found")


@dataclass(slots=True)
class Progress:
    """What the lines of a pull add up to: each layer tells of itself alone."""

    done: dict[str, int] = field(default_factory=dict)
    total: dict[str, int] = field(default_factory=dict)
    status: str = ""

    def take(self, line: Mapping[str, Any]) -> None:
        """Account for a line."""
        self.status = str(line.get("status", ""))
        digest, total = line.get("digest"), line.get("total")
        if isinstance(digest, str) and isinstance(total, int):
            self.total[digest] = total
            completed = line.get("completed")
            self.done[digest] = completed if isinstance(completed, int) else 0

    def tell(self, report: Reporter) -> None:
        """Pass it on."""
        words = "pulling" if self.status.startswith("pulling ") else self.status
        report(words, sum(self.done.values()), sum(self.total.values()) or None)


def checked(name: str) -> str:
    """The name, if Ollama could have a model of it.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``.
    """
    name = name.strip()
    if not _NAME.fullmatch(name) or ".." in name or "//" in name:
        raise invalid(
            f"{name[:100]!r} is no name of an Ollama model.",
            fix="Give it as in Ollama's library: smollm2:135m.",
        )
    return name


def pull(url: str, name: str, report: Reporter, cancelled: threading.Event) -> Mapping[str, Any]:
    """Let the server pull a model; blocks. What has come is kept by it when this is stopped.

    Returns:
        ``id``, ``size_bytes`` of its layers, ``digest``.

    Raises:
        WorkbenchError: ``CANCELLED``, ``OLLAMA_PULL_FAILED``, ``OLLAMA_MODEL_NOT_FOUND`` and those
            of a server that is not there.
    """
    return asyncio.run(_pull(url, name, report, cancelled))


async def _pull(
    url: str, name: str, report: Reporter, cancelled: threading.Event
) -> Mapping[str, Any]:
    from workbench.providers.ollama_client import OllamaClient

    client = OllamaClient(url)
    try:
        reading = asyncio.create_task(_read(client, url, name, report))
        while not (await asyncio.wait({reading}, timeout=_LOOK_S))[0]:
            if cancelled.is_set():
                reading.cancel()
                await asyncio.wait({reading})
                raise WorkbenchError(
                    ErrorCode.CANCELLED, f"The pull of {name} was stopped.", operation="pull"
                )
        total = reading.result()
        with seam("pull", url, name):
            tags = wire.models_by_name(await client.call("GET", "/api/tags"))
        tag = tags.get(wire.canonical(name), {})
        return {
            "id": f"ollama/{name}",
            "size_bytes": tag.get("size", total),
            "digest": tag.get("digest"),
        }
    finally:
        await client.aclose()


async def _read(client: Any, url: str, name: str, report: Reporter) -> int:
    progress = Progress()
    with seam("pull", url, name):
        try:
            async with aclosing(client.lines("/api/pull", {"model": name})) as lines:
                async for _, line in lines:
                    progress.take(line)
                    progress.tell(report)
        except Exception as error:
            raise _explained(error, name) or error from error
        if progress.status != "success":
            raise broken(f"The pull of {name} ended in the middle.", "pull", url, name)
    return sum(progress.total.values())


def _explained(error: Exception, name: str) -> WorkbenchError | None:
    """What Ollama said inside the stream of a pull; None for what the seam explains better."""
    import ollama

    if not isinstance(error, ollama.ResponseError) or error.status_code not in (-1, 500):
        return None
    said = str(error.error)
    if any(words in said for words in _NOT_THERE):
        return WorkbenchError(
            ErrorCode.OLLAMA_MODEL_NOT_FOUND,
            f"The registry has no model {name!r} ({said}).",
            fix="See ollama.com/library for the names.",
            operation="pull",
            provider="ollama",
        )
    return WorkbenchError(
        ErrorCode.OLLAMA_PULL_FAILED,
        f"Ollama could not pull {name}: {said}",
        fix="See whether the Ollama server reaches its registry and has room on its disk; what has "
        "come is kept for the next try.",
        operation="pull",
        provider="ollama",
    )


async def occupied(url: str, name: str) -> tuple[int, tuple[str, ...]]:
    """The bytes that deleting a name would free, and the other names of the same weights.

    With other names nothing is freed: they keep the files.

    Raises:
        WorkbenchError: ``OLLAMA_MODEL_NOT_FOUND`` and those of a server that is not there.
    """
    from workbench.providers.ollama_client import OllamaClient

    client = OllamaClient(url)
    try:
        with seam("show", url, name):
            tags = wire.models_by_name(await client.call("GET", "/api/tags"))
    finally:
        await client.aclose()
    key = wire.canonical(name)
    if key not in tags:
        raise WorkbenchError(
            ErrorCode.OLLAMA_MODEL_NOT_FOUND,
            f"Ollama has no model {name!r}.",
            fix="See `ollama list`.",
            operation="delete",
            provider="ollama",
        )
    same = tuple(
        wire.name_of(tag)
        for other, tag in tags.items()
        if other != key and tag.get("digest") == tags[key].get("digest")
    )
    return (0 if same else int(tags[key].get("size") or 0)), same


async def delete(url: str, name: str) -> int:
    """Delete a name from the server's disk; its files go with the last name of them.

    Returns:
        The bytes that it occupied alone, as Ollama counts them.

    Raises:
        WorkbenchError: as :func:`occupied`.
    """
    from workbench.providers.ollama_client import OllamaClient

    freed, _ = await occupied(url, name)
    client = OllamaClient(url)
    try:
        with seam("delete", url, name):
            await client.send("DELETE", "/api/delete", {"model": name}, read_s=_DELETE_S)
    finally:
        await client.aclose()
    return freed
