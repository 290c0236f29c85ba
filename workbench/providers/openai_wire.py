"""OpenAI's JSON in our types and ours in its; pure functions without I/O.

A wrong shape raises :class:`MalformedAnswer`: then the peer is no such server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast, get_args

from workbench.endpoints import Endpoint, Server
from workbench.errors import invalid
from workbench.providers.openai_dialects import DIALECTS, refuse_ignored, sampling
from workbench.providers.openai_errors import MalformedAnswer
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

JsonObject = Mapping[str, Any]

_REASONS: Final[Mapping[str, FinishReason]] = {
    **{reason: reason for reason in get_args(FinishReason)},
    "function_call": "tool_calls",
    "eos_token": "stop",  # of TGI
    "stop_sequence": "stop",
}
_THINKING: Final = ("reasoning_content", "reasoning")
_MS_NS: Final = 10**6
_MOST_NS: Final = 2**63 - 1


# -- requests --------------------------------------------------------------------------------------


def request_body(
    request: ChatRequest, model: str, seed: int, server: Server, endpoint: Endpoint
) -> tuple[str, dict[str, Any], list[ProviderWarning]]:
    """Path and body of a streamed call, and what its reader must know of them.

    Args:
        request: messages and options; its model id is not looked at.
        model: the server's own name of the model.
        seed: the seed to sample with, drawn by the engine if the user gave none.
        server: what answers.
        endpoint: how it is registered.

    Raises:
        WorkbenchError: ``INVALID_REQUEST`` for what this server cannot do.
    """
    options = request.options
    sampled, warnings = sampling(options, seed, server)
    body: dict[str, Any] = {"model": model, "stream": True, **sampled}
    if DIALECTS[server].usage:
        continuous = {"continuous_usage_stats": True} if endpoint.continuous_usage else {}
        body["stream_options"] = {"include_usage": True, **continuous}
    if options.response_format is not None and options.response_format.get("type") != "text":
        body["response_format"] = dict(options.response_format)
    if request.tools:
        body["tools"] = [dict(tool) for tool in request.tools]
    if request.raw:
        body["prompt"] = "".join(message.content for message in request.messages)
        if options.logprobs:
            body["logprobs"] = options.logprobs
    else:
        if not request.messages:
            raise invalid("There is no message to answer.", fix="Give at least one message.")
        body["messages"] = [_message(message) for message in request.messages]
        if options.logprobs:
            body |= {"logprobs": True, "top_logprobs": options.logprobs}
    refuse_ignored(body, server)
    path = "/completions" if request.raw else "/chat/completions"
    return path, {**body, **endpoint.extra_body}, warnings


def _message(message: Message) -> dict[str, Any]:
    entry: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.images:
        entry["content"] = [
            {"type": "text", "text": message.content},
            *(
                {
                    "type": "image_url",
                    "image_url": {"url": f"data:{image.media_type};base64,{image.data}"},
                }
                for image in message.images
            ),
        ]
    if message.tool_calls:
        entry["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        entry["tool_call_id"] = message.tool_call_id
    return entry


# -- answers ---------------------------------------------------------------------------------------


class Answer:
    """One streamed answer, chunk by chunk.

    A chunk counts as the tokens that it gives the probabilities of, else as those that its usage
    has more than the one before, else as one. It may hold several; how many only the total at the
    end can tell. A chunk that only names the role is nothing.

    Args:
        raw: of ``/completions``, whose chunks have ``text`` and no ``delta``.
        details: notes for the finish.
    """

    def __init__(self, *, raw: bool, details: JsonObject) -> None:
        self._raw = raw
        self._details = dict(details)
        self._streamed = 0
        self._usage: JsonObject = {}
        self._reason: str | None = None
        self._ended_ns = 0
        self._calls: dict[int, dict[str, str]] = {}
        self.complete = False
        """Whether finish reason and counts have come: nothing else will."""
        self.has_logprobs = False

    def take(self, chunk: JsonObject, t_ns: int) -> list[ProviderEvent]:
        """What one chunk says."""
        told = _mapping(chunk, "usage")
        before, self._usage = self._usage, told or self._usage
        choices = [one for one in _objects(chunk, "choices") if not one.get("index")]
        found: list[ProviderEvent] = []
        # A total that comes once, at the end, says nothing of the chunk that it comes with.
        running = bool(told) and (bool(before) or not self._streamed)
        for choice in choices:
            more = _count(told, "completion_tokens") if running else None
            known = _count(before, "completion_tokens") or 0
            found += self._texts(choice, t_ns, more - known if more is not None else None)
            if (reason := choice.get("finish_reason")) is not None:
                self._reason, self._ended_ns = str(reason), t_ns
        if found and self._reason is not None:
            self._ended_ns = t_ns  # some servers send text after the reason; stamps never fall
        self._note(chunk)
        self.complete = self._reason is not None and bool(self._usage)
        return found

    def finish(self) -> list[ProviderEvent]:
        """The calls of functions, and the server's account.

        Raises:
            MalformedAnswer: the stream ended without one, or the server broke the answer off.
        """
        if self._reason is None:
            raise MalformedAnswer("the stream ended without a finish_reason")
        if self._reason not in _REASONS:
            raise MalformedAnswer(f"it ended the answer with {self._reason!r}")
        found: list[ProviderEvent] = [
            ProviderToolCall(
                ToolCall(one["id"] or new_id("call"), one["name"], one["arguments"] or "{}"),
                self._ended_ns,
            )
            for _, one in sorted(self._calls.items())
        ]
        output = _count(self._usage, "completion_tokens")
        if self._reason == "stop" and (output or 0) > self._streamed:
            # The end token has no text, but took a decoding step and was counted.
            found.insert(0, ProviderToken("", self._ended_ns))
        details = {**self._details, **_usage_details(self._usage)}
        return [
            *found,
            ProviderFinish(
                _REASONS[self._reason],
                prompt_tokens=_count(self._usage, "prompt_tokens"),
                output_tokens=output,
                runtime_ns=_durations(details),
                details=details,
            ),
        ]

    def _texts(self, choice: JsonObject, t_ns: int, counted: int | None) -> list[ProviderEvent]:
        message = {"content": choice.get("text")} if self._raw else _mapping(choice, "delta")
        logprobs = logprobs_of(choice)
        self.has_logprobs |= bool(logprobs)
        thinking = next((message[key] for key in _THINKING if message.get(key)), "")
        content = message.get("content") or ""
        if not isinstance(thinking, str) or not isinstance(content, str):
            raise MalformedAnswer(_excerpt(choice))
        calls = _objects(message, "tool_calls")
        for call in calls:
            self._call(call)
        if not (thinking or content or calls or logprobs):
            return []
        n_tokens = len(logprobs) or (1 if counted is None else max(counted, 0))
        self._streamed += n_tokens
        found: list[ProviderEvent] = []
        if thinking:
            found.append(ProviderToken(thinking, t_ns, n_tokens, "reasoning", logprobs))
            n_tokens, logprobs = 0, ()
        if content or not thinking:
            found.append(ProviderToken(content, t_ns, n_tokens, logprobs=logprobs))
        return found

    def _call(self, part: JsonObject) -> None:
        """A piece of a call: the first has id and name, all have some of the arguments."""
        index, function = part.get("index", 0), _mapping(part, "function")
        if not isinstance(index, int):
            raise MalformedAnswer(_excerpt(part))
        known = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        known["id"] = known["id"] or str(part.get("id") or "")
        known["name"] = known["name"] or str(function.get("name") or "")
        known["arguments"] += str(function.get("arguments") or "")

    def _note(self, chunk: JsonObject) -> None:
        """What else a server tells, for the row."""
        for key, name in (
            ("model", "server_model"),
            ("system_fingerprint", "system_fingerprint"),
            ("timings", "timings"),
            ("metrics", "server_metrics"),
            ("workbench", "workbench"),
        ):
            if chunk.get(key):
                self._details[name] = chunk[key]


def logprobs_of(choice: JsonObject) -> tuple[JsonObject, ...]:
    """Probabilities by token: ``token``, ``logprob``, ``bytes``, ``top_logprobs``.

    From the form of chat completions, and from the older one with a list for each.
    """
    told = _mapping(choice, "logprobs")
    if told.get("content") is not None:
        return tuple(_objects(told, "content"))
    tokens, values = told.get("tokens") or (), told.get("token_logprobs") or ()
    tops = told.get("top_logprobs") or [None] * len(tokens)
    if not isinstance(tokens, Sequence) or not len(tokens) == len(values) == len(tops):
        raise MalformedAnswer(_excerpt(choice))
    return tuple(
        {
            "token": token,
            "logprob": value,
            "bytes": list(str(token).encode("utf-8", "replace")),
            "top_logprobs": [
                {"token": other, "logprob": its, "bytes": list(other.encode("utf-8", "replace"))}
                for other, its in (top or {}).items()
            ],
        }
        for token, value, top in zip(tokens, values, tops, strict=True)
    )


def _usage_details(usage: JsonObject) -> dict[str, Any]:
    """Of the server's counts what the row has no column for; nothing that it does not tell."""
    found: dict[str, Any] = {}
    cached = _count(_mapping(usage, "prompt_tokens_details"), "cached_tokens")
    thinking = _count(_mapping(usage, "completion_tokens_details"), "reasoning_tokens")
    if cached is not None:
        found["cached_tokens"] = cached
    if thinking is not None:
        found["reasoning_tokens"] = thinking
    return found


