"""A provider that misbehaves: its answer ends with an error that names it, and nobody else notices.

Each class of rule has a provider that breaks it, under the real engine with a real log.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.conftest import EngineFactory
from tests.test_engine import QUICK, ask, run, session_of
from workbench.engine import Engine
from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.base import CancellationToken
from workbench.providers.scripted import ScriptedProvider
from workbench.store import Store
from workbench.types import (
    ChatRequest,
    DoneEvent,
    ErrorEvent,
    Message,
    ProviderFinish,
    ProviderToken,
    ProviderToolCall,
    ProviderWarning,
    Status,
    StreamEvent,
    Timeouts,
    TokenEvent,
    ToolCall,
    new_id,
)

Play = Callable[[CancellationToken], AsyncGenerator[Any, None]]
now = time.monotonic_ns
BAD = ChatRequest("bad/x", (Message("user", "Hi"),))


class Bad(ScriptedProvider):
    """Plays what it is given, whatever that is."""

    play: Any

    def stream(self, request: ChatRequest, model: str, seed: int, cancel: CancellationToken) -> Any:
        return self.play(cancel)


def with_bad(make_engine: EngineFactory, play: Any, **settings: Any) -> Engine:
    engine = make_engine({"quick": QUICK}, **settings)
    bad = Bad({"x": QUICK}, name="bad")
    bad.play = play
    engine.router.register_provider(bad)
    return engine


def plays(*events: Any) -> Play:
    """A provider that says "well", and then this; what can be called is called first."""

    async def play(cancel: CancellationToken) -> AsyncGenerator[Any, None]:
        yield ProviderToken("well", now())
        for event in events:
            yield event() if callable(event) else event

    return play


def token(text: Any = "a", n_tokens: Any = 1, channel: Any = "content", **more: Any) -> Any:
    return lambda: ProviderToken(text, more.pop("t_ns", None) or now(), n_tokens, channel, **more)


def ends(reason: Any = "stop", *args: Any, **more: Any) -> ProviderFinish:
    return ProviderFinish(reason, *args, **more)


async def refused(engine: Engine, store: Store, message: str, text: str) -> None:
    """The client sees the defect, the row has it with what came before, the next one is served."""
    async with asyncio.timeout(60):
        last = (await run(engine, BAD))[-1]
    assert isinstance(last, ErrorEvent)
    assert last.error.code is ErrorCode.INTERNAL
    assert "A defect of the provider bad: " in last.error.message
    assert message in last.error.message
    assert "author" in last.error.fix
    assert last.error.provider == "bad"
    assert last.session.text == text
    assert isinstance((await run(engine, ask("quick")))[-1], DoneEvent)
    rows = store.rows("SELECT provider, status, error_code FROM stream_sessions ORDER BY seq")
    assert rows == [
        {"provider": "bad", "status": "error", "error_code": "INTERNAL"},
        {"provider": "scripted", "status": "ok", "error_code": None},
    ]


SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([lambda: ProviderToken("a", now() - 3600 * SECOND)], "before its request was sent"),
        ([lambda: ProviderToken("a", time.time_ns())], "ahead; the clock is time.monotonic_ns"),
        ([lambda: ProviderToken("a", 1.5)], "a stamp is 1.5"),  # type: ignore[arg-type]
        ([lambda: ProviderToken("a", True)], "a stamp is True"),
        ([token(None)], "the text of a token is None"),
        ([token(b"a")], "the text of a token is b'a'"),
        ([token(n_tokens=-1)], "n_tokens -1"),
        ([token(n_tokens=True)], "n_tokens True"),
        ([token(n_tokens=None)], "n_tokens None"),
        ([token(n_tokens=1.0)], "n_tokens 1.0"),
        ([token(n_tokens=10**7)], "10,000,001 tokens"),
        ([token(channel="thoughts")], "channel 'thoughts'"),
        ([token(channel=["content"])], "channel ['content']"),
        ([token(logprobs=[])], "logprobs of a token are []"),
        (["text"], "yields 'text', which is no event"),
        ([None], "yields None"),
        ([ProviderWarning(5, "five")], "a warning is"),  # type: ignore[arg-type]
        ([ProviderWarning("A", "b", None)], "details of a warning"),  # type: ignore[arg-type]
        ([lambda: ProviderToolCall(ToolCall("1", "f", {}), now())], "call of a function"),  # type: ignore[arg-type]
        ([lambda: ProviderToolCall(ToolCall("1", "f", "{}"), 0)], "before its request was sent"),
        ([ends("done")], "finish reason is 'done'"),
        ([ends(["stop"])], "finish reason is ['stop']"),
        ([ends("stop", -1)], "prompt_tokens of its finish is -1"),
        ([ends("stop", 1, True)], "output_tokens of its finish is True"),
        ([ends("stop", 1, 10**9)], "output_tokens of its finish is 1000000000"),
        ([ends("stop", 1, 1, None)], "count_source is None"),
        ([ends(runtime_ns={"eval": -1})], "duration 'eval' of its finish is -1"),
        ([ends(runtime_ns={"eval": float("nan")})], "duration 'eval' of its finish is nan"),
        ([ends(runtime_ns={"eval": float("inf")})], "duration 'eval' of its finish is inf"),
        ([ends(runtime_ns={"eval": "1"})], "duration 'eval' of its finish is '1'"),
        ([ends(details=None)], "must be mappings"),
        ([ends(details={"cache_tokens": "many"})], "cache_tokens of its finish is 'many'"),
        ([ends(), token()], "after its finish came ProviderToken"),
        ([ends(), ends()], "after its finish came ProviderFinish"),
        ([], "ended the stream without its finish"),
    ],
)
async def test_what_is_no_event_ends_the_answer(
    make_engine: EngineFactory, store: Store, events: list[Any], message: str
) -> None:
    await refused(with_bad(make_engine, plays(*events)), store, message, "well")


async def test_stamps_never_fall(make_engine: EngineFactory, store: Store) -> None:
    async def falling(cancel: CancellationToken) -> AsyncGenerator[Any, None]:
        first = now()
        yield ProviderToken("we", first)
        yield ProviderToken("ll", first)  # equal stamps may be: they came together
        yield ProviderToken("no", first - 1)

    await refused(with_bad(make_engine, falling), store, "before the one before it", "well")


def raises(error: BaseException) -> Play:
    async def play(cancel: CancellationToken) -> AsyncGenerator[Any, None]:
        yield ProviderToken("well", now())
        raise error

    return play


def at_once(cancel: CancellationToken) -> AsyncGenerator[Any, None]:
    raise KeyError("model")


async def no_generator(cancel: CancellationToken) -> list[Any]:
    return []


@pytest.mark.parametrize(
    ("play", "message", "text"),
    [
        (raises(ZeroDivisionError("by zero")), "it raised ZeroDivisionError: by zero.", "well"),
        (raises(TimeoutError("read")), "it raised TimeoutError: read.", "well"),
        (raises(asyncio.CancelledError()), "it raised CancelledError.", "well"),
        (raises(SystemExit(3)), "it raised SystemExit: 3.", "well"),
        (raises(GeneratorExit()), "it raised GeneratorExit.", "well"),
        (raises(StopAsyncIteration()), "it raised RuntimeError", "well"),
        (at_once, "it raised KeyError: 'model'.", ""),
        (no_generator, "no async generator", ""),
        (lambda cancel: None, "its stream is None", ""),
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine 'no_generator' was never awaited")
async def test_foreign_exceptions_are_the_providers(
    make_engine: EngineFactory, store: Store, play: Any, message: str, text: str
) -> None:
    await refused(with_bad(make_engine, play), store, message, text)


async def breaks(*args: Any, **more: Any) -> Any:
    raise KeyError("model")


async def gives_nothing(*args: Any, **more: Any) -> None:
    return None


@pytest.mark.parametrize("step", ["footprint", "check", "load"])
async def test_foreign_exceptions_before_an_answer_are_the_providers(
    make_engine: EngineFactory, store: Store, step: str
) -> None:
    engine = with_bad(make_engine, plays(ends()))
    setattr(engine.router.providers["bad"], step, breaks)
    await refused(engine, store, "it raised KeyError: 'model'.", "")


async def test_what_a_load_returns_is_checked(make_engine: EngineFactory, store: Store) -> None:
    engine = with_bad(make_engine, plays(ends()))
    engine.router.providers["bad"].load = gives_nothing  # type: ignore[method-assign]
    await refused(engine, store, "its load returned None", "")


async def test_foreign_exceptions_of_an_unload_are_the_providers(
    make_engine: EngineFactory, store: Store
) -> None:
    engine = with_bad(make_engine, plays(ends()))
    bad = engine.router.providers["bad"]
    assert isinstance((await run(engine, BAD))[-1], DoneEvent)
    bad.unload = breaks  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(WorkbenchError, match="provider bad: it raised KeyError") as caught:
            await engine.unload("bad/x")
        assert (caught.value.code, caught.value.provider) == (ErrorCode.INTERNAL, "bad")
        assert caught.value.operation == "unload"
    bad.show = breaks  # type: ignore[method-assign]
    with pytest.raises(WorkbenchError, match="provider bad: it raised KeyError"):
        await engine.show("bad/x")
    assert isinstance((await run(engine, ask("quick")))[-1], DoneEvent)
    (row,) = store.rows("SELECT reason FROM model_events WHERE event = 'unload' LIMIT 1")
    assert "defect of the provider bad" in row["reason"]


def fails(*args: Any) -> Any:
    raise KeyError("model")


@pytest.mark.parametrize(
    "told", [fails, lambda *model: None, lambda *model: [-1, "x", 2**40, None]]
)
async def test_who_cannot_name_its_processes_and_models_spoils_no_measuring(
    make_engine: EngineFactory, store: Store, told: Any
) -> None:
    """Its error ended the thread that reads the memory of all models."""
    engine = with_bad(make_engine, plays(ends()), workbench_memory_interval_ms=10)
    bad = engine.router.providers["bad"]
    bad.pids = bad.residents = told  # type: ignore[method-assign]
    for _ in range(2):
        last = (await run(engine, replace(BAD, session_id=new_id("ses"))))[-1]
        assert isinstance(last, DoneEvent), last
        assert last.session.mem_peak_bytes is None
    await engine.book.look()
    await engine.runtimes.look()
    assert {info.id for info in (await engine.list_models()).models} >= {"bad/x", "scripted/quick"}
    watch = engine.monitor.watch(lambda: (os.getpid(),))
    async with asyncio.timeout(60):
        while len(watch.readings) < 3:
            await asyncio.sleep(0.01)
    engine.monitor.unwatch(watch)
    await engine.unload("bad/x")
    assert isinstance((await run(engine, ask("quick")))[-1], DoneEvent)


async def test_a_stream_that_cannot_be_closed_hides_no_error(
    make_engine: EngineFactory, store: Store
) -> None:
    async def clings(cancel: CancellationToken) -> AsyncGenerator[Any, None]:
        try:
            yield ProviderToken("well", now())
            yield ProviderToken("a", 0)
        finally:
            raise ValueError("not closed")

    await refused(with_bad(make_engine, clings), store, "before its request was sent", "well")


async def stopped(engine: Engine) -> list[StreamEvent]:
    """The events of an answer that is stopped at its first token."""
    events = []
    async with asyncio.timeout(60):
        async for event in engine.stream(BAD):
            events.append(event)
            if isinstance(event, TokenEvent):
                engine.cancel(BAD.session_id)
    return events


def was_stopped(events: list[StreamEvent], store: Store, *warnings: str) -> None:
    session = session_of(events)
    assert (session.status, session.error) == (Status.CANCELLED, None)
    assert session.text.startswith("well")
    assert tuple(warning.code for warning in session.warnings) == warnings
    (row,) = store.rows("SELECT status, error_code FROM stream_sessions WHERE provider = 'bad'")
    assert row == {"status": "cancelled", "error_code": None}


@pytest.mark.parametrize("pause_s", [0.01, None])
async def test_a_provider_that_talks_on_after_a_stop_is_closed(
    make_engine: EngineFactory, store: Store, pause_s: float | None
) -> None:
    """Also one that never waits, beside which nothing else would run."""
    closed = []

    async def talks(cancel: CancellationToken) -> AsyncGenerator[Any, None]:
        try:
            yield ProviderToken("well", now())
            while True:
                yield ProviderToken("", now(), 0)
                if pause_s is not None:
                    await asyncio.sleep(pause_s)
        finally:
            closed.append(True)

    engine = with_bad(make_engine, talks)
    was_stopped(await stopped(engine), store, "STOP_IGNORED")
    assert closed
    assert isinstance((await run(engine, ask("quick")))[-1], DoneEvent)


async def test_a_provider_that_waits_on_after_a_stop_is_ended(
    make_engine: EngineFactory, store: Store
) -> None:
    async def waits(cancel: CancellationToken) -> AsyncGenerator[Any, None]:
        yield ProviderToken("well", now())
        await asyncio.Event().wait()

    engine = with_bad(make_engine, waits, workbench_cancel_grace_s=0.05)
    was_stopped(await stopped(engine), store, "STOP_IGNORED")
    assert isinstance((await run(engine, ask("quick")))[-1], DoneEvent)


async def test_one_that_stops_late_but_within_the_grace_keeps_its_account(
    make_engine: EngineFactory, store: Store
) -> None:
    async def late(cancel: CancellationToken) -> AsyncGenerator[Any, None]:
        yield ProviderToken("well", now())
        await cancel.wait()
        yield ProviderToken(" then", now())
        await asyncio.sleep(0.2)
        yield ProviderFinish("stop", 1, 2)

    engine = with_bad(make_engine, late, workbench_cancel_grace_s=30)
    events = await stopped(engine)
    was_stopped(events, store)
    assert session_of(events).output_tokens == 2


async def test_a_wait_that_ran_out_is_a_timeout_though_it_is_swallowed(
    make_engine: EngineFactory, store: Store
) -> None:
    async def swallows(cancel: CancellationToken) -> AsyncGenerator[Any, None]:
        yield ProviderToken("well", now())
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                yield ProviderToken(" still here", now())

    engine = with_bad(make_engine, swallows)
    request = ChatRequest(
        "bad/x", (Message("user", "Hi"),), timeouts=Timeouts(between_tokens_s=0.1)
    )
    async with asyncio.timeout(60):
        last = (await run(engine, request))[-1]
    assert isinstance(last, ErrorEvent)
    assert last.error.code is ErrorCode.TIMEOUT
    assert last.session.text == "well"
    assert isinstance((await run(engine, ask("quick")))[-1], DoneEvent)


class Clinging:
    """Says "well", then waits until it is let go, whoever cancels it; one that is asked again ends.

    ``where``: whether it clings while it answers, or when its stream is closed.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.let_go = asyncio.Event()
        self.asked = 0
        self.ended = asyncio.Event()

    async def cling(self) -> None:
        while not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                continue

    async def __call__(self, cancel: CancellationToken) -> AsyncGenerator[Any, None]:
        self.asked += 1
        if self.asked > 1:
            yield ProviderToken("again", now())
            yield ProviderFinish("stop", 1, 1)
            return
        try:
            yield ProviderToken("well", now())
            if self.where == "answering":
                await self.cling()
                yield ProviderToken(" unseen", now())
            await asyncio.Event().wait()
        finally:
            if self.where == "closing":
                await self.cling()
            self.ended.set()


