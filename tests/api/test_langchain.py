"""LangChain's ChatOpenAI against both runtimes, unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import httpx
import pytest
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from tests.api.conftest import CALLER, OLLAMA, OLLAMA_TOOLS, TINY, WEATHER
from tests.live import LiveServer

Chat = Callable[..., ChatOpenAI]


@pytest.fixture
def chat(server: LiveServer) -> Iterator[Chat]:
    with httpx.Client(trust_env=False) as http:

        def make(model: str, **options: Any) -> ChatOpenAI:
            return ChatOpenAI(
                model=model,
                base_url=f"{server.url}/v1",
                api_key="none",
                temperature=0,
                max_retries=0,
                stream_usage=True,
                http_client=http,
                **options,
            )

        yield make


@pytest.mark.parametrize("model", [OLLAMA, TINY])
def test_answers_whole_and_streamed(chat: Chat, model: str) -> None:
    llm = chat(model, max_tokens=8, seed=1)
    whole = llm.invoke("Name three colors.")
    assert whole.text
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == 8
    assert whole.response_metadata["finish_reason"] == "length"
    chunks = list(llm.stream("Name three colors."))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert sum((c.usage_metadata or {}).get("output_tokens", 0) for c in chunks) == 8


@pytest.mark.parametrize("model", [OLLAMA_TOOLS, CALLER])
def test_functions(chat: Chat, model: str) -> None:
    llm = chat(model, max_tokens=40).bind_tools([WEATHER])
    (call,) = llm.invoke("Weather in Paris?").tool_calls
    assert call["name"] == "get_weather"
    assert call["args"]["city"] in ("Paris", "Rome")


class Color(BaseModel):
    """A color."""

    hue: Literal["red", "blue"]


def test_structured_output(chat: Chat) -> None:
    """As LangChain asks for it unless told otherwise."""
    got = chat(OLLAMA, max_tokens=60).with_structured_output(Color).invoke("A color, please.")
    assert isinstance(got, Color)


@pytest.mark.parametrize("model", [OLLAMA_TOOLS, CALLER])
def test_functions_and_usage_in_a_stream(chat: Chat, model: str) -> None:
    llm = chat(model, max_tokens=40).bind_tools([WEATHER])
    whole = None
    for chunk in llm.stream("Weather in Paris?"):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    (call,) = whole.tool_calls
    assert call["name"] == "get_weather"
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] > 0
