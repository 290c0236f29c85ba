"""Calls of functions by Hugging Face models, read by transformers' own parser."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.hf.tiny import save_caller, save_model
from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf.tools import ToolFilter
from workbench.providers.base import CancellationToken
from workbench.providers.huggingface import HuggingFaceProvider
from workbench.settings import Settings
from workbench.types import (
    ChatRequest,
    Message,
    Options,
    ProviderEvent,
    ProviderToken,
    ProviderToolCall,
    ProviderWarning,
    ToolCall,
)

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = ['{"name": "get_weather", ', '"arguments": {"city": "Paris"}}']
QWEN = {
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "reasoning_content": {"open": "<think>", "close": "</think>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"content": "text"},
    },
}


@pytest.fixture
async def provider(settings: Settings, tmp_path: Path) -> AsyncIterator[HuggingFaceProvider]:
    save_caller(
        tmp_path / "models" / "caller", ["Let me see.", "<tool_call>", *CALL, "</tool_call>"]
    )
    save_caller(tmp_path / "models" / "stammerer", ["<tool_call>", "{oops", "</tool_call>"])
    save_model(tmp_path / "models" / "plain")
    made = HuggingFaceProvider(settings)
    yield made
    await made.close()


async def ask(
    provider: HuggingFaceProvider, model: str, *messages: Message, tools: Any = (WEATHER,)
) -> list[ProviderEvent]:
    request = ChatRequest(
        f"huggingface/{model}",
        messages or (Message("user", "Weather in Paris?"),),
        Options(temperature=0.0, max_tokens=24),
        tools,
    )
    return [event async for event in provider.stream(request, model, 1, CancellationToken())]


def text(events: list[ProviderEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, ProviderToken))


async def test_a_call_is_told_apart_from_the_text(provider: HuggingFaceProvider) -> None:
    events = await ask(provider, "caller")
    assert text(events) == "Let me see."
    (told,) = [event for event in events if isinstance(event, ProviderToolCall)]
    assert (told.call.name, told.call.arguments) == ("get_weather", '{"city": "Paris"}')
    # Every token is there with its time, those of the call without their text.
    assert sum(e.n_tokens for e in events if isinstance(e, ProviderToken)) == 6
    answered = await ask(
        provider,
        "caller",
        Message("user", "Weather in Paris?"),
        Message("assistant", "", (told.call,)),
        Message("tool", "Rain.", tool_call_id=told.call.id),
    )
    assert text(answered) == "Let me see."
    assert "<tool_call>" in text(await ask(provider, "caller", tools=())), "not offered: just text"


async def test_what_cannot_be_read_stays_text_with_a_warning(provider: HuggingFaceProvider) -> None:
    events = await ask(provider, "stammerer")
    assert "{oops" in text(events)
    assert [e.code for e in events if isinstance(e, ProviderWarning)] == ["TOOL_CALL_UNREADABLE"]
    assert not [event for event in events if isinstance(event, ProviderToolCall)]


async def test_a_model_without_them_is_named(provider: HuggingFaceProvider) -> None:
    with pytest.raises(WorkbenchError, match="plain cannot call functions") as caught:
        await ask(provider, "plain")
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    bad = ToolCall("call_1", "get_weather", "{")
    with pytest.raises(WorkbenchError, match="no JSON"):
        await ask(provider, "caller", Message("assistant", "", (bad,)), Message("user", "And?"))


def test_pieces_come_out_as_they_settle() -> None:
    found = ToolFilter(QWEN, "<|im_start|>assistant\n", [WEATHER])
    pieces = found.push("<think>hm") + found.push("m</thi") + found.push("nk>\n\nSu")
    assert [piece for piece in pieces if piece[1]] == [
        ("reasoning", "hm"),
        ("reasoning", "m"),
        ("content", "Su"),
    ]
    assert found.push("re <tool_call>" + "".join(CALL)) == [("content", "re")]
    assert not found.calls
    assert found.push("</tool_call>\n<tool_call>" + "".join(CALL) + "</tool_call>") == []
    assert [call.name for call in found.calls] == ["get_weather", "get_weather"]
    assert found.finish() == []
