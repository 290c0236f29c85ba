"""Runs trials: a chain at a time, every one over the road and into the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from workbench.bench.asking import follow_up, request
from workbench.bench.plan import Cell, Chain, Trial
from workbench.bench.recording import Recorder, trial_row
from workbench.bench.road import Road
from workbench.bench.spec import Spec
from workbench.errors import ErrorCode, WorkbenchError
from workbench.metrics import NS
from workbench.types import (
    ChatRequest,
    Message,
    SessionEvent,
    Status,
    StreamEvent,
    StreamSession,
    TokenEvent,
    new_id,
)

Finished = Callable[[Trial, StreamSession | None, str], None]
"""Told of each trial that is done: its session (None: refused before there was one), its status."""


class Trials:
    """The trials of one run.

    Args:
        road: the way to the models.
        recorder: takes their rows.
        spec: whose.
        run_id: of the run.
        on_finished: told of each.
    """

    def __init__(
        self,
        road: Road,
        recorder: Recorder,
        spec: Spec,
        run_id: str,
        on_finished: Finished,
    ) -> None:
        self._road = road
        self._recorder = recorder
        self._spec = spec
        self._run_id = run_id
        self.logprobs: dict[str, int] = {}
        """By task, how many alternatives of the first token a scorer wants."""
        self._on_finished = on_finished
        self._limits = spec.slo.limits if spec.slo is not None else None
        self._in_a_row: dict[str, int] = {}
        self.given_up: dict[str, WorkbenchError] = {}
        """By cell, why it is not run any further."""

    async def warm_up(self, cell: Cell, like: Trial) -> None:
        """Answers that count for nothing; the cell is given up if none of them succeeds."""
        problem: WorkbenchError | None = None
        for number in range(self._spec.warm_ups):
            trial = Trial(cell, like.number + number, like.question, like.repeat)
            try:
                asked = request(
                    self._spec,
                    self._run_id,
                    trial,
                    conversation_id=new_id("con"),
                    warm_up=True,
                )
                session = await self._road.ask(asked, lambda event: None)
                problem = session.error
            except WorkbenchError as error:
                problem = error
            if problem is None:
                return
        if problem is not None:
            self.given_up[cell.cell_id] = problem

    async def chain(self, chain: Chain, intended_ns: int, block: int, think_s: float) -> None:
        """Run a chain that was to start at a moment (monotonic ns); what fails is logged."""
        history: list[Message] = []
        conversation_id = new_id("con")
        for trial in chain:
            if trial.cell.cell_id in self.given_up:
                return
            if trial.turn:
                if think_s:
                    await asyncio.sleep(think_s)
                intended_ns = time.monotonic_ns()
            if trial.cell.load.get("variant") == "cold" and not await self._cool(trial, block):
                continue
            session = await self._trial(trial, history, conversation_id, intended_ns, block)
            if session is None or session.status is not Status.OK:
                return
            asked = () if not trial.turn else (Message("user", follow_up(trial)),)
            history += (*asked, Message("assistant", session.text))

    async def _cool(self, trial: Trial, block: int) -> bool:
        """Out of memory, so that the next request must load; False if it would not go."""
        try:
            await self._road.unload(trial.cell.model)
        except WorkbenchError as error:
            await self._conclude(trial, None, error, block, {})
            return False
        return True

    async def _trial(
        self,
        trial: Trial,
        history: list[Message],
        conversation_id: str,
        intended_ns: int,
        block: int,
    ) -> StreamSession | None:
        task = trial.cell.workload.questions[trial.question].task
        logprobs = self.logprobs.get(task, 0)
        session, problem, details = None, None, {}
        try:
            asked = request(
                self._spec,
                self._run_id,
                trial,
                history=history,
                conversation_id=conversation_id,
                intended_ns=intended_ns,
                logprobs=logprobs,
            )
            watch = _Watch(self._road, asked, trial.stop_after, bool(logprobs))
            session = await self._road.ask(asked, watch.take)
            details = watch.details(session)
        except WorkbenchError as error:
            problem = error
        await self._conclude(trial, session, problem, block, details)
        return session

    async def _conclude(
        self,
        trial: Trial,
        session: StreamSession | None,
        problem: WorkbenchError | None,
        block: int,
        details: Mapping[str, Any],
    ) -> None:
        """Count it, log it, and give its cell up after too many failures one after another."""
        error = problem if session is None else session.error
        status = session.status.value if session is not None else _status(error)
        cell_id = trial.cell.cell_id
        self._in_a_row[cell_id] = self._in_a_row.get(cell_id, 0) + 1 if status == "error" else 0
        if error is not None and self._in_a_row[cell_id] >= self._spec.stop.failures:
            self.given_up.setdefault(cell_id, error)
        told = {"block": block, **details}
        if session is None and error is not None:
            told["error"] = error.to_dict()
        row = trial_row(
            self._run_id,
            self._spec,
            trial,
            session_id=session.session_id if session is not None else None,
            status=status,
            met=self._met(trial, session),
            details=told,
        )
        self._on_finished(trial, session, status)
        await self._recorder.add("benchmark_trials", row)

    def _met(self, trial: Trial, session: StreamSession | None) -> bool | None:
        """Every SLO kept; what failed, or has no such figure, kept none."""
        if self._limits is None or trial.stop_after is not None:
            return None
        if session is None or session.status is not Status.OK or session.fallback_from:
            return False
        values = ((session.metrics.get(name), limit) for name, limit in self._limits.items())
        return all(value is not None and value <= limit for value, limit in values)


class _Watch:
    """Looks at the events of one trial: stops it on purpose, keeps the first token's alternatives.

    Args:
        road: to stop it.
        asked: the request.
        stop_after: tokens; None lets it end.
        first: whether a scorer wants the first token's alternatives.
    """

    def __init__(self, road: Road, asked: ChatRequest, stop_after: int | None, first: bool) -> None:
        self._road = road
        self._session_id = asked.session_id
        self._stop_after = stop_after
        self._wants_first = first
        self._first: tuple[Mapping[str, Any], ...] = ()
        self._tokens = 0
        self._stopped_ns: int | None = None
        self._stopping: asyncio.Task[None] | None = None

    def take(self, event: StreamEvent) -> None:
        """The next event."""
        if isinstance(event, SessionEvent):
            self._session_id = event.session_id
        if not isinstance(event, TokenEvent):
            return
        self._tokens += event.n_tokens
        if self._wants_first and not self._first and event.channel == "content":
            self._first = event.logprobs[:1]
        reached = self._stop_after is not None and self._tokens >= self._stop_after
        if reached and self._stopping is None:
            self._stopped_ns = time.monotonic_ns()
            self._stopping = asyncio.ensure_future(self._road.cancel(self._session_id))

    def details(self, session: StreamSession) -> dict[str, Any]:
        """What is worth a place in the trial's row."""
        found: dict[str, Any] = {}
        if self._first:
            found["first"] = list(self._first)
        if self._stopped_ns is not None:
            found["stop_s"] = (session.stamps.end - self._stopped_ns) / NS
        return found


def _status(error: WorkbenchError | None) -> str:
    """The status of what was refused before it was a session."""
    refused = (ErrorCode.QUEUE_FULL, ErrorCode.RATE_LIMITED)
    return "rejected" if error is not None and error.code in refused else "error"
