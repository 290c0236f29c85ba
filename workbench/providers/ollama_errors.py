"""The one place where failures of Ollama and of the way to it become :class:`WorkbenchError`.

=================================================================  ========================
what happened                                                      code
=================================================================  ========================
refused connection, no route, connect timeout, broken proxy        OLLAMA_UNREACHABLE
unknown model (404)                                                OLLAMA_MODEL_NOT_FOUND
server busy (503), rate limit (429)                                QUEUE_FULL
bad input: other 4xx, and the 500s about options and formats       INVALID_REQUEST
other statuses; an error line inside a stream (status -1)          OLLAMA_GENERATION_FAILED
no answer within the read timeout                                  OLLAMA_TIMEOUT
cut connection, bad framing, bad JSON or UTF-8, HTML, not Ollama   OLLAMA_STREAM_BROKEN
=================================================================  ========================
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from workbench.errors import ErrorCode, WorkbenchError, out_of_files, sentence, unforeseen

if TYPE_CHECKING:
    import ollama

    from workbench.settings import Settings

RETRY_AFTER_S: Final = 1.0
"""Ollama's queue is full only while a model loads, which takes about a second."""

# Mistakes of the caller that Ollama reports as its own failure, with status 500.
_INPUT_500: Final = ("option ", "invalid format", "invalid option")


class MalformedAnswer(Exception):
    """The peer answered, but not as Ollama does. The argument is the start of what it sent."""


class UnsendableRequest(Exception):
    """The request has no JSON form (a lone surrogate, a NaN); nothing was sent."""


def nested_error(error: ollama.ResponseError) -> Mapping[str, Any]:
    """The error object that the model's runner wrapped into the text, or an empty mapping.

    Ollama passes it on as JSON inside the JSON string ``error``; it has ``message``, ``type`` and,
    for a prompt that is too long, ``n_prompt_tokens`` and ``n_ctx``.
    """
    try:
        inner = json.loads(error.error)["error"]
    except (ValueError, TypeError, KeyError):
        return {}
    return inner if isinstance(inner, dict) else {}


@dataclass(frozen=True, slots=True)
class Server:
    """An Ollama server, as messages name it.

    Attributes:
        url: its address.
        provider: prefix of its model ids.
        host: what its user calls it; empty if it has no name.
    """

    url: str
    provider: str = "ollama"
    host: str = ""

    @classmethod
    def of(cls, settings: Settings, provider: str) -> Self:
        """The server of a provider."""
        name = provider.partition("@")[2] or next(iter(settings.ollama_hosts), "")
        return cls(settings.ollama_servers[provider], provider, name)

    @property
    def name(self) -> str:
        """What it is called."""
        return f"Ollama on {self.host}" if self.host else "Ollama"

    @property
    def place(self) -> str:
        """Where it is."""
        return f"{self.host}, {self.url}" if self.host else self.url

    @property
    def setting(self) -> str:
        """What says where it is."""
        return f"{self.host} of OLLAMA_HOSTS" if self.host else "OLLAMA_HOST"


@contextmanager
def seam(operation: str, server: Server, model: str | None = None) -> Iterator[None]:
    """Let nothing but :class:`WorkbenchError` out of the block.

    Args:
        operation: what was attempted, such as ``stream``.
        server: who was asked.
        model: Ollama's name of the model, if the operation concerns one.
    """
    try:
        yield
    except WorkbenchError:
        raise
    except Exception as error:
        raise map_error(error, operation, server, model) from error


def broken(
    message: str, operation: str, server: Server, model: str | None = None, **details: Any
) -> WorkbenchError:
    """An ``OLLAMA_STREAM_BROKEN``: the answer stopped or made no sense."""
    return WorkbenchError(
        ErrorCode.OLLAMA_STREAM_BROKEN,
        sentence(message),
        fix="Try again; if it stays so, look at the server's log and check that "
        f"{server.setting} ({server.url}) is an Ollama server.",
        operation=operation,
        provider=server.provider,
        details={"host": server.url, "model": model, **details},
    )


def broke_off(error: BaseException) -> bool:
    """Whether there was a connection, and it ended before the answer did."""
    import httpx

    lost = (httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError)
    return isinstance(error, lost)


