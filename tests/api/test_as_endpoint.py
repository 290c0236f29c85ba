"""Another workbench as an endpoint: what its OpenAI face says, read by our own provider."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.api.conftest import CALLER, OLLAMA, TINY, WEATHER
from tests.live import LiveServer
from workbench.endpoints import Endpoint
from workbench.providers.base import CancellationToken
from workbench.providers.openai_compat import OpenAICompatProvider
from workbench.types import (
    ChatRequest,
    Message,
    Options,
    ProviderEvent,
    ProviderFinish,
    ProviderToken,
    ProviderToolCall,
)


@pytest.fixture
async def peer(server: LiveServer) -> AsyncIterator[OpenAICompatProvider]:
    token = server.announced()["token"]
    endpoint = Endpoint(name="peer", base_url=f"{server.url}/v1", api_key=token)
    provider = OpenAICompatProvider(endpoint)
    yield provider
    await provider.close()


async def asked(
    provider: OpenAICompatProvider, model: str, *, tools: tuple[Any, ...] = (), **options: Any
) -> list[ProviderEvent]:
    await provider.load(model, keep_alive_s=1)
    chosen = Options(**{"temperature": 0.0, "max_tokens": 12, **options})
    request = ChatRequest(f"peer/{model}", (Message("user", "Hi"),), chosen, tools=tools)
    return [event async for event in provider.stream(request, model, 3, CancellationToken())]


async def test_its_models_of_all_runtimes_are_listed_with_what_it_knows(
    peer: OpenAICompatProvider,
) -> None:
    models = {info.name: info for info in await peer.list_models()}
    assert {OLLAMA, TINY, "scripted/reasoning"} <= models.keys()
    assert models[OLLAMA].id == f"peer/{OLLAMA}"
    assert models[OLLAMA].digest
    assert models[OLLAMA].details["server"] == "workbench"
    assert models[OLLAMA].details["their_provider"] == "ollama"


@pytest.mark.parametrize("model", [OLLAMA, TINY])
async def test_its_answers_are_counted_as_it_counted_them(
    peer: OpenAICompatProvider, model: str
) -> None:
    *tokens, finish = await asked(peer, model, logprobs=2, top_k=40)
    assert isinstance(finish, ProviderFinish)
    streamed = sum(token.n_tokens for token in tokens if isinstance(token, ProviderToken))
    assert streamed == finish.output_tokens
    assert finish.prompt_tokens
    assert finish.details["workbench"]["ttft_s"] > 0


async def test_its_reasoning_and_calls_of_functions_come_through(
    peer: OpenAICompatProvider,
) -> None:
    events = await asked(peer, "scripted/reasoning", max_tokens=30)
    channels = [event.channel for event in events if isinstance(event, ProviderToken)]
    assert channels[0] == "reasoning"
    assert channels[-1] == "content"
    events = await asked(peer, CALLER, tools=(WEATHER,), max_tokens=64)
    (call,) = [event.call for event in events if isinstance(event, ProviderToolCall)]
    assert call.name == "get_weather"
    assert isinstance(events[-1], ProviderFinish)
    assert events[-1].finish_reason == "tool_calls"
