"""The wire format of Ollama, request by request, against recordings of a real server.

Runs against the stand-in by default. With WORKBENCH_TEST_OLLAMA_HOST it runs unchanged against a
real server that has SmolLM2-135M-Instruct Q4_1 under the name in WORKBENCH_TEST_OLLAMA_MODEL.
"""

from __future__ import annotations

import json
import re

import httpx
import pytest

from .conftest import Target
from .transcripts import case, check_exact, check_head, check_same_text, check_shape, send, shape

pytestmark = pytest.mark.model

EXACT = [
    "chat_top_logprobs_25",
    "copy_bad_dest",
    "copy_missing",
    "ctx_512_generate_long_truncate_false",
    "ctx_512_long_shift_false",
    "ctx_512_long_truncate_false",
    "delete_missing",
    "delete_nomodel",
    "embed_list",
    "embed_no_input",
    "embed_string",
    "embed_unknown",
    "embeddings_legacy",
    "err_bad_model_name",
    "err_body_not_object",
    "err_content_list",
    "err_content_type",
    "err_empty_body",
    "err_empty_model",
    "err_get_chat",
    "err_images",
    "err_images_badb64",
    "err_malformed_json",
    "err_messages_type",
    "err_missing_model",
    "err_missing_model_generate",
    "err_model_type",
    "err_options_num_predict_str",
    "err_options_stop_nonstr",
    "err_options_stop_str",
    "err_options_temperature_str",
    "err_options_type",
    "err_post_tags",
    "err_stream_type",
    "err_think",
    "err_think_bad",
    "err_tools",
    "err_trailing_slash",
    "err_truncated_json",
    "err_unknown_model",
    "err_unknown_model_generate",
    "err_unknown_model_notag",
    "err_unknown_path",
    "format_invalid_schema",
    "format_invalid_string",
    "format_invalid_type",
    "get_root",
    "head_root",
    "keepalive_bad",
    "keepalive_bad_type",
    "keepalive_str_300",
    "keepalive_str_minus1",
    "pull_nomodel",
    "show_empty_body",
    "show_no_model",
    "show_unknown",
]

SAME_TEXT = [
    "chat_keepconn",
    "chat_logprobs_no_top",
    "chat_logprobs_nonstream",
    "chat_logprobs_stream",
    "chat_multiturn",
    "chat_natural_stop",
    "chat_nonstream",
    "chat_nonstream_again_determinism",
    "chat_num_predict_0",
    "chat_opts_stop",
    "chat_prefill_assistant",
    "chat_stream_coldload",
    "chat_stream_warm_other_prompt",
    "chat_stream_warm_same_prompt",
    "chat_top_logprobs_20",
    "chat_top_logprobs_without_logprobs",
    "ctx_512_reload",
    "ctx_default_again",
    "ctx_larger_than_trained",
    "err_model_case",
    "err_not_json_content_type",
    "err_num_ctx_0",
    "err_num_ctx_neg",
    "err_options_num_predict_float",
    "err_options_unknown",
    "err_temperature_neg",
    "err_top_p_2",
    "err_toplevel_unknown",
    "format_schema_nonstream",
    "format_schema_stream",
    "generate_logprobs",
    "generate_nonstream",
    "generate_stream",
    "generate_template",
    "keepalive_null",
    "think_false",
]
"""Greedy answers that two builds of llama.cpp agree on."""

SAME_SHAPE = [
    "chat_logprobs_format",
    "chat_logprobs_temp1",
    "chat_logprobs_temp1_topk1",
    "chat_opts_topk_topp",
    "chat_seed_temp1_a",
    "ctx_512_long_history",
    "ctx_512_long_single",
    "ctx_512_long_single_stream",
    "err_message_bad_role",
    "err_message_no_role",
    "err_options_null",
    "err_options_temperature_int",
    "format_json",
    "generate_empty_prompt",
    "generate_load_only",
    "generate_raw",
    "generate_system",
    "generate_unload",
    "load_only_empty_messages",
    "load_only_no_messages_key",
    "load_only_warm",
    "unload",
    "unload_again_not_loaded",
]
"""Answers whose tokens may differ between builds, or that have none."""


@pytest.mark.parametrize("name", EXACT)
def test_answer_is_exactly_the_recorded_one(
    name: str, target: Target, client: httpx.Client
) -> None:
    recorded = case(name, target.model)
    check_exact(recorded.answer, send(client, recorded))


@pytest.mark.parametrize("name", SAME_TEXT)
def test_greedy_answer_has_the_recorded_shape_and_text(
    name: str, target: Target, client: httpx.Client
) -> None:
    recorded = case(name, target.model)
    check_same_text(recorded.answer, send(client, recorded))


@pytest.mark.parametrize("name", SAME_SHAPE)
def test_answer_has_the_recorded_shape(name: str, target: Target, client: httpx.Client) -> None:
    recorded = case(name, target.model)
    check_shape(recorded.answer, send(client, recorded))


def test_the_same_seed_gives_the_same_text(target: Target, client: httpx.Client) -> None:
    first = send(client, case("chat_seed_temp1_a", target.model))
    again = send(client, case("chat_seed_temp1_b", target.model))
    assert first.text == again.text


