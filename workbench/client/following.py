"""What all parts of :class:`workbench.client.Workbench` have: a transport, and jobs to wait for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from workbench.client.transport import Transport
from workbench.errors import ErrorCode, WorkbenchError
from workbench.jobs import Job

_POLL_S: Final = 0.2
_STOP_S: Final = 3.0


class Following:
    """Calls that may take long: the work is followed to its end, and stopped with the caller."""

    _transport: Transport

    def _follow(self, job: Job, on_progress: Callable[[Job], None]) -> Mapping[str, Any]:
        try:
            while not job.ended:
                on_progress(job)
                job = self._transport.wait_for_job(job.id, _POLL_S)
        except BaseException:  # Ctrl+C, or an interrupted cell: the work must not go on
            self._transport.cancel_job(job.id)
            self._transport.wait_for_job(job.id, _STOP_S)
            raise
        on_progress(job)
        if job.error is not None:
            raise job.error
        if job.result is None:
            raise WorkbenchError(
                ErrorCode.CANCELLED, f"The {job.kind} was stopped.", operation=job.kind
            )
        return job.result