def map_error(
    error: Exception, operation: str, server: Server, model: str | None = None
) -> WorkbenchError:
    """Translate one foreign exception; see the table of this module."""
    # Late, because listing commands must start fast; whoever fails here has them loaded already.
    import httpx
    import ollama

    where = server.place
    details: dict[str, Any] = {"host": server.url, "model": model, "cause": type(error).__name__}

    def made(
        code: ErrorCode, message: str, fix: str, retry_after_s: float | None = None
    ) -> WorkbenchError:
        return WorkbenchError(
            code,
            sentence(message),
            fix=fix,
            operation=operation,
            provider=server.provider,
            details=details,
            retry_after_s=retry_after_s,
        )

    if (starved := out_of_files(error)) is not None:  # no sign that nobody answers
        return unforeseen(starved, operation, provider=server.provider)
    if isinstance(error, ollama.ResponseError):
        details["status"] = error.status_code
        code, message, fix, retry_after_s = _explain(error, server, model)
        return made(code, message, fix, retry_after_s)
    if isinstance(error, UnsendableRequest):
        return made(
            ErrorCode.INVALID_REQUEST,
            f"The request cannot be written as JSON: {error}.",
            "Remove characters that are not valid Unicode, and numbers that are not finite.",
        )
    if isinstance(error, MalformedAnswer):
        return broken(
            f"Something that is not Ollama answers at {where}, or its answer is damaged: {error}",
            operation,
            server,
            model,
        )
    # Order matters: a connect timeout is a timeout to httpx, TimeoutError is an OSError to Python.
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)):
        return made(ErrorCode.OLLAMA_UNREACHABLE, *_unreachable(server, error))
    if isinstance(error, (httpx.TimeoutException, TimeoutError)):
        return made(
            ErrorCode.OLLAMA_TIMEOUT,
            f"Ollama at {where} accepted the request but did not answer in time.",
            "See whether the machine is overloaded or a model is loading, then try again.",
        )
    if isinstance(error, (httpx.TransportError, httpx.StreamError)):
        return broken(
            f"The connection to Ollama at {where} broke off"
            f" ({str(error) or type(error).__name__}): the server was stopped, or it is no Ollama.",
            operation,
            server,
            model,
            cause=type(error).__name__,
        )
    if isinstance(error, OSError):
        return made(ErrorCode.OLLAMA_UNREACHABLE, *_unreachable(server, error))
    if isinstance(error, (httpx.HTTPError, ValueError)):
        # Bad compression, and the client's own checks of an answer (JSON, UTF-8, pydantic).
        return broken(
            f"The answer from {where} cannot be read: {error}",
            operation,
            server,
            model,
            cause=type(error).__name__,
        )
    return made(
        ErrorCode.INTERNAL,
        f"Unexpected {type(error).__name__} while talking to Ollama: {error}",
        "Please report this.",
    )


def _unreachable(server: Server, error: Exception) -> tuple[str, str]:
    return (
        f"No Ollama server answers at {server.place} ({str(error) or type(error).__name__}).",
        "Start it with `ollama serve`, install it from https://ollama.com/download, "
        f"or set {server.setting} to where it runs.",
    )


def _explain(
    error: ollama.ResponseError, server: Server, model: str | None
) -> tuple[ErrorCode, str, str, float | None]:
    """Code, message, fix and retry delay (seconds) of an error that Ollama itself reported."""
    text = str(nested_error(error).get("message") or error.error)
    status = error.status_code
    said = f"{server.name}: {text}"
    if status == 404:
        name = model or "NAME"
        there = f"workbench models pull {server.provider}/{name}"
        get = there if server.host else f"ollama pull {name}"
        return (
            ErrorCode.OLLAMA_MODEL_NOT_FOUND,
            f"{server.name} has no model {name!r}." if model else said,
            f"Get it with `{get}`, or choose one of `workbench models list`.",
            None,
        )
    if status in (429, 503):
        return ErrorCode.QUEUE_FULL, said, "Wait a moment and try again.", RETRY_AFTER_S
    if status in (401, 403):
        return (
            ErrorCode.INVALID_REQUEST,
            said,
            "Choose a local model, or give the server access (`ollama signin`, OLLAMA_API_KEY).",
            None,
        )
    if status == 400 and "does not support tools" in text:
        fix = "Leave tools out, or choose a model for them."
        return ErrorCode.INVALID_REQUEST, said, fix, None
    if 400 <= status < 500 or (status == 500 and text.startswith(_INPUT_500)):
        return ErrorCode.INVALID_REQUEST, said, "Correct the request.", None
    if "memory" in text:
        fix = "Unload other models, or choose a smaller model or num_ctx."
    else:
        fix = "Try again: Ollama starts a failed model anew. Its log names the cause."
    return ErrorCode.OLLAMA_GENERATION_FAILED, said, fix, None
