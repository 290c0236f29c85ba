"""JSON the way Go's encoding/json writes it, and Go's messages for JSON it cannot read."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any, NoReturn

_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def encode(value: Any) -> str:
    """Compact JSON with Go's HTML-safe escapes and float notation; dicts keep their order."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).translate(_ESCAPES)
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{encode(str(k))}:{encode(v)}" for k, v in value.items()) + "}"
    return "[" + ",".join(encode(item) for item in value) + "]"


def _float(value: float) -> str:
    """Go writes plain digits between 1e-6 and 1e21 and drops a ``.0``; Python does neither."""
    if value == 0 or 1e-6 <= abs(value) < 1e21:
        plain = format(Decimal(repr(value)), "f")
        return plain.rstrip("0").rstrip(".") if "." in plain else plain
    mantissa, exponent = repr(value).split("e")
    return f"{mantissa}e{exponent[0]}{exponent[1:].lstrip('0') or '0'}"


class SyntaxProblem(ValueError):
    """Text that is not JSON, with Go's message."""


def _refuse_constant(name: str) -> NoReturn:
    """Python reads NaN and Infinity; Go trips over the first letter."""
    letter = name.removeprefix("-")[0]
    where = "in numeric literal" if name.startswith("-") else "looking for beginning of value"
    raise SyntaxProblem(f"invalid character '{letter}' {where}")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def decode(body: bytes) -> Any:
    """The first JSON value of a body; what follows it is ignored, as Go's stream decoder does."""
    text = body.decode("utf-8", "replace").lstrip(" \t\r\n")
    try:
        value, _ = _DECODER.raw_decode(text)
    except json.JSONDecodeError as problem:
        raise SyntaxProblem(_go_message(text, problem)) from None
    return value


def _go_message(text: str, problem: json.JSONDecodeError) -> str:
    position = problem.pos
    if problem.msg.startswith("Unterminated") or not text[position:].strip():
        return "unexpected EOF"
    while text[position] in " \t\r\n":
        position += 1
    if problem.msg.startswith("Expecting property name"):
        where = "looking for beginning of object key string"
    elif problem.msg.startswith("Expecting ':'"):
        where = "after object key"
    elif problem.msg.startswith("Expecting ','"):
        inside_object = _innermost_bracket(text[:position]) == "{"
        where = "after object key:value pair" if inside_object else "after array element"
    elif problem.msg.startswith("Invalid control character"):
        where = "in string literal"
    elif problem.msg.startswith("Invalid \\"):
        position = min(position + 1, len(text) - 1)
        where = "in string escape code"
    else:
        where = "looking for beginning of value"
    return f"invalid character {_quoted(text[position])} {where}"


def _quoted(char: str) -> str:
    """Go quotes the offending character like a rune literal."""
    if char == "'":
        return r"'\''"
    if char == '"':
        return "'\"'"
    return repr(char)


def _innermost_bracket(prefix: str) -> str:
    """The bracket that is still open at the end of a prefix of valid JSON."""
    stack: list[str] = []
    in_string = escaped = False
    for char in prefix:
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            in_string = True
        elif char in "{[":
            stack.append(char)
        elif char in "}]":
            stack.pop()
    return stack[-1] if stack else "["


def kind(value: Any) -> str:
    """Go's word for a JSON value that does not fit a field."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, list):
        return "array"
    if isinstance(value, dict):
        return "object"
    return "number"


def number_text(value: float) -> str:
    """A number as Go quotes it in messages."""
    return encode(int(value)) if math.isfinite(value) and value == int(value) else encode(value)
