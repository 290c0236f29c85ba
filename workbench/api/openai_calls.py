"""What an OpenAI client may ask for: read, checked, and turned into the engine's request.

Nothing that would change the answer is dropped: what cannot be served is refused. Fields that
change nothing, and unknown ones, are accepted as by other servers, and named in the answer's
``workbench.ignored``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from workbench.api.calls import Terms, read_image
from workbench.errors import WorkbenchError, invalid
from workbench.types import ChatRequest, Image, Message, Role, ToolCall

# Fields that would change the answer and cannot be served, each with the values that ask for
# nothing. Those of other servers (vLLM, llama.cpp, Ollama) are here too.
_REFUSED: Final[Mapping[str, tuple[Any, ...]]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "functions": ([],),
    "function_call": ("none",),
    "audio": (),
    "modalities": (["text"],),
    "web_search_options": (),
    "reasoning_effort": (),
    "reasoning": (),
    "think": (),
    "verbosity": (),
    "moderation": (),
    "min_p": (0,),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "ignore_eos": (False,),
    "best_of": (1,),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "echo": (False,),
    "continue_final_message": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "grammar": (),
    "mirostat": (0,),
    "typical_p": (1,),
}
_FIXES: Final[Mapping[str, str]] = {
    "n": "Ask n times; each answer then has figures of its own.",
    "functions": "Use tools.",
    "function_call": "Use tool_choice.",
    "guided_json": "Use response_format.",
    "structured_outputs": "Use response_format.",
    "frequency_penalty": "Use repetition_penalty.",
    "presence_penalty": "Use repetition_penalty.",
}
_MAX_TOOLS: Final = 128


class Loose(BaseModel):
    """A JSON object that may hold more than is known here."""

    model_config = ConfigDict(extra="allow")


class ImageUrl(Loose):
    """A picture's ``data:`` address; the server fetches nothing for its clients."""

    url: str


class Part(Loose):
    """A part of a message: text or a picture."""

    type: str
    text: str | None = None
    image_url: ImageUrl | None = None


class CalledFunction(Loose):
    """What a model asked for; ``arguments`` is JSON text."""

    name: str
    arguments: str = "{}"


class AskedCall(Loose):
    """One call of a function in an assistant message."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Loose):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    tool_calls: list[AskedCall] | None = None
    tool_call_id: str | None = None


class FunctionDefinition(Loose):
    """A function that the model may ask for; ``parameters`` is its JSON schema."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Loose):
    """A function as the OpenAI API wraps it."""

    type: Literal["function"]
    function: FunctionDefinition


class StreamOptions(Loose):
    """What a stream shall carry besides text."""

    include_usage: bool | None = None


Stop = str | list[str]


class Completion(Loose):
    """What both operations that generate may be asked.

    Beyond OpenAI's fields: ``top_k``, ``repetition_penalty``, ``num_ctx`` and ``overflow`` as in
    ``options`` elsewhere, and ``workbench`` with the terms of the call (``timing_mode``,
    ``timeouts``, ``conversation_id``, ``fallback``).
    """

    REFUSED: ClassVar[Mapping[str, tuple[Any, ...]]] = _REFUSED

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: Stop | None = None
    response_format: dict[str, Any] | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    num_ctx: int | None = None
    overflow: Literal["truncate", "error"] | None = None
    workbench: Terms | None = None

    def ignored(self) -> list[str]:
        """Fields of the request that had no effect on the answer."""
        extra = self.model_extra or {}
        return [name for name in extra if name not in self.REFUSED and extra[name] is not None]

    def _terms(self) -> Terms:
        return self.workbench or Terms()

    def _options(self) -> dict[str, Any]:
        """Options by our names; temperature and top_p are 1 unless given, as OpenAI has it."""
        return {
            "max_tokens": self.max_tokens,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "top_k": 0 if self.top_k is None else self.top_k,
            "seed": self.seed,
            "stop": self.stop,
            "repetition_penalty": self.repetition_penalty,
            "num_ctx": self.num_ctx,
            "overflow": self.overflow,
            "response_format": self.response_format,
        }

    def _refuse(self) -> None:
        """Say no to what would change the answer and cannot be done."""
        for name, neutral in self.REFUSED.items():
            value = (self.model_extra or {}).get(name)
            if value is not None and value not in neutral:
                raise unsupported(
                    name,
                    f"{name}={short(value)} is not supported by the workbench.",
                    _FIXES.get(name, f"Leave {name} out."),
                )
        if self.stream_options is not None and not self.stream:
            raise unsupported(
                "stream_options", "stream_options is for streams.", "Set stream to true."
            )


