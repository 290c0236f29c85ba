"""What is looked at before a request may wait: whether its model could be loaded at all."""

from __future__ import annotations

import asyncio
from collections.abc import Container

from workbench.budget import MemoryBook
from workbench.providers.guard import blamed
from workbench.router import Route


class Entrance:
    """One look serves all who ask meanwhile: a burst of requests is one question to a runtime.

    Args:
        book: is prepared for the model.
        loading: models whose load is under way, of which nothing is asked.
    """

    def __init__(self, book: MemoryBook | None, loading: Container[str]) -> None:
        self._book = book
        self._loading = loading
        self._looks: dict[tuple[str, int | None], asyncio.Future[None]] = {}

    async def check(self, route: Route, num_ctx: int | None) -> None:
        """Raise what would keep the model from being loaded, as far as a quick look tells."""
        key = (route.model, num_ctx)
        look = self._looks.get(key)
        if look is None:
            look = self._looks[key] = asyncio.ensure_future(self._look(route, num_ctx))
            look.add_done_callback(lambda done: self._looked(key, done))
        await asyncio.shield(look)

    async def _look(self, route: Route, num_ctx: int | None) -> None:
        if self._book is not None:
            await self._book.prepare(route, num_ctx)
        if route.provider.resident(route.name) is None and route.model not in self._loading:
            with blamed(route.provider.name, "load"):
                await route.provider.check(route.name)

    def _looked(self, key: tuple[str, int | None], look: asyncio.Future[None]) -> None:
        del self._looks[key]
        if not look.cancelled():
            look.exception()  # seen, also if all who asked have left
