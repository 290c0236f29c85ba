"""The one error type of the workbench, and its codes.

Every failure that a user can meet is a :class:`WorkbenchError` with a stable ``code``, a message
that says what happened and a ``fix`` that says what to do about it. Foreign exceptions are mapped
to it once, where they enter: in the provider, in the store, in the settings.
"""

from __future__ import annotations

import datetime as dt
import errno
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final


class ErrorCode(StrEnum):
    """Stable identifiers; scripts may match on them."""

    HF_MODEL_NOT_FOUND = "HF_MODEL_NOT_FOUND"
    """No Hugging Face model here has this name."""
    HF_MODEL_LOAD_FAILED = "HF_MODEL_LOAD_FAILED"
    """The model cannot be loaded: files are missing or broken, or transformers cannot load them."""
    HF_PIPELINE_ERROR = "HF_PIPELINE_ERROR"
    """The worker process of the model crashed, was killed or did not answer."""
    HF_GENERATION_FAILED = "HF_GENERATION_FAILED"
    """The model failed while it computed the answer."""
    HF_MEMORY_EXCEEDED = "HF_MEMORY_EXCEEDED"
    """There is not enough memory for the model or the request."""
    HF_TIMEOUT = "HF_TIMEOUT"
    """A load or an answer took longer than allowed."""
    HF_INVALID_CONFIG = "HF_INVALID_CONFIG"
    """A load option or an `HF_*` setting is wrong, or cannot be used on this machine."""
    HF_HUB_UNREACHABLE = "HF_HUB_UNREACHABLE"
    """The hub does not answer."""
    HF_HUB_FORBIDDEN = "HF_HUB_FORBIDDEN"
    """The model on the hub is gated or private."""
    HF_DOWNLOAD_FAILED = "HF_DOWNLOAD_FAILED"
    """A download broke off, or a file has the wrong hash."""

    OLLAMA_UNREACHABLE = "OLLAMA_UNREACHABLE"
    """The Ollama server does not answer."""
    OLLAMA_MODEL_NOT_FOUND = "OLLAMA_MODEL_NOT_FOUND"
    """The Ollama server does not have this model."""
    OLLAMA_GENERATION_FAILED = "OLLAMA_GENERATION_FAILED"
    """Ollama failed while it computed the answer."""
    OLLAMA_STREAM_BROKEN = "OLLAMA_STREAM_BROKEN"
    """The connection broke off, or what came is not what Ollama sends."""
    OLLAMA_MEMORY_EXCEEDED = "OLLAMA_MEMORY_EXCEEDED"
    """There is not enough memory for the model."""
    OLLAMA_TIMEOUT = "OLLAMA_TIMEOUT"
    """Ollama took longer than allowed."""
    OLLAMA_PULL_FAILED = "OLLAMA_PULL_FAILED"
    """Ollama could not download the model."""

    ENDPOINT_UNREACHABLE = "ENDPOINT_UNREACHABLE"
    """No server that speaks OpenAI's API answers at the address."""
    ENDPOINT_FORBIDDEN = "ENDPOINT_FORBIDDEN"
    """The server refused the key."""
    ENDPOINT_MODEL_NOT_FOUND = "ENDPOINT_MODEL_NOT_FOUND"
    """The server does not have this model."""
    ENDPOINT_GENERATION_FAILED = "ENDPOINT_GENERATION_FAILED"
    """The server failed while it computed the answer."""
    ENDPOINT_STREAM_BROKEN = "ENDPOINT_STREAM_BROKEN"
    """The connection broke off, or what came is not what such a server sends."""
    ENDPOINT_TIMEOUT = "ENDPOINT_TIMEOUT"
    """The server took longer than allowed."""

    INVALID_REQUEST = "INVALID_REQUEST"
    """The request, a setting or a spec is wrong in itself."""
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    """No provider has a model of this name."""
    MODEL_AMBIGUOUS = "MODEL_AMBIGUOUS"
    """Several providers have a model of this name; the message lists them."""
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    """There is no job of this id, or it ended long ago."""
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    """The log has no session of this id."""
    STREAM_NOT_FOUND = "STREAM_NOT_FOUND"
    """There is no stream of this id, or it ended long ago."""
    EVENTS_GONE = "EVENTS_GONE"
    """The stream no longer has the events that are asked for."""
    QUEUE_FULL = "QUEUE_FULL"
    """Too many requests wait; `Retry-After` says when to try again."""
    TIMEOUT = "TIMEOUT"
    """A limit of time was reached that belongs to no runtime, such as that of the queue."""
    TOO_LARGE = "TOO_LARGE"
    """The request is larger than allowed."""
    RATE_LIMITED = "RATE_LIMITED"
    """One address sends too many requests."""
    REQUEST_TIMEOUT = "REQUEST_TIMEOUT"
    """The client was too slow in sending its request."""
    UNAUTHORIZED = "UNAUTHORIZED"
    """The key or token is missing or wrong."""
    FORBIDDEN_ORIGIN = "FORBIDDEN_ORIGIN"
    """Host or Origin do not name this server."""
    FORBIDDEN_PATH = "FORBIDDEN_PATH"
    """A name or path leads out of where it may, or the path is not served."""
    UNSAFE_FILE = "UNSAFE_FILE"
    """A model file is of a kind that is never loaded, such as a pickle, or its header is wrong."""
    DISK_FULL = "DISK_FULL"
    """There is not enough space on the disk."""
    TOO_MANY_FILES = "TOO_MANY_FILES"
    """The process may open no more files or connections at the moment."""
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    """The log cannot be opened, read or written now."""
    STORE_DAMAGED = "STORE_DAMAGED"
    """The log is damaged."""
    SERVER_UNREACHABLE = "SERVER_UNREACHABLE"
    """No workbench server answers."""
    SERVER_STOPPING = "SERVER_STOPPING"
    """The server is being stopped."""
    PORT_IN_USE = "PORT_IN_USE"
    """Another program listens on the port."""
    CANCELLED = "CANCELLED"
    """Whoever asked stopped it."""
    INTERNAL = "INTERNAL"
    """A defect of the workbench or of a provider; the log has the traceback."""