def with_clinging(make_engine: EngineFactory, where: str) -> tuple[Engine, Clinging]:
    play = Clinging(where)
    engine = with_bad(make_engine, None, workbench_cancel_grace_s=0.05)
    bad = engine.router.providers["bad"]
    assert isinstance(bad, Bad)
    bad.play = play
    bad.concurrency = 1
    return engine, play


async def is_left_alone(
    engine: Engine, play: Clinging, store: Store, status: str, code: str | None
) -> None:
    """Its slot is free, and what it says when it is let go goes nowhere."""
    async with asyncio.timeout(60):
        last = (await run(engine, ChatRequest("bad/x", BAD.messages)))[-1]
        assert isinstance(last, DoneEvent)
        assert last.session.text == "again"
        assert not play.ended.is_set(), "it goes on"
        play.let_go.set()
        await play.ended.wait()
    rows = store.rows(
        "SELECT status, error_code, m.content FROM stream_sessions s JOIN messages m "
        "ON m.session_id = s.session_id AND m.role = 'assistant' ORDER BY s.seq"
    )
    assert [tuple(row.values()) for row in rows] == [(status, code, "well"), ("ok", None, "again")]


@pytest.mark.parametrize("where", ["answering", "closing"])
async def test_one_that_cannot_be_ended_after_a_stop_is_left(
    make_engine: EngineFactory, store: Store, where: str
) -> None:
    engine, play = with_clinging(make_engine, where)
    try:
        events = await stopped(engine)
        was_stopped(events, store, "STOP_IGNORED")
        (warning,) = session_of(events).warnings
        assert "cannot be closed" in warning.message
        await is_left_alone(engine, play, store, "cancelled", None)
    finally:
        play.let_go.set()  # or the end of the event loop would wait for it


@pytest.mark.parametrize("limit", ["between_tokens_s", "total_s"])
async def test_one_that_cannot_be_ended_when_its_time_is_over_is_left(
    make_engine: EngineFactory, store: Store, limit: str
) -> None:
    engine, play = with_clinging(make_engine, "answering")
    request = replace(BAD, timeouts=Timeouts(**{limit: 0.3}))
    try:
        async with asyncio.timeout(60):
            last = (await run(engine, request))[-1]
        assert isinstance(last, ErrorEvent)
        assert last.error.code is ErrorCode.TIMEOUT
        assert [warning.code for warning in last.session.warnings] == ["STOP_IGNORED"]
        await is_left_alone(engine, play, store, "timeout", "TIMEOUT")
    finally:
        play.let_go.set()
