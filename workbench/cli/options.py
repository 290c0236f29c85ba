"""Options that several commands take."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from workbench.errors import invalid
from workbench.types import Timeouts

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", "-n", help="Longest answer in tokens.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy: the likeliest token each time.")]
Seed = Annotated[int | None, typer.Option(help="Random if not given; logged.")]
System = Annotated[str | None, typer.Option(help="System prompt.")]
TopP = Annotated[float, typer.Option(help="Likeliest tokens up to this probability; 1: all.")]
TopK = Annotated[int, typer.Option(help="This many likeliest tokens; 0: all.")]
Penalty = Annotated[float, typer.Option("--repetition-penalty", help="1: none.")]
Stop = Annotated[list[str] | None, typer.Option(help="Text that ends the answer; repeatable.")]
NumCtx = Annotated[int | None, typer.Option(help="Context length; the model's own if not given.")]
Logprobs = Annotated[
    int, typer.Option(help="Alternatives for each token in the JSON; 0: none. Not logged.")
]
Overflow = Annotated[
    str,
    typer.Option(help="A history beyond the context: truncate (with a warning), or error."),
]
ResponseFormat = Annotated[
    str | None,
    typer.Option(help="json, a JSON schema, or @FILE with one; the answer will match it."),
]
Priority = Annotated[
    str, typer.Option(help="interactive, or benchmark, which lets interactive requests go first.")
]
Fallback = Annotated[
    str | None, typer.Option(help="Model that answers if one fails before its first token.")
]
Timeout = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PHASE=SECONDS",
        help="Longest wait: queue, load, first_token, between_tokens or total; repeatable.",
    ),
]

_REQUEST: Final[Mapping[str, tuple[Any, Any]]] = {
    "max_tokens": (MaxTokens, 512),
    "temperature": (Temperature, 0.7),
    "seed": (Seed, None),
    "system": (System, None),
    "top_p": (TopP, 0.9),
    "top_k": (TopK, 50),
    "repetition_penalty": (Penalty, 1.0),
    "stop": (Stop, None),
    "num_ctx": (NumCtx, None),
    "logprobs": (Logprobs, 0),
    "response_format": (ResponseFormat, None),
    "overflow": (Overflow, "truncate"),
    "priority": (Priority, "interactive"),
    "fallback": (Fallback, None),
    "timeout": (Timeout, None),
}
"""All that may be asked of a request: type and default of each option."""

_Command = Callable[..., None]


def request_options(*names: str, **defaults: Any) -> Callable[[_Command], _Command]:
    """Give a command options of a request: those named here, or all.

    It receives them as ``request``, in the form that :meth:`Workbench.stream` takes.

    Args:
        names: of the options, as in the request.
        defaults: what is otherwise for this command, by name.
    """
    chosen = {name: _REQUEST[name] for name in names or _REQUEST}

    def give(command: _Command) -> _Command:
        own = inspect.signature(command, eval_str=True).parameters
        parameters = [one for one in own.values() if one.name != "request"]
        parameters += [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults.get(name, default),
                annotation=kind,
            )
            for name, (kind, default) in chosen.items()
        ]

        @functools.wraps(command)
        def taking(**arguments: Any) -> None:
            request = _request({name: arguments.pop(name) for name in chosen})
            command(**arguments, request=request)

        taking.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return taking

    return give


def _request(given: dict[str, Any]) -> dict[str, Any]:
    if "timeout" in given:
        given["timeouts"] = _timeouts(given.pop("timeout") or ())
    if "stop" in given:
        given["stop"] = tuple(given["stop"] or ())
    if "response_format" in given:
        given["response_format"] = _response_format(given["response_format"])
    return given


def _timeouts(items: Sequence[str]) -> Timeouts:
    """What ``--timeout queue=30 --timeout total=120`` asks for."""
    limits: dict[str, float] = {}
    phases = [one.name.removesuffix("_s") for one in fields(Timeouts)]
    for item in items:
        name, _, seconds = item.partition("=")
        phase = name.strip().removesuffix("_s")
        if phase not in phases:
            raise invalid(f"Unknown timeout {phase!r}.", fix=f"There are {', '.join(phases)}.")
        try:
            limits[f"{phase}_s"] = float(seconds)
        except ValueError:
            raise invalid(
                f"--timeout {item} is no phase and seconds.", fix="Give for example queue=30."
            ) from None
    return Timeouts.from_mapping(limits)


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
