"""From messages to the text a model reads, and what to leave out when it is too long.

The template is the one ``/api/show`` tells; there is no system prompt unless someone gives one.
"""

from __future__ import annotations

import re

from .errors import not_implemented
from .requests import Message
from .runner import Runner

_PLACEHOLDER = re.compile(r"\{\{-?\s*\.(Prompt|System)\s*-?\}\}")


def render(messages: list[Message]) -> str:
    """The chat template; neighbours of one role are merged first."""
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1].role == message.role:
            merged[-1] = Message(message.role, f"{merged[-1].content}\n\n{message.content}")
        else:
            merged.append(message)
    turns = (f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in merged)
    return "".join(turns) + "<|im_start|>assistant\n"


def render_custom(template: str, prompt: str, system: str) -> str:
    """A template given with the request; only its placeholders, not Go's template language."""
    values = {"Prompt": prompt, "System": system}
    text = _PLACEHOLDER.sub(lambda found: values[found[1]], template)
    if "{{" in _PLACEHOLDER.sub("", template):
        raise not_implemented("templates beyond {{ .Prompt }} and {{ .System }}")
    return text


async def fit_messages(messages: list[Message], runner: Runner, num_ctx: int) -> str:
    """Drop the oldest messages until the prompt fits; system messages and the last one stay."""
    last = len(messages) - 1
    for first in range(last):
        text = render(_from(messages, first))
        if len(await runner.tokenize(text)) <= num_ctx:
            return text
    return render(_from(messages, last))


def _from(messages: list[Message], first: int) -> list[Message]:
    return [m for m in messages[:first] if m.role == "system"] + messages[first:]


def cut_tokens(tokens: list[int], num_ctx: int, num_keep: int) -> list[int]:
    """A prompt that is still too long keeps its head and half a context of its tail."""
    if len(tokens) < num_ctx:
        return tokens
    keep = min(num_keep, num_ctx - 1) if num_keep >= 0 else num_ctx - 1
    tail = (num_ctx - keep) // 2
    return tokens[:keep] + tokens[len(tokens) - tail :]
