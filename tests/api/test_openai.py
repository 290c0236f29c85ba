"""The OpenAI-compatible face, asked by OpenAI's own client."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.api.conftest import CALLER, OLLAMA, OLLAMA_TOOLS, TINY, WEATHER
from tests.live import LiveServer
from workbench.api.calls import StreamMessage
from workbench.api.openai_calls import ChatCompletion

HELLO: list[Any] = [{"role": "user", "content": "Name three colors."}]


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    http = httpx.Client(trust_env=False)
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120, http_client=http
    ) as made:
        yield made


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert {OLLAMA, TINY, "scripted/steady"} <= listed.keys()
    assert listed[OLLAMA].owned_by == "ollama"
    assert listed[OLLAMA].created > 0
    assert client.models.retrieve(TINY).id == TINY
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("huggingface/nobody/knows")
    assert caught.value.code == "HF_MODEL_NOT_FOUND"


@pytest.mark.parametrize("model", [OLLAMA, TINY])
def test_whole_and_streamed_answers_are_one(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "developer", "content": "Be brief."}, *HELLO],
        "max_completion_tokens": 8,
        "temperature": 0,
        "seed": 7,
    }
    whole = client.chat.completions.create(**asked)
    choice = whole.choices[0]
    assert choice.message.content
    assert choice.finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 8
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 8
    assert whole.model == model
    extra = (whole.model_extra or {})["workbench"]
    assert extra["seed"] == 7
    assert extra["ttft_s"] > 0

    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == choice.message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


@pytest.mark.parametrize("model", [OLLAMA, TINY])
def test_logprobs(client: openai.OpenAI, model: str) -> None:
    # Without a seed some answers end before the fourth token ("No.", "*Red*").
    asked: dict[str, Any] = {
        "model": model,
        "messages": HELLO,
        "max_tokens": 4,
        "logprobs": True,
        "seed": 7,
        "temperature": 0,
    }
    told = client.chat.completions.create(**asked, top_logprobs=3).choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert len(told.content) == 4
    for token in told.content:
        assert len(token.top_logprobs) == 3
        assert token.logprob <= 0
        assert math.isfinite(token.logprob)
        assert token.bytes
    plain = client.chat.completions.create(**asked).choices[0].logprobs
    assert plain is not None
    assert all(not token.top_logprobs for token in plain.content or [])
    streamed = client.chat.completions.create(**asked, top_logprobs=1, stream=True)
    counts = [
        len(chunk.choices[0].logprobs.content or [])
        for chunk in streamed
        if chunk.choices and chunk.choices[0].logprobs
    ]
    assert sum(counts) == 4


@pytest.mark.parametrize("model", [OLLAMA, TINY])
def test_answers_of_a_fixed_form(client: openai.OpenAI, model: str) -> None:
    schema = {
        "type": "object",
        "properties": {"color": {"enum": ["red", "blue"]}},
        "required": ["color"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "color", "schema": schema}}
    got = client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=60, response_format=form, temperature=0
    )
    assert json.loads(got.choices[0].message.content or "")["color"] in ("red", "blue")


@pytest.mark.parametrize("model", [OLLAMA_TOOLS, CALLER, "scripted/tools"])
def test_functions_are_asked_for_and_answered(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "Weather in Paris?"}],
        "tools": [WEATHER],
        "max_tokens": 40,
        "temperature": 0,
    }
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")

    deltas = [
        chunk.choices[0]
        for chunk in client.chat.completions.create(**asked, stream=True)
        if chunk.choices
    ]
    (streamed,) = [call for delta in deltas for call in delta.delta.tool_calls or []]
    assert streamed.index == 0
    assert streamed.id
    assert streamed.function is not None
    assert streamed.function.name == "get_weather"
    assert deltas[-1].finish_reason == "tool_calls"

    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "Rain."}
    said: Any = choice.message.model_dump(exclude_none=True)
    again = client.chat.completions.create(
        **{**asked, "messages": [*asked["messages"], said, result]}
    )
    assert again.choices[0].message.role == "assistant"


@pytest.mark.parametrize("model", [OLLAMA, TINY, "scripted/steady"])
def test_a_model_without_functions_says_so(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=model, messages=HELLO, tools=[WEATHER])  # type: ignore[list-item]
    assert caught.value.code == "INVALID_REQUEST"
    assert model.partition("/")[2] in caught.value.message


def test_reasoning_has_deltas_of_its_own(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "scripted/reasoning", "messages": HELLO}
    deltas = [
        chunk.choices[0].delta
        for chunk in client.chat.completions.create(**asked, stream=True)
        if chunk.choices
    ]
    thought = "".join((delta.model_extra or {}).get("reasoning_content", "") for delta in deltas)
    whole = client.chat.completions.create(**asked)
    message = whole.choices[0].message
    assert (message.model_extra or {})["reasoning_content"] == thought != ""
    assert message.content == "".join(delta.content or "" for delta in deltas)
    assert whole.usage is not None
    assert whole.usage.completion_tokens_details is not None
    assert whole.usage.completion_tokens_details.reasoning_tokens == 20


def _shown(address: str, role: str = "user") -> dict[str, Any]:
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": address, "detail": "low"}},
    ]
    return {"role": role, "content": parts}


PIXEL = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n...").decode()


def test_pictures_reach_the_model_from_both_faces() -> None:
    asked = ChatCompletion.model_validate({"model": "m", "messages": [_shown(PIXEL)]})
    ours = StreamMessage.model_validate({"model": "m", "message": "What is it?", "images": [PIXEL]})
    for request in (asked.request("c"), ours.request("m", "c")):
        (message,) = request.messages
        assert message.content == "What is it?"
        assert [image.media_type for image in message.images] == ["image/png"]
        assert PIXEL.endswith(message.images[0].data)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("logit_bias", {"50256": -100}),
        ("frequency_penalty", 0.5),
        ("presence_penalty", -1),
        ("reasoning_effort", "high"),
        ("modalities", ["text", "audio"]),
        ("tool_choice", "required"),
        ("top_logprobs", 3),
        ("stream_options", {"include_usage": True}),
        ("temperature", 9),
        ("top_p", 0),
        ("stop", ["a"] * 17),
        ("response_format", {"type": "yaml"}),
        ("max_tokens", 0),
        ("min_p", 0.1),
        ("messages", []),
        ("messages", [{"role": "wizard", "content": "Hi"}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
        ("messages", [_shown("https://example.com/cat.png")]),
        ("messages", [_shown("data:image/png;base64,AAAA")]),
        ("messages", [_shown(PIXEL, role="system")]),
        ("messages", [_shown(PIXEL)]),  # this model does not see
        ("messages", [{"role": "user", "content": None}]),
        ("messages", [{"role": "tool", "content": "Rain."}]),
        ("messages", [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]),
        ("workbench", {"timeouts": {"nap_s": 1}}),
        ("workbench", {"nonsense": 1}),
    ],
)
def test_what_would_change_the_answer_is_refused(
    server: LiveServer, field: str, value: Any
) -> None:
    body = {"model": OLLAMA, "messages": HELLO, field: value}
    with server.client() as http:
        got = http.post("/v1/chat/completions", json=body)
    assert got.status_code == 400, got.text
    error = got.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] == "INVALID_REQUEST"
    assert error["message"]
    assert error["workbench"]["correlation_id"] == got.headers["x-correlation-id"]


def test_neutral_and_unknown_fields_pass_and_are_named(client: openai.OpenAI) -> None:
    got = client.chat.completions.create(
        model="scripted/chunks",
        messages=[
            {"role": "user", "name": "ann", "content": [{"type": "text", "text": "Hi"}]},
        ],
        n=1,
        presence_penalty=0,
        user="me",
        metadata={"a": "b"},
        extra_body={"workbench": {"conversation_id": "con_mine"}, "brand_new": True},
    )
    extra = (got.model_extra or {})["workbench"]
    assert set(extra["ignored"]) == {"user", "metadata", "brand_new", "messages.0.name"}
    assert extra["conversation_id"] == "con_mine"


def test_errors_have_the_openai_form(server: LiveServer, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nobody", messages=HELLO)
    assert missing.value.code == "MODEL_NOT_FOUND"
    with pytest.raises(openai.APIError, match="fails on purpose"):
        client.chat.completions.create(model="scripted/error", messages=HELLO)
    with pytest.raises(openai.APIError, match="fails on purpose") as broken:
        for _ in client.chat.completions.create(
            model="scripted/error", messages=HELLO, stream=True
        ):
            pass
    assert broken.value.code == "INTERNAL"
    with server.client() as http:
        for got, status in (
            (http.get("/v1/nothing"), 404),
            (http.get("/v1/chat/completions"), 405),
            (http.post("/v1/chat/completions", content=b"{"), 400),
            (http.get("/v1/models", headers={"Host": "evil.example"}), 403),
        ):
            assert got.status_code == status, got.text
            assert got.json()["error"]["code"]
            assert got.headers["x-correlation-id"]


def test_a_stopped_answer_is_an_error(server: LiveServer, client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="scripted/stall", messages=HELLO, stream=True)
    session_id = next(iter(stream)).id.removeprefix("chatcmpl-")
    with server.client() as http:
        assert http.delete(f"/api/v1/streams/{session_id}").json() == {"cancelled": True}
    with pytest.raises(openai.APIError) as caught:
        list(stream)
    assert caught.value.code == "CANCELLED"
