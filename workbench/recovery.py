"""What to do about a model call that failed: a policy of pure functions.

The engine asks in this order: may it be tried again, and how; else, may another model answer.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Final

from workbench.errors import ErrorCode, WorkbenchError
from workbench.types import Options

ATTEMPTS: Final = 2
"""A call is tried once more, and only while nothing of its answer has been shown."""

_MAY_PASS: Final = frozenset(
    {
        ErrorCode.HF_GENERATION_FAILED,
        ErrorCode.OLLAMA_GENERATION_FAILED,
        ErrorCode.OLLAMA_STREAM_BROKEN,
        ErrorCode.ENDPOINT_GENERATION_FAILED,
        ErrorCode.ENDPOINT_STREAM_BROKEN,
    }
)
"""Failures of a runtime that the same request need not meet again."""

_NOT_THE_MODELS_FAULT: Final = frozenset(
    {
        ErrorCode.INVALID_REQUEST,
        ErrorCode.QUEUE_FULL,
        ErrorCode.CANCELLED,
        ErrorCode.SERVER_STOPPING,
    }
)


_OF_THE_HOST: Final = frozenset(
    {
        ErrorCode.OLLAMA_UNREACHABLE,
        ErrorCode.OLLAMA_MODEL_NOT_FOUND,
        ErrorCode.OLLAMA_GENERATION_FAILED,
        ErrorCode.OLLAMA_STREAM_BROKEN,
        ErrorCode.OLLAMA_MEMORY_EXCEEDED,
        ErrorCode.OLLAMA_TIMEOUT,
    }
)
"""Failures that another host need not share."""


class Retry(StrEnum):
    """How a call is tried again."""

    SAME = "same"
    """As it was; a worker that died is replaced."""
    SAFE_SAMPLING = "safe sampling"
    """With :func:`safe_options`, because the numbers of the model overflowed."""
    AFTER_EVICTION = "after eviction"
    """Once idle models have made room, because memory ran out."""


def retry(error: WorkbenchError, options: Options) -> Retry | None:
    """How a call that failed with nothing shown may be tried again; None: it may not.

    Never for what the request itself is to blame for, what was waited for long enough, and what
    has had its tries: a load is retried where it happens.

    Args:
        error: why it failed.
        options: with which.
    """
    if error.operation == "load":
        return None
    if error.code is ErrorCode.HF_MEMORY_EXCEEDED:
        return Retry.AFTER_EVICTION
    if error.details.get("numerical"):
        # Greedy decoding computes the same numbers again.
        return Retry.SAFE_SAMPLING if options != safe_options(options) else None
    if error.code is ErrorCode.HF_PIPELINE_ERROR:
        # Not transient is a worker that was killed, as the system does when memory runs out.
        return Retry.SAME if error.details.get("transient") else None
    return Retry.SAME if error.code in _MAY_PASS else None


def may_move(error: WorkbenchError) -> bool:
    """Whether the same model on another host could do better."""
    busy = error.code is ErrorCode.QUEUE_FULL and "status" in error.details
    return busy or error.code in _OF_THE_HOST


def safe_options(options: Options) -> Options:
    """The options with greedy decoding and no penalty: nothing is divided or multiplied."""
    return replace(options, temperature=0.0, repetition_penalty=1.0)


def may_fall_back(error: WorkbenchError) -> bool:
    """Whether another model could do better, or would meet the same refusal.

    A full queue is everybody's if it is ours; a server's own says its HTTP status.
    """
    if error.code is ErrorCode.QUEUE_FULL and "status" in error.details:
        return True
    return error.code not in _NOT_THE_MODELS_FAULT
