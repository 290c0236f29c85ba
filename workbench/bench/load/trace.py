"""A trace: requests with the moments at which they once arrived, as JSON lines."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from workbench.bench.patterns import Count, Strict
from workbench.errors import invalid
from workbench.types import Message


class _Line(Strict):
    arrival_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    id: str | None = None
    prompt: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request of a trace.

    Either ``messages`` or ``input_tokens`` (a prompt of that length is made) is there.
    ``output_tokens`` is the longest answer; None leaves it to the options.
    """

    id: str
    arrival_s: float
    messages: tuple[Message, ...] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None


def read(path: Path) -> list[Recorded]:
    """All requests, by arrival; the first is the start.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise invalid(f"The trace {path} cannot be read: {error}.", fix="Check the path.") from None
    found = [_recorded(path, i, line) for i, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise invalid(f"The trace {path} is empty.", fix='Write {"arrival_s": 0, "prompt": "..."}.')
    found.sort(key=lambda one: one.arrival_s)
    return found


def _recorded(path: Path, number: int, text: str) -> Recorded:
    place = f"{path}, line {number}"
    try:
        line = _Line.model_validate_json(text)
        given = tuple(Message(one["role"], one["content"]) for one in line.messages or ())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise invalid(
            f"{place}: {f'{key}: ' if key else ''}{first['msg']}.",
            fix=f"A line is {json.dumps({'arrival_s': 0.5, 'prompt': '...'})}.",
        ) from None
    except KeyError as error:
        raise invalid(
            f"{place}: messages: there is no {error}.", fix="Give role and content."
        ) from None
    if sum(value is not None for value in (line.prompt, line.messages, line.input_tokens)) != 1:
        raise invalid(
            f"{place}: what is asked is not told once.",
            fix="Give one of prompt, messages, input_tokens.",
        )
    if line.prompt is not None:
        given = (Message("user", line.prompt),)
    return Recorded(
        line.id or str(number), line.arrival_s, given, line.input_tokens, line.output_tokens
    )
