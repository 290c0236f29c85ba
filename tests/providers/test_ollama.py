"""The Ollama provider against a server with real llama.cpp behind it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ollama_standin.fixture import StandIn
from tests.providers.ollama_support import MODEL, answer, ask
from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.base import CancellationToken
from workbench.providers.ollama import OllamaProvider
from workbench.providers.ollama_pids import RunnerFinder
from workbench.types import ProviderEvent, ProviderFinish, ProviderToken, ProviderWarning

OTHER = "smollm2-b:135m"
Connect = Callable[..., OllamaProvider]

pytestmark = pytest.mark.model


def _tokens(events: list[ProviderEvent]) -> list[ProviderToken]:
    return [event for event in events if isinstance(event, ProviderToken)]


def _text(events: list[ProviderEvent]) -> str:
    return "".join(token.text for token in _tokens(events))


# -- models ------------------------------------------------------------------------------------


async def test_list_before_anything_is_loaded(empty_ollama: OllamaProvider) -> None:
    infos = {info.name: info for info in await empty_ollama.list_models()}
    assert set(infos) == {MODEL, OTHER}
    info = infos[MODEL]
    assert (info.id, info.status, info.memory_bytes) == (f"ollama/{MODEL}", "available", None)
    assert (info.format, info.quantization, info.context_length) == ("gguf", "Q4_1", 8192)
    assert (info.size_bytes or 0) > 90_000_000
    assert len(info.digest or "") == 64
    assert info.details["capabilities"] == ["completion"]


async def test_show_knows_more(ollama_provider: OllamaProvider) -> None:
    info = await ollama_provider.show(MODEL)
    assert info.parameters == 134_515_008
    assert info.chat_template is True
    assert "<|im_start|>" in info.details["template"]
    assert info.size_bytes is not None


async def test_show_of_an_unknown_model_says_how_to_get_it(ollama_provider: OllamaProvider) -> None:
    with pytest.raises(WorkbenchError) as caught:
        await ollama_provider.show("nope:1b")
    assert caught.value.code is ErrorCode.OLLAMA_MODEL_NOT_FOUND
    assert "ollama pull nope:1b" in caught.value.fix


async def test_load_list_and_unload(empty_ollama: OllamaProvider, standin: StandIn) -> None:
    assert empty_ollama.resident(MODEL) is None
    assert empty_ollama.pids(MODEL) == ()

    loaded = await empty_ollama.load(MODEL, keep_alive_s=100)
    assert loaded.fresh
    assert (loaded.name, loaded.device, loaded.context_length) == (MODEL, "cpu", 4096)
    assert (len(loaded.digest or ""), loaded.quantization) == (64, "Q4_1")
    assert list(loaded.pids) == standin.runner_pids()
    again = await empty_ollama.load(MODEL.upper(), keep_alive_s=100)
    assert not again.fresh
    assert again.pids == loaded.pids
    known = empty_ollama.resident(MODEL)
    assert known is not None
    assert not known.fresh

    infos = {info.name: info for info in await empty_ollama.list_models()}
    assert infos[MODEL].status == "resident"
    assert infos[MODEL].memory_bytes is None  # what it holds is measured, by the memory book
    assert infos[MODEL].details["ollama_size_bytes"] == loaded.details["size_bytes"]
    # The other name has the same weights, so the same runner serves it.
    assert infos[OTHER].status == "resident"
    assert infos[OTHER].details["resident_as"] == MODEL

    await empty_ollama.unload(MODEL)
    assert standin.runner_pids() == []  # gone when the call returns, so its memory is free
    assert empty_ollama.resident(MODEL) is None
    assert empty_ollama.pids(MODEL) == ()
    assert {info.status for info in await empty_ollama.list_models()} == {"available"}
    await empty_ollama.unload(MODEL)
    await empty_ollama.unload("nope:1b")


async def test_a_model_loaded_by_somebody_else_is_noticed(
    empty_ollama: OllamaProvider, standin: StandIn, connect_ollama: Connect
) -> None:
    await connect_ollama(standin.url).load(MODEL, keep_alive_s=100)
    assert empty_ollama.resident(MODEL) is None
    assert list(empty_ollama.pids(MODEL)) == standin.runner_pids()  # the only one there is
    await empty_ollama.list_models()
    assert empty_ollama.resident(MODEL) is not None
    assert not (await empty_ollama.load(MODEL, keep_alive_s=100)).fresh

    await connect_ollama(standin.url).unload(MODEL)
    await empty_ollama.list_models()
    assert empty_ollama.resident(MODEL) is None


async def test_keep_alive_runs_out(empty_ollama: OllamaProvider, standin: StandIn) -> None:
    before = time.monotonic()
    assert (await empty_ollama.load(MODEL, keep_alive_s=0.3)).pids
    await asyncio.to_thread(standin.wait_for_runners, 0)
    assert time.monotonic() - before > 0.3
    async with asyncio.timeout(60):  # our clock of its stay started a little after the server's
        while empty_ollama.resident(MODEL) is not None:
            await asyncio.sleep(0.005)
    assert empty_ollama.pids(MODEL) == ()


async def test_keep_alive_of_the_answer_replaces_that_of_the_load(
    ollama_provider: OllamaProvider, standin: StandIn
) -> None:
    await ollama_provider.load(MODEL, keep_alive_s=-1)
    assert (await ollama_provider.show(MODEL)).details["expires_at"] > "2100"
    await answer(ollama_provider, ask(max_tokens=1))
    expires = (await ollama_provider.show(MODEL)).details["expires_at"]
    assert expires < "2100"
    await answer(ollama_provider, ask(max_tokens=1, keep_alive_s=0))
    assert ollama_provider.resident(MODEL) is None
    standin.wait_for_runners(0)


async def test_unload_waits_for_the_end_of_the_runner(
    empty_ollama: OllamaProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in's runner ends too fast to see the difference, so the waiting is watched."""
    awaited: list[int] = []
    monkeypatch.setattr(RunnerFinder, "wait_gone", lambda self, pids, limit: awaited.extend(pids))
    loaded = await empty_ollama.load(MODEL, keep_alive_s=100)
    await empty_ollama.unload(MODEL)
    assert awaited == list(loaded.pids) != []