def _durations(details: JsonObject) -> dict[str, int]:
    """The server's own times in nanoseconds: llama.cpp's, and vLLM's if it was told to give them.

    llama.cpp's have Ollama's names, whose they are too. What can be no duration is left out.
    """
    timings, metrics = _mapping(details, "timings"), _mapping(details, "server_metrics")
    told = {"prompt_eval": timings.get("prompt_ms"), "eval": timings.get("predicted_ms")}
    told |= {key[:-3]: value for key, value in metrics.items() if key.endswith("_ms")}
    return {
        name: int(value * _MS_NS)
        for name, value in told.items()
        if isinstance(value, (int, float))
        and not isinstance(value, bool)
        and 0 <= value * _MS_NS <= _MOST_NS  # NaN is not
    }


# -- models ----------------------------------------------------------------------------------------


def entries_of(answer: object) -> list[JsonObject]:
    """The models of ``/models``."""
    if not isinstance(answer, Mapping) or "data" not in answer:
        raise MalformedAnswer(_excerpt(answer))
    found = list(_objects(answer, "data"))
    if not all(isinstance(entry.get("id"), str) for entry in found):
        raise MalformedAnswer(_excerpt(answer))
    return found


def model_info(endpoint: Endpoint, server: Server, entry: JsonObject) -> ModelInfo:
    """One model for the common list, with what its server tells and nothing else."""
    meta, theirs = _mapping(entry, "meta"), _mapping(entry, "workbench")
    name = entry["id"]
    capabilities = ["completion", *(["vision"] if endpoint.vision else [])]
    context = entry.get("max_model_len") or meta.get("n_ctx") or theirs.get("context_length")
    return ModelInfo(
        id=f"{endpoint.name}/{name}",
        name=name,
        provider=endpoint.name,
        size_bytes=_whole(meta.get("size") or theirs.get("size_bytes")),
        task=str(theirs.get("task") or "text-generation"),
        format=theirs.get("format"),
        dtype=theirs.get("dtype"),
        quantization=meta.get("ftype") or theirs.get("quantization"),
        parameters=_whole(meta.get("n_params") or theirs.get("parameters")),
        context_length=_whole(context),
        digest=theirs.get("digest"),
        details={
            "capabilities": capabilities,
            "served_at": endpoint.base_url,
            "server": server,
            "owned_by": entry.get("owned_by"),
            **({"root": entry["root"]} if entry.get("root") else {}),
            **({"their_provider": theirs["provider"]} if theirs.get("provider") else {}),
        },
    )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _count(usage: JsonObject, key: str) -> int | None:
    """A number of tokens; None where the server does not tell."""
    value = usage.get(key)
    if value is None or (type(value) is int and 0 <= value <= MOST_TOKENS):
        return value
    raise MalformedAnswer(f"{key} is {value!r:.100}")


def _objects(answer: JsonObject, key: str) -> Sequence[JsonObject]:
    value = answer.get(key) or ()
    if not isinstance(value, Sequence) or not all(isinstance(item, Mapping) for item in value):
        raise MalformedAnswer(_excerpt(answer))
    return cast(Sequence[JsonObject], value)


def _mapping(answer: JsonObject, key: str) -> JsonObject:
    value = answer.get(key) or {}
    if not isinstance(value, Mapping):
        raise MalformedAnswer(_excerpt(answer))
    return value


def _excerpt(answer: object) -> str:
    return str(answer)[:200]