HTTP_STATUS: Final[Mapping[ErrorCode, int]] = {
    ErrorCode.HF_MODEL_NOT_FOUND: 404,
    ErrorCode.HF_MODEL_LOAD_FAILED: 422,
    ErrorCode.HF_PIPELINE_ERROR: 502,
    ErrorCode.HF_GENERATION_FAILED: 502,
    ErrorCode.HF_MEMORY_EXCEEDED: 507,
    ErrorCode.HF_TIMEOUT: 504,
    ErrorCode.HF_INVALID_CONFIG: 422,
    ErrorCode.HF_HUB_UNREACHABLE: 503,
    ErrorCode.HF_HUB_FORBIDDEN: 403,
    ErrorCode.HF_DOWNLOAD_FAILED: 502,
    ErrorCode.OLLAMA_UNREACHABLE: 503,
    ErrorCode.OLLAMA_MODEL_NOT_FOUND: 404,
    ErrorCode.OLLAMA_GENERATION_FAILED: 502,
    ErrorCode.OLLAMA_STREAM_BROKEN: 502,
    ErrorCode.OLLAMA_MEMORY_EXCEEDED: 507,
    ErrorCode.OLLAMA_TIMEOUT: 504,
    ErrorCode.OLLAMA_PULL_FAILED: 502,
    ErrorCode.ENDPOINT_UNREACHABLE: 503,
    ErrorCode.ENDPOINT_FORBIDDEN: 403,
    ErrorCode.ENDPOINT_MODEL_NOT_FOUND: 404,
    ErrorCode.ENDPOINT_GENERATION_FAILED: 502,
    ErrorCode.ENDPOINT_STREAM_BROKEN: 502,
    ErrorCode.ENDPOINT_TIMEOUT: 504,
    ErrorCode.INVALID_REQUEST: 422,
    ErrorCode.MODEL_NOT_FOUND: 404,
    ErrorCode.MODEL_AMBIGUOUS: 409,
    ErrorCode.JOB_NOT_FOUND: 404,
    ErrorCode.SESSION_NOT_FOUND: 404,
    ErrorCode.STREAM_NOT_FOUND: 404,
    ErrorCode.EVENTS_GONE: 410,
    ErrorCode.QUEUE_FULL: 503,
    ErrorCode.TIMEOUT: 504,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.REQUEST_TIMEOUT: 408,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.FORBIDDEN_ORIGIN: 403,
    ErrorCode.FORBIDDEN_PATH: 403,
    ErrorCode.UNSAFE_FILE: 422,
    ErrorCode.DISK_FULL: 507,
    ErrorCode.TOO_MANY_FILES: 503,
    ErrorCode.STORE_UNAVAILABLE: 503,
    ErrorCode.STORE_DAMAGED: 500,
    ErrorCode.SERVER_UNREACHABLE: 503,
    ErrorCode.SERVER_STOPPING: 503,
    ErrorCode.PORT_IN_USE: 409,
    ErrorCode.CANCELLED: 499,
    ErrorCode.INTERNAL: 500,
}

