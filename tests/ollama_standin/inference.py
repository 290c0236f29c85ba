"""Chat and generate: from a parsed request to lines on the wire."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from .catalog import Library, Model
from .errors import (
    NO_EMBEDDINGS,
    NO_IMAGES,
    ApiError,
    BackendError,
    invalid_name,
    model_not_found,
    model_required,
)
from .gotime import created_at
from .options import LoadParameters, Options
from .prompt import cut_tokens, fit_messages, render, render_custom
from .requests import ChatRequest, GenerateRequest, InferenceRequest, Message
from .residency import Residency, Resident
from .schema import constraint
from .wire import Answer

_DEFAULT_CONTEXT = 4096
_MOST_TOP_LOGPROBS = 20


@dataclass
class _Outcome:
    """What one completion came to."""

    text: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    done_reason: str = ""
    numbers: dict[str, int] = field(default_factory=dict)
    context: list[int] = field(default_factory=list)


class Inference:
    """The two endpoints that compute."""

    def __init__(self, library: Library, residency: Residency, threads: int) -> None:
        self._library = library
        self._residency = residency
        self._threads = threads

    async def chat(self, request: ChatRequest, answer: Answer) -> None:
        """``POST /api/chat``."""
        began = time.monotonic_ns()
        _check_top_logprobs(request)
        if not request.model:
            raise model_required()
        model = self._find(request.model)
        if not request.messages and request.keep_alive == 0:
            await self._unload(request, model, answer)
            return
        if request.tools and not model.tools:
            raise ApiError(400, f"{model.registry_name} does not support tools")
        _check_thinking(request)
        messages = request.messages
        if model.system and messages and messages[0].role != "system":
            messages = [Message("system", model.system), *messages]
        await self._run(request, model, answer, began, messages)

    async def generate(self, request: GenerateRequest, answer: Answer) -> None:
        """``POST /api/generate``."""
        began = time.monotonic_ns()
        _check_top_logprobs(request)
        try:
            model = self._find(request.model)
        except ApiError as problem:
            if problem.status == invalid_name().status:
                raise model_not_found(request.model) from None
            raise
        if not request.prompt and request.keep_alive == 0:
            await self._unload(request, model, answer)
            return
        if request.raw and (request.template or request.system or request.context):
            raise ApiError(400, "raw mode does not support template, system, or context")
        if request.suffix:
            raise ApiError(400, f"{model.registry_name} does not support insert")
        _check_thinking(request)
        messages = []
        if request.prompt:
            system = request.system or model.system
            messages = [Message("system", system)] if system else []
            messages.append(Message("user", request.prompt, request.images))
        await self._run(request, model, answer, began, messages)

    def _find(self, name: str) -> Model:
        if name.endswith(("-cloud", ":cloud")):
            raise ApiError(403, "ollama cloud is disabled: remote model is unavailable")
        return self._library.find(name)

    async def embed(self, name: str, model: Model, wanted: Any, answer: Answer, code: int) -> None:
        """The model is loaded before llama.cpp refuses, hence not a plain refusal."""
        parameters = self._load_parameters(model, Options(model.parameters), shift=True)
        async with self._residency.lease(model, parameters, None):
            if wanted is not None:
                raise ApiError(code, NO_EMBEDDINGS)
        await answer.json({"model": name, "embeddings": []})

    def _load_parameters(self, model: Model, options: Options, *, shift: bool) -> LoadParameters:
        return options.load_parameters(
            default_ctx=_DEFAULT_CONTEXT,
            trained_ctx=model.blob.header.of_architecture("context_length"),
            default_threads=self._threads,
            shift=shift,
        )

    async def _unload(self, request: InferenceRequest, model: Model, answer: Answer) -> None:
        self._residency.expire(model)
        await answer.json({**_head(request, ""), "done": True, "done_reason": "unload"})

    async def _run(
        self,
        request: InferenceRequest,
        model: Model,
        answer: Answer,
        began: int,
        messages: list[Message],
    ) -> None:
        options = Options(model.parameters, request.options)
        parameters = self._load_parameters(model, options, shift=request.shift)
        outcome = _Outcome()
        calls: list[str] | None = [] if _must_call(request) else None
        try:
            async with self._residency.lease(model, parameters, request.keep_alive) as resident:
                load_duration = time.monotonic_ns() - began
                if not messages:
                    await answer.json({**_head(request, ""), "done": True, "done_reason": "load"})
                    return
                if any(message.images for message in messages):
                    raise BackendError(400, NO_IMAGES)
                if request._debug_render_only:
                    # Not recorded: as api/types.go and server/routes.go of the real server have it.
                    text = await _prompt_text(request, resident, messages)
                    told = {"_debug_info": {"rendered_template": text}}
                    await answer.json({**_head(request, ""), "done": False, **told})
                    return
                events = self._complete(request, options, resident, messages, outcome)
                async with aclosing(events):
                    async for text, logprobs in events:
                        if calls is not None:
                            calls.append(text)
                        elif request.stream:
                            line = {**_head(request, text), "done": False}
                            if logprobs:
                                line["logprobs"] = logprobs
                            await answer.line(line)
                        else:
                            outcome.text.append(text)
                            outcome.logprobs += logprobs
                if calls is not None:
                    await answer.line({**_call_line(request, "".join(calls)), "done": False})
        except BackendError as problem:
            await _refuse(request, problem, answer)
            return
        durations = {
            "total_duration": time.monotonic_ns() - began,
            "load_duration": load_duration,
            **outcome.numbers,
        }
        last = _last_line(request, outcome, durations)
        if request.stream:
            await answer.line(last)
            await answer.end()
        else:
            await answer.json(last)

    async def _complete(
        self,
        request: InferenceRequest,
        options: Options,
        resident: Resident,
        messages: list[Message],
        outcome: _Outcome,
    ) -> AsyncGenerator[tuple[str, list[dict[str, Any]]], None]:
        """Pieces of text with their logprobs; fills ``outcome`` at the end."""
        runner = resident.runner
        num_ctx = resident.parameters.num_ctx
        text = await _prompt_text(request, resident, messages)
        tokens = await runner.tokenize(text)
        if request.truncate and request.shift:
            tokens = cut_tokens(tokens, num_ctx, int(options.values["num_keep"]))
        body = {
            **options.sampling(num_ctx),
            **constraint(_call_format(request) if _must_call(request) else request.format),
            "prompt": tokens,
            "cache_prompt": True,
            "n_probs": max(1, request.top_logprobs) if request.logprobs else 0,
        }
        said = ""
        async with aclosing(runner.complete(body)) as events:
            async for event in events:
                piece = event["content"]
                if piece:
                    said += piece
                    yield piece, _logprobs(event, request.top_logprobs)
                if event.get("stop"):
                    outcome.done_reason = "length" if event["stop_type"] == "limit" else "stop"
                    timings = event["timings"]
                    outcome.numbers = {
                        "prompt_eval_count": event["tokens_evaluated"],
                        "prompt_eval_duration": round(timings["prompt_ms"] * 1000) * 1000,
                        "eval_count": event["tokens_predicted"],
                        "eval_duration": round(timings["predicted_ms"] * 1000) * 1000,
                    }
        if isinstance(request, GenerateRequest) and not request.raw:
            # The real server tokenizes the text again: the context has no end token, and it is
            # whole even where the prompt was cut.
            outcome.context = await runner.tokenize(text + said)


def _must_call(request: InferenceRequest) -> bool:
    """The models here are too small to decide: functions that are offered are asked for, once."""
    if not isinstance(request, ChatRequest) or not request.tools:
        return False
    return request.messages[-1].role != "tool"


def _call_format(request: InferenceRequest) -> dict[str, Any]:
    """The JSON schema of a call of the first function, so that the tokens of it are real."""
    assert isinstance(request, ChatRequest)
    function = request.tools[0]["function"]
    return {
        "type": "object",
        "properties": {
            "name": {"const": function["name"]},
            "arguments": function.get("parameters", {"type": "object"}),
        },
        "required": ["name", "arguments"],
    }


def _call_line(request: InferenceRequest, text: str) -> dict[str, Any]:
    """Calls come whole, in a line of their own without text."""
    call = json.loads(text)
    head = _head(request, "")
    head["message"]["tool_calls"] = [
        {
            "id": f"call_{secrets.token_hex(4)}",
            "function": {"index": 0, "name": call["name"], "arguments": call["arguments"]},
        }
    ]
    return head


def _check_top_logprobs(request: InferenceRequest) -> None:
    if not 0 <= request.top_logprobs <= _MOST_TOP_LOGPROBS:
        raise ApiError(400, f"top_logprobs must be between 0 and {_MOST_TOP_LOGPROBS}")


def _check_thinking(request: InferenceRequest) -> None:
    if request.think:
        raise ApiError(400, f'"{request.model}" does not support thinking')


async def _prompt_text(
    request: InferenceRequest, resident: Resident, messages: list[Message]
) -> str:
    """The text for the model, by the rules of each endpoint."""
    runner = resident.runner
    if not isinstance(request, GenerateRequest):
        if request.truncate:
            return await fit_messages(messages, runner, resident.parameters.num_ctx)
        return render(messages)
    if request.raw:
        return request.prompt
    if request.template:
        system = messages[0].content if len(messages) > 1 else ""
        text = render_custom(request.template, request.prompt, system)
    else:
        text = render(messages)
    if request.context:
        text = await runner.detokenize(request.context) + text
    return text


def _head(request: InferenceRequest, text: str) -> dict[str, Any]:
    """The fields every line begins with."""
    head: dict[str, Any] = {"model": request.model, "created_at": created_at()}
    if isinstance(request, GenerateRequest):
        head["response"] = text
    else:
        head["message"] = {"role": "assistant", "content": text}
    return head


def _last_line(
    request: InferenceRequest, outcome: _Outcome, numbers: dict[str, int]
) -> dict[str, Any]:
    """The line with ``done``; Go's omitempty leaves out what is zero or empty."""
    line = {**_head(request, "".join(outcome.text)), "done": True}
    logprobs = {"logprobs": outcome.logprobs}
    optional: dict[str, Any] = {"done_reason": outcome.done_reason}
    if isinstance(request, GenerateRequest):
        optional |= {"context": outcome.context} | numbers | logprobs
    else:
        optional |= logprobs | numbers
    return line | {key: value for key, value in optional.items() if value}


def _logprobs(event: dict[str, Any], wanted: int) -> list[dict[str, Any]]:
    """llama.cpp's probabilities without token ids."""

    def bare(entry: dict[str, Any]) -> dict[str, Any]:
        return {key: entry[key] for key in ("token", "logprob", "bytes")}

    converted = []
    for entry in event.get("completion_probabilities", []):
        item = bare(entry)
        if wanted:
            item["top_logprobs"] = [bare(other) for other in entry["top_logprobs"][:wanted]]
        converted.append(item)
    return converted


async def _refuse(request: InferenceRequest, problem: BackendError, answer: Answer) -> None:
    """An error from behind the scheduler, in the framing the request asked for."""
    error = {"error": problem.text}
    if not request.stream:
        await answer.json(error, problem.status)
    elif answer.started:
        await answer.line(error)
        await answer.end()
    else:
        await answer.stillborn_stream(error, problem.status)
