"""One model call while it runs: from its arrival to its row."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal

from workbench import cutoff, hosts, logs, recovery, wire
from workbench.contention import Generations
from workbench.draft import Draft
from workbench.errors import TIMEOUT_CODES, ErrorCode, WorkbenchError, unforeseen
from workbench.lag import LagSampler, Lateness
from workbench.leftover import Apart
from workbench.mailbox import Mailbox
from workbench.memory import MemoryMonitor, MemoryReading
from workbench.providers import guard
from workbench.providers.base import CancellationToken
from workbench.record import (
    journal_header,
    journal_memory,
    journal_tokens,
    samples_of,
    why_not_stored,
)
from workbench.rotation import ModelRotationService, Slot, Standing
from workbench.rotation.context import Context, prompt_bytes
from workbench.router import Route
from workbench.settings import Settings
from workbench.store import Store
from workbench.store.journal import Journal
from workbench.types import (
    ChatRequest,
    DoneEvent,
    ErrorEvent,
    LoadingEvent,
    MemoryEvent,
    PromptEvent,
    ProviderFinish,
    ProviderToken,
    ProviderToolCall,
    ProviderWarning,
    QueuedEvent,
    SessionEvent,
    Status,
    StreamSession,
    TokenEvent,
    ToolCallEvent,
    WarningEvent,
)

_log = logs.get(__name__)

_STARTED_AGAIN_S: Final = 10.0
"""A server that was stopped on purpose is often back after about this time."""

_TIMEOUT_CODE = {"huggingface": ErrorCode.HF_TIMEOUT, "ollama": ErrorCode.OLLAMA_TIMEOUT}


@dataclass(frozen=True, slots=True)
class Parts:
    """What a session needs of the engine."""

    settings: Settings
    rotation: ModelRotationService
    monitor: MemoryMonitor
    store: Store
    generations: Generations
    lag: LagSampler
    journal: Journal
    on_end: Callable[[StreamSession, ChatRequest], None]
    generating_besides: Callable[[str], int]
    """How many other models generate on this machine now, whatever runs them."""


Limited = Literal["queue_s", "first_token_s", "between_tokens_s", "total_s"]


def limit_s(request: ChatRequest, settings: Settings, phase: Limited) -> float:
    """How long a phase may take: the request's own limit, else that of the settings."""
    chosen: float | None = getattr(request.timeouts, phase)
    if chosen is not None:
        return chosen
    return {
        "queue_s": settings.workbench_queue_timeout_s,
        "first_token_s": settings.workbench_first_token_timeout_s,
        "between_tokens_s": settings.workbench_token_timeout_s,
        "total_s": settings.workbench_total_timeout_s,
    }[phase]


