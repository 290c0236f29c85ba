"""The provider of endpoints against llama.cpp's own server, alone and on the engine's road."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT
from tests.live import free_port
from tests.providers.ollama_support import http
from tests.providers.openai_support import MODEL, answer, ask, connected, serving
from workbench.endpoints import Endpoint
from workbench.engine import Engine, build
from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.base import CancellationToken
from workbench.providers.openai_compat import OpenAICompatProvider
from workbench.settings import load_settings
from workbench.store import Store
from workbench.types import (
    ChatRequest,
    DoneEvent,
    Message,
    Options,
    ProviderFinish,
    ProviderToken,
    StreamSession,
)


@pytest.fixture(scope="module")
def llama(gguf: Path) -> Iterator[str]:
    """The address of llama.cpp's server around the demo model."""
    command = [sys.executable, "-m", "benchmarks.llama_server", str(gguf), "--metrics"]
    process = subprocess.Popen(
        [*command, "--slots", "1", "--threads", "1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.fixture
async def provider(llama: str) -> AsyncIterator[OpenAICompatProvider]:
    async with connected(llama) as made:
        yield made


@pytest.fixture
async def model(provider: OpenAICompatProvider) -> str:
    (info,) = await provider.list_models()
    return info.name


def texts(events: list[Any]) -> str:
    return "".join(event.text for event in events if isinstance(event, ProviderToken))


async def test_its_list_says_what_the_server_knows_and_no_more(
    provider: OpenAICompatProvider,
) -> None:
    (info,) = await provider.list_models()
    assert info.id == f"box/{info.name}"
    assert info.provider == "box"
    assert info.details["server"] == "llama.cpp"
    assert (info.parameters, info.quantization) == (134_515_008, "Q4_1")
    assert info.memory_bytes is None
    assert info.digest is None
    assert info.dtype is None
    with pytest.raises(WorkbenchError) as caught:
        await provider.check("no-such-model")
    assert caught.value.code is ErrorCode.ENDPOINT_MODEL_NOT_FOUND
    assert info.id in caught.value.fix


async def test_an_answer_has_the_servers_counts_and_our_stamps(
    provider: OpenAICompatProvider, model: str
) -> None:
    events = await answer(provider, ask(logprobs=2), model)
    *tokens, finish = events
    assert isinstance(finish, ProviderFinish)
    assert finish.finish_reason == "length"
    assert all(isinstance(token, ProviderToken) for token in tokens)
    stamps = [token.t_ns for token in tokens]
    assert stamps == sorted(stamps)
    assert len(set(stamps)) > 6, "they do not come in one go"
    assert sum(token.n_tokens for token in tokens) == finish.output_tokens == 12
    assert finish.prompt_tokens
    assert finish.prompt_tokens > 20
    assert {"prompt_eval", "eval"} == finish.runtime_ns.keys()
    assert all(len(token.logprobs[0]["top_logprobs"]) == 2 for token in tokens)


async def test_options_reach_the_server(provider: OpenAICompatProvider, model: str) -> None:
    async def said(text: str, **options: Any) -> str:
        """The second time: the first has no prompt cached, and rounds otherwise for it."""
        await answer(provider, ask(text, max_tokens=1), model)
        return texts(await answer(provider, ask(text, **options), model))

    whole = await said("Count to ten.")
    word = whole.split()[2]
    cut = await said("Count to ten.", stop=(word,))
    assert word not in cut
    assert len(cut) < len(whole)
    drawn = {"temperature": 1.5, "top_p": 1.0, "top_k": 0, "max_tokens": 6}
    assert await said("Go.", **drawn) == await said("Go.", **drawn), "the seed decides"
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [1, 2]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    written = await answer(provider, ask("A number.", max_tokens=60, response_format=form), model)
    assert json.loads(texts(written))["n"] in (1, 2)
    raw = await answer(provider, ask("The sky is", raw=True, logprobs=1, max_tokens=2), model)
    assert raw[-1].prompt_tokens == 3  # type: ignore[union-attr]


async def test_a_prompt_beyond_its_context_is_the_callers_to_shorten(
    provider: OpenAICompatProvider, model: str
) -> None:
    with pytest.raises(WorkbenchError) as caught:
        await answer(provider, ask("word " * 700), model)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert "Shorten" in caught.value.fix


async def test_cancelling_stops_the_server(
    llama: str, provider: OpenAICompatProvider, model: str
) -> None:
    cancel = CancellationToken()

    def stop_at_once(event: object) -> None:
        cancel.cancel("user")

    request = ask("Tell a long story.", max_tokens=400)
    events = await answer(provider, request, model, cancel, stop_at_once)
    assert len(events) <= 2
    assert not isinstance(events[-1], ProviderFinish)

    async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(30):
        while "llamacpp:requests_processing 0" not in (await client.get(f"{llama}/metrics")).text:
            await asyncio.sleep(0.02)


async def test_nothing_of_it_is_ours_to_load_or_unload(
    provider: OpenAICompatProvider, model: str
) -> None:
    resident = await provider.load(model, keep_alive_s=1)
    assert resident.fresh is False
    assert resident.pids == ()
    footprint = await provider.footprint(model)
    assert footprint is not None
    assert not footprint.peak_bytes
    assert list(provider.residents()) == []
    assert list(provider.pids(model)) == []
    with pytest.raises(WorkbenchError) as caught:
        await provider.unload(model)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


# -- on the engine's road


@pytest.fixture
async def engine(llama: str, store: Store) -> AsyncIterator[Engine]:
    """Two registrations of one server: as if far away, and as one of this machine."""
    far = Endpoint(name="far", base_url=llama)
    here = Endpoint(name="here", base_url=llama, local=True, metrics_url="")
    made = build(load_settings(_env_file=None, openai_compat_endpoints=(far, here)), store)
    yield made
    await made.close()


async def asked(engine: Engine, model: str, fallback: str | None = None) -> StreamSession:
    message = Message("user", "Say hi.")
    request = ChatRequest(model, (message,), Options(max_tokens=8), fallback=fallback)
    events = [event async for event in engine.stream(request)]
    assert isinstance(events[-1], DoneEvent)
    assert "loading" not in [event.type for event in events], "nothing of it is waited for"
    return events[-1].session


async def test_its_rows_are_like_all_others_and_memory_is_measured_or_unknown(
    engine: Engine, model: str, store: Store
) -> None:
    far, here = await asked(engine, f"far/{model}"), await asked(engine, f"here/{model}")
    assert (far.provider, far.count_source, far.output_tokens) == ("far", "runtime", 8)
    assert far.quantization == "Q4_1"
    assert far.metrics["ttft_s"]
    assert far.metrics["tpot_s"]
    assert far.metrics["load_s"] == 0
    assert far.mem_peak_bytes is None, "unknown is not 0"
    assert here.mem_peak_bytes
    assert here.mem_peak_bytes > 50e6
    assert engine.overview().held_bytes == {}
    (row,) = store.rows("FROM latencies WHERE session_id = $id", {"id": far.session_id})
    assert row["mem_peak_bytes"] is None
    assert row["ttft_s"] > 0
    for change in (engine.unload, engine.pin):
        with pytest.raises(WorkbenchError) as caught:
            await change(f"far/{model}")
        assert "far" in caught.value.message


async def test_the_servers_own_figures_are_logged_beside_ours(
    engine: Engine, model: str, store: Store
) -> None:
    session = await asked(engine, f"far/{model}")
    await engine.router.providers["far"].close()  # what is still to be told is told
    store.flush(30)
    (row,) = store.rows("FROM model_events WHERE event = 'server_figures'")
    details = json.loads(row["details"]) if isinstance(row["details"], str) else row["details"]
    assert details["sessions"] == [session.session_id]
    assert details["counters"]["llamacpp:tokens_predicted"] == session.output_tokens
    assert row["model"] == f"far/{model}"


async def test_where_an_endpoint_fails_another_model_answers(
    llama: str, model: str, store: Store
) -> None:
    busy = http('{"error": {"message": "full"}}', "429 Too Many Requests", "Retry-After: 9")
    async with serving(busy) as full:
        endpoints = (
            Endpoint(name="gone", base_url=f"http://127.0.0.1:{free_port()}"),
            Endpoint(name="full", base_url=full.url),
            Endpoint(name="here", base_url=llama, metrics_url=""),
        )
        settings = load_settings(_env_file=None, openai_compat_endpoints=endpoints)
        engine = build(settings, store)
        try:
            listing = await engine.list_models()
            assert listing.problems["gone"].code is ErrorCode.ENDPOINT_UNREACHABLE
            assert {info.id for info in listing.models} > {f"here/{model}", f"full/{MODEL}"}
            for failing, code in [
                ("gone/any", ErrorCode.ENDPOINT_UNREACHABLE),
                (f"full/{MODEL}", ErrorCode.QUEUE_FULL),
            ]:
                session = await asked(engine, failing, fallback=f"here/{model}")
                assert (session.model, session.fallback_from) == (f"here/{model}", failing)
                (row,) = store.rows(
                    "SELECT error_code FROM stream_sessions WHERE model = $model",
                    {"model": failing},
                )
                assert row["error_code"] == code
        finally:
            await engine.close()
