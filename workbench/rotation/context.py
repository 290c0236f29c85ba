"""How much context a request may come to, before its prompt is made into tokens. Pure."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from typing import Final

from workbench.types import ChatRequest

_DENSITY: Final = 1 / 3
"""Tokens of a byte of prompt until the model has answered: English has about a quarter."""
_TEMPLATE: Final = 64
"""Tokens that a chat template may put around the messages."""
_REMEMBERED: Final = 8
_TELLING_BYTES: Final = 1024
"""Of shorter prompts the template is the larger part."""

Densities = deque[float]
"""Tokens of a byte in a model's last prompts."""


def densities() -> Densities:
    """None yet."""
    return deque(maxlen=_REMEMBERED)


def learn(known: Densities, context: Context, prompt_tokens: int | None) -> None:
    """Remember how many tokens a prompt had."""
    if prompt_tokens and context.prompt_bytes >= _TELLING_BYTES:
        known.append(prompt_tokens / context.prompt_bytes)


@dataclass(frozen=True, slots=True)
class Context:
    """Bytes of the prompt, and tokens that the answer may have."""

    prompt_bytes: int
    max_tokens: int

    def tokens(self, known: Densities | None = None) -> int:
        """The most that both come to: by the densest of the model's last prompts."""
        density = max(known) if known else _DENSITY
        return int(self.prompt_bytes * density) + _TEMPLATE + self.max_tokens


ORDINARY: Final = Context(1344, 512)
"""What a load leaves room for: 1,024 tokens."""


def prompt_bytes(request: ChatRequest) -> int:
    """Bytes of text that a model reads."""
    texts = [message.content for message in request.messages]
    calls = [call for message in request.messages for call in message.tool_calls]
    texts += [call.name + call.arguments for call in calls]
    tools = json.dumps(request.tools, ensure_ascii=False) if request.tools else ""
    return sum(len(text.encode()) for text in (*texts, tools))
