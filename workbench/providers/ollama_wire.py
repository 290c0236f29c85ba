"""Ollama's JSON in our types and ours in its; pure functions without I/O.

A wrong shape raises :class:`MalformedAnswer`: then the peer is not Ollama.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from workbench.errors import invalid
from workbench.model_ids import tagged
from workbench.providers.base import ResidentModel
from workbench.providers.ollama_errors import MalformedAnswer, nested_error
from workbench.types import (
    MOST_TOKENS,
    ChatRequest,
    FinishReason,
    Message,
    ModelInfo,
    ProviderEvent,
    ProviderFinish,
    ProviderToken,
    ProviderToolCall,
    ProviderWarning,
    ToolCall,
    new_id,
)

if TYPE_CHECKING:
    import ollama

JsonObject = Mapping[str, Any]

_DURATIONS: Final = ("total", "load", "prompt_eval", "eval")
_MOST_NS: Final = 2**63 - 1
"""A longer time comes from no Ollama, and the log has no room for it."""
_FINISH: Final[Mapping[str, FinishReason]] = {"stop": "stop", "length": "length"}
_SIZE: Final = re.compile(r"^([\d.]+)([KMBT]?)$")
_FACTORS: Final = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_LONGEST_KEEP_ALIVE_S: Final = 9e9
"""Ollama counts in 64-bit nanoseconds."""


def canonical(name: str) -> str:
    """The key under which Ollama finds a name: with its tag, without regard to case."""
    return tagged(name).lower()


# -- requests --------------------------------------------------------------------------------------


def keep_alive(seconds: float) -> float:
    """Seconds as Ollama takes them: a negative number means for ever."""
    return -1 if seconds < 0 or seconds > _LONGEST_KEEP_ALIVE_S else seconds


def chat_body(request: ChatRequest, model: str, seed: int, keep_alive_s: float) -> dict[str, Any]:
    """The body of a streamed ``/api/chat``.

    ``keep_alive`` is always there, because left out it silently keeps the last caller's value.
    Ollama ignores what it does not know, so nothing is passed on unchecked.

    Args:
        request: messages and options; its model id is not looked at.
        model: Ollama's own name of the model.
        seed: the seed to sample with, drawn by the engine if the user gave none.
        keep_alive_s: seconds to stay in memory after the answer.
    """
    if not request.messages:
        # To Ollama this would be "load the model and say nothing".
        raise invalid("There is no message to answer.", fix="Give at least one message.")
    body = _body(request, model, seed, keep_alive_s)
    body["messages"] = _messages(request.messages)
    if request.tools:
        body["tools"] = [dict(tool) for tool in request.tools]
    return body


def generate_body(
    request: ChatRequest, model: str, seed: int, keep_alive_s: float
) -> dict[str, Any]:
    """The body of a streamed ``/api/generate`` that continues a raw prompt.

    Args:
        request: its only message is the text; else as for :func:`chat_body`.
        model: Ollama's own name of the model.
        seed: the seed to sample with.
        keep_alive_s: seconds to stay in memory after the answer.
    """
    prompt = "".join(message.content for message in request.messages)
    if not prompt:  # to Ollama this would be "load the model" too
        raise invalid("The prompt is empty.", fix="Give some text to be continued.")
    return {**_body(request, model, seed, keep_alive_s), "prompt": prompt, "raw": True}


def _body(request: ChatRequest, model: str, seed: int, keep_alive_s: float) -> dict[str, Any]:
    """What chat and generate have in common."""
    options = request.options
    values: dict[str, Any] = {
        "num_predict": options.max_tokens,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "seed": seed,
        "repeat_penalty": options.repetition_penalty,
    }
    if options.stop:
        values["stop"] = list(options.stop)
    if options.num_ctx is not None:
        values["num_ctx"] = options.num_ctx
    if options.repetition_penalty != 1.0:
        # Ollama looks back 64 tokens by default, transformers over the whole context.
        values["repeat_last_n"] = -1
    body: dict[str, Any] = {
        "model": model,
        "stream": True,
        "keep_alive": keep_alive(keep_alive_s),
        "options": values,
    }
    if options.logprobs:
        body |= {"logprobs": True, "top_logprobs": options.logprobs}
    answer_format = _format(options.response_format)
    if answer_format is not None:
        body["format"] = answer_format
    return body


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Role and content, calls of functions with their arguments as objects, their results."""
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    written: list[dict[str, Any]] = []
    for message in messages:
        entry: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.images:
            entry["images"] = [image.data for image in message.images]
        if message.tool_calls:
            entry["tool_calls"] = [
                {"id": call.id, "function": {"name": call.name, "arguments": _arguments(call)}}
                for call in message.tool_calls
            ]
        if message.tool_call_id is not None:
            entry["tool_call_id"] = message.tool_call_id
            # Templates name the function, not the call.
            if message.tool_call_id in names:
                entry["tool_name"] = names[message.tool_call_id]
        written.append(entry)
    return written


