"""Ended streams are kept for readers who come back, but neither many nor for long."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from tests.conftest import EngineFactory
from workbench.api.feeds import Feed, Feeds
from workbench.providers.scripted import Schedule, steady
from workbench.types import ChatRequest, Message

QUICK = {"quick": Schedule(steady(2, first_s=0.001, gap_s=0.001))}


async def ended(feeds: Feeds, number: int) -> Feed:
    call = ChatRequest("scripted/quick", (Message("user", "hi"),), session_id=f"ses_{number}")
    feed = feeds.start([call], call.session_id, detach=False)
    async for _ in feed.follow():
        pass
    return feed


@pytest.mark.parametrize(
    ("bounds", "left"),
    [
        ({"workbench_streams_kept": 2}, 2),
        ({"workbench_streams_kept": 0}, 0),
        ({"workbench_stream_keep_s": 0.05}, 0),
    ],
)
async def test_nothing_more_is_held(
    make_engine: EngineFactory, bounds: dict[str, float], left: int
) -> None:
    """With no further request coming."""
    engine = make_engine(QUICK, **bounds)
    feeds = Feeds(engine, engine.settings)
    held = [weakref.ref(await ended(feeds, number)) for number in range(5)]
    async with asyncio.timeout(10):
        while sum(feed() is not None for feed in held) != left:
            await asyncio.sleep(0.02)
            gc.collect()
    await feeds.close()
