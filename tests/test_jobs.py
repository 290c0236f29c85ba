"""Jobs: bounded, joined, watched, stopped, forgotten in time."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from workbench.errors import ErrorCode, WorkbenchError, invalid
from workbench.jobs import Job, JobRegistry, Reporter

SOON = 20.0


class Gate:
    """Work that goes on when it is told to."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, report: Reporter, cancelled: threading.Event) -> Mapping[str, Any]:
        report("half", 5, 10)
        self.began.set()
        while not self.go_on.wait(0.01):
            if cancelled.is_set():
                raise WorkbenchError(ErrorCode.CANCELLED, "Stopped.")
        return {"answer": 42}


def test_progress_and_result_are_seen() -> None:
    jobs, gate = JobRegistry(1, 10), Gate()
    job = jobs.submit("download", "m", gate)
    assert gate.began.wait(SOON)
    running = jobs.get(job.id)
    assert (running.status, running.bytes_done, running.bytes_total) == ("running", 5, 10)
    gate.go_on.set()
    done = jobs.wait(job.id, SOON)
    assert (done.status, done.result, done.ended) == ("done", {"answer": 42}, True)
    assert Job.from_dict(done.to_dict()) == done


def test_the_same_wish_joins_and_another_waits_its_turn() -> None:
    jobs, first, second = JobRegistry(1, 10), Gate(), Gate()
    a = jobs.submit("download", "a", first)
    assert jobs.submit("download", "a", second).id == a.id
    b = jobs.submit("download", "b", second)
    assert b.status == "queued"
    assert not second.began.is_set()
    first.go_on.set()
    assert second.began.wait(SOON)
    second.go_on.set()
    assert jobs.wait(b.id, SOON).status == "done"
    assert jobs.submit("download", "a", first).id != a.id


def test_running_and_queued_jobs_can_be_stopped() -> None:
    jobs, first, second = JobRegistry(1, 10), Gate(), Gate()
    ends: list[tuple[str, str]] = []

    def ended(job: Job, seconds: float) -> None:
        ends.append((job.model, job.status))

    a = jobs.submit("download", "a", first, ended)
    b = jobs.submit("download", "b", second, ended)
    assert jobs.cancel(b.id).status == "cancelled"
    jobs.cancel(a.id)
    assert jobs.wait(a.id, SOON).status == "cancelled"
    assert ends == [("b", "cancelled"), ("a", "cancelled")]
    assert not second.began.is_set()
    assert jobs.cancel(a.id).status == "cancelled"


def test_failures_are_told_and_unexpected_ones_named() -> None:
    jobs = JobRegistry(2, 10)

    def explained(report: Reporter, cancelled: threading.Event) -> Mapping[str, Any]:
        raise invalid("No.", fix="Yes.")

    def surprising(report: Reporter, cancelled: threading.Event) -> Mapping[str, Any]:
        raise ZeroDivisionError("by zero")

    known = jobs.wait(jobs.submit("x", "a", explained).id, SOON)
    assert (known.status, known.error.code if known.error else None) == (
        "error",
        ErrorCode.INVALID_REQUEST,
    )
    surprise = jobs.wait(jobs.submit("x", "b", surprising).id, SOON)
    assert surprise.error is not None
    assert "ZeroDivisionError" in surprise.error.message


def test_only_the_last_are_remembered() -> None:
    jobs = JobRegistry(1, 2)
    ids = []
    for number in range(4):
        gate = Gate()
        gate.go_on.set()
        ids.append(jobs.submit("x", str(number), gate).id)
        jobs.wait(ids[-1], SOON)
    assert [job.id for job in jobs.list()] == [ids[3], ids[2]]
    with pytest.raises(WorkbenchError) as caught:
        jobs.get(ids[0])
    assert caught.value.code is ErrorCode.JOB_NOT_FOUND
    assert caught.value.http_status == 404


def test_closing_stops_all() -> None:
    jobs, gate = JobRegistry(1, 10), Gate()
    job = jobs.submit("x", "a", gate)
    jobs.close(SOON)
    assert jobs.get(job.id).status == "cancelled"
