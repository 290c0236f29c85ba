"""Structured JSON logs on stderr; every line carries the correlation id of its request.

Prompts, answers and secrets are never logged here: they belong to the store.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog


def configure(level: str = "INFO") -> None:
    """Set up structlog for this process.

    Args:
        level: a standard level name; lines below it cost next to nothing.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )


def configure_default(level: str) -> None:
    """Set up logging unless the program that uses us has done so already."""
    if not structlog.is_configured():
        configure(level)


def get(name: str) -> Any:
    """A logger whose lines name the module that wrote them."""
    return structlog.get_logger(module=name)


@contextmanager
def correlation(correlation_id: str, **context: Any) -> Iterator[None]:
    """Bind the correlation id, and whatever else names the request, to all lines inside."""
    with structlog.contextvars.bound_contextvars(correlation_id=correlation_id, **context):
        yield
