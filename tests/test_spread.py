"""Hosts of one runtime, none of them real: what is remembered of each, and when it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from types import SimpleNamespace

import pytest

from workbench import hosts, spread
from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.listing import Lister
from workbench.providers.scripted import Schedule, ScriptedProvider
from workbench.spread import Spread
from workbench.types import ModelInfo

EMPTY = Schedule(())


class Host(ScriptedProvider):
    """What it lists may change, and it may be away."""

    problem: WorkbenchError | None = None
    asked = 0

    async def list_models(self) -> list[ModelInfo]:
        self.asked += 1
        if self.problem is not None:
            raise self.problem
        return await super().list_models()

    def away(self) -> WorkbenchError:
        self.problem = WorkbenchError(ErrorCode.OLLAMA_UNREACHABLE, f"{self.name} is away")
        return self.problem


def host(name: str, *models: str) -> Host:
    return Host(dict.fromkeys(models, EMPTY), name=f"ollama@{name}")


class Site:
    """Two hosts that have the same model, one knows another, and a clock that is set by hand."""

    def __init__(self) -> None:
        self.a, self.b = host("a", "x:1b"), host("b", "x:1b", "y:latest")
        self.busy: dict[str, int] = {}
        self.now = 100.0
        both = {one.name: one for one in (self.a, self.b)}
        self.spread = Spread(both, lambda name: self.busy.get(name, 0), Lister())

    async def choose(self, model: str = "x:1b", without: Collection[str] = ()) -> str:
        return (await self.spread.choose(model, without)).name.removeprefix("ollama@")

    @property
    def asked(self) -> tuple[int, int]:
        return self.a.asked, self.b.asked


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site()
    monkeypatch.setattr(spread, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


async def settle() -> None:
    """Until nothing else is to be done at once."""
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0)


async def test_who_has_the_model_and_least_to_do_takes_the_request(site: Site) -> None:
    assert await site.choose() == "a", "the first of equals"
    for name in ("y", "Y:latest"):
        assert await site.choose(name) == "b"
    site.busy["ollama@a"] = 1
    assert await site.choose() == "b"
    site.busy["ollama@b"] = 1
    await site.b.load("x:1b", keep_alive_s=1)
    assert await site.choose() == "b", "where it is in memory"
    assert await site.choose(without=["ollama@b"]) == "a"


async def test_what_a_host_lists_is_believed_for_half_a_minute(site: Site) -> None:
    assert await asyncio.gather(site.choose(), site.choose("y")) == ["a", "b"]
    assert site.asked == (1, 1), "once for all who want to know"
    site.now += 30
    await site.choose()
    assert site.asked == (1, 1)
    site.now += 0.1
    await site.choose()
    assert site.asked == (2, 2)
    site.now += 30.1
    site.spread.heard("ollama@a", [])
    assert await site.choose() == "b", "a has just said that it has none"
    assert site.asked == (2, 3)


async def test_a_silent_host_is_asked_again_beside_the_requests(site: Site) -> None:
    site.a.away()
    assert await site.choose() == "b"
    site.a.problem = None
    site.now += 5
    assert await site.choose() == "b"
    await settle()
    assert site.asked == (1, 1), "not at once"
    site.now += 0.1
    assert await site.choose() == "b", "nobody waits for it"
    await settle()
    assert site.asked == (2, 1)
    assert await site.choose() == "a"


async def test_a_host_that_failed_is_left_out_until_it_answers(site: Site) -> None:
    await site.choose()
    site.spread.heard("ollama@a", site.a.away())
    assert await site.choose() == "b"
    assert site.asked == (1, 1)
    assert await site.choose(without=["ollama@a"]) == "b"


async def test_what_nobody_has_is_looked_for_once_more(site: Site) -> None:
    await site.choose()
    site.b.schedules = {"z:latest": EMPTY}
    assert await site.choose("z") == "b", "pulled just now"
    assert site.asked == (2, 2)
    with pytest.raises(WorkbenchError):
        await site.choose("z", without=["ollama@b"])
    assert site.asked == (3, 2), "not of who is not to be chosen"


async def test_the_error_says_who_lacks_it_who_was_silent_and_what_helps(site: Site) -> None:
    async def refusal() -> WorkbenchError:
        with pytest.raises(WorkbenchError) as caught:
            await site.choose("z")
        return caught.value

    error = await refusal()
    assert error.code is ErrorCode.OLLAMA_MODEL_NOT_FOUND
    assert error.message == "None of ollama@a, ollama@b has a model 'z'."
    assert error.fix == "Pull it on one of them: workbench models pull ollama@a/z."
    assert (error.operation, error.provider) == ("resolve", "ollama")
    site.b.away()
    assert (await refusal()).message == (
        "None of ollama@a, ollama@b has a model 'z' (1 of them did not answer)."
    )
    first = site.a.away()
    assert await refusal() is first, "why the first does not answer"


# -- names ----------------------------------------------------------------------------------------


def test_hosts_are_written_as_pairs() -> None:
    assert hosts.read(" a = 1.2.3.4 ,, b-2=x:1=y") == {"a": "1.2.3.4", "b-2": "x:1=y"}
    pairs = {"a": "b"}
    assert hosts.read(pairs) is pairs


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("a", "'a' is no pair; give name=host:port"),
        ("a=", "'a=' is no pair; give name=host:port"),
        ("Big=x", "'Big' is no name: lower-case letters, digits, - and _"),
        ("a=x,a=y", "two hosts are named a"),
    ],
)
def test_a_bad_pair_is_named(value: str, problem: str) -> None:
    with pytest.raises(ValueError, match=r"host|pair|name") as caught:
        hosts.read(value)
    assert str(caught.value) == problem


def test_the_runtime_behind_a_host() -> None:
    assert hosts.provider("ollama", "attic") == "ollama@attic"
    for name in ("ollama", "ollama@attic", "ollama@attic/org/x@1", "ollama/x@y"):
        assert hosts.family(name) == "ollama"
