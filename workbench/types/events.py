"""What the engine yields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from workbench.errors import WorkbenchError
from workbench.types.answers import Channel
from workbench.types.sessions import StreamSession

Phase = Literal["queued", "loading", "prompt", "thinking", "answering", "done"]


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """First event of every stream: who will answer, under which ids."""

    type: ClassVar[str] = "session"
    session_id: str
    conversation_id: str
    correlation_id: str
    model: str
    provider: str
    requested_model: str
    seed: int
    t_ns: int


@dataclass(frozen=True, slots=True)
class QueuedEvent:
    """The request waits. ``position`` counts the requests ahead of it, plus one.

    ``estimate_s`` is the time from ``t_ns`` until its answer may begin, judged by what loads and
    answers took lately; None where nothing can be said.
    """

    type: ClassVar[str] = "queued"
    session_id: str
    position: int
    reason: str
    t_ns: int
    estimate_s: float | None = None


@dataclass(frozen=True, slots=True)
class LoadingEvent:
    """The model is being brought into memory for this request."""

    type: ClassVar[str] = "loading"
    session_id: str
    message: str
    t_ns: int


@dataclass(frozen=True, slots=True)
class PromptEvent:
    """The request was handed to the runtime, which now evaluates the prompt (stamp ``sent``)."""

    type: ClassVar[str] = "prompt"
    session_id: str
    t_ns: int


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """New text. ``seq`` counts the token events of the stream from 0.

    When the consumer is slower than the model, texts are joined into one event; ``n_tokens`` and
    ``t_ns`` are then the sum and the stamp of the last.
    """

    type: ClassVar[str] = "token"
    session_id: str
    seq: int
    text: str
    n_tokens: int
    channel: Channel
    t_ns: int
    logprobs: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallEvent:
    """The model asks for a function; ``arguments`` is JSON text."""

    type: ClassVar[str] = "tool_call"
    session_id: str
    call_id: str
    name: str
    arguments: str
    t_ns: int


@dataclass(frozen=True, slots=True)
class MemoryEvent:
    """A reading of the model's processes while it works, for live display."""

    type: ClassVar[str] = "memory"
    session_id: str
    mem_bytes: int
    gpu_bytes: int
    t_ns: int


@dataclass(frozen=True, slots=True)
class WarningEvent:
    """Something the reader of this answer must know (a cut prompt, a fallback)."""

    type: ClassVar[str] = "warning"
    session_id: str
    code: str
    message: str
    t_ns: int


@dataclass(frozen=True, slots=True)
class DoneEvent:
    """The stream ended well or was cancelled; ``session`` is the finished record."""

    type: ClassVar[str] = "done"
    session_id: str
    session: StreamSession
    t_ns: int


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """The stream failed; the partial text and figures are in ``session``."""

    type: ClassVar[str] = "error"
    session_id: str
    error: WorkbenchError
    session: StreamSession
    t_ns: int


StreamEvent = (
    SessionEvent
    | QueuedEvent
    | LoadingEvent
    | PromptEvent
    | TokenEvent
    | ToolCallEvent
    | MemoryEvent
    | WarningEvent
    | DoneEvent
    | ErrorEvent
)
