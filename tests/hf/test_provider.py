"""The provider over real worker processes with random models."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.hf import tiny
from tests.hf.asking import Answer, ask, request
from tests.hf.conftest import MakeProvider
from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf.prompting import make_prompt
from workbench.providers.base import CancellationToken
from workbench.providers.huggingface import HuggingFaceProvider, default_threads
from workbench.types import (
    ChatRequest,
    Message,
    Options,
    ProviderFinish,
    ProviderToken,
    ProviderWarning,
)

MODEL = "org/endless"


# -- answers ---------------------------------------------------------------------------------------


async def test_every_token_is_one_event_and_the_counts_agree(provider: HuggingFaceProvider) -> None:
    answer = await ask(provider, MODEL, max_tokens=40)
    assert [token.n_tokens for token in answer.tokens] == [1] * 40
    stamps = [token.t_ns for token in answer.tokens]
    assert stamps == sorted(set(stamps))
    assert answer.finish.finish_reason == "length"
    assert answer.finish.output_tokens == 40
    assert len(answer.finish.details["rendered_prompt_sha256"]) == 64
    assert answer.finish.runtime_ns["prefill"] > 0


async def test_greedy_equals_plain_generate(
    provider: HuggingFaceProvider, tiny_models: Path
) -> None:
    answer = await ask(provider, MODEL, "Hello", max_tokens=40)
    tokenizer, model = plain(tiny_models / MODEL)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, tokenize=False
    )
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    ids = model.generate(**inputs, max_new_tokens=40, do_sample=False)[0]
    new = ids[inputs["input_ids"].shape[1] :].tolist()
    assert answer.text == tokenizer.decode(new, skip_special_tokens=True)
    assert answer.finish.prompt_tokens == inputs["input_ids"].shape[1]


async def test_a_raw_prompt_is_continued_without_a_template(
    provider: HuggingFaceProvider, tiny_models: Path
) -> None:
    answer = Answer()
    chat = replace(request(MODEL, " The sky\n", max_tokens=8), raw=True)
    async for event in provider.stream(chat, MODEL, 1, CancellationToken()):
        if isinstance(event, ProviderToken):
            answer.tokens.append(event)
        elif isinstance(event, ProviderFinish):
            answer.finishes.append(event)
    tokenizer, model = plain(tiny_models / MODEL)
    inputs = tokenizer(" The sky\n", return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0]
    new = ids[inputs["input_ids"].shape[1] :].tolist()
    assert answer.text == tokenizer.decode(new, skip_special_tokens=True)
    assert answer.finish.prompt_tokens == inputs["input_ids"].shape[1]


def plain(folder: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    return (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForCausalLM.from_pretrained(folder, dtype="auto"),
    )


async def test_the_same_seed_gives_the_same_answer(provider: HuggingFaceProvider) -> None:
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 30}
    first = await ask(provider, MODEL, seed=7, **sampling)
    await ask(provider, MODEL, seed=8, max_tokens=3, temperature=1.0)  # moves the generator on
    again = await ask(provider, MODEL, seed=7, **sampling)
    other = await ask(provider, MODEL, seed=8, **sampling)
    assert first.text == again.text
    assert first.text != other.text


async def test_sampling_defaults_of_the_model_do_not_apply(
    make_provider: MakeProvider, tmp_path: Path
) -> None:
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 30}
    tiny.save_model(tmp_path / "neutral")
    folder = tiny.save_model(tmp_path / "opinionated")
    (folder / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 0.01, "top_k": 1, "repetition_penalty": 3.0,'
        ' "no_repeat_ngram_size": 1, "max_new_tokens": 3, "suppress_tokens": [5, 6, 7, 8]}'
    )
    provider = make_provider(tmp_path)
    answers = [await ask(provider, name, seed=4, **sampling) for name in ("neutral", "opinionated")]
    assert answers[0].text == answers[1].text


async def test_a_model_whose_files_changed_under_it_says_that_the_old_weights_answer(
    make_provider: MakeProvider, tmp_path: Path
) -> None:
    tiny.save_model(tmp_path / "mine")
    provider = make_provider(tmp_path)
    loaded = await provider.load("mine?engine=plain", keep_alive_s=60)
    assert (await provider.show("mine?engine=plain")).problem is None
    tiny.save_model(tmp_path / "mine", seed=1)
    info = await provider.show("mine?engine=plain")
    assert info.status == "resident"
    assert info.digest == loaded.digest != info.details["digest_on_disk"]
    assert "changed since it was loaded" in (info.problem or "")


async def test_the_answer_ends_at_the_end_token(provider: HuggingFaceProvider) -> None:
    answer = await ask(provider, "ends", temperature=3.0, top_p=1.0, top_k=0, max_tokens=2000)
    assert answer.finish.finish_reason == "stop"
    assert answer.finish.details["end_token_id"] == 0
    assert answer.finish.output_tokens == len(answer.tokens) < 2000
    assert "<|end|>" not in answer.text
    assert answer.tokens[-1].n_tokens == 1


async def test_a_stop_string_across_tokens_ends_the_answer_before_it(
    provider: HuggingFaceProvider,
) -> None:
    whole = await ask(provider, MODEL, max_tokens=40)
    seam = len("".join(token.text for token in whole.tokens[:15]))
    stop = whole.text[seam - 2 : seam + 2]
    answer = await ask(provider, MODEL, max_tokens=40, stop=(stop,))
    assert answer.text == whole.text[: whole.text.index(stop)]
    assert answer.finish.finish_reason == "stop"
    assert answer.finish.details["stop_string"] == stop
    assert (answer.finish.output_tokens or 0) <= 18


async def test_log_probabilities_are_those_of_the_raw_logits(
    provider: HuggingFaceProvider, tiny_models: Path
) -> None:
    import torch

    exact = f"{MODEL}?dtype=float32"  # packed weights, where they are quicker, are rounded
    answer = await ask(provider, exact, max_tokens=3, logprobs=4, repetition_penalty=1.7)
    tokenizer, model = plain(tiny_models / MODEL)
    ids = tokenizer("<|user|>Hello\n<|assistant|>", return_tensors="pt")["input_ids"]
    logits = model(ids).logits[0, -1].detach()
    expected, order = torch.log_softmax(logits.float(), -1).topk(4)
    (entry,) = answer.tokens[0].logprobs
    assert [top["token_id"] for top in entry["top_logprobs"]] == order.tolist()
    assert [top["logprob"] for top in entry["top_logprobs"]] == pytest.approx(expected.tolist())
    chosen = torch.log_softmax(logits.float(), -1)[entry["token_id"]]
    assert entry["logprob"] == pytest.approx(float(chosen))
    assert all(len(token.logprobs) == 1 for token in answer.tokens)


async def test_a_model_without_chat_template_says_so(provider: HuggingFaceProvider) -> None:
    answer = await ask(provider, "plain", max_tokens=2)
    assert [warning.code for warning in answer.warnings] == ["NO_CHAT_TEMPLATE"]


async def test_weights_in_several_files_load(provider: HuggingFaceProvider) -> None:
    answer = await ask(provider, "sharded", max_tokens=10)
    assert answer.text == (await ask(provider, MODEL, max_tokens=10)).text


# -- limits and refusals ---------------------------------------------------------------------------


async def test_the_answer_is_cut_at_the_end_of_the_context(provider: HuggingFaceProvider) -> None:
    answer = await ask(provider, MODEL, num_ctx=64, max_tokens=500)
    assert answer.finish.finish_reason == "length"
    assert (answer.finish.prompt_tokens or 0) + (answer.finish.output_tokens or 0) == 64


async def test_a_context_that_the_model_does_not_have_is_refused(
    provider: HuggingFaceProvider,
) -> None:
    """Else it would be the same model a second time, under another name."""
    too_long = f"{MODEL}?num_ctx={tiny.CONTEXT + 1}"
    for ask_of in (provider.check, provider.show):
        with pytest.raises(WorkbenchError, match=f"context .* is {tiny.CONTEXT} tokens") as refused:
            await ask_of(too_long)
        assert refused.value.code is ErrorCode.HF_INVALID_CONFIG
    with pytest.raises(WorkbenchError):
        await provider.load(too_long, keep_alive_s=1)
    assert too_long not in provider.residents()
    await provider.check(f"{MODEL}?num_ctx={tiny.CONTEXT}")


@pytest.mark.parametrize(("num_ctx", "limit"), [(16, 16), (None, tiny.CONTEXT)])
async def test_a_prompt_longer_than_the_context_names_both_numbers(
    provider: HuggingFaceProvider, num_ctx: int | None, limit: int
) -> None:
    with pytest.raises(WorkbenchError) as caught:
        await ask(provider, MODEL, "x " * 3000, num_ctx=num_ctx)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert str(limit) in caught.value.message
    assert str(caught.value.details["prompt_tokens"]) in caught.value.message
    assert caught.value.details["prompt_tokens"] >= 3000
    assert (await ask(provider, MODEL, max_tokens=2)).tokens  # the worker goes on


SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "rank": {"type": "integer"}},
    "required": ["city", "rank"],
    "additionalProperties": False,
}


async def test_an_answer_of_a_schema_is_json_of_that_schema(provider: HuggingFaceProvider) -> None:
    response_format = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    for seed in range(3):  # a random model: only the grammar can make this JSON
        answer = await ask(
            provider,
            "ends",
            max_tokens=200,
            temperature=1.0,
            seed=seed,
            response_format=response_format,
        )
        if answer.finish.finish_reason == "stop":
            value = json.loads(answer.text)
            assert value["city"] in ("Paris", "Rome")
            assert isinstance(value["rank"], int)
        else:
            assert answer.text.lstrip().startswith("{")


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "poem"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"schema": {"type": "no such type"}}},
    ],
)
async def test_a_form_that_cannot_be_followed_is_refused_and_not_ignored(
    provider: HuggingFaceProvider, response_format: dict[str, Any]
) -> None:
    with pytest.raises(WorkbenchError) as caught:
        await ask(provider, MODEL, response_format=response_format)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert "response_format" in caught.value.message


async def test_a_template_that_refuses_the_messages_says_why(
    provider: HuggingFaceProvider,
) -> None:
    chat = ChatRequest(
        "huggingface/no-system", (Message("system", "Be brief."), Message("user", "Hi"))
    )
    with pytest.raises(WorkbenchError) as caught:
        async for _ in provider.stream(chat, "no-system", 1, CancellationToken()):
            pass
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert "System role not supported" in caught.value.message


def test_a_broken_template_is_not_the_messages_fault() -> None:
    tokenizer = tiny.wrapped(tiny.byte_level(), chat_template="{% for m in messages %}{% endfr %}")
    with pytest.raises(WorkbenchError, match="chat template is broken") as caught:
        make_prompt(tokenizer, [{"role": "user", "content": "Hi"}], Options(), 64)
    assert "roles" not in str(caught.value.fix)


async def test_nan_is_an_error_and_no_answer(provider: HuggingFaceProvider) -> None:
    with pytest.raises(WorkbenchError) as caught:
        await ask(provider, "nan")
    assert caught.value.code is ErrorCode.HF_GENERATION_FAILED
    assert caught.value.details["numerical"] is True


# -- cancelling and closing ------------------------------------------------------------------------


async def test_cancelling_ends_the_stream_with_its_counts(provider: HuggingFaceProvider) -> None:
    cancel = CancellationToken()
    events = []
    async for event in provider.stream(request(MODEL, max_tokens=1900), MODEL, 1, cancel):
        events.append(event)
        if len(events) == 5:
            cancel.cancel("user")
    *tokens, finish = events
    assert isinstance(finish, ProviderFinish)
    assert finish.details["cancelled"] is True
    counted = sum(token.n_tokens for token in tokens if isinstance(token, ProviderToken))
    assert finish.output_tokens == counted < 1900


async def test_a_request_cancelled_while_it_waits_computes_next_to_nothing(
    provider: HuggingFaceProvider,
) -> None:
    cancel = CancellationToken()
    cancel.cancel("user")
    events = [
        event async for event in provider.stream(request(MODEL, max_tokens=1900), MODEL, 1, cancel)
    ]
    finish = events[-1]
    assert isinstance(finish, ProviderFinish)
    assert finish.output_tokens == len(events) - 1 < 1900


async def test_leaving_a_stream_frees_the_worker(provider: HuggingFaceProvider) -> None:
    stream = provider.stream(request(MODEL, max_tokens=1900), MODEL, 1, CancellationToken())
    async for event in stream:
        if isinstance(event, ProviderToken):
            break
    worker = provider.manager.get(MODEL)
    assert worker is not None
    assert worker.client.busy
    await stream.aclose()
    assert not worker.client.busy
    answer = await ask(provider, MODEL, max_tokens=5)
    assert len(answer.tokens) == 5
    assert provider.pids(MODEL) == (worker.client.pid,)


async def test_requests_to_one_model_share_its_passes(provider: HuggingFaceProvider) -> None:
    alone = await ask(provider, MODEL, max_tokens=200)
    together = await asyncio.gather(*(ask(provider, MODEL, max_tokens=200) for _ in range(3)))
    assert [answer.text for answer in together] == [alone.text] * 3
    spans = [(a.tokens[0].t_ns, a.tokens[-1].t_ns) for a in together]
    assert max(start for start, _ in spans) < min(end for _, end in spans)


async def test_the_oldest_messages_give_way_with_a_warning(provider: HuggingFaceProvider) -> None:
    history = [
        Message("system", "Be brief."),
        *(Message(role, f"{n} " * 40) for n in range(30) for role in ("user", "assistant")),
        Message("user", "And now?"),
    ]
    options = Options(temperature=0.0, max_tokens=5, num_ctx=300)
    chat = ChatRequest(f"huggingface/{MODEL}", tuple(history), options)
    events = [e async for e in provider.stream(chat, MODEL, 1, CancellationToken())]
    (warning,) = [e for e in events if isinstance(e, ProviderWarning)]
    finish = events[-1]
    assert isinstance(finish, ProviderFinish)
    assert warning.code == "PROMPT_TRUNCATED"
    assert warning.details["left_out"] % 2 == 0  # whole turns: the next one begins with the user
    assert finish.prompt_tokens is not None
    assert finish.prompt_tokens < 300 < warning.details["prompt_tokens"]
    refuse = replace(chat, options=replace(options, overflow="error"))
    with pytest.raises(WorkbenchError, match="300"):
        async for _ in provider.stream(refuse, MODEL, 1, CancellationToken()):
            pass


# -- a dying worker --------------------------------------------------------------------------------


async def test_a_killed_worker_is_an_error_with_its_signal_and_the_next_request_works(
    provider: HuggingFaceProvider,
) -> None:
    answer = Answer()
    with pytest.raises(WorkbenchError) as caught:
        await ask_and_kill(provider, signal.SIGKILL, into=answer)
    assert caught.value.code is ErrorCode.HF_PIPELINE_ERROR
    assert caught.value.details["signal"] == signal.SIGKILL
    assert "SIGKILL" in caught.value.message
    assert "memory" in caught.value.message
    assert len(answer.tokens) >= 5
    assert provider.resident(MODEL) is None
    again = await ask(provider, MODEL, max_tokens=50)
    assert again.text.startswith("".join(token.text for token in answer.tokens[:5]))
    assert provider.pids(MODEL) != (caught.value.details["pid"],)


async def ask_and_kill(provider: HuggingFaceProvider, number: signal.Signals, into: Answer) -> None:
    """Send the worker a signal at the fifth token."""
    chat = request(MODEL, max_tokens=1900)
    async for event in provider.stream(chat, MODEL, 1, CancellationToken()):
        assert isinstance(event, ProviderToken)
        into.tokens.append(event)
        if len(into.tokens) == 5:
            os.kill(provider.pids(MODEL)[0], number)


async def test_kill_9_under_16_streams_is_16_clean_endings(provider: HuggingFaceProvider) -> None:
    answers = [Answer() for _ in range(16)]
    streams = [
        asyncio.ensure_future(ask(provider, MODEL, max_tokens=1900, into=answer))
        for answer in answers
    ]
    while not all(answer.tokens for answer in answers):
        await asyncio.sleep(0.01)
    (pid,) = provider.pids(MODEL)
    os.kill(pid, signal.SIGKILL)
    ends = await asyncio.gather(*streams, return_exceptions=True)
    for end in ends:
        assert isinstance(end, WorkbenchError)
        assert end.code is ErrorCode.HF_PIPELINE_ERROR
        assert end.details["signal"] == signal.SIGKILL
    assert all(answer.tokens for answer in answers)
    after = await ask(provider, MODEL, max_tokens=5)
    assert len(after.tokens) == 5
    assert provider.pids(MODEL) != (pid,)


async def test_a_worker_that_crashes_shows_what_it_wrote(provider: HuggingFaceProvider) -> None:
    with pytest.raises(WorkbenchError) as caught:
        await ask_and_kill(provider, signal.SIGSEGV, into=Answer())
    assert caught.value.details["signal"] == signal.SIGSEGV
    assert "Segmentation fault" in caught.value.details["output"]


@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_a_hanging_worker_holds_nobody_up(
    make_provider: MakeProvider, tiny_models: Path, how: str
) -> None:
    """Stopped by a signal it heeds no cancellation; it is killed, and the next request works."""
    provider = make_provider(tiny_models, workbench_cancel_grace_s=0.2)
    cancel = CancellationToken()
    stream = provider.stream(request(MODEL, max_tokens=1900), MODEL, 1, cancel)
    await anext(stream)
    os.kill(provider.pids(MODEL)[0], signal.SIGSTOP)
    async with asyncio.timeout(30):
        if how == "close":
            await stream.aclose()
        else:
            cancel.cancel("user")
            with pytest.raises(WorkbenchError, match=ErrorCode.HF_PIPELINE_ERROR):
                async for _ in stream:
                    pass
        assert (await ask(provider, MODEL)).tokens


# -- listing and residency -------------------------------------------------------------------------


async def test_listing_shows_what_is_resident_with_measured_memory(
    provider: HuggingFaceProvider,
) -> None:
    before = {info.name: info for info in await provider.list_models()}
    assert before[MODEL].status == "available"
    name = f"{MODEL}?dtype=float32"
    resident = await provider.load(name, keep_alive_s=60)
    assert resident.fresh
    assert not (await provider.load(name, keep_alive_s=60)).fresh
    info = await provider.show(name)
    assert info.status == "resident"
    assert info.loaded_at is not None
    assert (info.memory_bytes or 0) > 10_000_000
    assert (resident.dtype, resident.device) == ("float32", "cpu")
    assert resident.digest == info.digest
    assert list(provider.pids(name)) == list(resident.pids)


async def test_unloading_ends_the_process(provider: HuggingFaceProvider) -> None:
    (pid,) = (await provider.load(MODEL, keep_alive_s=60)).pids
    await provider.unload(MODEL)
    assert not psutil.pid_exists(pid)
    assert provider.resident(MODEL) is None
    await provider.unload(MODEL)  # no error


async def test_an_unknown_model_is_not_found(provider: HuggingFaceProvider) -> None:
    for attempt in (provider.show("no/such"), provider.load("no/such", keep_alive_s=1)):
        with pytest.raises(WorkbenchError) as caught:
            await attempt
        assert caught.value.code is ErrorCode.HF_MODEL_NOT_FOUND


def test_making_a_provider_starts_no_process(make_provider: MakeProvider, tmp_path: Path) -> None:
    before = {child.pid for child in psutil.Process().children()}
    make_provider(tmp_path)
    assert {child.pid for child in psutil.Process().children()} <= before


@pytest.mark.parametrize(
    ("parallel", "others", "expected"), [(1, 0, 8), (2, 0, 4), (2, 3, 2), (1, 1, 4), (2, 30, 1)]
)
def test_threads_are_shared_out(parallel: int, others: int, expected: int) -> None:
    chat = ChatRequest("huggingface/m", (Message("user", "x"),), parallel=parallel)
    assert default_threads(chat, 8, others) == expected