class LiveSession:
    """One model call from its arrival to its row."""

    def __init__(
        self, parts: Parts, request: ChatRequest, route: Route, fallback_from: str | None
    ) -> None:
        self._parts = parts
        self.route = route
        self.cancel = CancellationToken()
        self.mailbox = Mailbox(parts.settings.hf_stream_chunk_size)
        seed = request.options.seed
        drawn = seed if seed is not None else random.getrandbits(31)
        self.draft = Draft(request, route, fallback_from, drawn)
        self._seq = 0

    @property
    def request(self) -> ChatRequest:
        """As it is answered now: a retry may change its options."""
        return self.draft.request

    async def execute(self) -> None:
        """Do it all; every outcome ends with a row and a last event."""
        request, error = self.request, None
        with logs.correlation(
            request.correlation_id,
            session_id=request.session_id,
            model=self.route.model,
            source=request.source,
        ):
            self.mailbox.put(
                SessionEvent(
                    session_id=request.session_id,
                    conversation_id=request.conversation_id,
                    correlation_id=request.correlation_id,
                    model=self.route.model,
                    provider=self.route.provider.name,
                    requested_model=self.draft.requested_model,
                    seed=self.draft.seed,
                    t_ns=self.draft.queued,
                )
            )
            try:
                self._parts.journal.begin(
                    request.session_id,
                    journal_header(request.messages, self._parts.store.environment_id),
                    self.journal,
                )
                async with asyncio.timeout(self._limit_s("total_s")):
                    await self._try()
            except WorkbenchError as failure:
                # What fails because it was stopped did not fail; a wait that ran out did.
                stopped = self.cancel.cancelled and failure.code not in TIMEOUT_CODES
                error = None if stopped else failure
            except TimeoutError:
                error = self._timeout("in total", self._limit_s("total_s"))
            except asyncio.CancelledError:
                self.cancel.cancel("shutdown")
            except Exception as failure:
                error = self._unforeseen(failure)
            finally:
                # Read now: a reader that leaves while the row is written changes nothing any more.
                self.draft.stopped_by = reason = self.cancel.reason
                if error is None and reason == "shutdown":
                    error = self._stopping()
                await self._conclude(error)

    async def _try(self) -> None:
        """Generate; where it fails before anything was shown, once more if that may help."""
        evicted: list[str] | None = None
        while True:
            try:
                await self._generate()
                return
            except WorkbenchError as error:
                again = recovery.retry(error, self.request.options)
                if evicted is not None and again is recovery.Retry.AFTER_EVICTION:
                    raise await self._parts.rotation.refusal(error, evicted) from error
                tried = len(self.draft.failed_attempts) + 1 >= recovery.ATTEMPTS
                if again is None or tried or self.draft.tokens or self.cancel.cancelled:
                    raise
                if again is recovery.Retry.AFTER_EVICTION:
                    evicted = await self._parts.rotation.make_room(self.route.model)
                    if not evicted:
                        raise await self._parts.rotation.refusal(error, evicted) from error
                await self._begin_again(error, again)

    async def _begin_again(self, error: WorkbenchError, again: recovery.Retry) -> None:
        """Log the attempt that failed and start from nothing; its time is ``retry_s``."""
        draft, request, failed_ns = self.draft, self.request, time.monotonic_ns()
        with contextlib.suppress(WorkbenchError):  # a log that fails is told of at the end
            self._parts.store.log_error(
                error,
                model=self.route.model,
                session_id=request.session_id,
                correlation_id=request.correlation_id,
            )
        if draft.watch is not None:
            await asyncio.to_thread(self._parts.monitor.unwatch, draft.watch)
        draft.begin_again(error, again, failed_ns)
        how = ""
        if again is recovery.Retry.SAFE_SAMPLING:
            draft.request = replace(request, options=recovery.safe_options(request.options))
            how = " with temperature 0 and no repetition penalty"
        elif again is recovery.Retry.AFTER_EVICTION:
            how = " after idle models made room"
        self._warn(
            ProviderWarning("RETRIED", f"Tried again{how}, because: {error.message}", error.details)
        )
        draft.retry_ns = time.monotonic_ns() - draft.queued

    async def _generate(self) -> None:
        request = self.request
        async with self._parts.rotation.slot(
            self.route,
            mode=request.timing_mode,
            keep_alive_s=self._keep_alive_s,
            num_ctx=request.options.num_ctx,
            context=Context(prompt_bytes(request), request.options.max_tokens),
            load_timeout_s=request.timeouts.load_s,
            priority=request.priority,
            cancel=self.cancel,
            queue_timeout_s=self._limit_s("queue_s"),
            on_standing=self._tell_standing,
            on_loading=self._tell_loading,
        ) as slot:
            self.draft.granted(slot)
            await self._watch_memory()
            try:
                await self._relay(slot)
            finally:
                if (finish := self.draft.finish) is not None:
                    slot.cut = finish.finish_reason == "length"
                    slot.prompt_tokens = finish.prompt_tokens
                    slot.cells = finish.details.get("cache_tokens") or 0
                if self.draft.sent is not None:
                    self._parts.generations.end(request.session_id, time.monotonic_ns())

    @property
    def _keep_alive_s(self) -> float:
        """How long the model stays in memory after the answer; negative: for ever."""
        chosen, settings = self.request.keep_alive_s, self._parts.settings
        wanted_s = chosen if chosen is not None else settings.workbench_keep_alive_s
        return self._parts.rotation.stay_s(self.route.model, wanted_s)

    def _tell_standing(self, standing: Standing) -> None:
        self.mailbox.put(
            QueuedEvent(
                self.request.session_id,
                standing.position,
                standing.reason,
                time.monotonic_ns(),
                standing.estimate_s,
            )
        )

    def _tell_loading(self, message: str) -> None:
        self.draft.loading_since = now = time.monotonic_ns()
        self.mailbox.put(LoadingEvent(self.request.session_id, message, now))

    async def _relay(self, slot: Slot) -> None:
        """Pass the provider's events on, stamped, within the waits allowed per phase."""
        request, route = self.request, self.route
        # Ollama keeps its own time, and takes it from every request. The cores are shared with what
        # was started together with this request, and with what runs already.
        together = max(request.parallel, 1 + self._parts.generating_besides(route.model))
        request = replace(request, keep_alive_s=self._keep_alive_s, parallel=together)
        loop = asyncio.get_running_loop()
        wait_s, phase = self._limit_s("first_token_s"), "for the first token"
        self.draft.sent = sent = time.monotonic_ns()
        self._parts.generations.begin(request.session_id, sent)
        if not route.provider.stamps_apart:
            self.draft.lateness = Lateness(self._parts.lag, sent)
        self.mailbox.put(PromptEvent(request.session_id, sent))
        events = guard.guarded(
            route.provider, request, route.name, self.draft.seed, self.cancel, sent
        )
        # A worker that does not stop is killed after the grace: this is for what cannot be killed.
        grace_s = self._parts.settings.workbench_cancel_grace_s
        patience = asyncio.timeout(wait_s)

        def hurry(left_s: float = 2 * grace_s) -> None:
            with contextlib.suppress(RuntimeError):  # the stream has ended meanwhile
                patience.reschedule(loop.time() + left_s)

        async def read() -> None:
            nonlocal wait_s, phase
            async with contextlib.aclosing(events):
                async for event in events:
                    match event:
                        case ProviderToken():
                            self._take_token(event)
                            slot.progress.token(event.n_tokens)
                            wait_s, phase = self._limit_s("between_tokens_s"), "between tokens"
                            hurry(2 * grace_s if self.cancel.cancelled else wait_s)
                        case ProviderToolCall():
                            self._take_call(event)
                        case ProviderWarning():
                            self._warn(event)
                        case ProviderFinish():
                            self.draft.finish = event
                            self._say_what_ended_it(event)

        answer = Apart(read(), f"answer of {route.model}", grace_s)
        try:
            async with patience:
                # A stop may come from anywhere, also from outside of the event loop.
                self.cancel.on_cancel = partial(loop.call_soon_threadsafe, hurry)
                if self.cancel.cancelled:
                    hurry()
                await answer.ended()
        except TimeoutError:
            if not patience.expired():
                raise  # the total time is over, not this wait
            if not self.cancel.cancelled:
                self.cancel.cancel("timeout")
                raise self._timeout(phase, wait_s) from None
            if not answer.left:
                self._warn(guard.stop_ignored(route.provider.name))
        finally:
            self.cancel.on_cancel = None
            if answer.left:
                self._warn(guard.stop_ignored(route.provider.name, left=True))

    def _say_what_ended_it(self, finish: ProviderFinish) -> None:
        draft, options = self.draft, self.request.options
        context = draft.resident.context_length if draft.resident else None
        for warning in cutoff.warnings(finish, options, draft.tokens, context):
            self._warn(warning)

    def _take_token(self, token: ProviderToken) -> None:
        self.draft.tokens.append(token)
        if self.draft.lateness is not None and token.n_tokens:
            self.draft.lateness.token(token.t_ns)
        self.mailbox.put(
            TokenEvent(
                session_id=self.request.session_id,
                seq=self._seq,
                text=token.text,
                n_tokens=token.n_tokens,
                channel=token.channel,
                t_ns=token.t_ns,
                logprobs=token.logprobs,
            )
        )
        self._seq += 1

    def _take_call(self, event: ProviderToolCall) -> None:
        call = event.call
        self.draft.tool_calls.append(call)
        self.mailbox.put(
            ToolCallEvent(self.request.session_id, call.id, call.name, call.arguments, event.t_ns)
        )

    def _warn(self, warning: ProviderWarning) -> None:
        self.draft.warnings.append(warning)
        self.mailbox.put(
            WarningEvent(
                self.request.session_id, warning.code, warning.message, time.monotonic_ns()
            )
        )

    async def _watch_memory(self) -> None:
        loop, name = asyncio.get_running_loop(), self.route.name

        def show(reading: MemoryReading) -> None:
            event = MemoryEvent(
                self.request.session_id, reading.pss_bytes, reading.gpu_bytes, reading.t_ns
            )
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody looks any more
                loop.call_soon_threadsafe(self.mailbox.put, event)

        def pids() -> Sequence[int]:
            return guard.pids(self.route.provider, name)

        monitor = self._parts.monitor
        # Changing to a thread and back takes longer than all else before the request is sent.
        self.draft.watch = monitor.watch_at_rest(pids, show) or await asyncio.to_thread(
            monitor.watch, pids, show
        )

    async def _conclude(self, error: WorkbenchError | None) -> None:
        """Log the row and give the last event; no defect on the way may keep the reader waiting."""
        end = time.monotonic_ns()
        try:
            try:
                if self.draft.watch is not None:
                    await asyncio.to_thread(self._parts.monitor.unwatch, self.draft.watch)
                session = await self._hand_in(self._row(end, error))
            except Exception as failure:
                unmapped = self._unforeseen(failure)
                session = self._row(end, error or unmapped)
                with contextlib.suppress(Exception):
                    await self._store(session)
            self._parts.on_end(session, self.request)
            session_id = self.request.session_id
            if session.error is not None:
                self.mailbox.put(ErrorEvent(session_id, session.error, session, end))
            else:
                self.mailbox.put(DoneEvent(session_id, session, end))
        finally:
            self.mailbox.close()

    def _row(self, end: int, error: WorkbenchError | None) -> StreamSession:
        overlap_ns = self._overlap_ns(end)
        try:
            return self.draft.row(end, error, overlap_ns)
        except Exception as failure:
            unmapped = self._unforeseen(failure)
            return self.draft.bare(end, error or unmapped, overlap_ns)

    def _unforeseen(self, failure: Exception) -> WorkbenchError:
        """A bug of ours: the row must still be written."""
        _log.error("stream_failed", exc_info=failure)
        return unforeseen(failure, "stream", provider=self.route.provider.name)

    async def _hand_in(self, session: StreamSession) -> StreamSession:
        """Log the row; returned with a warning where it is not in the log."""
        if (problem := await self._store(session)) is not None:
            never = problem.code is ErrorCode.INVALID_REQUEST
            what = "cannot be logged" if never else "is not in the log yet"
            self._warn(ProviderWarning(problem.code, f"This answer {what}: {problem}"))
            session = replace(session, warnings=tuple(self.draft.warnings))
        _log.info(
            "stream",
            status=session.status,
            error_code=session.error.code if session.error else None,
            output_tokens=session.output_tokens,
            ttft_s=session.metrics.get("ttft_s"),
            e2e_s=session.metrics.get("e2e_s"),
        )
        return session

    async def _store(self, session: StreamSession) -> WorkbenchError | None:
        readings = self.draft.watch.readings if self.draft.watch else []
        samples = [row for reading in readings for row in samples_of(session, reading)]
        try:
            receipt = self._parts.store.log_session(session, self.request.messages, samples)
        except WorkbenchError as problem:
            return problem
        receipt.add_done_callback(self._forget_journal)
        return await why_not_stored(self._parts.store, receipt)

    def _forget_journal(self, receipt: Future[None]) -> None:
        error = receipt.exception()
        # A row that the log has no room for would be refused at the next start too.
        if error is None or getattr(error, "code", None) is ErrorCode.INVALID_REQUEST:
            self._parts.journal.end(self.request.session_id)

    def _overlap_ns(self, end: int) -> int:
        if (sent := self.draft.sent) is None:
            return 0
        return self._parts.generations.overlap(self.request.session_id, sent, end)

    def journal(
        self, position: int, readings: int
    ) -> tuple[Mapping[str, Any], list[list[Any]], list[list[Any]]]:
        """What the journal keeps of it now; called from the journal's thread."""
        draft, now = self.draft, time.monotonic_ns()
        outline = draft.outline(now, Status.ACTIVE, None, None, self._overlap_ns(now))
        memory = draft.watch.readings[readings:] if draft.watch else []
        return (
            wire.encode_session(outline),
            journal_tokens(draft.tokens[position:]),
            journal_memory(memory),
        )

    def _stopping(self) -> WorkbenchError:
        """What a call that the server's end has cut is told."""
        where = {"queued": "waited", "loading": "waited for its load"}.get(self.draft.phase, "ran")
        return WorkbenchError(
            ErrorCode.SERVER_STOPPING,
            f"The server was stopped while the request {where}.",
            fix="Ask again when it runs.",
            retry_after_s=_STARTED_AGAIN_S,
            operation="stream",
            provider=self.route.provider.name,
            details={"termination_reason": "shutdown"},
        )

    def _limit_s(self, phase: Limited) -> float:
        return limit_s(self.request, self._parts.settings, phase)

    def _timeout(self, phase: str, limit_s: float) -> WorkbenchError:
        provider = self.route.provider.name
        ours = self.route.provider.loads
        other = (
            "choose a smaller model" if ours else f"see what keeps the server of {provider} busy"
        )
        return WorkbenchError(
            _TIMEOUT_CODE.get(hosts.family(provider), ErrorCode.TIMEOUT),
            f"{self.route.model} took longer than {limit_s:g} s {phase}.",
            fix=f"Raise the limit in timeouts, or {other}.",
            operation="stream",
            provider=provider,
            details={"phase": phase, "limit_s": limit_s},
        )
