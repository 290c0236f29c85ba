"""Request bodies, read and refused the way Go's JSON decoder does it.

Unknown keys pass, null leaves a field at its zero value, key names match in any case, and the first
field of a wrong type (in the order of the body) gives the message.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .errors import ApiError, missing_body
from .gojson import SyntaxProblem, decode, kind, number_text
from .gotime import FOREVER, NANOS, parse_duration

Check = Callable[[str, Any], Any]
"""Takes the Go path of a field and its JSON value, gives the value or raises ApiError."""

_THINK_LEVELS = ("high", "medium", "low", "max")


def _mismatch(value: Any, path: str, go_type: str) -> ApiError:
    return ApiError(
        400, f"json: cannot unmarshal {kind(value)} into Go struct field {path} of type {go_type}"
    )


def _plain(go_type: str, *types: type) -> Check:
    def check(path: str, value: Any) -> Any:
        if isinstance(value, bool) and bool not in types:
            raise _mismatch(value, path, go_type)
        if not isinstance(value, types):
            raise _mismatch(value, path, go_type)
        return value

    return check


def _integer(path: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _mismatch(value, path, "int")
    if isinstance(value, float):
        number = f"number {number_text(value)}"
        raise ApiError(
            400, f"json: cannot unmarshal {number} into Go struct field {path} of type int"
        )
    return value


def _anything(_path: str, value: Any) -> Any:
    return value


def _keep_alive(_path: str, value: Any) -> int:
    """Nanoseconds; whatever is negative means for ever."""
    if isinstance(value, str):
        try:
            nanos = parse_duration(value)
        except ValueError as problem:
            raise ApiError(400, str(problem)) from None
    elif isinstance(value, bool) or not isinstance(value, int | float):
        names = {"bool": "bool", "array": "[]interface {}", "object": "map[string]interface {}"}
        raise ApiError(400, f"Unsupported type: '{names[kind(value)]}'")
    else:
        nanos = round(value * NANOS)
    return FOREVER if nanos < 0 else min(nanos, FOREVER)


def _think(_path: str, value: Any) -> bool:
    """Whether thinking is asked for at all; the model here cannot, so levels do not matter."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in _THINK_LEVELS:
        return True
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    levels = ", ".join(f'"{level}"' for level in _THINK_LEVELS)
    raise ApiError(400, f"invalid think value: {shown} (must be {levels}, true, or false)")


def _images(path: str, value: Any) -> list[bytes]:
    if not isinstance(value, list):
        raise _mismatch(value, path, "[]api.ImageData")
    images = []
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise _mismatch(item, path, "api.ImageData")
        try:
            images.append(base64.b64decode(item, validate=True))
        except binascii.Error:
            raise ApiError(
                400,
                f"json: cannot unmarshal string into {path}.{index} of type api.ImageData: "
                f"illegal base64 data at input byte {_first_bad_base64(item)}",
            ) from None
    return images


def _first_bad_base64(text: str) -> int:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
    return next((i for i, char in enumerate(text) if char not in alphabet), len(text))


def _messages(path: str, value: Any) -> list[Message]:
    if not isinstance(value, list):
        raise _mismatch(value, path, "[]api.Message")
    return [Message(**_fields(item, "Alias", _MESSAGE)) for item in value]


_TEXT = _plain("string", str)
_FLAG = _plain("bool", bool)
_OBJECT = _plain("map[string]interface {}", dict)
_CALL_ARGUMENTS: dict[str, Check] = {"name": _TEXT, "arguments": _OBJECT}


def _tool_calls(path: str, value: Any) -> list[Any]:
    """Arguments of calls are objects here, where the OpenAI form has them as text."""
    for call in _plain("[]api.ToolCall", list)(path, value):
        _fields(call.get("function", {}), "ToolCallFunction", _CALL_ARGUMENTS)
    return list(value)


