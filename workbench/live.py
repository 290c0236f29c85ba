"""One answer while it is being written: its phase, its figures and its text, from the events.

What a pane, a notebook and a terminal show is drawn from the same :class:`LiveAnswer`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from workbench.errors import WorkbenchError
from workbench.metrics import NS
from workbench.types import (
    DoneEvent,
    ErrorEvent,
    Image,
    LoadingEvent,
    MemoryEvent,
    PromptEvent,
    QueuedEvent,
    SessionEvent,
    Status,
    StreamEvent,
    StreamSession,
    TokenEvent,
    WarningEvent,
)
from workbench.wire import clean

WAITING_PHASES = ("queued", "loading", "prompt", "thinking", "answering")
"""Phases that a request goes through, in order; the timeline draws them."""

PHASES = ("idle", *WAITING_PHASES, "done", "cancelled", "error", "timeout", "rejected")
"""Every word that a strip can show as its phase."""

_ENDED = {Status.OK: "done", Status.INTERRUPTED: "error", Status.ACTIVE: "answering"}


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of time in one phase, monotonic nanoseconds; ``end`` None: still in it."""

    phase: str
    start: int
    end: int | None = None


@dataclass
class LiveAnswer:
    """One pane's answer as far as it has come. Times are monotonic nanoseconds."""

    model: str
    prompt: str = ""
    images: tuple[Image, ...] = ()
    conversation_id: str = ""
    asked: int = field(default_factory=time.monotonic_ns)
    phase: str = "queued"
    detail: str = ""
    """What the phase is waiting for, in a sentence, as last told."""
    session_id: str | None = None
    segments: list[Segment] = field(default_factory=list)
    sent: int | None = None
    first: int | None = None
    last: int | None = None
    streamed: int = 0
    mem_bytes: int | None = None
    gpu_bytes: int | None = None
    warnings: list[tuple[str, str]] = field(default_factory=list)
    error: WorkbenchError | None = None
    session: StreamSession | None = None
    _answer: list[str] = field(default_factory=list)
    _reasoning: list[str] = field(default_factory=list)
    _standing: QueuedEvent | None = None

    def __post_init__(self) -> None:
        self.segments.append(Segment("queued", self.asked))

    @property
    def running(self) -> bool:
        """Whether more is to come."""
        return self.session is None

    @property
    def ended(self) -> int | None:
        """When it ended."""
        return self.session.stamps.end if self.session else None

    @property
    def answer(self) -> str:
        """The text so far."""
        return clean("".join(self._answer))

    @property
    def reasoning(self) -> str:
        """The text of the reasoning channel so far."""
        return clean("".join(self._reasoning))

    def take(self, event: StreamEvent) -> None:
        """Account for one event of the stream."""
        match event:
            case SessionEvent():
                self._restart(event)
            case QueuedEvent():
                self._enter("queued", event.t_ns)
                self.detail, self._standing = _standing(event), event
            case LoadingEvent():
                self._enter("loading", event.t_ns)
                self.detail = event.message
            case PromptEvent():
                self._enter("prompt", event.t_ns)
                self.sent, self.detail = event.t_ns, ""
            case TokenEvent():
                self._token(event)
            case MemoryEvent():
                self.mem_bytes, self.gpu_bytes = event.mem_bytes, event.gpu_bytes
            case WarningEvent():
                self.warnings.append((event.code, event.message))
            case DoneEvent():
                self._end(event.session)
            case ErrorEvent():
                self.error = event.error
                self._end(event.session)

    def detail_at(self, now: int) -> str:
        """The same at a moment: an expected wait has become shorter since it was told."""
        told = self._standing
        if self.phase != "queued" or told is None or told.estimate_s is None:
            return self.detail
        left_s = max(told.estimate_s - (now - told.t_ns) / NS, 0.0)
        return _standing(replace(told, estimate_s=left_s))

    def elapsed_s(self, now: int) -> float:
        """Wall time since the request was made."""
        return max((self.ended or now) - self.asked, 0) / NS

    def _restart(self, event: SessionEvent) -> None:
        """A stream begins; the second one of an answer is the fallback's, measured by itself."""
        if self.session_id is None:
            # Time before the session is the page's own, and no waiting of the request.
            self.asked = event.t_ns
            self.segments = [Segment("queued", event.t_ns)]
        self.session_id = event.session_id
        self.sent = self.first = self.last = None
        self.streamed = 0
        self._enter("queued", event.t_ns)

    def _token(self, event: TokenEvent) -> None:
        reasoning = event.channel == "reasoning"
        (self._reasoning if reasoning else self._answer).append(event.text)
        self._enter("thinking" if reasoning else "answering", event.t_ns)
        if event.n_tokens:
            self.first = self.first if self.first is not None else event.t_ns
            self.last = event.t_ns
            self.streamed += event.n_tokens

    def _end(self, session: StreamSession) -> None:
        self.session = session
        self.phase = _ENDED.get(session.status, session.status.value)
        self.detail = ""
        self.segments[-1] = replace(self.segments[-1], end=session.stamps.end)

    def _enter(self, phase: str, t_ns: int) -> None:
        if self.phase != phase:
            self.segments[-1] = replace(self.segments[-1], end=t_ns)
            self.segments.append(Segment(phase, t_ns))
            self.phase = phase


def _standing(event: QueuedEvent) -> str:
    """Where a request stands, in words."""
    wait = f", about {_spoken(event.estimate_s)}" if event.estimate_s is not None else ""
    return f"position {event.position}{wait}: {event.reason}"


def _spoken(seconds: float) -> str:
    if seconds < 1:
        return "a second"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