TIMEOUT_CODES: Final[frozenset[ErrorCode]] = frozenset(
    {
        ErrorCode.HF_TIMEOUT,
        ErrorCode.OLLAMA_TIMEOUT,
        ErrorCode.ENDPOINT_TIMEOUT,
        ErrorCode.TIMEOUT,
    }
)
"""Errors after which a stream session has the status ``timeout`` and not ``error``."""


_OUT_OF_FILES: Final = (errno.EMFILE, errno.ENFILE)


class WorkbenchError(Exception):
    """A failure with a code, a message and a fix.

    Args:
        code: what kind of failure this is.
        message: one sentence that says what happened, with the offending value or figure.
        fix: one sentence that says what the user can do; empty only if nothing can be done.
        operation: what was being attempted (``load``, ``stream``, ``list``, ...).
        provider: the provider concerned, if any.
        details: further facts (JSON-serialisable).
        retry_after_s: seconds after which a retry makes sense, for ``QUEUE_FULL`` and the like.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        fix: str = "",
        operation: str = "",
        provider: str | None = None,
        details: Mapping[str, Any] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fix = fix
        self.operation = operation
        self.provider = provider
        self.details: dict[str, Any] = dict(details or {})
        self.retry_after_s = retry_after_s
        self.at = dt.datetime.now(dt.UTC)

    def __str__(self) -> str:
        """``CODE: message. fix`` as a terminal or a pane shows it."""
        text = f"{self.code}: {self.message}"
        apart = "\n" if "\n" in self.message else " "  # not behind the caret of an SQL error
        return f"{text}{apart}{self.fix}" if self.fix else text

    @property
    def http_status(self) -> int:
        """The HTTP status this error is answered with."""
        return HTTP_STATUS[self.code]

    def to_dict(self, correlation_id: str | None = None) -> dict[str, Any]:
        """The body of ``application/problem+json`` and of ``--json`` on the command line."""
        body: dict[str, Any] = {
            "code": self.code.value,
            "message": self.message,
            "fix": self.fix,
            "operation": self.operation,
            "provider": self.provider,
            "timestamp": self.at.isoformat(),
            "details": self.details,
            "correlation_id": correlation_id,
        }
        if self.retry_after_s is not None:
            body["retry_after_s"] = self.retry_after_s
        return body

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> WorkbenchError:
        """Rebuild an error that crossed a process or HTTP boundary."""
        return cls(
            ErrorCode(body["code"]),
            body["message"],
            fix=body.get("fix", ""),
            operation=body.get("operation", ""),
            provider=body.get("provider"),
            details=body.get("details"),
            retry_after_s=body.get("retry_after_s"),
        )


def sentence(text: str) -> str:
    """Foreign words with a full stop, as the fix follows them."""
    text = text.rstrip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def invalid(message: str, *, fix: str = "", **details: Any) -> WorkbenchError:
    """An ``INVALID_REQUEST``: the commonest error, raised wherever input is checked."""
    return WorkbenchError(
        ErrorCode.INVALID_REQUEST, message, fix=fix, operation="validate", details=details
    )


def require_text(value: Any, name: str) -> None:
    """Refuse half of a surrogate pair anywhere in a value: it cannot be sent, shown or stored.

    Args:
        value: texts, in mappings and sequences to any depth.
        name: what the value is called; the message names the place in it, ``options.stop.0``.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``.
    """
    waiting = [(name, value)]
    while waiting:
        place, one = waiting.pop()
        if isinstance(one, str):
            try:
                one.encode()
            except UnicodeEncodeError:
                raise invalid(
                    f"{place} holds half of a surrogate pair, which is no text.",
                    fix="Send valid UTF-8.",
                    option=place,
                ) from None
        elif isinstance(one, Mapping):
            for key, item in one.items():
                require_text(key, f"A name in {place}")
                waiting.append((f"{place}.{key}", item))
        elif isinstance(one, (list, tuple)):
            waiting += [(f"{place}.{index}", item) for index, item in enumerate(one)]


def unfinished(operation: str) -> WorkbenchError:
    """A server's stream ended without its last event: ``SERVER_UNREACHABLE``."""
    return WorkbenchError(
        ErrorCode.SERVER_UNREACHABLE,
        "The stream ended without a result.",
        fix="The server was stopped, or something between here and it cut the connection: see its "
        "log, and ask again.",
        operation=operation,
    )