def _arguments(call: ToolCall) -> dict[str, Any]:
    try:
        values = json.loads(call.arguments or "{}")
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise invalid(
            f"The arguments of the call of {call.name} are no JSON object: "
            f"{call.arguments[:100]!r}.",
            fix="Send them as they were received.",
        )
    return values


def _format(response_format: JsonObject | None) -> str | dict[str, Any] | None:
    """OpenAI's ``response_format`` as Ollama's ``format``."""
    if response_format is None:
        return None
    kind = response_format.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return "json"
    if kind == "json_schema":
        wrapper = response_format.get("json_schema")
        schema = wrapper.get("schema") if isinstance(wrapper, Mapping) else None
        if isinstance(schema, Mapping):
            return dict(schema)
    raise invalid(
        f"response_format {dict(response_format)!r} is not understood.",
        fix='Use {"type": "json_object"} or '
        '{"type": "json_schema", "json_schema": {"schema": {...}}}.',
        option="response_format",
    )


# -- answers ---------------------------------------------------------------------------------------


def events(line: JsonObject, t_ns: int, details: JsonObject) -> list[ProviderEvent]:
    """What one line of a stream says, of ``/api/chat`` or ``/api/generate``.

    A line counts as one token. It may hold several, merged to complete a character; how many only
    the runtime's total at the end can tell. A line that only names the role is nothing.

    Args:
        line: the JSON object.
        t_ns: when it arrived.
        details: notes for the finish, should this be the last line.
    """
    found: list[ProviderEvent] = list(_tokens(line, t_ns))
    if line.get("done"):
        end = _finish(line, details)
        if end.finish_reason == "stop":
            # The end token has no text, but took a decoding step and is in eval_count.
            found.append(ProviderToken("", t_ns))
        found.append(end)
    return found


def _tokens(line: JsonObject, t_ns: int) -> Iterator[ProviderToken | ProviderToolCall]:
    if "response" in line:  # of /api/generate
        message: JsonObject = {"content": line["response"], "thinking": line.get("thinking")}
    else:
        message = _mapping(line, "message")
    thinking, content = message.get("thinking") or "", message.get("content") or ""
    if not isinstance(thinking, str) or not isinstance(content, str):
        raise MalformedAnswer(_excerpt(line))
    logprobs = tuple(logprobs_of(line))
    if thinking:
        yield ProviderToken(thinking, t_ns, channel="reasoning", logprobs=logprobs)
        logprobs = ()
    calls = _objects(message, "tool_calls")
    if content or logprobs or calls:
        yield ProviderToken(content, t_ns, logprobs=logprobs)
    for call in calls:
        yield ProviderToolCall(_tool_call(call), t_ns)


def logprobs_of(answer: JsonObject) -> Sequence[JsonObject]:
    """The probabilities that came with an answer or a line."""
    return _objects(answer, "logprobs")


def _tool_call(call: JsonObject) -> ToolCall:
    function = _mapping(call, "function")
    name, arguments = function.get("name"), function.get("arguments") or {}
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise MalformedAnswer(_excerpt(call))
    # Older servers give calls no id.
    return ToolCall(str(call.get("id") or new_id("call")), name, json.dumps(arguments))


def _finish(line: JsonObject, details: JsonObject) -> ProviderFinish:
    reason = line.get("done_reason", "stop")
    if reason in ("load", "unload"):
        # The answer to an empty conversation, which is never sent from here.
        raise MalformedAnswer(f"it answered {reason!r} instead of a text")
    return ProviderFinish(
        _FINISH.get(reason, "stop"),
        # Never 0 in truth: a server that leaves it out counted only what was not cached.
        prompt_tokens=_count(line, "prompt_eval_count") or None,
        output_tokens=_count(line, "eval_count"),
        count_source="runtime",
        runtime_ns={name: _count(line, f"{name}_duration", _MOST_NS) for name in _DURATIONS},
        details=dict(details) if reason in _FINISH else {**details, "done_reason": reason},
    )


