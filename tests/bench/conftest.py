"""Runs over a real engine and a real log, with models that play schedules."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.conftest import EngineFactory
from workbench.bench.progress import Outcome
from workbench.bench.runner import Runner
from workbench.bench.spec import Spec
from workbench.client.roads import LocalRoad
from workbench.engine import Engine
from workbench.providers.scripted import Schedule, steady

QUICK = Schedule(steady(4, first_s=0.002, gap_s=0.001))

Run = Callable[..., Awaitable[Outcome]]


@pytest.fixture
def engine(make_engine: EngineFactory) -> Engine:
    from workbench.errors import ErrorCode

    return make_engine(
        {
            "a": QUICK,
            "b": QUICK,
            "broken": Schedule(steady(2, first_s=0.0, gap_s=0.0), error=ErrorCode.INTERNAL),
            "long": Schedule(steady(200, first_s=0.001, gap_s=0.002)),
        }
    )


def spec_of(**keys: Any) -> Spec:
    base = {"name": "x", "models": ["scripted/a", "scripted/b"], "prompts": {"count": 3}}
    return Spec.of({**base, "repeats": 2, **keys})


@pytest.fixture
def run(engine: Engine) -> Run:
    """Run a spec given by its keys."""

    async def running(**keys: Any) -> Outcome:
        road = LocalRoad(engine, "test")
        return await Runner(road, engine.settings, spec_of(**keys)).run()

    return running


async def rows(engine: Engine, sql: str) -> list[dict[str, Any]]:
    return await asyncio.to_thread(engine.store.rows, sql)
