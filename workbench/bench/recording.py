"""What a run leaves in the log while it runs: its row, its cells, its trials and scores."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from workbench.background import Background
from workbench.bench.asking import prefix_of
from workbench.bench.plan import Cell, Trial
from workbench.bench.road import Road
from workbench.bench.spec import Spec

if TYPE_CHECKING:
    from workbench.store.rows import Mode

_EVERY_S: Final = 0.25
"""A finished trial is in the log after this long."""
_MOST_ROWS: Final = 500
_MOST_WAITING: Final = 5_000
"""Rows that may wait for the log before trials wait for it."""


def now() -> dt.datetime:
    """The time of a row."""
    return dt.datetime.now(dt.UTC)


class Recorder(Background):
    """Writes rows in groups, in the background; :meth:`flush` waits until all are on disk.

    Args:
        road: the way to the log.
    """

    def __init__(self, road: Road) -> None:
        self._road = road
        self._waiting: dict[str, list[Mapping[str, Any]]] = {}
        self._count = 0
        self._writing = asyncio.Lock()
        self._failed: BaseException | None = None

    async def add(self, table: str, row: Mapping[str, Any]) -> None:
        """Take a row; waits only when the log is far behind.

        Raises:
            WorkbenchError: the log took no rows any more.
        """
        if self._failed is not None:
            raise self._failed
        self._waiting.setdefault(table, []).append(row)
        self._count += 1
        if self._count > _MOST_WAITING:
            await self.flush()

    async def flush(self) -> None:
        """Wait until every row so far is on disk."""
        async with self._writing:
            waiting, self._waiting, self._count = self._waiting, {}, 0
            for table, rows in waiting.items():
                mode: Mode = "replace" if table == "benchmark_trials" else "add"
                for begin in range(0, len(rows), _MOST_ROWS):
                    await self._road.log(table, rows[begin : begin + _MOST_ROWS], mode)

    async def close(self) -> None:
        """Write what waits and stop."""
        await super().close()
        await self.flush()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            # Shielded: rows that were taken out to be written must not be lost with the task.
            writing = asyncio.ensure_future(self.flush())
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                await writing
                raise
            except Exception as error:  # told by the next add
                self._failed = error
                return


def run_row(
    run_id: str,
    spec: Spec,
    *,
    created_at: dt.datetime,
    status: str,
    details: Mapping[str, Any],
    environment_id: str | None = None,
    finished: bool = False,
) -> dict[str, Any]:
    """The row of ``benchmark_runs``."""
    return {
        "run_id": run_id,
        "created_at": created_at,
        "finished_at": now() if finished else None,
        "name": spec.name,
        "status": status,
        "timing_mode": spec.mode.value,
        "seed": spec.seed,
        "spec": spec.to_dict(),
        "environment_id": environment_id,
        "details": dict(details),
    }


def cell_row(
    run_id: str,
    spec: Spec,
    cell: Cell,
    *,
    created_at: dt.datetime,
    status: str,
    trials: int | None,
    results: Mapping[str, Any] | None = None,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The row of ``benchmark_cells``."""
    return {
        "cell_id": cell.cell_id,
        "run_id": run_id,
        "position": cell.position,
        "created_at": created_at,
        "finished_at": None if results is None and status == "active" else now(),
        "model": cell.model,
        "options": dict(cell.options),
        "load": dict(cell.load),
        "status": status,
        "warmups": spec.warm_ups,
        "trials": trials,
        "results": dict(results) if results is not None else None,
        "details": {
            "workload": cell.workload.to_dict(),
            **({"own": dict(cell.own), "common": dict(cell.common)} if cell.own else {}),
            **(details or {}),
        },
    }


def trial_row(
    run_id: str,
    spec: Spec,
    trial: Trial,
    *,
    session_id: str | None,
    status: str,
    met: bool | None,
    details: Mapping[str, Any],
) -> dict[str, Any]:
    """The row of ``benchmark_trials``."""
    question = trial.cell.workload.questions[trial.question]
    return {
        "cell_id": trial.cell.cell_id,
        "trial": trial.number,
        "run_id": run_id,
        "created_at": now(),
        "session_id": session_id,
        "task": question.task,
        "item": question.item.id,
        "family": question.item.family,
        "repeat": trial.repeat,
        "turn": trial.turn,
        "prefix": prefix_of(spec, trial.cell),
        "cancelled_on_purpose": trial.stop_after is not None,
        "status": status,
        "met": met,
        "details": dict(details),
    }
