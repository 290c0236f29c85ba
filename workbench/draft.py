"""The row of a model call in the making: what has happened so far, and what the row says of it."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from workbench import metrics
from workbench.errors import TIMEOUT_CODES, ErrorCode, WorkbenchError
from workbench.lag import Lateness
from workbench.memory import Watch
from workbench.providers.base import ResidentModel
from workbench.record import with_tokens
from workbench.recovery import Retry
from workbench.rotation import Slot
from workbench.router import Route
from workbench.types import (
    ChatRequest,
    FinishReason,
    Phase,
    ProviderFinish,
    ProviderToken,
    ProviderWarning,
    Stamps,
    Status,
    StreamSession,
    ToolCall,
)


@dataclass(slots=True, eq=False)
class Draft:
    """What is known of a call so far. Its session writes it, the journal's thread reads it too.

    Stamps are monotonic nanoseconds; None: not reached yet.
    """

    request: ChatRequest
    route: Route
    fallback_from: str | None
    seed: int
    created_at: dt.datetime = field(init=False)
    queued: int = field(init=False)
    loading_since: int | None = None
    """When the reader was last told that the model loads."""
    slot: int | None = None
    sent: int | None = None
    load_ns: int = 0
    retry_ns: int = 0
    failed_attempts: list[dict[str, Any]] = field(default_factory=list)
    cold: bool = False
    resident: ResidentModel | None = None
    lateness: Lateness | None = None
    """Of the event loop that stamps the tokens; None: another process does."""
    tokens: list[ProviderToken] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    warnings: list[ProviderWarning] = field(default_factory=list)
    finish: ProviderFinish | None = None
    watch: Watch | None = None
    stopped_by: str | None = None
    """Why it was stopped, once it has ended."""
    _images: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        images = (image for message in self.request.messages for image in message.images)
        self._images = [image.facts() for image in images]  # takes its time, which is no wait
        self.created_at, self.queued = dt.datetime.now(dt.UTC), time.monotonic_ns()

    @property
    def requested_model(self) -> str:
        """As the caller wrote it."""
        return self.request.model.strip()

    @property
    def phase(self) -> Phase:
        """How far it has come."""
        if self.tokens:
            return "thinking" if self.tokens[-1].channel == "reasoning" else "answering"
        if self.sent is not None:
            return "prompt"
        return "queued" if self.loading_since is None else "loading"

    def describe(self) -> dict[str, Any]:
        """What is told of it while it runs."""
        request = self.request
        return {
            "session_id": request.session_id,
            "model": self.route.model,
            "requested_model": self.requested_model,
            "phase": self.phase,
            "streamed_tokens": sum(token.n_tokens for token in self.tokens),
            "conversation_id": request.conversation_id,
            "comparison_id": request.comparison_id,
            "correlation_id": request.correlation_id,
            "source": request.source,
            "created_at": self.created_at.isoformat(),
        }

    def granted(self, slot: Slot) -> None:
        """The model is in memory, and the turn of the call has come."""
        self.slot, self.load_ns = slot.granted_ns, slot.load_ns
        self.resident, self.cold = slot.resident, slot.resident.fresh

    def begin_again(self, error: WorkbenchError, again: Retry, failed_ns: int) -> None:
        """Keep what the attempt that failed just now cost, and forget the rest of it."""
        self.failed_attempts.append(
            {
                "code": error.code,
                "message": error.message,
                "retry": again,
                "seconds": (failed_ns - self.queued - self.retry_ns) / metrics.NS,
                "load_s": self.load_ns / metrics.NS,
                "options": self.request.options.to_dict(),
            }
        )
        self.slot = self.sent = self.resident = self.finish = self.watch = None
        self.load_ns, self.cold, self.loading_since = 0, False, None
        self.warnings.clear()  # the runtime says them again

    def row(self, end: int, error: WorkbenchError | None, overlap_ns: int) -> StreamSession:
        """The finished record, whatever happened.

        Args:
            end: monotonic ns of its end.
            error: why it failed, if it did.
            overlap_ns: how long another generation or load ran beside it.
        """
        return with_tokens(self.outline(end, *self._outcome(error), error, overlap_ns), self.tokens)

    def bare(self, end: int, error: WorkbenchError, overlap_ns: int) -> StreamSession:
        """The row where no figures can be made of what the runtime gave: without that."""
        self.tokens, self.tool_calls, self.finish = [], [], None
        return self.row(end, error, overlap_ns)

    def outline(
        self,
        end: int,
        status: Status,
        termination: str | None,
        error: WorkbenchError | None,
        overlap_ns: int,
    ) -> StreamSession:
        """The row without what the tokens say."""
        request, finish = self.request, self.finish
        stamps = Stamps(
            queued=self.queued,
            intended=request.intended_ns,
            slot=self.slot,
            sent=self.sent,
            end=end,
            load_ns=self.load_ns or self._failed_load_ns(end),
            retry_ns=self.retry_ns,
        )
        output_tokens = finish.output_tokens if finish else None
        count_source = finish.count_source if finish and output_tokens is not None else None
        watch, resident, lateness = self.watch, self.resident, self.lateness
        before = watch.before.pss_bytes if watch and watch.before else None
        peak = watch.peak_pss_bytes if watch else None
        return StreamSession(
            session_id=request.session_id,
            conversation_id=request.conversation_id,
            correlation_id=request.correlation_id,
            requested_model=self.requested_model,
            model=self.route.model,
            provider=self.route.provider.name,
            status=status,
            created_at=self.created_at,
            stamps=stamps,
            options=request.options,
            seed=self.seed,
            timing_mode=request.timing_mode,
            source=request.source,
            finish_reason=self._finish_reason() if status is Status.OK else None,
            termination_reason=termination,
            error=error,
            fallback_from=self.fallback_from,
            warnings=tuple(self.warnings),
            prompt_tokens=finish.prompt_tokens if finish else None,
            output_tokens=output_tokens,
            count_source=count_source,
            runtime_ns=finish.runtime_ns if finish else {},
            overlap_ns=overlap_ns,
            ttft_late_ns=lateness.ttft_ns if lateness and self.tokens else None,
            speed_late_ns=lateness.speed_ns if lateness and self.tokens else None,
            mem_before_bytes=before,
            mem_peak_bytes=peak,
            gpu_peak_bytes=watch.peak_gpu_bytes if watch else None,
            digest=resident.digest if resident else None,
            dtype=resident.dtype if resident else None,
            quantization=resident.quantization if resident else None,
            device=resident.device if resident else None,
            threads=self._threads(),
            cold=self.cold,
            comparison_id=request.comparison_id,
            run_id=request.run_id,
            cell_id=request.cell_id,
            trial=request.trial,
            details={
                **(finish.details if finish else {}),
                **self._attempts(),
                **self._tools(),
                **({"images": self._images} if self._images else {}),
                **({"raw": True} if request.raw else {}),
                **({} if request.place is None else {"place": request.place}),
            },
        )

    def _outcome(self, error: WorkbenchError | None) -> tuple[Status, str | None]:
        if error is None:
            if self.stopped_by is not None:
                return Status.CANCELLED, self.stopped_by
            return Status.OK, None
        if error.code in (ErrorCode.CANCELLED, ErrorCode.SERVER_STOPPING):
            return Status.CANCELLED, self.stopped_by
        if error.code in TIMEOUT_CODES:
            return Status.TIMEOUT, "timeout"
        if error.code is ErrorCode.QUEUE_FULL:
            return Status.REJECTED, "queue full"
        return Status.ERROR, "error"

    def _finish_reason(self) -> FinishReason | None:
        """As the runtime says, which need not know that a call of a function ended its answer."""
        if self.finish is None:
            return None
        called = self.tool_calls and self.finish.finish_reason == "stop"
        return "tool_calls" if called else self.finish.finish_reason

    def _tools(self) -> dict[str, Any]:
        """The functions that were offered and asked for; nothing if there were none."""
        offered = {"tools": list(self.request.tools)} if self.request.tools else {}
        calls = [asdict(call) for call in self.tool_calls]
        return {**offered, **({"tool_calls": calls} if calls else {})}

    def _attempts(self) -> dict[str, Any]:
        """What a row says of tries before its own; nothing if there were none."""
        failed = self.failed_attempts
        return {"attempts": len(failed) + 1, "failed_attempts": failed} if failed else {}

    def _threads(self) -> int | None:
        """Compute threads of this answer, which may be fewer than at the load."""
        if self.finish is not None and isinstance(used := self.finish.details.get("threads"), int):
            return used
        return self.resident.threads if self.resident else None

    def _failed_load_ns(self, end: int) -> int:
        """A load that never ended well still took the time from its announcement on."""
        announced = self.loading_since
        return end - announced if announced is not None and self.slot is None else 0
