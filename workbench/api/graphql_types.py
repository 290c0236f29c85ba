"""The types of the GraphQL face: what the REST face says, field by field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from typing import Any, NewType, TypeVar

import strawberry
from strawberry.scalars import JSON

from workbench import wire
from workbench.api.feeds import Numbered
from workbench.types import DoneEvent, ErrorEvent
from workbench.types import Priority as Rank
from workbench.types import TimingMode as Mode

T = TypeVar("T")

Long = NewType("Long", int)
"""Whole numbers beyond GraphQL's 32 bits: bytes and nanoseconds."""


@strawberry.type(description="A model of any provider.")
class Model:
    """As ``ModelInfo``."""

    id: strawberry.ID
    name: str
    provider: str
    status: str
    size_bytes: Long | None = None
    memory_bytes: Long | None = None
    task: str | None = None
    format: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    parameters: Long | None = None
    context_length: int | None = None
    chat_template: bool | None = None
    digest: str | None = None
    loaded_at: str | None = None
    last_used_at: str | None = None
    problem: str | None = None
    details: JSON | None = None


@strawberry.type(description="A failure, with the fix.")
class Problem:
    """As ``WorkbenchError``."""

    code: str
    message: str
    fix: str
    operation: str
    provider: str | None = None


@strawberry.type(description="One finished model call with its figures; seconds, bytes, tokens/s.")
class StreamSession:
    """As a row of ``latencies``."""

    session_id: strawberry.ID
    created_at: str
    model: str
    provider: str
    requested_model: str
    status: str
    source: str
    timing_mode: str
    conversation_id: str
    correlation_id: str
    seed: Long
    cold: bool
    contended: bool
    ttft_spoilt: bool
    speed_spoilt: bool
    fallback_from: str | None = None
    finish_reason: str | None = None
    termination_reason: str | None = None
    error_code: str | None = None
    digest: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    device: str | None = None
    threads: int | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    comparison_id: str | None = None
    run_id: str | None = None
    retry_s: float | None = None
    queue_s: float | None = None
    load_s: float | None = None
    prefill_s: float | None = None
    wall_s: float | None = None
    ttft_s: float | None = None
    ttfo_s: float | None = None
    tpot_s: float | None = None
    itl_p50_s: float | None = None
    e2e_s: float | None = None
    output_tps: float | None = None
    decode_tps: float | None = None
    chars_per_s: float | None = None
    mem_peak_bytes: Long | None = None
    mem_delta_bytes: Long | None = None
    gpu_peak_bytes: Long | None = None
    overlap_s: float | None = None
    ttft_late_s: float | None = None
    speed_late_s: float | None = None


@strawberry.type(description="Sessions from new to old; `next` is the cursor of the next page.")
class StreamSessions:
    """One page."""

    sessions: list[StreamSession]
    next: str | None


@strawberry.type(description="A message of a conversation.")
class Message:
    """As a row of ``messages``."""

    message_id: strawberry.ID
    position: int
    role: str
    content: str
    created_at: str
    session_id: str | None = None
    reasoning: str | None = None


@strawberry.type(description="A conversation and its messages in order.")
class Conversation:
    """As ``GET /api/v1/conversations/{id}``."""

    conversation_id: strawberry.ID
    created_at: str
    source: str | None
    title: str | None
    messages: list[Message]


@strawberry.type(description="A stream that runs or waits now.")
class ActiveStream:
    """As ``GET /api/v1/streams``."""

    session_id: strawberry.ID
    model: str
    requested_model: str
    phase: str
    streamed_tokens: int
    conversation_id: str
    correlation_id: str
    source: str
    created_at: str
    comparison_id: str | None = None


@strawberry.type(description="A request that waits; `estimateS` is the time until its answer.")
class Waiting:
    """As in ``waiting`` of ``GET /api/v1/queue``."""

    number: int
    model: str
    position: int
    reason: str
    waited_s: float
    priority: str
    exclusive: bool
    evicts: list[str]
    estimate_s: float | None = None


@strawberry.type(description="A model in memory or on its way in; bytes by device.")
class Resident:
    """As in ``residents`` of ``GET /api/v1/queue``."""

    model: str
    status: str
    running: int
    held_bytes: JSON
    peak_bytes: JSON
    pinned: bool
    last_used_at: str | None = None
    expires_in_s: float | None = None


@strawberry.type(description="Who is in memory, who waits, who answers, who would leave next.")
class Queue:
    """As ``GET /api/v1/queue``, with the streams under way."""

    streams: list[ActiveStream]
    waiting: list[Waiting]
    residents: list[Resident]
    next_victims: list[str]
    limit_bytes: JSON
    held_bytes: JSON


