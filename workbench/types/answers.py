"""What a provider yields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from workbench.types.messages import ToolCall

Channel = Literal["content", "reasoning"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
MOST_TOKENS: Final = 10_000_000
"""No runtime reads or writes more in one answer: a larger count is a defect."""


@dataclass(frozen=True, slots=True)
class ProviderToken:
    """Text that a runtime produced in one go, stamped where it arrived.

    ``n_tokens`` is how many tokens the text holds as far as the runtime tells (0 for text that was
    held back from earlier tokens, such as a character completed later).
    """

    text: str
    t_ns: int
    n_tokens: int = 1
    channel: Channel = "content"
    logprobs: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class ProviderToolCall:
    """The model asks for a function; the tokens it is made of were told of before, without text."""

    call: ToolCall
    t_ns: int


@dataclass(frozen=True, slots=True)
class ProviderWarning:
    """Something the user must know about this answer; it is shown in the pane and logged."""

    code: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProviderFinish:
    """The runtime's own account of the call, its last event.

    Counts are the runtime's. ``runtime_ns`` holds its own durations under its own names
    (for Ollama ``total``, ``load``, ``prompt_eval``, ``eval``); they are stored, never mixed with
    our stamps.
    """

    finish_reason: FinishReason
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    count_source: str = "runtime"
    runtime_ns: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


ProviderEvent = ProviderToken | ProviderToolCall | ProviderWarning | ProviderFinish
