"""Several Ollama hosts as one catalogue: three stand-ins, of which some die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import DEMO_GGUF
from tests.ollama_standin.fixture import StandIn
from workbench import hosts
from workbench.engine import Engine, build
from workbench.errors import ErrorCode, WorkbenchError
from workbench.hosts import Host
from workbench.providers.ollama import OllamaProvider
from workbench.settings import load_settings
from workbench.store import Store
from workbench.types import (
    ChatRequest,
    DoneEvent,
    ErrorEvent,
    Message,
    Options,
    StreamEvent,
    TokenEvent,
    WarningEvent,
)

SHARED = "smollm2:135m"


# -- who takes a request


@pytest.mark.parametrize(
    ("a", "b", "chosen"),
    [
        # answers, has, resident, busy
        ((True, True, False, 0), (True, True, False, 0), "a"),
        ((True, True, False, 0), (True, True, True, 0), "b"),
        ((True, True, False, 0), (True, True, True, 1), "b"),
        ((True, True, False, 0), (True, True, True, 2), "a"),
        ((True, True, True, 3), (True, True, True, 1), "b"),
        ((True, False, False, 0), (True, True, False, 9), "b"),
        ((False, True, True, 0), (True, True, False, 9), "b"),
        ((False, True, True, 0), (True, False, False, 0), None),
    ],
)
def test_the_host_with_least_to_do_takes_it_and_a_load_is_work(
    a: tuple[bool, bool, bool, int], b: tuple[bool, bool, bool, int], chosen: str | None
) -> None:
    assert hosts.choose([Host("a", *a), Host("b", *b)]) == chosen


def test_hosts_are_registered_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def servers(value: str) -> dict[str, str]:
        monkeypatch.setenv("OLLAMA_HOSTS", value)
        return load_settings(_env_file=None).ollama_servers

    assert servers("") == {"ollama": "http://127.0.0.1:9"}, "OLLAMA_HOST as ever"
    assert servers("attic=10.0.0.5") == {"ollama": "http://10.0.0.5:11434"}
    assert servers("here=127.0.0.1, attic=https://box.example:8443") == {
        "ollama@here": "http://127.0.0.1:11434",
        "ollama@attic": "https://box.example:8443",
    }
    for bad in ("attic", "a=1.2.3.4,a=1.2.3.5", "Big=1.2.3.4", "a=http://x y"):
        with pytest.raises(WorkbenchError) as caught:
            servers(bad)
        assert "OLLAMA_HOSTS" in caught.value.message
    with pytest.raises(WorkbenchError, match=r"a and b are one server \(http://localhost:11434\)"):
        servers("a=127.0.0.1,b=localhost")


async def test_memory_of_a_host_elsewhere_is_unknown_and_not_of_this_budget() -> None:
    urls = {"near": "http://127.0.0.1:11434", "far": "http://192.0.2.1:11434"}
    far = OllamaProvider(load_settings(_env_file=None, ollama_hosts=urls), "ollama@far")
    footprint = await far.footprint("any")
    assert footprint is not None
    assert not footprint.peak_bytes
    assert not far.shares_cores
    assert list(far.pids("any")) == []


# -- three of them


@pytest.fixture
def standins() -> Iterator[dict[str, StandIn]]:
    """Two with the same model, a third with another."""
    if not DEMO_GGUF.is_file():
        pytest.fail("The demo model is missing: run `make demo`.")
    names = {"a": SHARED, "b": SHARED, "c": "other:135m"}
    with ExitStack() as stack:
        yield {
            host: stack.enter_context(StandIn(DEMO_GGUF, "--models", models))
            for host, models in names.items()
        }


@pytest.fixture
async def engine(standins: dict[str, StandIn], store: Store) -> AsyncIterator[Engine]:
    urls = {name: one.url for name, one in standins.items()}
    made = build(load_settings(_env_file=None, ollama_hosts=urls), store)
    yield made
    await made.close()


def ask(model: str, tokens: int = 6) -> ChatRequest:
    return ChatRequest(
        model, (Message("user", "Tell a story."),), Options(max_tokens=tokens, temperature=0.0)
    )


async def told(engine: Engine, request: ChatRequest) -> list[StreamEvent]:
    async with asyncio.timeout(120):
        return [event async for event in engine.stream(request)]


def host_of(event: StreamEvent) -> str:
    assert isinstance(event, (DoneEvent, ErrorEvent))
    return event.session.provider.partition("@")[2]


async def test_three_hosts_are_one_catalogue_and_the_loss_of_one_is_routed_around(
    engine: Engine, standins: dict[str, StandIn]
) -> None:
    listing = await engine.list_models()
    ids = {info.id for info in listing.models if info.provider.startswith("ollama")}
    assert ids == {f"ollama@a/{SHARED}", f"ollama@b/{SHARED}", "ollama@c/other:135m"}
    # Whoever has it answers, by the runtime's name or a bare one.
    for name in ("ollama/other:135m", "other:135m"):
        assert (await engine.router.resolve(name)).model == "ollama@c/other:135m"
    with pytest.raises(WorkbenchError) as caught:
        await engine.router.resolve("ollama/nowhere:1b")
    assert caught.value.code is ErrorCode.OLLAMA_MODEL_NOT_FOUND
    with pytest.raises(WorkbenchError) as caught:
        await engine.disk.delete(f"ollama/{SHARED}")
    assert "ollama@a/NAME" in caught.value.fix

    # Requests that come together go to different hosts.
    both = await asyncio.gather(*(told(engine, ask(f"ollama/{SHARED}")) for _ in range(2)))
    assert {host_of(events[-1]) for events in both} == {"a", "b"}
    assert len(engine.overview().residents) == 2

    # One is killed while it answers: what had come is kept, and nobody is sent there any more.
    broken: ErrorEvent | None = None
    lost = ""
    async for event in engine.stream(ask(f"ollama/{SHARED}", tokens=400)):
        if isinstance(event, TokenEvent) and not lost:
            (live,) = engine.active()
            lost = live["model"].partition("/")[0].partition("@")[2]
            standins[lost].kill()
        broken = event if isinstance(event, ErrorEvent) else None
    assert broken is not None
    assert broken.error.code is ErrorCode.OLLAMA_STREAM_BROKEN
    assert broken.session.text
    kept = "b" if lost == "a" else "a"
    events = await told(engine, ask(f"ollama/{SHARED}"))
    assert isinstance(events[-1], DoneEvent)
    assert host_of(events[-1]) == kept
    await engine.runtimes.look()
    problems = (await engine.list_models()).problems
    assert problems[f"ollama@{lost}"].code is ErrorCode.OLLAMA_UNREACHABLE
    assert engine.runtimes.last_good(f"ollama@{kept}") is not None

    # It comes back, and is asked again without a restart of ours.
    standins[lost].start()
    assert f"ollama@{lost}" not in (await engine.list_models()).problems
    # With the model in memory the other has the first two, as a load is work too.
    three = await asyncio.gather(*(told(engine, ask(f"ollama/{SHARED}")) for _ in range(3)))
    assert sorted(host_of(events[-1]) for events in three) == sorted([kept, kept, lost])

    # The one that would be chosen dies unnoticed: the other answers before a token was lost.
    chosen = (await engine.router.resolve(f"ollama/{SHARED}")).provider.name.partition("@")[2]
    standins[chosen].kill()
    events = await told(engine, ask(f"ollama/{SHARED}"))
    assert isinstance(events[-1], DoneEvent)
    other = "b" if chosen == "a" else "a"
    assert host_of(events[-1]) == other
    (warning,) = [event for event in events if isinstance(event, WarningEvent)]
    assert warning.code == "REROUTED"
    session = events[-1].session
    assert session.requested_model == f"ollama/{SHARED}", "as it was asked for"
    assert session.fallback_from == session.tried_first == f"ollama@{chosen}/{SHARED}"
    # Who names the host gets that host or its error.
    (*_, last) = await told(engine, ask(f"ollama@{chosen}/{SHARED}"))
    assert isinstance(last, ErrorEvent)
    assert last.error.code is ErrorCode.OLLAMA_UNREACHABLE
    assert last.error.provider == f"ollama@{chosen}"
