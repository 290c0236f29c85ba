"""The values that travel between the layers: pure, frozen, without I/O.

Times are monotonic nanoseconds (``time.monotonic_ns``, one clock per host, shared by all its
processes) unless a name says otherwise; sizes are bytes.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, ClassVar, Final, Literal, get_args

from workbench.errors import WorkbenchError, invalid

Role = Literal["system", "user", "assistant", "tool"]
Channel = Literal["content", "reasoning"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
Phase = Literal["queued", "loading", "prompt", "thinking", "answering", "done"]


class Status(StrEnum):
    """What became of a stream session."""

    ACTIVE = "active"
    OK = "ok"
    CANCELLED = "cancelled"
    ERROR = "error"
    TIMEOUT = "timeout"
    REJECTED = "rejected"
    INTERRUPTED = "interrupted"


class TimingMode(StrEnum):
    """How requests may overlap; stored with every row (design, decision 8)."""

    ISOLATED = "isolated"
    INTERLEAVED = "interleaved"
    CONCURRENT = "concurrent"


class Priority(StrEnum):
    """Who goes first where several wait; the later of two is still served within its patience."""

    INTERACTIVE = "interactive"
    BENCHMARK = "benchmark"


_ID_BYTES: Final = 10
_DRAWN: Final = 256
_random: list[str] = []
"""Drawn from the system in advance: asking it for each id took longer than all else of a request
where system calls are watched (0.5 ms in a sandbox)."""
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_random.clear)


def new_id(prefix: str) -> str:
    """A unique id such as ``ses_3f2a...``; the prefix says what it names."""
    try:
        return f"{prefix}_{_random.pop()}"
    except IndexError:
        drawn = os.urandom(_ID_BYTES * _DRAWN).hex()
        _random.extend(drawn[i : i + 2 * _ID_BYTES] for i in range(0, len(drawn), 2 * _ID_BYTES))
        return new_id(prefix)


# -- requests ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model asks that a function be called; ``arguments`` is JSON text, as in the OpenAI form."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Image:
    """A picture beside the text of a message: ``data`` is its file in base64."""

    media_type: str
    data: str

    SIGNATURES: ClassVar[Mapping[str, bytes]] = {
        "image/png": b"\x89PNG\r\n\x1a\n",
        "image/jpeg": b"\xff\xd8\xff",
    }
    """What runtimes can read, by how such a file begins."""

    def __post_init__(self) -> None:
        begins = self.SIGNATURES.get(self.media_type)
        try:
            file = base64.b64decode(self.data, validate=True)
        except ValueError:
            file = b""
        if begins is None or not file.startswith(begins):
            raise invalid("This is no picture in PNG or JPEG.", fix="Convert it first.")

    @classmethod
    def of(cls, file: bytes) -> Image:
        """From the bytes of a file; what it is, it says itself.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``, it is neither PNG nor JPEG.
        """
        kinds = [kind for kind, begins in cls.SIGNATURES.items() if file.startswith(begins)]
        return cls(kinds[0] if kinds else "", base64.b64encode(file).decode())

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return len(self.data) // 4 * 3 - self.data[-2:].count("=")

    def facts(self) -> dict[str, Any]:
        """What the log keeps of it: the file itself would be most of the log."""
        digest = hashlib.sha256(base64.b64decode(self.data)).hexdigest()
        return {"media_type": self.media_type, "size_bytes": self.size_bytes, "sha256": digest}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation, in the OpenAI form.

    ``tool_calls`` are those an assistant message made, ``tool_call_id`` the one that a ``tool``
    message answers, ``images`` what the user shows beside the text.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    images: tuple[Image, ...] = ()

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise invalid(
                f"Message role {self.role!r} is unknown.",
                fix=f"Use one of {', '.join(get_args(Role))}.",
            )
        if not isinstance(self.content, str):
            raise invalid("Message content must be text.", fix="Pass a string.")
        if self.images and self.role != "user":
            raise invalid(f"A message of the {self.role} has no images.")


@dataclass(frozen=True, slots=True)
class Options:
    """Sampling settings of one call, the same for every provider so that panes compare.

    ``temperature`` 0 is greedy decoding. ``seed`` None draws one per request, which is logged.
    ``num_ctx`` None leaves the runtime's own context length. ``overflow`` says what happens to a
    history that is longer: ``truncate`` leaves out its oldest messages, with a warning in the row
    and on the screen, ``error`` refuses. ``logprobs`` is the number of alternatives wanted per
    token (0: none).
    """

    max_tokens: int = 512
    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 50
    seed: int | None = None
    stop: tuple[str, ...] = ()
    repetition_penalty: float = 1.0
    num_ctx: int | None = None
    logprobs: int = 0
    response_format: Mapping[str, Any] | None = None
    overflow: Literal["truncate", "error"] = "truncate"

    BOUNDS: ClassVar[Mapping[str, tuple[float, float]]] = {
        "max_tokens": (1, 131_072),
        "temperature": (0.0, 5.0),
        "top_p": (0.0, 1.0),
        "top_k": (0, 1_000_000),
        "seed": (0, 2**31 - 1),
        "repetition_penalty": (0.1, 10.0),
        "num_ctx": (16, 10_000_000),
        "logprobs": (0, 20),
    }
    INTEGERS: ClassVar[frozenset[str]] = frozenset(
        {"max_tokens", "top_k", "seed", "num_ctx", "logprobs"}
    )

    def __post_init__(self) -> None:
        for name, (low, high) in self.BOUNDS.items():
            value = getattr(self, name)
            if value is None and name in ("seed", "num_ctx"):
                continue
            whole = name in self.INTEGERS
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                kind = "a whole number" if whole else "a number"
                raise invalid(f"{name} must be {kind}, not {value!r}.", option=name)
            if not low <= value <= high:  # which NaN is not either
                bounds = f"{low} and {high}"
                raise invalid(
                    f"{name} is {value}, which is not between {bounds}.",
                    fix=f"Choose {name} between {bounds}.",
                    option=name,
                )
        if self.top_p == 0:
            raise invalid(
                "top_p is 0, which leaves no token to choose from.",
                fix="Choose top_p above 0, or temperature 0 for greedy decoding.",
                option="top_p",
            )
        if self.overflow not in ("truncate", "error"):
            raise invalid(
                f"overflow is {self.overflow!r}.", fix="Use truncate or error.", option="overflow"
            )
        if self.response_format is not None and not isinstance(self.response_format, Mapping):
            raise invalid(
                f"response_format is {self.response_format!r}.",
                fix='Give an object, for example {"type": "json_object"}.',
                option="response_format",
            )
        if isinstance(self.stop, str) or not all(isinstance(s, str) and s for s in self.stop):
            raise invalid("stop must be a list of non-empty strings.", option="stop")
        if len(self.stop) > 16:
            raise invalid("stop has more than 16 strings.", fix="Give at most 16.", option="stop")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Options:
        """Build options from user input; an unknown name is an error, never dropped."""
        known = [one.name for one in fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise invalid(
                f"Unknown option {unknown[0]!r}.", fix=f"The options are {', '.join(known)}."
            )
        given = {name: value for name, value in values.items() if value is not None}
        stop = given.get("stop", ())
        if isinstance(stop, str):
            stop = (stop,)
        elif not isinstance(stop, Sequence):
            raise invalid("stop must be a list of strings.", option="stop")
        return cls(**{**given, "stop": tuple(stop)})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as logged."""
        values = asdict(self)
        values["stop"] = list(self.stop)
        return values


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


