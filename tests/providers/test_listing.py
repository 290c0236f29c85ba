"""A provider that does not list its models in time: named, left out, and asked again at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from workbench import hops
from workbench.engine import Engine
from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.listing import Lister
from workbench.providers.scripted import Schedule, ScriptedProvider
from workbench.registration import build_router
from workbench.router import ModelRouter
from workbench.settings import load_settings
from workbench.store import Store
from workbench.types import ModelInfo

MODELS = {"x:1b": Schedule(())}
Wait = Callable[["Slow"], Awaitable[None]]


class Slow(ScriptedProvider):
    """Lists its models when ``wait`` is over."""

    asked = 0
    ended = 0
    wait: Wait

    async def list_models(self) -> list[ModelInfo]:
        self.asked += 1
        try:
            await self.wait(self)
        finally:
            self.ended += 1
        return await super().list_models()


def slow(wait: Wait, name: str = "slow") -> Slow:
    made = Slow(MODELS, name=name)
    made.wait = wait
    return made


async def for_ever(provider: Slow) -> None:
    await asyncio.Event().wait()


def beside(provider: Slow, patience_s: float) -> ModelRouter:
    router = ModelRouter(Lister(patience_s))
    router.register_provider(provider)
    router.register_provider(ScriptedProvider({"quick": Schedule(())}))
    return router


async def listed(router: ModelRouter) -> tuple[list[str], list[str]]:
    """Ids of the models, and who could not be asked."""
    async with asyncio.timeout(60):
        listing = await router.list_models()
    return [info.id for info in listing.models], [*listing.problems]


async def test_one_that_never_answers_is_named_and_hides_no_other(store: Store) -> None:
    settings = load_settings(
        workbench_listing_timeout_s=0.05, ollama_host="http://127.0.0.1:9", workbench_offline=True
    )
    router = build_router(settings)
    router.register_provider(slow(for_ever))
    engine = Engine(settings, router, store)
    async with asyncio.timeout(60):
        listing = await engine.list_models()
    assert "scripted/steady" in [info.id for info in listing.models]
    problem = listing.problems["slow"]
    assert problem.code is ErrorCode.TIMEOUT
    assert problem.message == "slow: it has not listed its models for 0.05 s."
    assert "WORKBENCH_LISTING_TIMEOUT_S" in problem.fix
    assert (problem.provider, problem.details) == ("slow", {"limit_s": 0.05})
    with pytest.raises(WorkbenchError, match=r"slow could not be asked \(TIMEOUT\)"):
        await router.resolve("nobody-has-it")
    await engine.close()


async def test_one_that_is_late_is_asked_again_when_it_has_answered() -> None:
    may = asyncio.Event()

    async def until_it_may(provider: Slow) -> None:
        await may.wait()

    late = slow(until_it_may)
    router = beside(late, 0.2)
    for _ in range(20):  # at once, but for the first
        assert await listed(router) == (["scripted/quick"], ["slow"])
    assert late.asked == 1, "questions do not heap up"
    may.set()
    async with asyncio.timeout(60):
        while not late.ended:
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await listed(router) == (["slow/x:1b", "scripted/quick"], [])
    assert late.asked == 2


async def test_an_answer_that_was_lost_does_not_hide_a_provider_for_ever() -> None:
    async def first_lost(provider: Slow) -> None:
        if provider.asked == 1:
            await asyncio.Event().wait()

    router = beside(lost := slow(first_lost), 0.02)
    assert await listed(router) == (["scripted/quick"], ["slow"])
    async with asyncio.timeout(60):
        while (await listed(router))[1]:
            await asyncio.sleep(0.01)
    assert (lost.asked, lost.ended) == (2, 2), "the first question was given up"


async def test_one_that_cannot_be_given_up_is_asked_no_more() -> None:
    refused, may = asyncio.Event(), asyncio.Event()

    async def clings(provider: Slow) -> None:
        while not may.is_set():
            try:
                await may.wait()
            except asyncio.CancelledError:
                refused.set()

    router = beside(clinging := slow(clings), 0.01)
    assert await listed(router) == (["scripted/quick"], ["slow"])
    async with asyncio.timeout(60):
        await refused.wait()
    again = await listed(router)
    may.set()  # before anything is asserted: the loop's end would wait for it
    assert again == (["scripted/quick"], ["slow"])
    assert clinging.asked == 1


async def test_a_list_that_nobody_waits_for_any_more_is_given_up() -> None:
    router = beside(left := slow(for_ever), 60)
    asking = asyncio.create_task(router.list_models())
    async with asyncio.timeout(60):
        while not left.asked:
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
        while not left.ended:
            await asyncio.sleep(0)
    assert asking.cancelled()


async def test_what_a_server_lists_for_another_workbench_is_another_question() -> None:
    async def slow_for_users(provider: Slow) -> None:
        if not hops.count():
            await asyncio.Event().wait()

    router = beside(slow(slow_for_users), 0.2)
    assert await listed(router) == (["scripted/quick"], ["slow"])
    with hops.arriving("1"):
        assert await listed(router) == (["slow/x:1b", "scripted/quick"], [])


async def test_a_host_that_never_lists_holds_up_no_request_that_another_can_take() -> None:
    router = ModelRouter(Lister(0.05))
    awake = ScriptedProvider(MODELS, name="ollama@b")
    router.register_hosts([slow(for_ever, "ollama@a"), awake])
    async with asyncio.timeout(60):
        assert (await router.resolve("ollama/x:1b")).provider is awake
        assert (await router.resolve("x:1b")).provider is awake
