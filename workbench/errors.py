"""The one error type of the workbench, and its codes.

Every failure that a user can meet is a :class:`WorkbenchError` with a stable ``code``, a message
that says what happened and a ``fix`` that says what to do about it. Foreign exceptions are mapped
to it once, where they enter: in the provider, in the store, in the settings.

Codes by family (``HTTP_STATUS`` has the status each is answered with)::

    HF_*       the Hugging Face runtime: model not found, load failed, pipeline (worker) error,
               generation failed, memory exceeded, timeout, invalid configuration; its hub:
               unreachable, forbidden (gated or private), download failed
    OLLAMA_*   the Ollama runtime: unreachable, model not found, generation failed,
               stream broken (the connection or its framing), memory exceeded, timeout,
               pull failed
    ENDPOINT_* a server that speaks OpenAI's API: unreachable, key refused, model not found,
               generation failed, stream broken, timeout
    general    INVALID_REQUEST, MODEL_NOT_FOUND, MODEL_AMBIGUOUS, JOB_NOT_FOUND, SESSION_NOT_FOUND,
               STREAM_NOT_FOUND, EVENTS_GONE (of a stream, from the buffer), QUEUE_FULL,
               TIMEOUT, TOO_LARGE, RATE_LIMITED, REQUEST_TIMEOUT (the client was too slow),
               UNAUTHORIZED, FORBIDDEN_ORIGIN, FORBIDDEN_PATH, UNSAFE_FILE, DISK_FULL,
               TOO_MANY_FILES (open ones, connections too), STORE_UNAVAILABLE, STORE_DAMAGED,
               SERVER_UNREACHABLE, SERVER_STOPPING, PORT_IN_USE, CANCELLED (by who asked), INTERNAL
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
    HF_MODEL_LOAD_FAILED = "HF_MODEL_LOAD_FAILED"
    HF_PIPELINE_ERROR = "HF_PIPELINE_ERROR"
    HF_GENERATION_FAILED = "HF_GENERATION_FAILED"
    HF_MEMORY_EXCEEDED = "HF_MEMORY_EXCEEDED"
    HF_TIMEOUT = "HF_TIMEOUT"
    HF_INVALID_CONFIG = "HF_INVALID_CONFIG"
    HF_HUB_UNREACHABLE = "HF_HUB_UNREACHABLE"
    HF_HUB_FORBIDDEN = "HF_HUB_FORBIDDEN"
    HF_DOWNLOAD_FAILED = "HF_DOWNLOAD_FAILED"

    OLLAMA_UNREACHABLE = "OLLAMA_UNREACHABLE"
    OLLAMA_MODEL_NOT_FOUND = "OLLAMA_MODEL_NOT_FOUND"
    OLLAMA_GENERATION_FAILED = "OLLAMA_GENERATION_FAILED"
    OLLAMA_STREAM_BROKEN = "OLLAMA_STREAM_BROKEN"
    OLLAMA_MEMORY_EXCEEDED = "OLLAMA_MEMORY_EXCEEDED"
    OLLAMA_TIMEOUT = "OLLAMA_TIMEOUT"
    OLLAMA_PULL_FAILED = "OLLAMA_PULL_FAILED"

    ENDPOINT_UNREACHABLE = "ENDPOINT_UNREACHABLE"
    ENDPOINT_FORBIDDEN = "ENDPOINT_FORBIDDEN"
    ENDPOINT_MODEL_NOT_FOUND = "ENDPOINT_MODEL_NOT_FOUND"
    ENDPOINT_GENERATION_FAILED = "ENDPOINT_GENERATION_FAILED"
    ENDPOINT_STREAM_BROKEN = "ENDPOINT_STREAM_BROKEN"
    ENDPOINT_TIMEOUT = "ENDPOINT_TIMEOUT"

    INVALID_REQUEST = "INVALID_REQUEST"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    MODEL_AMBIGUOUS = "MODEL_AMBIGUOUS"
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    STREAM_NOT_FOUND = "STREAM_NOT_FOUND"
    EVENTS_GONE = "EVENTS_GONE"
    QUEUE_FULL = "QUEUE_FULL"
    TIMEOUT = "TIMEOUT"
    TOO_LARGE = "TOO_LARGE"
    RATE_LIMITED = "RATE_LIMITED"
    REQUEST_TIMEOUT = "REQUEST_TIMEOUT"
    UNAUTHORIZED = "UNAUTHORIZED"
    FORBIDDEN_ORIGIN = "FORBIDDEN_ORIGIN"
    FORBIDDEN_PATH = "FORBIDDEN_PATH"
    UNSAFE_FILE = "UNSAFE_FILE"
    DISK_FULL = "DISK_FULL"
    TOO_MANY_FILES = "TOO_MANY_FILES"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    STORE_DAMAGED = "STORE_DAMAGED"
    SERVER_UNREACHABLE = "SERVER_UNREACHABLE"
    SERVER_STOPPING = "SERVER_STOPPING"
    PORT_IN_USE = "PORT_IN_USE"
    CANCELLED = "CANCELLED"
    INTERNAL = "INTERNAL"


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


def unforeseen(
    error: Exception, operation: str, *, provider: str | None = None, told: bool = True
) -> WorkbenchError:
    """What becomes of an exception that nobody mapped; whoever calls this logs it.

    ``INTERNAL``, but ``TOO_MANY_FILES`` where the process may open no more: that can happen in any
    line that opens something, and is no defect.

    Args:
        error: the exception.
        operation: what was being attempted.
        provider: the provider concerned, if any.
        told: whether its message, which may hold paths, is for whoever asked.
    """
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return WorkbenchError(
            ErrorCode.TOO_MANY_FILES,
            "The workbench may open no more files and connections at the moment.",
            fix="Try again; raise the limit of open files (`ulimit -n`) if it comes back.",
            operation=operation,
            provider=provider,
        )
    name = type(error).__name__
    return WorkbenchError(
        ErrorCode.INTERNAL,
        f"{name}: {error}" if told else f"{name} in the workbench.",
        fix="This is a defect of the workbench; its log has the traceback.",
        operation=operation,
        provider=provider,
    )
