"""Jobs: long work on disk that runs in a thread of its own, can be watched and can be stopped."""

from __future__ import annotations

import contextvars
import datetime as dt
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, Protocol

from workbench import logs
from workbench.errors import ErrorCode, WorkbenchError, unforeseen
from workbench.types import new_id

JobStatus = Literal["queued", "running", "done", "error", "cancelled"]
_ENDED: Final = ("done", "error", "cancelled")
_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """One job as it was when asked for.

    ``bytes_done`` counts what is on disk, what an earlier try had brought included;
    ``bytes_total`` is None until it is known. ``result`` is what the work gave when it is done.
    """

    id: str
    kind: str
    model: str
    created_at: dt.datetime
    status: JobStatus = "queued"
    bytes_done: int = 0
    bytes_total: int | None = None
    message: str = ""
    error: WorkbenchError | None = None
    result: Mapping[str, Any] | None = None
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in _ENDED

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        values = asdict(replace(self, error=None))
        values["error"] = self.error.to_dict() if self.error else None
        for name in _TIMES:
            values[name] = values[name].isoformat() if values[name] else None
        return values

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Job:
        """The job that :meth:`to_dict` described."""
        values = dict(body)
        values["error"] = WorkbenchError.from_dict(body["error"]) if body["error"] else None
        for name in _TIMES:
            values[name] = dt.datetime.fromisoformat(body[name]) if body[name] else None
        return cls(**values)


_TIMES: Final = ("created_at", "started_at", "ended_at")


class Reporter(Protocol):
    """How work tells what it has reached; None leaves a figure as it is."""

    def __call__(self, message: str, done: int | None = None, total: int | None = None) -> None:
        """Receive a step."""
        ...


Work = Callable[[Reporter, threading.Event], Mapping[str, Any]]
"""Blocking work; it watches the event and then raises ``CANCELLED`` soon."""


@dataclass(slots=True)
class _Entry:
    job: Job
    work: Work
    cancelled: threading.Event
    on_end: Callable[[Job, float], None]
    context: contextvars.Context
    """Of who asked for it, for the log."""


class JobRegistry:
    """Runs jobs, a bounded number at once, and remembers the last ones. Thread-safe.

    Args:
        max_running: how many run at the same time; further ones are ``queued``.
        history: how many ended ones are remembered.
    """

    def __init__(self, max_running: int, history: int) -> None:
        self._max_running = max_running
        self._history = history
        self._lock = threading.Condition()
        self._entries: dict[str, _Entry] = {}
        self._waiting: deque[_Entry] = deque()
        self._running = 0

    def submit(
        self,
        kind: str,
        model: str,
        work: Work,
        on_end: Callable[[Job, float], None] = lambda job, seconds: None,
    ) -> Job:
        """Begin a job, or join the one of this kind and model that has not ended yet.

        Args:
            kind: what it does, ``download`` for example.
            model: id of the model concerned.
            work: what is run in a thread.
            on_end: is told the ended job and how many seconds it ran, in that thread.
        """
        with self._lock:
            for entry in self._entries.values():
                if not entry.job.ended and (entry.job.kind, entry.job.model) == (kind, model):
                    return entry.job
            job = Job(new_id("job"), kind, model, dt.datetime.now(dt.UTC))
            entry = _Entry(job, work, threading.Event(), on_end, contextvars.copy_context())
            self._entries[job.id] = entry
            self._waiting.append(entry)
            self._start_waiting()
            return entry.job

    def get(self, job_id: str) -> Job:
        """One job.

        Raises:
            WorkbenchError: ``JOB_NOT_FOUND``.
        """
        with self._lock:
            return self._entry(job_id).job

    def list(self) -> list[Job]:
        """All that are remembered, the newest first."""
        with self._lock:
            return [entry.job for entry in reversed(self._entries.values())]

    def cancel(self, job_id: str) -> Job:
        """Stop a job; no error if it has ended. It is ``cancelled`` when its work has stopped."""
        with self._lock:
            entry = self._entry(job_id)
            entry.cancelled.set()
            if entry in self._waiting:
                self._waiting.remove(entry)
                self._end(entry, "cancelled", error=None, seconds=0.0)
            return entry.job

    def wait(self, job_id: str, timeout_s: float | None = None) -> Job:
        """Block until the job has ended or the time is over."""
        with self._lock:
            entry = self._entry(job_id)
            self._lock.wait_for(lambda: entry.job.ended, timeout_s)
            return entry.job

    def close(self, timeout_s: float) -> None:
        """Stop all and wait for their ends, at most ``timeout_s``."""
        for job in self.list():
            self.cancel(job.id)
        with self._lock:
            self._lock.wait_for(lambda: not self._running, timeout_s)

    def _entry(self, job_id: str) -> _Entry:
        entry = self._entries.get(job_id)
        if entry is None:
            raise WorkbenchError(
                ErrorCode.JOB_NOT_FOUND,
                f"There is no job {job_id[:60]!r}.",
                fix="Only the last jobs of this server are remembered (WORKBENCH_JOB_HISTORY); "
                "see GET /api/v1/jobs.",
                operation="job",
            )
        return entry

    def _start_waiting(self) -> None:
        while self._waiting and self._running < self._max_running:
            entry = self._waiting.popleft()
            self._running += 1
            now = dt.datetime.now(dt.UTC)
            entry.job = replace(entry.job, status="running", started_at=now)
            # A daemon: what a job leaves behind can be taken up again, so nothing waits for it.
            threading.Thread(
                target=entry.context.run, args=(self._run, entry), daemon=True, name=entry.job.id
            ).start()

    def _run(self, entry: _Entry) -> None:
        started = time.monotonic()
        status: JobStatus = "error"
        error: WorkbenchError | None = None
        result: Mapping[str, Any] | None = None
        try:
            result = entry.work(self._reporter(entry), entry.cancelled)
            status = "done"
        except WorkbenchError as problem:
            error = problem
            status = "cancelled" if problem.code is ErrorCode.CANCELLED else "error"
        except Exception as problem:
            _log.error("job_failed", job=entry.job.id, exc_info=problem)
            error = unforeseen(problem, entry.job.kind)
        with self._lock:
            self._running -= 1
            self._end(entry, status, error, time.monotonic() - started, result)
            self._start_waiting()

    def _end(
        self,
        entry: _Entry,
        status: JobStatus,
        error: WorkbenchError | None,
        seconds: float,
        result: Mapping[str, Any] | None = None,
    ) -> None:
        entry.job = replace(
            entry.job,
            status=status,
            error=error,
            result=result,
            ended_at=dt.datetime.now(dt.UTC),
        )
        # Told before anyone sees the end: who has seen it finds it in the log.
        entry.on_end(entry.job, seconds)
        ended = [job_id for job_id, item in self._entries.items() if item.job.ended]
        for job_id in ended[: max(len(ended) - self._history, 0)]:
            del self._entries[job_id]
        self._lock.notify_all()

    def _reporter(self, entry: _Entry) -> Reporter:
        def report(message: str, done: int | None = None, total: int | None = None) -> None:
            with self._lock:
                entry.job = replace(
                    entry.job,
                    message=message,
                    bytes_done=entry.job.bytes_done if done is None else done,
                    bytes_total=entry.job.bytes_total if total is None else total,
                )

        return report
