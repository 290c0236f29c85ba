"""The official ``ollama`` client, plus what this workbench needs and it does not offer.

``ollama.AsyncClient`` builds the connection (address, headers, API key). Requests go through it
as plain JSON objects, for three reasons: its methods know only some request fields (``truncate``
is missing), its answer models drop fields (capabilities, the bytes of a logprob), and its line
reader splits at every Unicode line break, although a text may hold U+0085 unescaped, and replaces
invalid UTF-8 unseen.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

import httpx
import ollama

from workbench.providers.ollama_errors import MalformedAnswer, UnsendableRequest
from workbench.providers.processes import is_loopback
from workbench.providers.scoped import scoped

CONNECT_S: Final = 2.0
"""An address where nothing answers must not hold up a page."""
READ_S: Final = 5.0
"""Longest wait for the answers that need no model work, such as the list of models."""
MAX_LINE_BYTES: Final = 64 * 2**20
"""Upper bound of one JSON object; what exceeds it does not come from Ollama."""


class OllamaClient(ollama.AsyncClient):
    """Connection to one server.

    Raises ``ollama.ResponseError`` (status -1: an error line inside a stream), ``httpx`` errors,
    ``MalformedAnswer`` and ``UnsendableRequest``; :mod:`ollama_errors` translates them.
    """

    def __init__(self, url: str) -> None:
        super().__init__(
            url,
            # Ollama never redirects these paths; following one would hand prompts to a stranger.
            follow_redirects=False,
            # HTTP_PROXY must not come between us and this machine.
            trust_env=not is_loopback(url),
            # No read limit: the engine knows how long each phase may take and cancels.
            timeout=httpx.Timeout(None, connect=CONNECT_S),
        )

    @property
    def closed(self) -> bool:
        """Whether :meth:`aclose` was called."""
        return bool(self._client.is_closed)

    async def aclose(self) -> None:
        """Close all connections; running requests fail."""
        await self._client.aclose()

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        read_s: float | None = READ_S,
    ) -> dict[str, Any]:
        """Send one request and return the JSON object of the answer.

        Args:
            method: HTTP method.
            path: for example ``/api/tags``.
            body: the request's JSON object.
            read_s: longest silence in seconds; None waits for as long as the caller does.
        """
        return _decode(await self.send(method, path, body, read_s=read_s))

    async def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        read_s: float | None = READ_S,
    ) -> bytes:
        """As :meth:`call`, for an answer that may be empty."""
        response = await scoped(
            self._client.request(
                method,
                path,
                content=None if body is None else _encode(body),
                timeout=httpx.Timeout(read_s, connect=CONNECT_S),
            )
        )
        if not response.is_success:
            raise _refusal(response, response.content)
        content: bytes = response.content
        return content

    async def lines(
        self, path: str, body: Mapping[str, Any]
    ) -> AsyncGenerator[tuple[int, dict[str, Any]], None]:
        """Stream an answer: each JSON line with the monotonic ns at which its end arrived.

        Leaving the iterator closes the connection, which is what makes Ollama stop its work.
        """
        async with self._client.stream("POST", path, content=_encode(body)) as response:
            if not response.is_success:
                raise _refusal(response, await response.aread())
            begun: list[bytes] = []  # joined once: a line may come in thousands of pieces
            size = 0
            async for chunk in response.aiter_bytes():
                t_ns = time.monotonic_ns()
                first, *others = chunk.split(b"\n")
                begun.append(first)
                size += len(first)
                for piece in others:
                    if (line := b"".join(begun)).strip():
                        yield t_ns, _line(line)
                    begun, size = [piece], len(piece)
                if size > MAX_LINE_BYTES:
                    raise MalformedAnswer(_start(b"".join(begun)))
            if (rest := b"".join(begun)).strip():
                # A load-only or unload answer is one object without a line end.
                yield time.monotonic_ns(), _line(rest)


def _encode(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise UnsendableRequest(str(error)) from error


def _decode(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise MalformedAnswer(_start(data)) from error
    if not isinstance(value, dict):
        raise MalformedAnswer(_start(data))
    return value


def _line(data: bytes) -> dict[str, Any]:
    value = _decode(data)
    if "error" in value:
        raise _response_error(value["error"], -1)
    return value


def _refusal(response: httpx.Response, body: bytes) -> Exception:
    """The error for an answer that is not a 2xx: Ollama's own words, or not Ollama at all."""
    try:
        return _response_error(_decode(body)["error"], response.status_code)
    except (MalformedAnswer, KeyError):
        target = response.headers.get("location")
        hint = f" -> {target}" if target else ""
        return MalformedAnswer(f"HTTP {response.status_code}{hint} {_start(body)}".strip())


def _response_error(reason: object, status: int) -> ollama.ResponseError:
    """Build the client's error.

    Its constructor reads its argument as JSON if it can and fails on JSON that is no object, so
    the reason is always handed over in the form in which the server sends it.
    """
    text = reason if isinstance(reason, str) else json.dumps(reason)
    return ollama.ResponseError(json.dumps({"error": text}), status)


def _start(data: bytes) -> str:
    text = data[:200].decode(errors="replace").strip()
    return "a web page" if text.startswith("<") else text