@strawberry.type(description="One part of the whole, with its reason if it is not well.")
class HealthPart:
    """As a part of ``GET /health``."""

    name: str
    status: str
    details: JSON
    reason: str | None = None
    fix: str | None = None
    last_good_at: str | None = None


@strawberry.type(description="Is it alive, can it serve, what of it works.")
class Health:
    """As ``GET /health``."""

    status: str
    ready: bool
    parts: list[HealthPart]


@strawberry.type(description="One execution of a benchmark.")
class BenchmarkRun:
    """As a row of ``benchmark_runs``."""

    run_id: strawberry.ID
    created_at: str
    name: str
    status: str
    timing_mode: str
    finished_at: str | None = None
    seed: Long | None = None
    spec: JSON | None = None
    environment_id: str | None = None
    details: JSON | None = None


@strawberry.type(description="Runs from new to old; `next` is the cursor of the next page.")
class BenchmarkRuns:
    """One page."""

    runs: list[BenchmarkRun]
    next: str | None


@strawberry.type(description="Long work on disk, with its progress.")
class Job:
    """As ``GET /api/v1/jobs/{id}``."""

    id: strawberry.ID
    kind: str
    model: str
    status: str
    message: str
    bytes_done: Long
    created_at: str
    bytes_total: Long | None = None
    started_at: str | None = None
    ended_at: str | None = None


@strawberry.type(description="Whether a stream was stopped; false if none of that id runs.")
class Termination:
    """As ``DELETE /api/v1/streams/{id}``."""

    cancelled: bool


@strawberry.type(description="One event of a stream; which fields are set follows from `type`.")
class StreamEvent:
    """As an event of ``POST /api/v1/stream-message``."""

    type: str
    number: int
    session_id: strawberry.ID
    t_ns: Long
    text: str | None = None
    channel: str | None = None
    seq: int | None = None
    n_tokens: int | None = None
    model: str | None = None
    provider: str | None = None
    seed: Long | None = None
    position: int | None = None
    reason: str | None = None
    code: str | None = None
    message: str | None = None
    mem_bytes: Long | None = None
    gpu_bytes: Long | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    error: Problem | None = None
    session: JSON | None = None

    @classmethod
    def of(cls, item: Numbered) -> StreamEvent:
        """The event in this form; ``session`` is the finished record as REST has it."""
        values = wire.encode_event(item.event)
        if isinstance(item.event, ErrorEvent):
            values["error"] = build(Problem, values["error"])
        if isinstance(item.event, DoneEvent | ErrorEvent):
            values["session"].pop("timeline")  # as long as the answer
        return build(cls, {**values, "number": item.number})


Priority = strawberry.enum(Rank, name="Priority", description="Who goes first where many wait.")
TimingMode = strawberry.enum(Mode, name="TimingMode", description="How requests may overlap.")


@strawberry.enum(description="Who says a message.")
class Role(Enum):
    """Roles of earlier messages."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@strawberry.input(description="An earlier message.")
class HistoryInput:
    """As in ``history`` of the REST face."""

    role: Role
    content: str


@strawberry.input(description="Sampling settings; what is left out has the workbench's default.")
class OptionsInput:
    """As in ``options`` of the REST face."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: list[str] | None = None
    repetition_penalty: float | None = None
    num_ctx: int | None = None
    logprobs: int | None = None
    response_format: JSON | None = None
    overflow: str | None = None


@strawberry.input(description="The longest wait in each phase, in seconds.")
class TimeoutsInput:
    """As in ``timeouts`` of the REST face."""

    queue_s: float | None = None
    load_s: float | None = None
    first_token_s: float | None = None
    between_tokens_s: float | None = None
    total_s: float | None = None


@strawberry.input(description="What a model is asked; only `model` and `message` are required.")
class StreamMessageInput:
    """As the body of ``POST /api/v1/stream-message``."""

    model: str
    message: str
    history: list[HistoryInput] | None = None
    system: str | None = None
    conversation_id: str | None = None
    options: OptionsInput | None = None
    timing_mode: TimingMode | None = None  # type: ignore[valid-type]
    priority: Priority | None = None  # type: ignore[valid-type]
    fallback: str | None = None
    timeouts: TimeoutsInput | None = None

    def body(self) -> dict[str, Any]:
        """The same as the REST face takes it; what was left out is left out."""

        def given(value: Any) -> Any:
            if isinstance(value, Enum):
                return value.value
            if isinstance(value, list):
                return [given(item) for item in value]
            if dataclasses.is_dataclass(value):
                names = (field.name for field in dataclasses.fields(value))
                pairs = ((name, getattr(value, name)) for name in names)
                return {name: given(item) for name, item in pairs if item is not None}
            return value

        values: dict[str, Any] = given(self)
        return values


def build(kind: type[T], values: Mapping[str, Any]) -> T:
    """An object of a type from the values that it knows."""
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in values.items() if name in names})
