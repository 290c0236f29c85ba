"""The finished record of a call."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from workbench.errors import WorkbenchError
from workbench.types.answers import Channel, FinishReason, ProviderWarning
from workbench.types.options import Options
from workbench.types.requests import TimingMode


class Status(StrEnum):
    """What became of a stream session."""

    ACTIVE = "active"
    OK = "ok"
    CANCELLED = "cancelled"
    ERROR = "error"
    TIMEOUT = "timeout"
    REJECTED = "rejected"
    INTERRUPTED = "interrupted"


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
    ttft_late_ns: int | None = None
    speed_late_ns: int | None = None
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

    @property
    def tried_first(self) -> str:
        """The id of the model that was asked first: what the request's own words meant."""
        return self.fallback_from or self.model