_MESSAGE: dict[str, Check] = {
    "role": _TEXT,
    "content": _TEXT,
    "images": _images,
    "tool_calls": _tool_calls,
    "tool_name": _TEXT,
    "tool_call_id": _TEXT,
}
_COMMON: dict[str, Check] = {
    "model": _TEXT,
    "stream": _FLAG,
    "format": _anything,
    "keep_alive": _keep_alive,
    "options": _OBJECT,
    "think": _think,
    "truncate": _FLAG,
    "shift": _FLAG,
    "logprobs": _FLAG,
    "top_logprobs": _integer,
    "_debug_render_only": _FLAG,
}
_CHAT: dict[str, Check] = {
    **_COMMON,
    "messages": _messages,
    "tools": _plain("api.Tools", list),
}
_GENERATE: dict[str, Check] = {
    **_COMMON,
    "prompt": _TEXT,
    "suffix": _TEXT,
    "system": _TEXT,
    "template": _TEXT,
    "context": _plain("[]int", list),
    "raw": _FLAG,
    "images": _images,
}
_NAMED: dict[str, Check] = {
    "model": _TEXT,
    "name": _TEXT,
    "stream": _FLAG,
    "insecure": _FLAG,
    "source": _TEXT,
    "destination": _TEXT,
    "input": _anything,
}


@dataclass
class Message:
    """One message of a chat; roles are not checked, as in the real server."""

    role: str = ""
    content: str = ""
    images: list[bytes] = field(default_factory=list)
    tool_calls: list[Any] = field(default_factory=list)
    tool_name: str = ""
    tool_call_id: str = ""


@dataclass
class InferenceRequest:
    """What chat and generate have in common; ``keep_alive`` is nanoseconds or None if left out."""

    model: str = ""
    stream: bool = True
    format: Any = None
    keep_alive: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    think: bool = False
    truncate: bool = True
    shift: bool = True
    logprobs: bool = False
    top_logprobs: int = 0
    _debug_render_only: bool = False


@dataclass
class ChatRequest(InferenceRequest):
    """``POST /api/chat``."""

    messages: list[Message] = field(default_factory=list)
    tools: list[Any] = field(default_factory=list)


@dataclass
class GenerateRequest(InferenceRequest):
    """``POST /api/generate``."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: list[int] = field(default_factory=list)
    raw: bool = False
    images: list[bytes] = field(default_factory=list)


@dataclass
class NamedRequest:
    """Show, pull, copy, delete and embed: a name and little else."""

    model: str = ""
    name: str = ""
    stream: bool = True
    insecure: bool = False
    source: str = ""
    destination: str = ""
    input: Any = None

    @property
    def wanted(self) -> str:
        """``name`` is the older spelling of ``model``."""
        return self.model or self.name


def _fields(value: Any, struct: str, table: dict[str, Check]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ApiError(
            400, f"json: cannot unmarshal {kind(value)} into Go value of type api.{struct}"
        )
    fields: dict[str, Any] = {}
    for key, item in value.items():
        name = key.lower()
        if name in table and item is not None:
            fields[name] = table[name](f"{struct}.{name}", item)
    return fields


def _object(body: bytes) -> Any:
    if not body.strip():
        raise missing_body()
    try:
        return decode(body)
    except SyntaxProblem as problem:
        raise ApiError(400, str(problem)) from None


def parse_chat(body: bytes) -> ChatRequest:
    """Read the body of ``/api/chat``."""
    return ChatRequest(**_fields(_object(body), "ChatRequest", _CHAT))


def parse_generate(body: bytes) -> GenerateRequest:
    """Read the body of ``/api/generate``."""
    return GenerateRequest(**_fields(_object(body), "GenerateRequest", _GENERATE))


def parse_named(body: bytes, struct: str) -> NamedRequest:
    """Read a body that only names a model; ``struct`` is the name Go's message uses."""
    return NamedRequest(**_fields(_object(body), struct, _NAMED))