def unwritable(path: object, reason: object) -> WorkbenchError:
    """A file of the user's that cannot be written."""
    return invalid(
        f"{path} cannot be written: {sentence(str(reason))}",
        fix="Give a file in a folder that exists, in which you may write.",
    )


def out_of_files(error: BaseException | None) -> OSError | None:
    """What it was caused by, if that is that no more files may be opened; connections are files."""
    waiting, seen = [error], set[int]()  # such chains may go round in circles
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        if isinstance(one, OSError) and one.errno in _OUT_OF_FILES:
            return one
        seen.add(id(one))
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
    return None


def unforeseen(
    error: BaseException,
    operation: str,
    *,
    provider: str | None = None,
    told: bool = True,
    theirs: bool = False,
) -> WorkbenchError:
    """What becomes of an exception that nobody mapped; whoever calls this logs it.

    ``INTERNAL``, but ``TOO_MANY_FILES`` where the process may open no more: that can happen in any
    line that opens something, and is no defect.

    Args:
        error: the exception.
        operation: what was being attempted.
        provider: the provider concerned, if any.
        told: whether its message, which may hold paths, is for whoever asked.
        theirs: whether the provider raised it, which should have mapped it.
    """
    if out_of_files(error) is not None:
        return WorkbenchError(
            ErrorCode.TOO_MANY_FILES,
            "The workbench may open no more files and connections at the moment.",
            fix="Try again; raise the limit of open files (`ulimit -n`) if it comes back.",
            operation=operation,
            provider=provider,
        )
    name = type(error).__name__
    if theirs:
        what = f"{name}: {error}" if str(error) else name
        return defect(f"it raised {what}", operation, provider or "")
    return WorkbenchError(
        ErrorCode.INTERNAL,
        f"{name}: {error}" if told else f"{name} in the workbench.",
        fix="This is a defect of the workbench; its log has the traceback.",
        operation=operation,
        provider=provider,
    )


def defect(what: str, operation: str, provider: str) -> WorkbenchError:
    """A provider broke a rule that all of them keep.

    Args:
        what: what it did, with the value.
        operation: what was being attempted.
        provider: its name.
    """
    return WorkbenchError(
        ErrorCode.INTERNAL,
        sentence(f"A defect of the provider {provider}: {what}"),
        fix="Tell its author; the workbench's log has the details.",
        operation=operation,
        provider=provider,
    )
