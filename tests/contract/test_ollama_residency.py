"""What stays in memory and for how long, who waits for whom, and what a disconnect stops."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import httpx
import psutil
import pytest

from .conftest import Target
from .live import (
    COLORS,
    LONG_OPTIONS,
    LONG_STORY,
    InBackground,
    chat,
    is_idle,
    lifetime,
    load,
    loaded,
    long_stream,
    unload,
    until,
)
from .transcripts import case, check_head, check_shape, send, shape

pytestmark = pytest.mark.model
SLACK = timedelta(seconds=5)
FIVE_MINUTES = timedelta(minutes=5)
FOR_EVER = timedelta(days=36500)
A_LOAD = 200e6
"""Nanoseconds that no warm start and every cold one takes."""


def leaves_after(seconds: float) -> httpx.Timeout:
    """Of a client that waits that long for an answer, and for a connection as long as it takes."""
    return httpx.Timeout(60.0, read=seconds)


def waited(answer: dict[str, Any]) -> float:
    """Nanoseconds that an answer waited for another one."""
    parts = ("load_duration", "prompt_eval_duration", "eval_duration")
    return float(answer["total_duration"] - sum(answer[part] for part in parts))


def test_ps_describes_the_loaded_model(target: Target, client: httpx.Client) -> None:
    chat(client, target.model)
    recorded = case("ps_loaded", target.model)
    answer = send(client, recorded)
    check_head(recorded.answer, answer)
    assert shape(answer.last) == shape(recorded.answer.last)
    [entry] = answer.last["models"]
    [expected] = recorded.answer.last["models"]
    assert entry["name"] == entry["model"] == target.model
    assert entry["details"] == expected["details"]
    assert entry["context_length"] == 4096
    assert entry["size"] == pytest.approx(expected["size"], rel=0.2)


def test_unload_empties_ps_and_works_twice(target: Target, client: httpx.Client) -> None:
    load(client, target.model)
    unload(client, target.model)
    recorded = case("ps_after_unload", target.model)
    assert send(client, recorded).body == recorded.answer.body
    again = case("unload_again_not_loaded", target.model)
    check_shape(again.answer, send(client, again))


@pytest.mark.parametrize(
    ("keep_alive", "expected"),
    [
        (300, FIVE_MINUTES),
        ("5m", FIVE_MINUTES),
        ("10m", timedelta(minutes=10)),
        ("1h30m", timedelta(minutes=90)),
        (90.5, timedelta(seconds=90.5)),
    ],
)
def test_keep_alive_sets_the_lifetime(
    keep_alive: object, expected: timedelta, target: Target, client: httpx.Client
) -> None:
    chat(client, target.model, keep_alive=keep_alive)
    [entry] = loaded(client)
    assert abs(lifetime(entry) - expected) < SLACK


@pytest.mark.parametrize("keep_alive", [-1, "-1m"])
def test_a_negative_keep_alive_is_for_ever(
    keep_alive: object, target: Target, client: httpx.Client
) -> None:
    chat(client, target.model, keep_alive=keep_alive)
    [entry] = loaded(client)
    assert lifetime(entry) > FOR_EVER


def test_keep_alive_left_out_keeps_the_last_value(target: Target, client: httpx.Client) -> None:
    unload(client, target.model)
    load(client, target.model)
    [entry] = loaded(client)
    assert abs(lifetime(entry) - FIVE_MINUTES) < SLACK
    chat(client, target.model, keep_alive="20m")
    chat(client, target.model)
    [entry] = loaded(client)
    assert abs(lifetime(entry) - timedelta(minutes=20)) < SLACK


def test_a_short_keep_alive_unloads_by_itself(target: Target, client: httpx.Client) -> None:
    chat(client, target.model, keep_alive=0.5)
    assert loaded(client)
    until(lambda: not loaded(client), "the model went by itself")
    if target.stand_in:
        target.stand_in.wait_for_runners(0)


def test_keep_alive_zero_answers_first_and_then_unloads(
    target: Target, client: httpx.Client
) -> None:
    recorded = case("keepalive_0_with_messages", target.model)
    check_shape(recorded.answer, send(client, recorded))
    until(lambda: not loaded(client), "the model is unloaded")


def test_unloading_lets_a_running_stream_finish(target: Target, client: httpx.Client) -> None:
    body = {
        "model": target.model,
        "messages": LONG_STORY,
        "options": {"temperature": 0, "num_predict": 60, "repeat_penalty": 1.2},
    }
    with client.stream("POST", "/api/chat", json=body) as stream, target.client() as other:
        lines = stream.iter_lines()
        next(lines)
        answer = other.post("/api/generate", json={"model": target.model, "keep_alive": 0})
        assert answer.json()["done_reason"] == "unload"
        rest = [json.loads(line) for line in lines]
    assert rest[-1]["done_reason"] == "length"
    assert rest[-1]["eval_count"] == 60
    until(lambda: not loaded(client), "the model is unloaded")


def test_a_loading_model_is_not_listed(target: Target, client: httpx.Client) -> None:
    unload(client, target.model)
    with target.client() as other:
        loading = InBackground(lambda: load(other, target.model))
        seen = loaded(client)
        was_loading = loading.is_alive()
        loading.finished()
    assert loading.problem is None
    assert was_loading
    assert seen == []
    assert len(loaded(client)) == 1


def test_a_disconnect_while_loading_cancels_the_load(target: Target, client: httpx.Client) -> None:
    unload(client, target.model)
    with target.client(timeout=leaves_after(0.15)) as impatient, pytest.raises(httpx.ReadTimeout):
        impatient.post("/api/chat", json={"model": target.model, "messages": COLORS})
    assert loaded(client) == []
    if target.stand_in:
        target.stand_in.wait_for_runners(0)
    assert loaded(client) == []
    assert chat(client, target.model)["message"]["content"] == "1."


def test_a_cold_start_shows_in_load_duration_only(target: Target, client: httpx.Client) -> None:
    unload(client, target.model)
    cold = chat(client, target.model)
    warm = chat(client, target.model)
    assert cold["load_duration"] > A_LOAD > warm["load_duration"]
    assert cold["total_duration"] >= cold["load_duration"]


def test_another_num_ctx_reloads_and_costs_memory(target: Target, client: httpx.Client) -> None:
    sizes = {}
    for num_ctx in (512, 4096):
        options = {"temperature": 0, "num_predict": 2, "num_ctx": num_ctx}
        chat(client, target.model, options=options)
        [entry] = loaded(client)
        assert entry["context_length"] == num_ctx
        sizes[num_ctx] = entry["size"]
    assert sizes[512] < sizes[4096]
    if target.stand_in:
        target.stand_in.wait_for_runners(1)


def test_num_ctx_over_the_trained_length_is_clamped(target: Target, client: httpx.Client) -> None:
    options = {"temperature": 0, "num_predict": 2, "num_ctx": 100000}
    chat(client, target.model, options=options)
    [entry] = loaded(client)
    assert entry["context_length"] == 8192


def test_generation_goes_on_past_num_ctx(target: Target, client: httpx.Client) -> None:
    options = {"temperature": 0, "num_predict": 240, "num_ctx": 256, "repeat_penalty": 1.2}
    answer = chat(client, target.model, messages=LONG_STORY, options=options)
    assert answer["prompt_eval_count"] + answer["eval_count"] > 256


def test_names_of_one_blob_share_a_runner_under_the_first_name(
    target: Target, client: httpx.Client
) -> None:
    copy = "workbench-contract-copy"
    unload(client, target.model)
    load(client, target.model)
    answer = client.post("/api/copy", json={"source": target.model, "destination": copy})
    assert (answer.status_code, answer.content) == (200, b"")
    try:
        assert chat(client, copy)["model"] == copy
        assert [entry["name"] for entry in loaded(client)] == [target.model]
        names = [entry["name"] for entry in client.get("/api/tags").json()["models"]]
        assert f"{copy}:latest" in names
        if target.stand_in:
            assert len(target.stand_in.runner_pids()) == 1
    finally:
        gone = client.request("DELETE", "/api/delete", json={"model": copy})
    assert (gone.status_code, gone.content) == (200, b"")


def test_two_chats_to_one_model_run_one_after_the_other(
    target: Target, client: httpx.Client
) -> None:
    load(client, target.model)
    options = {"temperature": 0, "seed": 1, "num_predict": 40, "repeat_penalty": 1.2}
    with target.client() as other:
        body = {"model": target.model, "messages": LONG_STORY, "options": options}
        with other.stream("POST", "/api/chat", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            second = InBackground(lambda: chat(client, target.model))
            first = [json.loads(line) for line in lines][-1]
        second.finished()
    assert second.problem is None
    answer = second.result
    assert waited(answer) > first["eval_duration"] * 0.5
    assert answer["load_duration"] < A_LOAD


def _stops_working(target: Target, client: httpx.Client) -> None:
    if target.stand_in:
        [pid] = target.stand_in.runner_pids()
        until(lambda: is_idle(psutil.Process(pid)), "the runner stopped computing")
    answer = chat(client, target.model)
    assert waited(answer) < 30e9  # the story would have gone on for a minute


def test_closing_a_stream_stops_the_work(target: Target, client: httpx.Client) -> None:
    with target.client() as other, long_stream(other, target.model) as lines:
        for _ in range(12):
            assert not next(lines)["done"]
    _stops_working(target, client)


def test_giving_up_on_a_whole_answer_stops_the_work(target: Target, client: httpx.Client) -> None:
    load(client, target.model)
    body = {
        "model": target.model,
        "messages": LONG_STORY,
        "options": LONG_OPTIONS,
        "stream": False,
    }
    with target.client(timeout=leaves_after(0.7)) as impatient, pytest.raises(httpx.ReadTimeout):
        impatient.post("/api/chat", json=body)
    _stops_working(target, client)


def test_giving_up_while_waiting_leaves_the_queue(target: Target, client: httpx.Client) -> None:
    with target.client() as busy, long_stream(busy, target.model) as lines:
        next(lines)
        with (
            target.client(timeout=leaves_after(0.3)) as impatient,
            pytest.raises(httpx.ReadTimeout),
        ):
            chat(impatient, target.model)
        assert not next(lines)["done"]
    _stops_working(target, client)


def test_a_killed_runner_breaks_the_stream_with_an_error_line(
    target: Target, client: httpx.Client
) -> None:
    stand_in = target.owned()
    recorded = case("runner_killed_midstream", target.model)
    with target.client() as other, long_stream(other, target.model) as lines:
        next(lines)
        [pid] = stand_in.runner_pids()
        psutil.Process(pid).kill()
        rest = list(lines)  # ends without a protocol error: the last chunk came
    assert rest[-1] == recorded.answer.last
    assert not any(line["done"] for line in rest[:-1])
    assert [entry["name"] for entry in loaded(client)] == [target.model]
    assert chat(client, target.model)["load_duration"] > A_LOAD
    assert stand_in.runner_pids() != [pid]


def test_a_killed_runner_is_a_500_for_a_whole_answer(target: Target, client: httpx.Client) -> None:
    stand_in = target.owned()
    load(client, target.model)
    [pid] = stand_in.runner_pids()
    recorded = case("runner_killed_nonstream", target.model)
    with target.client() as other:
        answer = InBackground(lambda: send(other, recorded))
        runner = psutil.Process(pid)
        until(lambda: not is_idle(runner), "the runner is computing")
        runner.kill()
        answer.finished()
    assert answer.problem is None
    check_head(recorded.answer, answer.result)
    assert answer.result.body == recorded.answer.body
    assert chat(client, target.model)["message"]["content"] == "1."
