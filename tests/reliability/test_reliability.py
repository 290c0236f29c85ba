"""Small versions of campaign.py and soak.py: the whole app, broken on purpose and under load."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.reliability.campaign import KINDS, Campaign
from tests.reliability.soak import Soak
from tests.reliability.stage import Stage
from tests.reliability.turns import Turns

DEAR = 0.25
"""Kinds that are drawn less often than this take too long for every change."""
OF_PROCESSES = ("worker-killed", "runner-killed", "server-killed")

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),
    pytest.mark.alone,
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with Stage(tmp_path_factory.mktemp("reliability")) as running:
        await running.warm()
        yield running


async def test_every_fault_is_told_to_its_victim_and_hurts_nobody_else(stage: Stage) -> None:
    """Under load: users who switch between models, and one who reads 10,000 tokens meanwhile."""
    kinds = [kind for kind in KINDS if kind.quick and kind.weight >= DEAR]
    assert len(kinds) >= 40
    before = await stage.at_rest()
    asked = len(stage.users.asked)
    load = Soak(stage, 0.1, users=3, long=("scripted/long",), samples=2)
    campaign = Campaign(stage, seed=7, kinds=kinds, in_turn=True, innocents=0)
    await asyncio.gather(load.run(), campaign.run())  # the campaign ends when all is at rest
    assert campaign.report().problems == []
    assert set(campaign.scores) == {kind.name for kind in kinds}
    assert all(score.count == 1 for score in campaign.scores.values())
    assert load.problems == []
    assert load.finished_long == 1
    assert sum(load.outcomes.values()) < len(stage.users.asked) - asked
    after = campaign.levels[-1]
    assert after["processes"] == before["processes"]
    assert after["fds"] <= before["fds"] + 30, "connections that are kept open for a while"


async def test_processes_that_die_are_replaced(stage: Stage) -> None:
    kinds = [kind for kind in KINDS if kind.name in OF_PROCESSES]
    campaign = Campaign(stage, seed=7, kinds=kinds, in_turn=True, innocents=1, lanes=2)
    await campaign.run()
    assert campaign.report().problems == []
    assert set(campaign.scores) == set(OF_PROCESSES)
    assert stage.starts == 2


async def test_whoever_disturbs_others_waits_for_them_and_nobody_waits_for_ever() -> None:
    turns, chance = Turns(), random.Random(3)
    names = ("server", "ollama", "ollama/a", "ollama/b")
    alone: list[str] = []
    shared: list[str] = []

    async def one() -> None:
        hurts = set(chance.sample(names, chance.choice((0, 0, 1, 2))))
        shares = set(chance.sample(names, 2)) - hurts
        async with turns.take(hurts, shares):
            assert hurts.isdisjoint([*alone, *shared])
            assert shares.isdisjoint(alone)
            alone.extend(hurts)
            shared.extend(shares)
            await asyncio.sleep(0)
            for name in hurts:
                alone.remove(name)
            for name in shares:
                shared.remove(name)

    async with asyncio.timeout(60):
        await asyncio.gather(*(one() for _ in range(200)))
