"""Functions that a model may ask for: its family's format, read by transformers' own parser."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.errors import invalid
from workbench.types import Channel, ToolCall, new_id


class ToolFilter:
    """Tells calls of functions from thinking and answer.

    Args:
        template: the family's response template, see :func:`response_template`.
        prompt: as rendered; it may have begun the answer.
        tools: what was offered; arguments are given the types it names.

    A call that cannot be read stays text of the answer, and so does what comes after it.
    """

    def __init__(self, template: Any, prompt: str, tools: Sequence[Mapping[str, Any]]) -> None:
        from transformers.utils.chat_parsing import ResponseParser

        self.thinking = False
        self.calls: list[ToolCall] = []
        """Those found since they were last taken."""
        self.unreadable = False
        self._parser = ResponseParser(template, prefix=prompt, tools=[dict(tool) for tool in tools])
        self._inside = ""
        self._trim = False
        self._take(self._parser.initial_events)

    def push(self, text: str) -> list[tuple[Channel, str]]:
        """The pieces of text that are settled, each with its channel."""
        if not text:
            return []
        if self.unreadable:
            return [("content", text)]
        try:
            return self._take(self._parser.feed(text))
        except (ValueError, KeyError, TypeError):
            return self._give_up(text)

    def finish(self) -> list[tuple[Channel, str]]:
        """What was held back, when no more text comes."""
        if self.unreadable:
            return []
        try:
            return self._take(self._parser.finalize()[1])
        except (ValueError, KeyError, TypeError):
            return self._give_up("")

    def _take(self, events: Sequence[Mapping[str, Any]]) -> list[tuple[Channel, str]]:
        pieces: list[tuple[Channel, str]] = []
        for event in events:
            name, kind = str(event["field"]), event["type"]
            if kind == "region_open":
                self.thinking = name in ("reasoning_content", "reasoning", "thinking")
                self._inside, self._trim = "", True
            elif kind == "region_close":
                if name == "tool_calls":
                    self._add(event["value"])
                self.thinking, self._inside = False, ""
            elif event.get("dirty"):
                self._inside += event["text"]
            elif text := event["text"].lstrip() if self._trim else event["text"]:
                self._trim = False
                pieces.append(("reasoning" if self.thinking else "content", text))
        return pieces

    def _add(self, value: Any) -> None:
        for call in value if isinstance(value, list) else [value]:
            function = call["function"]
            arguments = function["arguments"]
            text = arguments if isinstance(arguments, str) else json.dumps(arguments)
            self.calls.append(ToolCall(new_id("call"), str(function["name"]), text))

    def _give_up(self, text: str) -> list[tuple[Channel, str]]:
        self.unreadable, self.thinking = True, False
        held, self._inside = self._inside + text, ""
        return [("content", held)] if held else []


def tool_filter(
    tokenizer: Any, model: Any, prompt: str, tools: Sequence[Mapping[str, Any]]
) -> ToolFilter:
    """The filter for a model's answers.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, the model is offered no functions: its chat template
            does not mention them, or transformers does not know the format of its calls.
    """
    template = response_template(tokenizer, model) if offers(tokenizer, tools) else None
    if template is None:
        raise invalid(
            f"{Path(str(tokenizer.name_or_path)).name} cannot call functions: its chat template "
            "has no place for them, or transformers does not know how it writes a call.",
            fix="Leave tools out, or choose a model made for them (Qwen 2.5 or later, for "
            "example).",
            option="tools",
        )
    return ToolFilter(template, prompt, tools)


def offers(tokenizer: Any, tools: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the chat template has a place for functions."""
    if not tokenizer.chat_template:
        return False
    return "tools" in tokenizer.get_chat_template(tools=list(tools))


def response_template(tokenizer: Any, model: Any) -> Any:
    """How the model's family writes its answers: the tokenizer's own word, else transformers'."""
    try:
        from transformers.cli.serving.utils import get_response_template
    except ImportError:  # a version that cannot read calls, or has moved this
        return getattr(tokenizer, "response_template", None)
    return get_response_template(tokenizer, model)


def template_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as chat templates want them: arguments of calls as values, not as text."""
    names = {
        call["id"]: call["name"] for message in messages for call in message.get("tool_calls", ())
    }
    written: list[dict[str, Any]] = []
    for message in messages:
        entry = {"role": message["role"], "content": message["content"]}
        if calls := message.get("tool_calls"):
            entry["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": _values(call)},
                }
                for call in calls
            ]
        if (answered := message.get("tool_call_id")) is not None:
            entry["tool_call_id"] = answered
            if answered in names:
                entry["name"] = names[answered]
        written.append(entry)
    return written


def _values(call: Mapping[str, Any]) -> Any:
    try:
        return json.loads(call["arguments"] or "{}")
    except ValueError:
        raise invalid(
            f"The arguments of the call of {call['name']} are no JSON: "
            f"{call['arguments'][:100]!r}.",
            fix="Send them as they were received.",
        ) from None
