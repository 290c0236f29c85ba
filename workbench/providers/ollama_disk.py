"""Models on the disk of an Ollama server: pulled with progress, measured, deleted."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from workbench.errors import ErrorCode, WorkbenchError, invalid
from workbench.jobs import Reporter
from workbench.model_ids import tagged
from workbench.providers import ollama_wire as wire
from workbench.providers.ollama_errors import Server, broken, seam

if TYPE_CHECKING:
    from workbench.providers.ollama_client import OllamaClient

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
    """The name with its tag, if Ollama could have a model of it.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``.
    """
    name = name.strip()
    if not _NAME.fullmatch(name) or ".." in name or "//" in name:
        raise invalid(
            f"{name[:100]!r} is no name of an Ollama model.",
            fix="Give it as in Ollama's library: smollm2:135m.",
        )
    return tagged(name)


class OllamaDisk:
    """The disk of one Ollama server.

    Args:
        server: which one.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.place = f"Ollama server at {server.place}"
        """Where its models lie, in words."""

    def pull(self, name: str, report: Reporter, cancelled: threading.Event) -> Mapping[str, Any]:
        """Let the server pull a model; blocks. It keeps what has come when this is stopped.

        Returns:
            ``id``, ``size_bytes`` of its layers, ``digest``.

        Raises:
            WorkbenchError: ``CANCELLED``, ``OLLAMA_PULL_FAILED``, ``OLLAMA_MODEL_NOT_FOUND`` and
                those of a server that is not there.
        """
        return asyncio.run(self._pull(name, report, cancelled))

    async def occupied(self, name: str) -> tuple[int, tuple[str, ...]]:
        """The bytes that deleting a name would free, and the other names of the same weights.

        With other names nothing is freed: they keep the files.

        Raises:
            WorkbenchError: ``OLLAMA_MODEL_NOT_FOUND`` and those of a server that is not there.
        """
        async with self._asking("show", name) as client:
            tags = wire.models_by_name(await client.call("GET", "/api/tags"))
        key = wire.canonical(name)
        if key not in tags:
            raise self._error(
                ErrorCode.OLLAMA_MODEL_NOT_FOUND,
                f"{self._server.name} has no model {name!r}.",
                "See `workbench models list`.",
                "delete",
            )
        same = tuple(
            wire.name_of(tag)
            for other, tag in tags.items()
            if other != key and tag.get("digest") == tags[key].get("digest")
        )
        return (0 if same else int(tags[key].get("size") or 0)), same

    async def delete(self, name: str) -> int:
        """Delete a name from the server's disk; its files go with the last name of them.

        Returns:
            The bytes that it occupied alone, as Ollama counts them.

        Raises:
            WorkbenchError: as :meth:`occupied`.
        """
        freed, _ = await self.occupied(name)
        async with self._asking("delete", name) as client:
            await client.send("DELETE", "/api/delete", {"model": name}, read_s=_DELETE_S)
        return freed

    @asynccontextmanager
    async def _asking(self, operation: str, name: str) -> AsyncIterator[OllamaClient]:
        """A client whose failures are mapped."""
        from workbench.providers.ollama_client import OllamaClient

        client = OllamaClient(self._server.url)
        try:
            with seam(operation, self._server, name):
                yield client
        finally:
            await client.aclose()

    async def _pull(
        self, name: str, report: Reporter, cancelled: threading.Event
    ) -> Mapping[str, Any]:
        async with self._asking("pull", name) as client:
            reading = asyncio.create_task(self._read(client, name, report))
            while not (await asyncio.wait({reading}, timeout=_LOOK_S))[0]:
                if cancelled.is_set():
                    reading.cancel()
                    await asyncio.wait({reading})
                    raise WorkbenchError(
                        ErrorCode.CANCELLED, f"The pull of {name} was stopped.", operation="pull"
                    )
            total = reading.result()
            tags = wire.models_by_name(await client.call("GET", "/api/tags"))
        tag = tags.get(wire.canonical(name), {})
        return {
            "id": f"{self._server.provider}/{name}",
            "size_bytes": tag.get("size", total),
            "digest": tag.get("digest"),
        }

    async def _read(self, client: OllamaClient, name: str, report: Reporter) -> int:
        progress = Progress()
        try:
            async with aclosing(client.lines("/api/pull", {"model": name})) as lines:
                async for _, line in lines:
                    progress.take(line)
                    progress.tell(report)
        except Exception as error:
            raise self._explained(error, name) or error from error
        if progress.status != "success":
            raise broken(f"The pull of {name} ended in the middle.", "pull", self._server, name)
        return sum(progress.total.values())

    def _explained(self, error: Exception, name: str) -> WorkbenchError | None:
        """What Ollama said inside the stream of a pull; None for what the seam explains better."""
        import ollama

        if not isinstance(error, ollama.ResponseError) or error.status_code not in (-1, 500):
            return None
        said = str(error.error)
        if any(words in said for words in _NOT_THERE):
            return self._error(
                ErrorCode.OLLAMA_MODEL_NOT_FOUND,
                f"The registry has no model {name!r} ({said}).",
                "See ollama.com/library for the names.",
                "pull",
            )
        return self._error(
            ErrorCode.OLLAMA_PULL_FAILED,
            f"{self._server.name} could not pull {name}: {said}",
            "See whether the server reaches its registry and has room on its disk; what has come "
            "is kept for the next try.",
            "pull",
        )

    def _error(self, code: ErrorCode, message: str, fix: str, operation: str) -> WorkbenchError:
        return WorkbenchError(
            code, message, fix=fix, operation=operation, provider=self._server.provider
        )
