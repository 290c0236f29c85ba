"""One model call, as asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, ClassVar

from workbench.errors import invalid, require_text
from workbench.types.ids import new_id
from workbench.types.messages import Message
from workbench.types.options import Options


class TimingMode(StrEnum):
    """How requests may overlap; stored with every row (design, decision 8)."""

    ISOLATED = "isolated"
    INTERLEAVED = "interleaved"
    CONCURRENT = "concurrent"


class Priority(StrEnum):
    """Who goes first where several wait; the later of two is still served within its patience."""

    INTERACTIVE = "interactive"
    BENCHMARK = "benchmark"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The longest wait in each phase, in seconds; None leaves it to the settings."""

    queue_s: float | None = None
    load_s: float | None = None
    first_token_s: float | None = None
    between_tokens_s: float | None = None
    total_s: float | None = None

    LONGEST_S: ClassVar[int] = 10**8

    def __post_init__(self) -> None:
        for name in (one.name for one in fields(self)):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise invalid(f"timeouts.{name} must be a number of seconds, not {value!r}.")
            if not 0 < value <= self.LONGEST_S:
                raise invalid(
                    f"timeouts.{name} is {value}.",
                    fix=f"Give a number of seconds above 0, at most {self.LONGEST_S:,}.",
                )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Timeouts:
        """Build timeouts from user input; an unknown name is an error."""
        known = [one.name for one in fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise invalid(
                f"Unknown timeout {unknown[0]!r}.", fix=f"The timeouts are {', '.join(known)}."
            )
        return cls(**values)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One model call: everything the engine needs to know.

    ``messages`` is the whole history that the model shall see, the new message last. ``place`` is
    which of a comparison's calls it is, counted from 1. ``parallel`` is how many requests were
    started together: a runtime whose threads are ours to give shares the cores among them, and with
    the models that generate already. ``intended_ns`` is when a load pattern wanted the request to
    start (default: when it arrived). ``source`` says which face it came from; ``run_id``,
    ``cell_id`` and ``trial`` are a benchmark's, whose requests have the ``priority`` benchmark.
    ``fallback`` is a model id to use if this one fails before its first token. ``tools`` are the
    functions that the model may ask for, each in the OpenAI form
    ``{"type": "function", "function": {"name", "description", "parameters"}}``.
    ``forced`` is an answer, in pieces, that the model is made to give: with ``options.logprobs`` it
    tells how likely each token of it would have been. A runtime that chooses its tokens itself is
    asked piece by piece.
    With ``raw`` the model continues the text of the only message as it stands: no chat template is
    put around it, and nothing of the answer is taken for thinking or calls.
    """

    model: str
    messages: tuple[Message, ...]
    options: Options = field(default_factory=Options)
    tools: tuple[Mapping[str, Any], ...] = ()
    forced: tuple[str, ...] = ()
    raw: bool = False
    timing_mode: TimingMode = TimingMode.CONCURRENT
    priority: Priority = Priority.INTERACTIVE
    fallback: str | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    keep_alive_s: float | None = None
    conversation_id: str = field(default_factory=lambda: new_id("con"))
    session_id: str = field(default_factory=lambda: new_id("ses"))
    correlation_id: str = field(default_factory=lambda: new_id("cor"))
    comparison_id: str | None = None
    place: int | None = None
    parallel: int = 1
    intended_ns: int | None = None
    source: str = "python"
    run_id: str | None = None
    cell_id: str | None = None
    trial: int | None = None

    def check_text(self) -> None:
        """Refuse what is no text, by the name of its field.

        A forced answer is not asked: a piece of it may be single bytes of a character.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``.
        """
        for name in ("model", "fallback", "conversation_id", "source"):
            require_text(getattr(self, name), name)
        require_text(self.options.stop, "stop")
        require_text(self.options.response_format, "response_format")
        require_text(self.tools, "tools")
        for index, message in enumerate(self.messages):
            system = message.role == "system" and not index
            require_text(message.content, "system" if system else f"messages.{index}.content")
            calls = [(call.name, call.arguments) for call in message.tool_calls]
            require_text(calls, f"messages.{index}.tool_calls")
