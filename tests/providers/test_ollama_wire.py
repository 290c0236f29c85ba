"""Requests and answers as pure values: no server."""

from __future__ import annotations

import datetime as dt
import json
import math

import ollama
import pytest

from tests.providers.ollama_support import ask, done, says
from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers import ollama_wire as wire
from workbench.providers.ollama_errors import MalformedAnswer
from workbench.types import ChatRequest, Image, Message, ProviderFinish, ProviderToken


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("smollm2", "smollm2:latest"),
        ("SmolLM2:135M", "smollm2:135m"),
        ("host:5000/lib/smollm2", "host:5000/lib/smollm2:latest"),
    ],
)
def test_names_that_ollama_takes_for_one_model_have_one_key(name: str, key: str) -> None:
    assert wire.canonical(name) == key


@pytest.mark.parametrize(
    ("seconds", "sent"), [(0, 0), (0.5, 0.5), (300.0, 300.0), (-5, -1), (math.inf, -1), (1e12, -1)]
)
def test_keep_alive_is_a_number_that_ollama_takes(seconds: float, sent: float) -> None:
    assert wire.keep_alive(seconds) == sent


def test_every_option_is_sent_under_ollamas_name() -> None:
    request = ask(
        max_tokens=7,
        temperature=0.5,
        top_p=0.8,
        top_k=11,
        seed=1,
        stop=("a", "b"),
        repetition_penalty=1.2,
        num_ctx=512,
        logprobs=3,
    )
    body = wire.chat_body(request, "m", 99, 60)
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Say hi."}],
        "stream": True,
        "keep_alive": 60,
        "logprobs": True,
        "top_logprobs": 3,
        "options": {
            "num_predict": 7,
            "temperature": 0.5,
            "top_p": 0.8,
            "top_k": 11,
            "seed": 99,
            "repeat_penalty": 1.2,
            "stop": ["a", "b"],
            "num_ctx": 512,
            "repeat_last_n": -1,  # transformers looks back over the whole context too
        },
    }


def test_a_raw_prompt_goes_to_generate_as_it_stands() -> None:
    request = ask(" The sky is\n", raw=True, stop=("a",), logprobs=2, num_ctx=64)
    chat, body = wire.chat_body(request, "m", 9, 60), wire.generate_body(request, "m", 9, 60)
    assert body.pop("raw") is True
    assert body.pop("prompt") == " The sky is\n"
    del chat["messages"]
    assert body == chat, "all else is the same for both"
    with pytest.raises(WorkbenchError):
        wire.generate_body(ask("", raw=True), "m", 9, 60)


def test_lines_of_generate_are_read_like_those_of_chat() -> None:
    line = {"model": "m", "response": " blue", "done": False}
    assert wire.events(line, 5, {}) == [ProviderToken(" blue", 5)]
    last = {"model": "m", "response": "", "done": True, "done_reason": "length", "eval_count": 3}
    (end,) = wire.events(last, 6, {})
    assert isinstance(end, ProviderFinish)
    assert (end.finish_reason, end.output_tokens) == ("length", 3)
    with pytest.raises(MalformedAnswer):
        wire.events({"response": 1, "done": False}, 5, {})


def test_what_was_not_asked_for_is_not_sent() -> None:
    body = wire.chat_body(ask(), "m", 1, 60)
    assert not {"logprobs", "top_logprobs", "format", "truncate"} & body.keys()
    assert not {"num_ctx", "stop"} & body["options"].keys()


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"type": "json_object"}, "json"),
        (
            {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
            {"type": "object"},
        ),
        ({"type": "text"}, None),
    ],
)
def test_response_formats(given: dict[str, object], sent: object) -> None:
    assert wire.chat_body(ask(response_format=given), "m", 1, 60).get("format") == sent