def _count(line: JsonObject, key: str, most: int = MOST_TOKENS) -> int:
    """A whole number of the ``done`` line, where a zero is left out."""
    value = line.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise MalformedAnswer(f"{key} is {str(value)[:100]}")
    return value


def cut_warning(error: ollama.ResponseError) -> ProviderWarning | None:
    """The warning for a prompt that does not fit, or None if the error is another one."""
    inner = nested_error(error)
    if error.status_code != 400 or inner.get("type") != "exceed_context_size_error":
        return None
    prompt, context = inner.get("n_prompt_tokens"), inner.get("n_ctx")
    return ProviderWarning(
        "PROMPT_TRUNCATED",
        f"The prompt has {prompt} tokens, but the context only {context}: Ollama leaves "
        "a part of it out, and this answer knows nothing of that. Raise num_ctx, or shorten the "
        "conversation.",
        {"uncut_prompt_tokens": prompt, "num_ctx": context},
    )


# -- models ----------------------------------------------------------------------------------------


def _objects(answer: JsonObject, key: str) -> Sequence[JsonObject]:
    """A list of objects; Go writes an empty one as null or leaves it out."""
    value = answer.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise MalformedAnswer(_excerpt(answer))
    return value


def models_by_name(answer: JsonObject) -> dict[str, JsonObject]:
    """The entries of ``/api/tags`` or ``/api/ps`` by canonical name, in the server's order."""
    if "models" not in answer:
        raise MalformedAnswer(_excerpt(answer))
    entries = _objects(answer, "models")
    if not all(isinstance(name_of(entry), str) for entry in entries):
        raise MalformedAnswer(_excerpt(answer))
    return {canonical(name_of(entry)): entry for entry in entries}


def name_of(entry: JsonObject) -> Any:
    """The name in an entry of ``/api/tags`` or ``/api/ps``, as it was created."""
    return entry.get("name") or entry.get("model")


def model_info(
    name: str, tag: JsonObject, running: JsonObject | None, shown: JsonObject | None = None
) -> ModelInfo:
    """One model for the common list.

    Args:
        name: the name to show.
        tag: its entry in ``/api/tags``, empty if it was deleted while in memory.
        running: its entry in ``/api/ps``, if it is in memory.
        shown: the answer of ``/api/show``, if asked for.
    """
    shown = shown or {}
    facts = {**_details(shown), **_details(running or {}), **_details(tag)}
    inner = _mapping(shown, "model_info")
    capabilities = tag.get("capabilities") or shown.get("capabilities")
    template = shown.get("template")
    details: dict[str, Any] = {
        "family": facts.get("family"),
        "parent_model": facts.get("parent_model") or None,
        "capabilities": capabilities,
        "modified_at": tag.get("modified_at") or shown.get("modified_at"),
    }
    for key in ("template", "parameters", "system", "license"):
        if shown.get(key):
            details[key] = shown[key]
    if running is not None:
        details |= {
            "ollama_size_bytes": running.get("size"),
            "size_vram_bytes": running.get("size_vram", 0),
            "loaded_context_length": running.get("context_length"),
            "expires_at": running.get("expires_at"),
            "resident_as": name_of(running),
        }
    architecture = inner.get("general.architecture")
    return ModelInfo(
        id=f"ollama/{name}",
        name=name,
        provider="ollama",
        status="available" if running is None else "resident",
        size_bytes=tag.get("size"),
        task="text-generation" if "completion" in (capabilities or ["completion"]) else "embedding",
        format=facts.get("format"),
        quantization=facts.get("quantization_level"),
        parameters=inner.get("general.parameter_count") or _parameters(facts.get("parameter_size")),
        context_length=inner.get(f"{architecture}.context_length") or facts.get("context_length"),
        # A model without a template gets the bare prompt.
        chat_template=None if template is None else template.strip() not in ("", "{{ .Prompt }}"),
        digest=tag.get("digest") or (running or {}).get("digest"),
        problem=None if tag or shown else "Deleted from disk, but still in memory: unload it.",
        details=details,
    )