def test_generate_context_is_the_prompt_and_the_answer(
    target: Target, client: httpx.Client
) -> None:
    recorded = case("generate_nonstream", target.model)
    assert send(client, recorded).last["context"] == recorded.answer.last["context"]


def test_generate_context_is_whole_even_when_the_prompt_was_cut(
    target: Target, client: httpx.Client
) -> None:
    recorded = case("ctx_512_generate_long", target.model)
    answer = send(client, recorded)
    check_shape(recorded.answer, answer)
    prompt_tokens = recorded.answer.last["context"][:3610]
    assert answer.last["context"][:3610] == prompt_tokens


@pytest.mark.parametrize(
    "name", ["chat_logprobs_nonstream", "chat_logprobs_stream", "generate_logprobs"]
)
def test_logprobs_are_raw_and_tell_their_bytes(
    name: str, target: Target, client: httpx.Client
) -> None:
    recorded = case(name, target.model)
    entries = [e for line in send(client, recorded).lines for e in line.get("logprobs", [])]
    expected = [e for line in recorded.answer.lines for e in line.get("logprobs", [])]
    assert [entry["token"] for entry in entries] == [entry["token"] for entry in expected]
    for entry, other in zip(entries, expected, strict=True):
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert entry["logprob"] == pytest.approx(other["logprob"], abs=0.2)
        assert len(entry["top_logprobs"]) == len(other["top_logprobs"])
        ranked = [top["logprob"] for top in entry["top_logprobs"]]
        assert ranked == sorted(ranked, reverse=True)


def test_logprobs_do_not_depend_on_temperature(target: Target, client: httpx.Client) -> None:
    hot = send(client, case("chat_logprobs_temp1_topk1", target.model)).last["logprobs"]
    greedy = send(client, case("chat_logprobs_nonstream", target.model)).last["logprobs"]
    for entry, other in zip(hot, greedy, strict=True):
        assert entry["logprob"] == pytest.approx(other["logprob"], abs=1e-3)


def test_show_tells_template_details_and_tensors(target: Target, client: httpx.Client) -> None:
    recorded = case("show", target.model)
    answer = send(client, recorded)
    check_head(recorded.answer, answer)
    got, expected = answer.last, recorded.answer.last
    assert list(got) == list(expected)
    assert got["template"] == expected["template"]
    assert got["capabilities"] == expected["capabilities"]
    assert shape(got["details"]) == shape(expected["details"])
    assert got["details"]["quantization_level"] == expected["details"]["quantization_level"]
    assert shape(got["tensors"]) == shape(expected["tensors"])
    assert len(got["tensors"]) == len(expected["tensors"])
    assert got["model_info"] == expected["model_info"]


def test_show_takes_the_older_field_name(target: Target, client: httpx.Client) -> None:
    recorded = case("show_name_field", target.model)
    answer = send(client, recorded)
    check_head(recorded.answer, answer)
    assert list(answer.last) == list(recorded.answer.last)


def test_tags_describe_each_model(target: Target, client: httpx.Client) -> None:
    recorded = case("get_tags", target.model)
    answer = send(client, recorded)
    check_head(recorded.answer, answer)
    [expected] = [m for m in recorded.answer.last["models"] if m["name"] == target.model]
    [got] = [m for m in answer.last["models"] if m["name"] == target.model]
    assert shape(got) == shape(expected)
    assert got["model"] == target.model
    assert got["details"] == expected["details"]
    assert re.fullmatch(r"[0-9a-f]{64}", got["digest"])


def test_version_is_one_string(target: Target, client: httpx.Client) -> None:
    recorded = case("get_version", target.model)
    answer = send(client, recorded)
    check_head(recorded.answer, answer)
    assert shape(answer.last) == shape(recorded.answer.last)


def test_escapes_are_go_s(target: Target, client: httpx.Client) -> None:
    answer = client.post("/api/chat", content=json.dumps({"model": "<a&b>"}))
    assert answer.json() == {"error": "invalid model name"}
    shown = client.post("/api/show", content=json.dumps({"model": target.model})).text
    assert r"\u003c|im_start|\u003e" in shown
    assert "<" not in shown


@pytest.mark.parametrize("name", ["pull_offline", "pull_http_registry_refused"])
def test_a_pull_without_network_fails_inside_a_200(
    name: str, target: Target, client: httpx.Client
) -> None:
    target.owned()  # a real server may well have a network
    recorded = case(name, target.model)
    answer = send(client, recorded)
    check_head(recorded.answer, answer)
    resolver = re.compile(r" on [\d.]+:53")
    assert [resolver.sub("", str(line)) for line in answer.lines] == [
        resolver.sub("", str(line)) for line in recorded.answer.lines
    ]


@pytest.mark.parametrize("name", ["err_cloud_model", "get_status", "pull_offline_nonstream"])
def test_answers_of_an_offline_server(name: str, target: Target, client: httpx.Client) -> None:
    target.owned()
    recorded = case(name, target.model)
    answer = send(client, recorded)
    check_head(recorded.answer, answer)
    assert shape(answer.last) == shape(recorded.answer.last)


def test_what_was_never_recorded_is_refused(target: Target, client: httpx.Client) -> None:
    target.owned()
    for path in ("/v1/chat/completions", "/api/create", "/api/push"):
        assert client.post(path, content="{}").status_code == 501