async def test_a_load_that_is_given_up_stops(gguf: Path, connect_ollama: Connect) -> None:
    with StandIn(gguf, "--slow-load", "60") as server:
        load = asyncio.create_task(connect_ollama(server.url).load(MODEL, keep_alive_s=100))
        await asyncio.to_thread(server.wait_for_runners, 1)
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        await asyncio.to_thread(server.wait_for_runners, 0)


# -- generation --------------------------------------------------------------------------------


async def test_a_greedy_answer_to_its_end(ollama_provider: OllamaProvider) -> None:
    before = time.monotonic_ns()
    events = await answer(ollama_provider, ask(max_tokens=300))
    finish, tokens = events[-1], _tokens(events)
    assert isinstance(finish, ProviderFinish)
    assert len(events) == len(tokens) + 1
    assert (finish.finish_reason, finish.count_source) == ("stop", "runtime")
    assert _text(events).startswith("Hello")
    assert tokens[-1].text == ""  # the end token, which eval_count counts too
    assert all(token.text for token in tokens[:-1])
    assert finish.output_tokens == sum(token.n_tokens for token in tokens)
    assert finish.prompt_tokens == 12
    stamps = [before, *(token.t_ns for token in tokens), time.monotonic_ns()]
    assert stamps == sorted(stamps)
    assert set(finish.runtime_ns) == {"total", "load", "prompt_eval", "eval"}
    assert 0 < finish.runtime_ns["eval"] < finish.runtime_ns["total"] < stamps[-1] - before
    assert _text(await answer(ollama_provider, ask(max_tokens=300))) == _text(events)


async def test_an_answer_cut_at_its_length(ollama_provider: OllamaProvider) -> None:
    *tokens, finish = await answer(ollama_provider, ask(max_tokens=4))
    assert isinstance(finish, ProviderFinish)
    assert (finish.finish_reason, finish.output_tokens) == ("length", 4)
    assert [bool(token.text) for token in _tokens(tokens)] == [True] * 4


async def test_the_seed_decides(ollama_provider: OllamaProvider) -> None:
    request = ask(temperature=1.5, max_tokens=12, top_p=1.0)
    first, same, other = [
        _text(await answer(ollama_provider, request, seed=seed)) for seed in (1, 1, 2)
    ]
    assert first == same != other


