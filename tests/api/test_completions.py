"""OpenAI's older operation: texts continued as they stand, by both runtimes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from langchain_openai import OpenAI as LangChainOpenAI

from tests.api.conftest import OLLAMA, TINY
from tests.live import LiveServer

PROMPT = "The sky is"


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False) as made:
        yield made


@pytest.fixture(scope="module")
def client(server: LiveServer, http: httpx.Client) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120, http_client=http
    )


@pytest.mark.parametrize("model", [OLLAMA, TINY])
def test_whole_and_streamed_texts_are_one(
    server: LiveServer, client: openai.OpenAI, model: str
) -> None:
    asked: dict[str, Any] = {"model": model, "prompt": PROMPT, "temperature": 0, "seed": 7}
    whole = client.completions.create(**asked, max_tokens=8)
    (choice,) = whole.choices
    assert whole.object == "text_completion"
    assert whole.model == model
    assert choice.text
    assert choice.finish_reason == "length"
    assert choice.logprobs is None
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 8
    talked = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": PROMPT}], max_tokens=1
    )
    assert talked.usage is not None
    assert whole.usage.prompt_tokens < talked.usage.prompt_tokens, "no template around it"
    if model == OLLAMA:
        assert whole.usage.prompt_tokens == 3, "as a real server counted it"
    extra = (whole.model_extra or {})["workbench"]
    assert extra["ttft_s"] > 0
    (row,) = server.query(
        "SELECT json_extract(details, '$.raw')::VARCHAR, source FROM stream_sessions "
        f"WHERE session_id = '{extra['session_id']}'"
    )
    assert row == ["true", "openai"], "a row says that no template was used"

    chunks = list(
        client.completions.create(
            **asked, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].text for c in chunks if c.choices) == choice.text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8
    assert len({chunk.id for chunk in chunks}) == 1

    default = client.completions.create(**asked)
    assert default.usage is not None
    assert default.usage.completion_tokens == 16, "as OpenAI has it"


@pytest.mark.parametrize("model", [OLLAMA, TINY])
def test_stop_and_echo(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "prompt": [PROMPT], "temperature": 0, "max_tokens": 12}
    text = client.completions.create(**asked).choices[0].text
    sign = text[len(text) // 2]
    cut = client.completions.create(**asked, stop=sign).choices[0]
    assert cut.text == text[: text.index(sign)]
    assert cut.finish_reason == "stop"
    assert client.completions.create(**asked, echo=True).choices[0].text == PROMPT + text
    streamed = client.completions.create(**asked, echo=True, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == PROMPT + text


@pytest.mark.parametrize("model", [OLLAMA, TINY])
def test_logprobs(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "prompt": PROMPT, "temperature": 0, "max_tokens": 4}
    choice = client.completions.create(**asked, logprobs=2).choices[0]
    told = choice.logprobs
    assert told is not None
    assert len(told.tokens or []) == len(told.token_logprobs or []) == 4
    assert all(math.isfinite(value) and value <= 0 for value in told.token_logprobs or [])
    assert all(len(one) == 2 for one in told.top_logprobs or [])
    for token, value, top in zip(
        told.tokens or [], told.token_logprobs or [], told.top_logprobs or [], strict=True
    ):
        assert top[token] == value == max(top.values()), "greedy takes the likeliest"
    assert sorted(told.text_offset or []) == told.text_offset
    if model == OLLAMA:  # the random model writes bytes that are no text
        for token, offset in zip(told.tokens or [], told.text_offset or [], strict=True):
            assert choice.text[offset:].startswith(token)
    streamed = client.completions.create(**asked, logprobs=0, stream=True)
    parts = [c.choices[0].logprobs for c in streamed if c.choices and c.choices[0].logprobs]
    assert [t for part in parts for t in part.tokens or []] == told.tokens
    assert [o for part in parts for o in part.text_offset or []] == told.text_offset
    assert all(not part.top_logprobs for part in parts)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", []),
        ("prompt", ""),
        ("prompt", ["a", "b"]),
        ("prompt", [1, 2, 3]),
        ("prompt", [[1, 2], [3]]),
        ("n", 2),
        ("best_of", 3),
        ("suffix", "the end"),
        ("logprobs", 21),
        ("max_tokens", 0),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("presence_penalty", 1),
        ("logit_bias", {"5": 1}),
        ("stream_options", {"include_usage": True}),
        ("temperature", 9),
    ],
)
def test_what_cannot_be_served_is_refused(server: LiveServer, field: str, value: Any) -> None:
    body = {"model": OLLAMA, "prompt": PROMPT, field: value}
    with server.client() as http:
        got = http.post("/v1/completions", json=body)
    assert got.status_code == 400, got.text
    error = got.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "INVALID_REQUEST")
    assert error["message"]


def test_echo_with_logprobs_would_need_those_of_the_prompt(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="echo together with logprobs"):
        client.completions.create(model=TINY, prompt=PROMPT, echo=True, logprobs=1)


def test_errors_and_fields_without_effect(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="nobody", prompt=PROMPT)
    with pytest.raises(openai.APIError, match="fails on purpose"):
        list(client.completions.create(model="scripted/error", prompt=PROMPT, stream=True))
    got = client.completions.create(model="scripted/chunks", prompt=PROMPT, n=1, user="me")
    assert (got.model_extra or {})["workbench"]["ignored"] == ["user"]


@pytest.mark.parametrize("model", [OLLAMA, TINY])
def test_langchain(server: LiveServer, http: httpx.Client, model: str) -> None:
    llm = LangChainOpenAI(
        model=model,
        base_url=f"{server.url}/v1",
        api_key="none",
        temperature=0,
        max_tokens=8,
        max_retries=0,
        batch_size=1,
        http_client=http,
    )
    whole = llm.invoke(PROMPT)
    assert whole
    assert "".join(llm.stream(PROMPT)) == whole
    assert llm.batch([PROMPT, PROMPT]) == [whole, whole]