# -- models --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model in the common list of all providers.

    ``status`` is ``available`` (on disk), ``loading``, ``resident`` (in memory) or ``unusable``
    (``problem`` says why and how to mend it). ``size_bytes`` is on disk, ``memory_bytes`` measured
    while resident. ``digest`` identifies the weights.
    """

    id: str
    name: str
    provider: str
    status: Literal["available", "loading", "resident", "unusable"] = "available"
    size_bytes: int | None = None
    memory_bytes: int | None = None
    task: str = "text-generation"
    format: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    parameters: int | None = None
    context_length: int | None = None
    chat_template: bool | None = None
    digest: str | None = None
    loaded_at: dt.datetime | None = None
    last_used_at: dt.datetime | None = None
    problem: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def takes_images(self) -> bool:
        """Whether a message to it may have images, as its runtime says."""
        return "vision" in (self.details.get("capabilities") or ())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        values = asdict(self)
        for name in ("loaded_at", "last_used_at"):
            values[name] = values[name].isoformat() if values[name] else None
        return values


# -- what a provider yields -----------------------------------------------------------------------


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


# -- what the engine yields -----------------------------------------------------------------------


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


# -- the finished record --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stamps:
    """Monotonic nanoseconds of one request (measurement definitions); None: never reached.

    ``load_ns`` is not a stamp but the part of ``queued``..``slot`` spent waiting for a load.
    ``retry_ns`` is the part before it that was lost in an attempt which failed; all stamps but
    ``queued`` are those of the attempt that counts.
    """

    queued: int
    end: int
    intended: int | None = None
    slot: int | None = None
    sent: int | None = None
    first_any: int | None = None
    first_content: int | None = None
    last: int | None = None
    load_ns: int = 0
    retry_ns: int = 0


@dataclass(frozen=True, slots=True)
class TokenTimeline:
    """Equally long lists, one entry per text that the runtime produced."""

    t_ns: tuple[int, ...] = ()
    n_tokens: tuple[int, ...] = ()
    n_chars: tuple[int, ...] = ()
    channels: tuple[Channel, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamSession:
    """One model call as logged: the row of ``stream_sessions`` and what belongs to it.

    ``metrics`` holds the derived figures by the names of the ``latencies`` view (seconds, tokens
    per second, bytes), computed once by :mod:`workbench.metrics`.
    """

    session_id: str
    conversation_id: str
    correlation_id: str
    requested_model: str
    model: str
    provider: str
    status: Status
    created_at: dt.datetime
    stamps: Stamps
    options: Options
    seed: int
    timing_mode: TimingMode
    source: str
    text: str = ""
    reasoning: str = ""
    finish_reason: FinishReason | None = None
    termination_reason: str | None = None
    error: WorkbenchError | None = None
    fallback_from: str | None = None
    warnings: tuple[ProviderWarning, ...] = ()
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    count_source: str | None = None
    streamed_tokens: int = 0
    timeline: TokenTimeline = field(default_factory=TokenTimeline)
    runtime_ns: Mapping[str, int] = field(default_factory=dict)
    overlap_ns: int = 0
    mem_before_bytes: int | None = None
    mem_peak_bytes: int | None = None
    gpu_peak_bytes: int | None = None
    digest: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    device: str | None = None
    threads: int | None = None
    cold: bool = False
    comparison_id: str | None = None
    run_id: str | None = None
    cell_id: str | None = None
    trial: int | None = None
    metrics: Mapping[str, float | int | None] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
