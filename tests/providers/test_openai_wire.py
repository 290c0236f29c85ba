"""What is sent to servers of each kind, and what is made of what they send."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.providers.openai_support import (
    MODEL,
    answer,
    ask,
    connected,
    ends,
    events_of,
    says,
    serving,
    usage,
)
from workbench.endpoints import Endpoint, Server
from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.openai_dialects import recognised
from workbench.providers.openai_wire import request_body
from workbench.types import (
    ChatRequest,
    Image,
    Message,
    Options,
    ProviderEvent,
    ProviderFinish,
    ProviderToken,
    ProviderToolCall,
    ProviderWarning,
    ToolCall,
)

ENDPOINT = Endpoint(name="box", base_url="http://gpu-box:8000")
DRAWN = {"temperature": 0.7, "top_p": 0.9, "top_k": 40}


async def told(*chunks: Any, request: ChatRequest | None = None) -> list[ProviderEvent]:
    """What a stream of these chunks becomes."""
    async with serving(events_of(*chunks)) as server, connected(server.url) as provider:
        return await answer(provider, request or ask())


def finish_of(events: list[ProviderEvent]) -> ProviderFinish:
    assert isinstance(events[-1], ProviderFinish)
    return events[-1]


def body_for(server: Server, **options: Any) -> dict[str, Any]:
    return request_body(ask(**options), MODEL, 7, server, ENDPOINT)[1]


# -- requests


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("vllm", {"top_k": 40, "repetition_penalty": 1.2}),
        ("sglang", {"top_k": 40, "repetition_penalty": 1.2}),
        ("llama.cpp", {"top_k": 40, "repeat_penalty": 1.2, "repeat_last_n": 131_072, "min_p": 0.0}),
        ("workbench", {"top_k": 40, "repetition_penalty": 1.2}),
    ],
)
def test_options_that_openai_has_no_word_for_are_spelt_as_the_server_does(
    server: Server, expected: dict[str, Any]
) -> None:
    body = body_for(server, **DRAWN, repetition_penalty=1.2, stop=("a",))
    assert expected.items() <= body.items()
    assert (body["temperature"], body["top_p"], body["seed"]) == (0.7, 0.9, 7)
    assert (body["stop"], body["max_tokens"]) == (["a"], 12)
    assert body["stream_options"] == {"include_usage": True}


def test_transformers_serve_is_given_a_generation_config() -> None:
    drawn = body_for("transformers", **DRAWN)
    assert not {"top_k", "temperature", "top_p", "stream_options"} & drawn.keys()
    assert json.loads(drawn["generation_config"]) == {
        "top_k": 40,
        "repetition_penalty": 1.0,
        "temperature": 0.7,
        "top_p": 0.9,
        "do_sample": True,
        "max_new_tokens": 12,
    }
    penalised = json.loads(body_for("transformers", repetition_penalty=1.2)["generation_config"])
    assert penalised == {"repetition_penalty": 1.2, "do_sample": False, "max_new_tokens": 12}
    # Given a configuration it forgets the model's own.
    greedy = body_for("transformers")
    assert "generation_config" not in greedy
    assert greedy["temperature"] == 0


def test_no_limit_of_top_k_is_said_as_the_server_understands_it() -> None:
    assert body_for("vllm", top_k=0)["top_k"] == -1
    assert body_for("llama.cpp", top_k=0)["top_k"] == 0


def test_an_option_that_does_not_reach_the_server_is_warned_of_or_refused() -> None:
    _, body, warnings = request_body(ask(**DRAWN), MODEL, 7, "openai", ENDPOINT)
    assert "top_k" not in body
    assert [warning.code for warning in warnings] == ["OPTION_NOT_SENT"]
    assert request_body(ask(temperature=0.0), MODEL, 7, "openai", ENDPOINT)[2] == []
    for server, options in [
        ("openai", {"repetition_penalty": 1.1}),
        ("vllm", {"num_ctx": 512}),
        ("transformers", {"logprobs": 2}),
        ("transformers", {"response_format": {"type": "json_object"}}),
    ]:
        with pytest.raises(WorkbenchError) as caught:
            body_for(server, **options)  # type: ignore[arg-type]
        assert caught.value.code is ErrorCode.INVALID_REQUEST
        assert caught.value.fix


def test_messages_functions_and_images_are_written_in_openais_form() -> None:
    picture = Image.of(b"\x89PNG\r\n\x1a\n rest")
    messages = (
        Message("user", "Look.", images=(picture,)),
        Message("assistant", "", (ToolCall("c1", "see", '{"a": 1}'),)),
        Message("tool", "a cat", tool_call_id="c1"),
    )
    tools = ({"type": "function", "function": {"name": "see"}},)
    request = ChatRequest("box/m", messages, Options(logprobs=3), tools=tools)
    endpoint = ENDPOINT.model_copy(update={"extra_body": {"cache_salt": "x"}})
    path, body, _ = request_body(request, MODEL, 7, "vllm", endpoint)
    assert path == "/chat/completions"
    seen, called, result = body["messages"]
    assert seen["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")
    assert called["tool_calls"][0]["function"] == {"name": "see", "arguments": '{"a": 1}'}
    assert result["tool_call_id"] == "c1"
    assert (body["logprobs"], body["top_logprobs"], body["cache_salt"]) == (True, 3, "x")
    assert body["tools"] == list(tools)


def test_a_raw_prompt_goes_to_completions() -> None:
    path, body, _ = request_body(ask("The sky", raw=True, logprobs=2), MODEL, 7, "vllm", ENDPOINT)
    assert (path, body["prompt"], body["logprobs"]) == ("/completions", "The sky", 2)
    assert "messages" not in body


@pytest.mark.parametrize(
    ("entry", "server"),
    [
        ({"owned_by": "vllm"}, "vllm"),
        ({"owned_by": "sglang"}, "sglang"),
        ({"owned_by": "llamacpp"}, "llama.cpp"),
        ({"owned_by": "scripted", "workbench": {}}, "workbench"),
        ({"owned_by": "somebody"}, "openai"),
    ],
)
def test_a_server_is_recognised_by_its_list(entry: dict[str, Any], server: str) -> None:
    assert recognised([entry]) == server


# -- answers


async def test_counts_are_the_servers_and_what_it_does_not_tell_is_none() -> None:
    role = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    events = await told(role, says("Hi"), says(" you"), ends(), usage(9, 3))
    texts = [event for event in events if isinstance(event, ProviderToken)]
    # The role is no token; the end was a decoding step, as the server's count shows.
    assert [(one.text, one.n_tokens) for one in texts] == [("Hi", 1), (" you", 1), ("", 1)]
    assert (finish_of(events).prompt_tokens, finish_of(events).output_tokens) == (9, 3)
    silent = await told(says("Hi"), ends("length"))
    assert finish_of(silent).finish_reason == "length"
    assert (finish_of(silent).prompt_tokens, finish_of(silent).output_tokens) == (None, None)
    assert finish_of(silent).runtime_ns == {}


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_thinking_has_a_channel_of_its_own(field: str) -> None:
    events = await told(says("", **{field: "Hm"}), says("Yes"), ends(), usage(1, 2))
    texts = [(e.text, e.channel) for e in events if isinstance(e, ProviderToken)]
    assert texts == [("Hm", "reasoning"), ("Yes", "content")]


async def test_calls_are_put_together_from_their_pieces() -> None:
    def piece(index: int, **call: Any) -> dict[str, Any]:
        return says("", tool_calls=[{"index": index, **call}])

    events = await told(
        piece(0, id="a", function={"name": "f", "arguments": ""}),
        piece(0, function={"arguments": '{"x":'}),
        piece(0, function={"arguments": " 1}"}),
        piece(1, id="b", function={"name": "g", "arguments": "{}"}),
        ends("tool_calls"),
    )
    calls = [event.call for event in events if isinstance(event, ProviderToolCall)]
    assert calls == [ToolCall("a", "f", '{"x": 1}'), ToolCall("b", "g", "{}")]
    assert finish_of(events).finish_reason == "tool_calls"
    assert sum(event.n_tokens for event in events if isinstance(event, ProviderToken)) == 4


async def test_a_running_count_says_how_many_tokens_a_chunk_holds() -> None:
    def counted(text: str, total: int) -> dict[str, Any]:
        return {**says(text), "usage": {"prompt_tokens": 5, "completion_tokens": total}}

    events = await told(counted("", 0), counted("a b c", 3), counted(" d", 4), ends("length"))
    texts = [event for event in events if isinstance(event, ProviderToken)]
    assert [one.n_tokens for one in texts] == [3, 1]
    # A total that comes once says nothing of its chunk.
    events = await told(says("a"), {**counted("b", 9), **{"x": 1}}, ends("length"))
    assert [e.n_tokens for e in events if isinstance(e, ProviderToken)] == [1, 1]


async def test_probabilities_come_in_one_form_whichever_the_server_sends() -> None:
    entry = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}
    chat = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "logprobs": {"content": [entry]}}]}
    (token, *_) = await told(chat, ends("length"), request=ask(logprobs=1))
    assert isinstance(token, ProviderToken)
    assert token.logprobs == (entry,)
    old = {
        "tokens": [" a", " b"],
        "token_logprobs": [-0.1, -0.2],
        "top_logprobs": [{" a": -0.1}, None],
    }
    raw = {"choices": [{"index": 0, "text": " a b", "logprobs": old, "finish_reason": "length"}]}
    (token, *_) = await told(raw, request=ask(raw=True, logprobs=1))
    assert isinstance(token, ProviderToken)
    assert token.n_tokens == 2
    assert token.logprobs[0]["top_logprobs"][0] == {
        "token": " a",
        "logprob": -0.1,
        "bytes": [32, 97],
    }
    events = await told(says("Hi"), ends("length"), request=ask(logprobs=1))
    (warning,) = [event for event in events if isinstance(event, ProviderWarning)]
    assert warning.code == "NO_LOGPROBS"


async def test_what_else_a_server_tells_is_in_the_row() -> None:
    timings = {"prompt_ms": 12.5, "predicted_ms": 3.0}
    details = {"prompt_tokens_details": {"cached_tokens": 4}}
    last = {**usage(9, 2, **details), "timings": timings, "system_fingerprint": "fp", "model": "m"}
    finish = finish_of(await told(says("a"), says("b"), ends("length"), last))
    assert finish.runtime_ns == {"prompt_eval": 12_500_000, "eval": 3_000_000}
    assert finish.details["cached_tokens"] == 4
    assert (finish.details["system_fingerprint"], finish.details["server_model"]) == ("fp", "m")
    own = {"queue_time_ms": 1.5, "mean_itl_ms": None, "tokens_per_second": 9.0}
    finish = finish_of(await told(says("a"), ends("length"), {**usage(9, 1), "metrics": own}))
    assert finish.runtime_ns == {"queue_time": 1_500_000}
    assert finish.details["server_metrics"] == own


async def test_text_after_the_reason_lets_no_stamp_fall() -> None:
    """Some servers send the reason with the first of two last chunks."""
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}
    for reason, more in (("stop", {}), ("tool_calls", {"tool_calls": [call]})):
        late = says(" you", **more)
        events = await told(says("Hi"), ends(reason), late, usage(9, 4))
        stamps = [e.t_ns for e in events if isinstance(e, ProviderToken | ProviderToolCall)]
        assert len(stamps) == 3
        assert stamps == sorted(stamps)


async def test_what_can_be_no_duration_is_left_out() -> None:
    own = {"a_ms": -1.0, "b_ms": float("nan"), "c_ms": float("inf"), "d_ms": 1e300, "e_ms": 2}
    finish = finish_of(await told(says("a"), ends("length"), {**usage(9, 1), "metrics": own}))
    assert finish.runtime_ns == {"e": 2_000_000}
