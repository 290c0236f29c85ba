"""Asking providers for their models, each for so long at most: none holds up the others' list.

A question that got no answer in time goes on for a while, and meanwhile its provider is not asked
again: a scan of a slow disk cannot be stopped but may end yet, and questions must not heap up. Then
it is cancelled, so that one answer that was lost does not hide a provider for ever.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from workbench import hops, logs
from workbench.errors import ErrorCode, WorkbenchError, defect
from workbench.providers.base import Provider
from workbench.providers.guard import blamed
from workbench.types import ModelInfo

_log = logs.get(__name__)

PATIENCE_S: Final = 10.0
"""The default of ``WORKBENCH_LISTING_TIMEOUT_S``: above what the providers' own clients wait."""
_AGAIN: Final = 6
"""A question is cancelled after so many times the longest wait."""


@dataclass(frozen=True, slots=True)
class _Late:
    """A question that got no answer in time."""

    asked_at: float
    task: asyncio.Task[list[ModelInfo]]


class Lister:
    """Belongs to one event loop.

    Args:
        patience_s: the longest wait for the answer of one provider.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        # What a server lists depends on who wants to know: another workbench, or not.
        self._late: dict[tuple[str, int], _Late] = {}

    async def ask(self, provider: Provider) -> list[ModelInfo]:
        """What a provider lists, if those are models of its own: of others nobody could be asked.

        Raises:
            WorkbenchError: its own; ``INTERNAL``, a defect of it; ``TIMEOUT``, it does not answer.
        """
        key = provider.name, hops.count()
        # A workbench that asks us waits for its answer itself, and not as long as a user.
        patience_s = self._patience_s / (1 + 2 * hops.count())
        if (late := self._late.get(key)) is not None:
            raise self._silent(provider.name, time.monotonic() - late.asked_at)
        asked_at = time.monotonic()
        task = asyncio.create_task(_models_of(provider), name=f"list {provider.name}")
        try:
            await asyncio.wait({task}, timeout=patience_s)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.done():
            return task.result()
        self._late[key] = _Late(asked_at, task)
        asyncio.get_running_loop().call_later((_AGAIN - 1) * patience_s, task.cancel)

        def ended(task: asyncio.Task[list[ModelInfo]]) -> None:
            if (late := self._late.get(key)) is not None and late.task is task:
                del self._late[key]
            how = "cancelled" if task.cancelled() else task.exception() or "answered"
            _log.info(
                "list_ended_late",
                provider=provider.name,
                after_s=time.monotonic() - asked_at,
                how=str(how),
            )

        task.add_done_callback(ended)
        _log.warning("list_late", provider=provider.name, patience_s=patience_s)
        raise self._silent(provider.name, patience_s)

    def _silent(self, provider: str, waited_s: float) -> WorkbenchError:
        return WorkbenchError(
            ErrorCode.TIMEOUT,
            f"{provider}: it has not listed its models for {waited_s:.3g} s.",
            fix="See what it is busy with; if it only is slow, raise WORKBENCH_LISTING_TIMEOUT_S.",
            operation="list",
            provider=provider,
            details={"limit_s": self._patience_s},
        )


async def _models_of(provider: Provider) -> list[ModelInfo]:
    with blamed(provider.name, "list"):
        models = list(await provider.list_models())
    for model in models:
        if not isinstance(model, ModelInfo) or model.provider != provider.name:
            what = f"it lists {model!r:.200}, which is no model of it"
            _log.error("provider_defect", provider=provider.name, operation="list", reason=what)
            raise defect(what, "list", provider.name)
    return models
