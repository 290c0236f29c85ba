"""The two loops: users who wait for their answers, and arrivals that do not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

from workbench.bench.plan import Chain
from workbench.metrics import NS

Do = Callable[[Chain, int], Awaitable[None]]
"""Runs a chain that was to start at a moment (monotonic ns)."""


@asynccontextmanager
async def _tasks() -> AsyncIterator[asyncio.TaskGroup]:
    """A group of tasks; what the first of them to fail raised is raised as it was."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def closed(chains: Iterable[Chain], users: int, think_s: float, do: Do) -> None:
    """``users`` take chain after chain, each as soon as it is done with the one before.

    Args:
        chains: taken in order.
        users: how many run at once.
        think_s: pause of a user between two chains.
        do: runs a chain.
    """
    left = iter(chains)

    async def user() -> None:
        thinking = False
        for chain in left:
            if thinking and think_s:
                await asyncio.sleep(think_s)
            thinking = True
            await do(chain, time.monotonic_ns())

    async with _tasks() as group:
        for _ in range(users):
            group.create_task(user())


async def open_loop(chains: Iterable[Chain], do: Do, *, most: int) -> None:
    """Every chain starts at its moment, whatever became of those before it.

    Where more than ``most`` are under way the next one waits here, and its time counts from its
    moment all the same.

    Args:
        chains: by ``at_s``, which counts from that of the first one.
        do: runs a chain.
        most: chains at once.
    """
    room = asyncio.Semaphore(most)
    loop = asyncio.get_running_loop()
    first_s: float | None = None
    start_ns, start = time.monotonic_ns(), loop.time()

    async def one(chain: Chain, intended_ns: int) -> None:
        try:
            await do(chain, intended_ns)
        finally:
            room.release()

    async with _tasks() as group:
        for chain in chains:
            at_s = chain[0].at_s
            assert at_s is not None
            first_s = at_s if first_s is None else first_s
            offset_s = at_s - first_s
            if (wait_s := start + offset_s - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            await room.acquire()
            group.create_task(one(chain, start_ns + round(offset_s * NS)))
