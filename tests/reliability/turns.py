"""Who may be disturbed: faults take for themselves what they will hurt, everybody else shares."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager


class Turns:
    """Names that are either shared by many or held by one; who came first goes first."""

    def __init__(self) -> None:
        self._shared: Counter[str] = Counter()
        self._held: set[str] = set()
        self._wanted: dict[int, Collection[str]] = {}
        self._numbers = itertools.count()
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def take(
        self, hurts: Collection[str] = (), shares: Collection[str] = ()
    ) -> AsyncIterator[None]:
        """Hold the first names alone and share the others; all at once, so nobody waits in a ring.

        Args:
            hurts: nobody else is there inside the block.
            shares: nobody holds them inside the block.
        """
        shares = set(shares) - set(hurts)
        async with self._changed:
            number = next(self._numbers)
            self._wanted[number] = hurts
            try:
                await self._changed.wait_for(lambda: self._free(number, hurts, shares))
            finally:
                del self._wanted[number]
                self._changed.notify_all()
            self._held.update(hurts)
            self._shared.update(shares)
        try:
            yield
        finally:
            async with self._changed:
                self._held.difference_update(hurts)
                self._shared.subtract(shares)
                self._changed.notify_all()

    def _free(self, number: int, hurts: Collection[str], shares: Collection[str]) -> bool:
        before = {name for other, names in self._wanted.items() if other < number for name in names}
        return not (
            any(name in self._held or self._shared[name] for name in hurts)
            or any(name in self._held for name in shares)
            # Or those who share a name would keep who wants it alone waiting for ever.
            or not before.isdisjoint({*hurts, *shares})
        )
