"""Options that several commands take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from workbench.errors import invalid

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", "-n", help="Longest answer in tokens.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy: the likeliest token each time.")]
Seed = Annotated[int | None, typer.Option(help="Drawn and logged when not given.")]
System = Annotated[str | None, typer.Option(help="System prompt.")]
TopP = Annotated[float, typer.Option(help="Likeliest tokens up to this probability; 1: all.")]
TopK = Annotated[int, typer.Option(help="This many likeliest tokens; 0: all.")]
Penalty = Annotated[float, typer.Option("--repetition-penalty", help="1: none.")]
Stop = Annotated[list[str] | None, typer.Option(help="Text that ends the answer; repeatable.")]
NumCtx = Annotated[int | None, typer.Option(help="Context length; the model's own if not given.")]
Logprobs = Annotated[int, typer.Option(help="Alternatives logged with each token; 0: none.")]
Overflow = Annotated[
    str, typer.Option(help="A history beyond the context: truncate (with a warning) or error.")
]
ResponseFormat = Annotated[
    str | None,
    typer.Option(help="json, a JSON schema, or @FILE with one: the answer is held to it."),
]

_SAMPLING: Final = (
    *("max_tokens", "temperature", "seed", "top_p", "top_k", "repetition_penalty", "num_ctx"),
    *("logprobs", "overflow"),
)


def options_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A request's options from the arguments of a command that takes all of the above."""
    return {
        **{name: arguments[name] for name in _SAMPLING},
        "stop": tuple(arguments["stop"] or ()),
        "response_format": _response_format(arguments["response_format"]),
    }


def _response_format(text: str | None) -> Mapping[str, Any] | None:
    """What ``--response-format`` asks for, as the engine takes it."""
    if text is None:
        return None
    if text == "json":
        return {"type": "json_object"}
    try:
        if text.startswith("@"):
            text = Path(text[1:]).read_text()
        value = json.loads(text)
    except (OSError, ValueError) as error:
        raise invalid(
            f"--response-format cannot be read: {error}",
            fix="Give json, a JSON schema, or @FILE with one.",
        ) from None
    if isinstance(value, dict) and value.get("type") in ("text", "json_object", "json_schema"):
        return value
    return {"type": "json_schema", "json_schema": {"schema": value}}