def resident_model(
    name: str,
    digest: str | None,
    running: JsonObject | None,
    shown: JsonObject,
    pids: Sequence[int],
    *,
    fresh: bool = False,
) -> ResidentModel:
    """What every row shall say of a model in memory."""
    entry = running or {}
    size, on_gpu = entry.get("size", 0), entry.get("size_vram", 0)
    threads = re.search(r"^num_thread\s+(\d+)", str(shown.get("parameters") or ""), re.MULTILINE)
    return ResidentModel(
        name=name,
        digest=digest or entry.get("digest"),
        quantization={**_details(shown), **_details(entry)}.get("quantization_level"),
        device=device_of(entry),
        threads=int(threads[1]) if threads else None,
        context_length=entry.get("context_length"),
        pids=tuple(pids),
        fresh=fresh,
        details={"size_bytes": size, "size_vram_bytes": on_gpu},
    )


def device_of(entry: JsonObject | None) -> str | None:
    """Where the model of a ``/api/ps`` entry computes: ``cpu``, ``gpu`` or ``cpu+gpu``."""
    if not entry:
        return None
    size, on_gpu = entry.get("size", 0), entry.get("size_vram", 0)
    return "cpu" if not on_gpu else "gpu" if on_gpu >= size else "cpu+gpu"


def seconds_left(entry: JsonObject, now: dt.datetime) -> float:
    """Seconds until Ollama unloads the model of a ``/api/ps`` entry; infinite if it says nothing.

    ``expires_at`` carries the server's own offset from UTC.
    """
    try:
        expires = dt.datetime.fromisoformat(str(entry.get("expires_at")))
        return (expires - now).total_seconds()
    except (ValueError, TypeError):
        return math.inf


def _excerpt(answer: JsonObject) -> str:
    return str(dict(answer))[:200]


def _mapping(answer: JsonObject, key: str) -> JsonObject:
    value = answer.get(key) or {}
    if not isinstance(value, Mapping):
        raise MalformedAnswer(_excerpt(answer))
    return value


def _details(answer: JsonObject) -> JsonObject:
    """Its ``details`` without the empty values, so that they do not hide better ones."""
    return {key: value for key, value in _mapping(answer, "details").items() if value}


def _parameters(size: object) -> int | None:
    """A number of weights from ``134.52M``."""
    match = _SIZE.match(str(size))
    return round(float(match[1]) * _FACTORS[match[2]]) if match else None


def context_changed(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> bool:
    """Whether two entries of ``/api/ps`` differ in the context length of the loaded model."""
    lengths = [entry.get("context_length") for entry in (before, after) if entry is not None]
    return len(lengths) == 2 and lengths[0] != lengths[1]


_DEFAULT_NUM_CTX: Final = 4096
_RUNNER_BYTES: Final = 60 * 2**20
"""Code and compute buffers of a runner, measured with a small model; they grow with its weights."""
_COMPUTE_SHARE: Final = 0.05


def peak_bytes(
    tag: JsonObject, shown: JsonObject, num_ctx: int | None, running: JsonObject | None = None
) -> int | None:
    """What a runner will hold with its context full, from the size of its file.

    Keys and values are float16 and for one request at a time, Ollama's defaults: neither
    ``OLLAMA_KV_CACHE_TYPE`` nor ``OLLAMA_NUM_PARALLEL`` is told by its server.

    Args:
        tag: the model's entry in ``/api/tags``.
        shown: the answer of ``/api/show``.
        num_ctx: context length that is wanted; None is that of ``running``, else of the model's
            parameters, else Ollama's default.
        running: its entry in ``/api/ps``.

    Returns:
        None without a size.
    """
    size = tag.get("size")
    if not isinstance(size, int):
        return None
    info = _mapping(shown, "model_info")
    architecture = info.get("general.architecture")

    def value(name: str) -> Any:
        found = info.get(f"{architecture}.{name}")
        return found if isinstance(found, int) else 0

    own = re.search(r"^num_ctx\s+(\d+)", str(shown.get("parameters") or ""), re.MULTILINE)
    tokens = num_ctx or (running or {}).get("context_length") or (int(own[1]) if own else 0)
    tokens = tokens or _DEFAULT_NUM_CTX
    if value("context_length"):
        tokens = min(tokens, value("context_length"))
    heads = value("attention.head_count")
    head = value("attention.key_length") or (value("embedding_length") // heads if heads else 0)
    kv_heads = value("attention.head_count_kv") or heads
    cache = 2 * 2 * value("block_count") * kv_heads * head * tokens
    return int(size * (1 + _COMPUTE_SHARE) + cache + _RUNNER_BYTES)
