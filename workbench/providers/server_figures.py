"""A server's own figures beside ours: its metrics before and after answers, told as they change.

Never in the way of an answer: a page of metrics is read ahead of a model's first request, while it
waits for its slot, and after answers, in the background. One reading serves all answers that end
meanwhile, and says which.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from workbench import logs
from workbench.endpoints import Endpoint
from workbench.errors import WorkbenchError
from workbench.providers import server_metrics
from workbench.providers.openai_errors import seam
from workbench.providers.server_metrics import Reading

_log = logs.get(__name__)

Tell = Callable[[str, Mapping[str, Any]], None]
"""Told the model, and the change of its server's figures with the ``sessions`` in it."""

_SETTLE_S: Final = 0.2
"""Servers count an answer shortly after they have sent its end."""
_ASK_AGAIN_S: Final = 600.0
"""A server without metrics is asked again after so long."""


class ServerFigures:
    """Reads one endpoint's metrics. Belongs to one event loop.

    Args:
        endpoint: whose.
        fetch: the text at a URL; raises :class:`WorkbenchError`.
    """

    def __init__(self, endpoint: Endpoint, fetch: Callable[[str], Awaitable[str]]) -> None:
        self.on_figures: Tell | None = None
        self._endpoint = endpoint
        self._fetch = fetch
        self._names: dict[str, frozenset[str]] = {}
        self._last: dict[str, Reading] = {}
        self._ended: dict[str, list[str]] = {}
        self._silent_until = float("-inf")
        self._task: asyncio.Task[None] | None = None

    async def begin(self, model: str, names: frozenset[str]) -> None:
        """A request is coming: have a reading from before it.

        Args:
            model: its name.
            names: all that its server may call it.
        """
        self._names[model] = names
        if model not in self._last:
            await self._read([model])

    def answered(self, model: str, session_id: str) -> None:
        """An answer has ended: read again soon."""
        if model not in self._last or self.on_figures is None:
            return
        self._ended.setdefault(model, []).append(session_id)
        if self._task is None:
            # In a context of its own: what is read is not one request's.
            self._task = asyncio.get_running_loop().create_task(
                self._follow(), name="server figures", context=contextvars.Context()
            )

    async def close(self) -> None:
        """Read what is still to be told, then no more."""
        if self._task is not None:
            with suppress(asyncio.CancelledError):
                await self._task

    async def _follow(self) -> None:
        try:
            while self._ended:
                await asyncio.sleep(_SETTLE_S)
                ended, self._ended = self._ended, {}
                before = dict(self._last)
                await self._read(list(ended))
                for model, sessions in ended.items():
                    first, after = before.get(model), self._last.get(model)
                    if first is None or after is None:
                        continue
                    moved = server_metrics.change(first, after)
                    if moved is not None and self.on_figures is not None:
                        self.on_figures(model, {**moved, "sessions": sessions})
        except Exception:  # a defect here must not be one of the answers
            _log.exception("server_figures_failed", provider=self._endpoint.name)
        finally:
            self._task = None

    async def _read(self, models: list[str]) -> None:
        """Read them all, or forget all where the server tells nothing (any more)."""
        url, now = self._endpoint.scrape_url, time.monotonic()
        if url is None or now < self._silent_until:
            return
        try:
            with seam("metrics", self._endpoint):
                t_ns = time.monotonic_ns()
                text = await self._fetch(url)
                for model in models:
                    self._last[model] = server_metrics.parse(text, t_ns, self._names[model])
        except WorkbenchError as error:
            _log.info("no_server_figures", provider=self._endpoint.name, reason=error.message)
            self._silent_until = now + _ASK_AGAIN_S
            self._last.clear()