@pytest.mark.parametrize(
    "given",
    [{}, {"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {}}],
)
def test_an_unknown_response_format_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(WorkbenchError) as caught:
        wire.chat_body(ask(response_format=given), "m", 1, 60)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert "json_schema" in caught.value.fix


def test_an_empty_conversation_is_refused_because_ollama_would_only_load() -> None:
    with pytest.raises(WorkbenchError) as caught:
        wire.chat_body(ChatRequest("ollama/m", ()), "m", 1, 60)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_a_line_that_only_names_the_role_is_no_token() -> None:
    assert wire.events(says(""), 5, {}) == []


def test_thinking_is_the_reasoning_channel() -> None:
    line = {"message": {"role": "assistant", "content": "", "thinking": "hm"}, "done": False}
    assert wire.events(line, 5, {}) == [ProviderToken("hm", 5, channel="reasoning")]


def test_logprobs_are_passed_on_once() -> None:
    entry = {"token": "x", "logprob": -1.0, "bytes": [120]}
    line = {"message": {"content": "b", "thinking": "a"}, "done": False, "logprobs": [entry]}
    assert wire.events(line, 5, {}) == [
        ProviderToken("a", 5, channel="reasoning", logprobs=(entry,)),
        ProviderToken("b", 5),
    ]


def test_logprobs_of_a_held_back_character_are_not_lost() -> None:
    entry = {"token": "x", "logprob": -1.0, "bytes": [240]}
    assert wire.events(says("", logprobs=[entry]), 5, {}) == [
        ProviderToken("", 5, logprobs=(entry,))
    ]


def test_the_end_token_is_counted_when_the_model_stopped_by_itself() -> None:
    end, finish = wire.events(done("stop", eval_count=1), 9, {})
    assert end == ProviderToken("", 9)
    assert isinstance(finish, ProviderFinish)
    assert (finish.finish_reason, finish.output_tokens) == ("stop", 1)


def test_the_finish_carries_the_runtimes_account_with_left_out_zeros() -> None:
    line = done(
        prompt_eval_count=13, eval_count=2, total_duration=50, prompt_eval_duration=20,
        eval_duration=10,
    )  # fmt: skip
    assert wire.events(line, 9, {"note": 1}) == [
        ProviderFinish(
            "length",
            prompt_tokens=13,
            output_tokens=2,
            runtime_ns={"total": 50, "load": 0, "prompt_eval": 20, "eval": 10},
            details={"note": 1},
        )
    ]


def test_a_prompt_count_left_out_is_unknown_and_not_zero() -> None:
    (finish,) = wire.events(done(), 9, {})
    assert isinstance(finish, ProviderFinish)
    assert finish.prompt_tokens is None
    assert finish.output_tokens == 0


def test_an_unknown_reason_is_kept() -> None:
    *_, finish = wire.events(done("meteor"), 9, {})
    assert isinstance(finish, ProviderFinish)
    assert finish.details == {"done_reason": "meteor"}


@pytest.mark.parametrize(
    "line",
    [
        done("load"),
        done("unload"),
        done(eval_count="3"),
        done(eval_count=True),
        done(eval_count=-1),
        done(eval_count=2**31),
        done(prompt_eval_count=10**30),
        done(eval_duration=2**63),
        {"message": "text"},
        {"message": {"content": 5}},
        says("x", logprobs={}),
        says("x", logprobs=[1]),
    ],
)
def test_lines_that_ollama_never_sends_are_told_apart(line: dict[str, object]) -> None:
    with pytest.raises(MalformedAnswer):
        wire.events(line, 9, {})


@pytest.mark.parametrize(
    "answer", [{}, {"models": 5}, {"models": ["x"]}, {"models": [{}]}, {"models": [{"name": 3}]}]
)
def test_lists_that_ollama_never_sends_are_told_apart(answer: dict[str, object]) -> None:
    with pytest.raises(MalformedAnswer):
        wire.models_by_name(answer)


def test_a_null_list_is_an_empty_one() -> None:
    assert wire.models_by_name({"models": None}) == {}


def test_only_the_refusal_of_a_long_prompt_becomes_a_warning() -> None:
    def refusal(kind: str, status: int = 400) -> ollama.ResponseError:
        inner = {"error": {"code": 400, "type": kind, "n_prompt_tokens": 3610, "n_ctx": 512}}
        return ollama.ResponseError(json.dumps({"error": json.dumps(inner)}), status)

    warning = wire.cut_warning(refusal("exceed_context_size_error"))
    assert warning is not None
    assert warning.code == "PROMPT_TRUNCATED"
    assert warning.details == {"uncut_prompt_tokens": 3610, "num_ctx": 512}
    assert all(part in warning.message for part in ("3610", "512", "num_ctx"))
    assert wire.cut_warning(refusal("invalid_request_error")) is None
    assert wire.cut_warning(refusal("exceed_context_size_error", -1)) is None
    assert wire.cut_warning(ollama.ResponseError("plain words", 400)) is None


def test_expiry_is_read_with_the_servers_own_offset() -> None:
    now = dt.datetime(2026, 11, 22, 17, 0, 0, tzinfo=dt.UTC)
    entry = {"expires_at": "2026-11-22T18:05:00.123456789+01:00"}
    assert wire.seconds_left(entry, now) == pytest.approx(300.123, abs=0.001)
    assert wire.seconds_left({}, now) == math.inf
    assert wire.seconds_left({"expires_at": "2026-11-22T18:05:00"}, now) == math.inf


@pytest.mark.parametrize(
    ("size", "number"), [("134.52M", 134_520_000), ("7B", 7_000_000_000), ("", None), (None, None)]
)
def test_parameter_sizes(size: str | None, number: int | None) -> None:
    info = wire.model_info("m", {"details": {"parameter_size": size}}, None)
    assert info.parameters == number


def test_an_embedding_model_is_not_offered_for_chat() -> None:
    assert wire.model_info("m", {"capabilities": ["embedding"]}, None).task == "embedding"
    assert wire.model_info("m", {"capabilities": ["completion"]}, None).task == "text-generation"
    assert wire.model_info("m", {}, None).task == "text-generation"


@pytest.mark.parametrize(("on_gpu", "device"), [(0, "cpu"), (400, "cpu+gpu"), (1000, "gpu")])
def test_the_device_follows_from_the_bytes_on_the_gpu(on_gpu: int, device: str) -> None:
    entry = {"size": 1000, "size_vram": on_gpu, "digest": "d", "context_length": 512}
    shown = {"parameters": 'stop "x"\nnum_thread                     3'}
    resident = wire.resident_model("m", None, entry, shown, [7])
    assert resident.device == device
    assert (resident.threads, resident.context_length, resident.pids) == (3, 512, (7,))


@pytest.mark.parametrize(
    ("num_ctx", "parameters", "running", "tokens"),
    [
        (1024, None, None, 1024),
        (None, None, None, 4096),
        (None, "num_ctx   2048\nstop  x", None, 2048),
        (None, "num_ctx   2048", {"context_length": 512}, 512),
        (10**6, None, None, 8192),  # more than the model was trained for is not kept
    ],
)
def test_a_runners_memory_is_file_cache_and_buffers(
    num_ctx: int | None, parameters: str | None, running: dict[str, int] | None, tokens: int
) -> None:
    shown = {
        "parameters": parameters,
        "model_info": {
            "general.architecture": "llama",
            "llama.block_count": 30,
            "llama.attention.head_count": 9,
            "llama.attention.head_count_kv": 3,
            "llama.embedding_length": 576,
            "llama.context_length": 8192,
        },
    }
    size = 98_362_574
    peak = wire.peak_bytes({"size": size}, shown, num_ctx, running)
    cache = 2 * 30 * 3 * 64 * 2 * tokens  # keys and values, layers, heads, size, float16
    assert peak == int(size * 1.05 + cache + 60 * 2**20)
    assert wire.peak_bytes({}, shown, num_ctx) is None


def test_images_stand_beside_the_text_as_ollamas_own_client_sends_them() -> None:
    image = Image.of(b"\x89PNG\r\n\x1a\n picture")
    request = ChatRequest("ollama/m", (Message("user", "Look.", images=(image,)),))
    (sent,) = wire.chat_body(request, "m", 1, 60)["messages"]
    theirs = ollama.Message(
        role="user", content="Look.", images=[ollama.Image(value=b"\x89PNG\r\n\x1a\n picture")]
    )
    assert sent == theirs.model_dump(exclude_none=True)
    assert wire.model_info("m", {"capabilities": ["completion", "vision"]}, None).takes_images
    assert not wire.model_info("m", {"capabilities": ["completion"]}, None).takes_images
