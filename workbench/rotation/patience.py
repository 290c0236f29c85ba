"""Waiting for a load or an unload no longer than somebody wants it."""

from __future__ import annotations

import asyncio
from typing import Any

from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.base import CancellationToken
from workbench.router import Route


async def first_of(
    work: asyncio.Future[Any], cancel: CancellationToken, timeout_s: float | None
) -> None:
    """Return when the work is done, the token is cancelled or the time is over."""
    stop = asyncio.ensure_future(cancel.wait())
    try:
        waits: set[asyncio.Future[Any]] = {work, stop}
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()


def given_up(route: Route, cancel: CancellationToken, timeout_s: float | None) -> WorkbenchError:
    """Why a load did not wait for its end."""
    if cancel.cancelled:
        return WorkbenchError(
            ErrorCode.CANCELLED, "Cancelled while the model was loading.", operation="load"
        )
    return WorkbenchError(
        ErrorCode.TIMEOUT,
        f"Loading {route.model} took longer than {timeout_s:g} s.",
        fix="Raise timeouts.load_s, or choose a smaller model.",
        operation="load",
        details={"phase": "load"},
    )