class ChatCompletion(Completion):
    """The body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: Annotated[list[Tool], Field(max_length=_MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None

    def request(self, correlation_id: str) -> ChatRequest:
        """The engine's request.

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` for what is wrong in itself or cannot be served.
        """
        self._refuse()
        messages = [_message(message, index) for index, message in enumerate(self.messages)]
        return self._terms().chat_request(
            self.model,
            messages,
            self._options(),
            correlation_id=correlation_id,
            source="openai",
            tools=tuple(_tool(tool) for tool in self._offered()),
        )

    def ignored(self) -> list[str]:
        """Fields of the request that had no effect on the answer."""
        names = super().ignored()
        for index, message in enumerate(self.messages):
            names += [f"messages.{index}.{name}" for name in message.model_extra or {}]
        names += [
            f"tools.{index}.function.strict"
            for index, tool in enumerate(self.tools or ())
            if tool.function.strict
        ]
        return names

    def _offered(self) -> list[Tool]:
        return [] if self.tool_choice == "none" else self.tools or []

    def _options(self) -> dict[str, Any]:
        limit = self.max_completion_tokens
        return {
            **super()._options(),
            "max_tokens": self.max_tokens if limit is None else limit,
            # One alternative at least, or a runtime gives no probabilities at all.
            "logprobs": max(1, self.top_logprobs or 0) if self.logprobs else None,
        }

    def _refuse(self) -> None:
        super()._refuse()
        both = self.max_tokens, self.max_completion_tokens
        if None not in both and both[0] != both[1]:
            raise unsupported(
                "max_tokens",
                f"max_tokens is {both[0]} and max_completion_tokens {both[1]}.",
                "Give one of them.",
            )
        if self.top_logprobs and not self.logprobs:
            raise unsupported(
                "top_logprobs", "top_logprobs needs logprobs.", "Set logprobs to true."
            )
        if self.tool_choice not in (None, "auto", "none"):
            raise unsupported(
                "tool_choice",
                f"tool_choice={short(self.tool_choice)} is not supported: {self.model} cannot be "
                "made to call a function.",
                "Use auto or none; for an answer of a fixed form use response_format.",
            )
        if self._offered() and self.parallel_tool_calls is False:
            raise unsupported(
                "parallel_tool_calls",
                f"parallel_tool_calls=false is not supported: {self.model} decides how many "
                "functions it asks for.",
                "Leave parallel_tool_calls out.",
            )
        form = (self.response_format or {}).get("type")
        if self._offered() and form not in (None, "text"):
            raise unsupported(
                "response_format",
                f"tools together with response_format {form!r} are not supported.",
                "Use one of them.",
            )


def _message(message: ChatMessage, index: int) -> Message:
    role: Role = "system" if message.role == "developer" else message.role
    content = message.content
    images: tuple[Image, ...] = ()
    if isinstance(content, list):
        images = tuple(_image(part, index) for part in content if part.type == "image_url")
        content = "".join(_text(part, index) for part in content if part.type != "image_url")
    if content is None and not message.tool_calls:
        raise unsupported(
            f"messages.{index}.content", f"Message {index} has no content.", "Give it some."
        )
    if message.role == "tool" and message.tool_call_id is None:
        raise unsupported(
            f"messages.{index}.tool_call_id",
            f"Message {index} is a function's result, but does not say of which call.",
            "Give tool_call_id.",
        )
    calls = tuple(
        ToolCall(call.id, call.function.name, _json(call, index))
        for call in message.tool_calls or ()
    )
    if calls and message.role != "assistant":
        raise unsupported(
            f"messages.{index}.tool_calls",
            f"Message {index} of role {message.role} has tool_calls.",
            "Only assistant messages call functions.",
        )
    return Message(role, content or "", calls, message.tool_call_id, images)


def _text(part: Part, index: int) -> str:
    if part.type != "text" or part.text is None:
        raise unsupported(
            f"messages.{index}.content",
            f"Message {index} has a part of type {part.type[:40]!r}; text and image_url can be "
            "served.",
            'Send parts of the form {"type": "text", "text": "..."}.',
        )
    return part.text


def _image(part: Part, index: int) -> Image:
    try:
        return read_image(part.image_url.url if part.image_url else "")
    except WorkbenchError as problem:
        raise unsupported(
            f"messages.{index}.content", f"Message {index}: {problem.message}", problem.fix or ""
        ) from None


def _json(call: AskedCall, index: int) -> str:
    """Arguments as they were given, if they are a JSON object."""
    try:
        values = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise unsupported(
            f"messages.{index}.tool_calls",
            f"The arguments of the call of {call.function.name[:64]} in message {index} are no "
            "JSON object.",
            "Send them back as they were received.",
        )
    return call.function.arguments or "{}"


def _tool(tool: Tool) -> dict[str, Any]:
    function = tool.function
    return {
        "type": "function",
        "function": {
            "name": function.name,
            "description": function.description or "",
            "parameters": function.parameters or {"type": "object", "properties": {}},
        },
    }


def unsupported(option: str, message: str, fix: str) -> WorkbenchError:
    """What cannot be served, by the name of its field."""
    return invalid(message, fix=fix, option=option)


def short(value: Any) -> str:
    """A value as it may stand in a message."""
    return json.dumps(value, default=str)[:80]