async def test_a_prompt_over_the_context_is_cut_and_said_so(
    ollama_provider: OllamaProvider,
) -> None:
    prompt = "".join(f"Fact {n}: the square of {n} is {n * n}.\n" for n in range(60))
    warning, *tokens, finish = await answer(ollama_provider, ask(prompt, num_ctx=256, max_tokens=2))
    assert isinstance(warning, ProviderWarning)
    assert warning.code == "PROMPT_TRUNCATED"
    assert isinstance(finish, ProviderFinish)
    assert finish.prompt_tokens is not None
    assert finish.prompt_tokens < 256 < finish.details["uncut_prompt_tokens"]
    assert str(finish.details["uncut_prompt_tokens"]) in warning.message
    assert finish.details["retry_ns"] > 0
    assert len(tokens) == finish.output_tokens == 2


async def test_logprobs_come_with_their_tokens(ollama_provider: OllamaProvider) -> None:
    tokens = _tokens(await answer(ollama_provider, ask(max_tokens=3, logprobs=2)))
    for token in tokens:
        (entry,) = token.logprobs
        assert entry["token"] == token.text
        assert bytes(entry["bytes"]).decode() == token.text
        assert len(entry["top_logprobs"]) == 2
        assert entry["logprob"] <= 0


async def test_a_schema_binds_the_answer(ollama_provider: OllamaProvider) -> None:
    schema = {
        "type": "object",
        "properties": {"color": {"type": "string", "enum": ["mauve"]}},
        "required": ["color"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    events = await answer(ollama_provider, ask(max_tokens=60, response_format=wanted))
    assert json.loads(_text(events)) == {"color": "mauve"}


async def test_a_bad_schema_is_the_callers_mistake(ollama_provider: OllamaProvider) -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}
    with pytest.raises(WorkbenchError) as caught:
        await answer(ollama_provider, ask(response_format=wanted))
    assert caught.value.code is ErrorCode.INVALID_REQUEST


# -- stopping ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cancel", "cancel and look away", "close"])
async def test_stopping_stops_the_decoding(ollama_provider: OllamaProvider, how: str) -> None:
    """The server has one slot: a second answer comes soon only if the first one let go of it."""
    await ollama_provider.load(MODEL, keep_alive_s=100)
    cancel = CancellationToken()
    # Nearly even odds for all 49,152 tokens: the end token will not come for hours.
    endless = ask(max_tokens=100_000, temperature=5.0, top_k=0, top_p=1.0)
    stream = ollama_provider.stream(endless, MODEL, 1, cancel)
    for _ in range(3):
        assert isinstance(await anext(stream), ProviderToken)
    if how == "close":
        await stream.aclose()
    else:
        cancel.cancel("user")
    if how == "cancel":
        rest = [event async for event in stream]
        assert len(rest) <= 2
        assert not any(isinstance(event, ProviderFinish) for event in rest)
    async with asyncio.timeout(10):
        assert len(await answer(ollama_provider, ask(max_tokens=2))) == 3
    await stream.aclose()


async def test_a_stalled_stream_can_be_cancelled(gguf: Path, connect_ollama: Connect) -> None:
    with StandIn(gguf, "--stall-after", "2") as server:
        cancel = CancellationToken()
        stream = connect_ollama(server.url).stream(ask(max_tokens=50), MODEL, 1, cancel)
        await anext(stream)
        await anext(stream)
        asyncio.get_running_loop().call_later(0.05, cancel.cancel, "timeout")
        async with asyncio.timeout(5):
            assert [event async for event in stream] == []


# -- failures ----------------------------------------------------------------------------------


async def test_a_killed_runner_is_an_error_and_the_next_answer_works(
    ollama_provider: OllamaProvider, standin: StandIn
) -> None:
    (old,) = (await ollama_provider.load(MODEL, keep_alive_s=100)).pids
    received: list[ProviderEvent] = []

    def kill_at_the_second(event: ProviderEvent) -> None:
        received.append(event)
        if len(received) == 2:
            os.kill(old, signal.SIGKILL)

    with pytest.raises(WorkbenchError) as caught:
        await answer(ollama_provider, ask(max_tokens=100_000), each=kill_at_the_second)
    assert caught.value.code is ErrorCode.OLLAMA_GENERATION_FAILED
    assert len(received) >= 2
    assert ollama_provider.resident(MODEL) is None

    loaded = await ollama_provider.load(MODEL, keep_alive_s=100)
    assert loaded.fresh
    assert list(loaded.pids) == standin.runner_pids() != [old]
    assert len(await answer(ollama_provider, ask(max_tokens=2))) == 3


async def test_a_killed_server_breaks_the_stream_and_may_come_back(
    gguf: Path, connect_ollama: Connect
) -> None:
    with StandIn(gguf) as server:
        provider = connect_ollama(server.url)
        await provider.load(MODEL, keep_alive_s=100)
        deaths: list[tuple[str, ErrorCode]] = []
        provider.on_death = lambda name, error: deaths.append((name, error.code))
        received: list[ProviderEvent] = []

        def kill_at_the_second(event: ProviderEvent) -> None:
            received.append(event)
            if len(received) == 2:
                server.kill()

        with pytest.raises(WorkbenchError) as caught:
            await answer(provider, ask(max_tokens=100_000), each=kill_at_the_second)
        assert caught.value.code is ErrorCode.OLLAMA_STREAM_BROKEN
        assert provider.resident(MODEL) is None
        assert deaths == [(MODEL, ErrorCode.OLLAMA_STREAM_BROKEN)], "told once, for the log"
        with pytest.raises(WorkbenchError) as caught:
            await provider.list_models()
        assert caught.value.code is ErrorCode.OLLAMA_UNREACHABLE

        server.start()
        loaded = await provider.load(MODEL, keep_alive_s=100)
        assert list(loaded.pids) == server.runner_pids()
        assert len(await answer(provider, ask(max_tokens=2))) == 3


@pytest.mark.parametrize(
    ("fault", "received"),
    [(("--cut-mid-line-after", "2"), 2), (("--garbage-line-after", "2"), 2), (("--html",), 0)],
    ids=["cut", "garbage", "html"],
)
async def test_a_damaged_stream_is_broken(
    gguf: Path, connect_ollama: Connect, fault: tuple[str, ...], received: int
) -> None:
    with StandIn(gguf, *fault) as server:
        events: list[ProviderEvent] = []
        with pytest.raises(WorkbenchError) as caught:
            await answer(connect_ollama(server.url), ask(), each=events.append)
    assert caught.value.code is ErrorCode.OLLAMA_STREAM_BROKEN
    assert len(events) == received


async def test_an_absent_server_is_named_at_once(
    connect_ollama: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused: list[float] = []
    sleep = asyncio.sleep

    async def noted(delay: float, result: object = None) -> object:
        paused.append(delay)
        return await sleep(delay, result)

    monkeypatch.setattr(asyncio, "sleep", noted)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    provider = connect_ollama(f"http://127.0.0.1:{port}")
    for attempt in (
        provider.list_models(),
        provider.show(MODEL),
        provider.load(MODEL, keep_alive_s=1),
        provider.unload(MODEL),
        answer(provider, ask()),
    ):
        with pytest.raises(WorkbenchError) as caught:
            await attempt
        assert caught.value.code is ErrorCode.OLLAMA_UNREACHABLE
        assert f"127.0.0.1:{port}" in caught.value.message
        assert "OLLAMA_HOST" in caught.value.fix
        assert "ollama serve" in caught.value.fix
    assert not any(paused), "none waited before it tried again"
    assert provider.pids(MODEL) == ()


async def test_load_with_another_context_happens_before_the_request(
    empty_ollama: OllamaProvider,
) -> None:
    """A reload inside the request would be counted as time to first token."""
    await empty_ollama.load(MODEL, keep_alive_s=100)
    loaded = await empty_ollama.load(MODEL, keep_alive_s=100, num_ctx=1024)
    assert loaded.fresh
    assert loaded.context_length == 1024
    asked = ask(num_ctx=1024, max_tokens=4)
    events = [e async for e in empty_ollama.stream(asked, MODEL, 1, CancellationToken())]
    assert isinstance(events[-1], ProviderFinish)
    assert empty_ollama.pids(MODEL) == loaded.pids, "the request found it as it was loaded"
