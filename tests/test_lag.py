"""An event loop that was late says so in the row, and its figures are no speed of a model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from tests.conftest import EngineFactory
from workbench import figures
from workbench.engine import Engine
from workbench.lag import LagSampler
from workbench.metrics import NS, spoilt
from workbench.providers.scripted import Schedule, ScriptedProvider, steady
from workbench.store import Store
from workbench.types import (
    ChatRequest,
    DoneEvent,
    Message,
    PromptEvent,
    StreamEvent,
    StreamSession,
    TokenEvent,
)

BLOCK_S = 0.4
SLOW = Schedule(steady(30, first_s=0.6, gap_s=0.05))


async def test_how_late_the_loop_came_is_known_at_once_and_a_moment_later() -> None:
    sampler = LagSampler()
    assert sampler.at(0, 0) is None, "nobody looks"
    sampler.start()
    await asyncio.sleep(0)  # its first sleep begins
    before = time.monotonic_ns()
    time.sleep(BLOCK_S)  # noqa: ASYNC251 - the block that is to be seen
    after = time.monotonic_ns()
    inside = before + round(BLOCK_S / 2 * NS)
    at_once = [sampler.at(after, begun) or 0 for begun in (before, inside, after)]
    while not sampler.lag.samples:
        await asyncio.sleep(0)
    later = [sampler.at(after, begun) or 0 for begun in (before, inside, after)]
    long_after = after + 10 * sampler.interval_ns
    assert (sampler.at(long_after, before) or 0) < later[0], "it has been on time since"
    sampler.close()
    for whole, half, none in (at_once, later):
        assert whole > 0.8 * BLOCK_S * NS
        assert 0.4 * BLOCK_S * NS < half < whole, "what was before does not count"
        assert none < half
    assert sampler.at(after, before) is None, "it looks no more"


def test_it_looks_again_in_another_loop() -> None:
    sampler = LagSampler(interval_s=0.001)

    async def look() -> None:
        sampler.start()
        seen = sampler.lag.samples
        while sampler.lag.samples == seen:
            await asyncio.sleep(0.001)
        assert sampler.at(time.monotonic_ns(), 0) is not None

    asyncio.run(look())
    asyncio.run(look())


async def answered(
    engine: Engine, model: str, block_at: Callable[[StreamEvent], bool], after_s: float = 0.0
) -> StreamSession:
    """The record of an answer during which the loop was blocked once."""
    blocked, last = False, None
    async for event in engine.stream(ChatRequest(f"scripted/{model}", (Message("user", "hi"),))):
        if not blocked and block_at(event):
            blocked = True
            await asyncio.sleep(after_s)
            time.sleep(BLOCK_S)  # noqa: ASYNC251 - as a page that draws too much would
        last = event
    assert isinstance(last, DoneEvent)
    assert last.session.text
    return last.session


def is_sent(event: StreamEvent) -> bool:
    return isinstance(event, PromptEvent)


def has_token(event: StreamEvent) -> bool:
    return isinstance(event, TokenEvent)


def late(session: StreamSession, figure: str) -> bool:
    return (session.metrics[f"{figure}_late_s"] or 0) > 0.6 * BLOCK_S


async def test_a_row_says_how_late_its_loop_was(make_engine: EngineFactory, store: Store) -> None:
    """TTFT is wrong by a block at either of its ends, speed by one at its own."""
    short = Schedule(steady(8, first_s=0.1, gap_s=0.04))
    engine = make_engine(dict.fromkeys(("sending", "first"), SLOW) | {"last": short})
    sessions = {
        "sending": await answered(engine, "sending", is_sent),
        "first": await answered(engine, "first", is_sent, after_s=0.3),
        "last": await answered(engine, "last", has_token),
    }
    assert {name: (late(one, "ttft"), late(one, "speed")) for name, one in sessions.items()} == {
        "sending": (True, False),
        "first": (True, True),
        "last": (False, True),
    }
    rows = {
        row["model"].removeprefix("scripted/"): row
        for row in store.rows("FROM latencies JOIN model_leaderboard USING (model)")
    }
    for name, session in sessions.items():
        row, wrong = rows[name], spoilt(session)
        assert row["ttft_late_s"] == session.metrics["ttft_late_s"]
        assert row["speed_late_s"] == session.metrics["speed_late_s"]
        assert (row["ttft_spoilt"], row["speed_spoilt"]) == (
            wrong["ttft_spoilt"],
            wrong["speed_spoilt"],
        )
        assert wrong["ttft_spoilt"] or not late(session, "ttft")
        assert wrong["speed_spoilt"] or not late(session, "speed")
        assert "late " in figures.line(session)
        assert (row["ttft_p50_s"] is None) == wrong["ttft_spoilt"]
        assert (row["decode_tps_p50"] is None) == wrong["speed_spoilt"]
        assert row["sessions_uncontended"] == 1, "it is counted"


async def test_a_block_between_the_stamps_changes_neither(make_engine: EngineFactory) -> None:
    prompt = Schedule(steady(4, first_s=1.5, gap_s=0.03))
    session = await answered(make_engine({"a": prompt}), "a", is_sent, after_s=0.3)
    assert not late(session, "ttft")
    assert not late(session, "speed")


async def test_what_another_process_stamps_is_never_late_for_our_loop(
    make_engine: EngineFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScriptedProvider, "stamps_apart", True)
    session = await answered(make_engine({"apart": SLOW}), "apart", has_token)
    assert session.ttft_late_ns is session.speed_late_ns is None
    assert not spoilt(session)["speed_spoilt"]
