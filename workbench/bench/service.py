"""The run that a server has under way: one at a time, whoever watches.

It goes over the same road as everything else, at the priority of benchmarks; closing the page that
started it changes nothing. A stopped server leaves a run that can be resumed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from workbench import logs
from workbench.bench import checking, library
from workbench.bench.evidence import as_mapping
from workbench.bench.progress import Outcome, Progress
from workbench.bench.road import Road
from workbench.bench.runner import Runner
from workbench.bench.spec import Spec
from workbench.errors import ErrorCode, WorkbenchError, invalid, unforeseen
from workbench.procfs import is_alive
from workbench.settings import Settings
from workbench.types import new_id

_log = logs.get(__name__)

_Make = Callable[[Callable[[Progress], None]], Awaitable[Runner]]


class Benchmarks:
    """Starts, watches and stops it; all in one event loop.

    Args:
        road: the way to the models and to the log.
        settings: bounds.
        source: what the log says of the requests that are not trials.
    """

    def __init__(self, road: Road, settings: Settings, source: str = "bench") -> None:
        self._road = road
        self._settings = settings
        self._source = source
        self._starting = asyncio.Lock()
        self._task: asyncio.Task[Outcome] | None = None
        self.progress: Progress | None = None
        """Of the run that is under way, or of the last one that was."""
        self.problem: WorkbenchError | None = None
        """Why the last run broke off."""
        self.stopping = False
        self.ended = 0
        """Runs that have ended since the server began."""

    @property
    def running(self) -> bool:
        """Whether a run is under way."""
        return self._task is not None and not self._task.done()

    async def check(self, found: library.Outline) -> list[str]:
        """What a run would go on without, and whether it would begin; see :func:`checking.check`.

        Raises:
            WorkbenchError: ``MODEL_NOT_FOUND`` and the like, as :meth:`start` would.
        """
        return await checking.check(self._road, found.spec, found.models, found.judges)

    async def start(self, spec: Spec, folder: Path | None = None) -> Progress:
        """Begin a run; returns once its first trial may begin.

        Args:
            spec: what to run.
            folder: what its relative paths start from; None: the folder of own benchmarks.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``: another run is under way; or what is wrong with a
                dataset or scorer, nothing was run then.
        """

        async def make(on_start: Callable[[Progress], None]) -> Runner:
            where = folder or library.folder(self._settings)
            return Runner(self._road, self._settings, spec, folder=where, on_start=on_start)

        return await self._begin(make)

    async def resume(self, name: str) -> Progress:
        """Go on with a run that was stopped or killed.

        Raises:
            WorkbenchError: as :meth:`start`, and where there is nothing to resume.
        """

        async def make(on_start: Callable[[Progress], None]) -> Runner:
            return await Runner.resume(self._road, self._settings, name, on_start=on_start)

        return await self._begin(make)

    async def stop(self) -> None:
        """Stop the run, if there is one; returns when what it has is in the log."""
        task = self._task
        if task is None or task.done():
            return
        self.stopping = True
        task.cancel()
        await asyncio.wait({task})

    async def _begin(self, make: _Make) -> Progress:
        async with self._starting:
            await self._refuse_second()
            begun, found = asyncio.Event(), list[Progress]()

            def on_start(progress: Progress) -> None:
                self.progress, self.problem = progress, None
                found.append(progress)
                begun.set()

            def over(task: asyncio.Task[Outcome]) -> None:
                begun.set()
                if not task.cancelled():
                    task.exception()  # told by `problem`

            with logs.correlation(new_id("cor"), source=self._source):
                task = asyncio.create_task(self._run(make, on_start), name="benchmark")
            self._task, self.stopping = task, False
            task.add_done_callback(over)
            await begun.wait()
            if found:
                return found[0]
            if task.cancelled():
                raise WorkbenchError(
                    ErrorCode.CANCELLED, "It was stopped before it began.", operation="bench"
                )
            await task  # raises why it could not begin
            raise AssertionError("a run that ended without having begun")

    async def _run(self, make: _Make, on_start: Callable[[Progress], None]) -> Outcome:
        begun = False

        def told(progress: Progress) -> None:
            nonlocal begun
            begun = True
            on_start(progress)

        try:
            return await (await make(told)).run()
        except WorkbenchError as problem:
            if begun:
                self.problem = problem
            raise
        except Exception as failure:
            _log.exception("benchmark_failed")
            self.problem = unforeseen(failure, "bench")
            raise self.problem from failure
        finally:
            self.ended += begun

    async def _refuse_second(self) -> None:
        """A second run beside the first would measure the two of them."""
        if self.running:
            name = self.progress.name if self.progress else "another one"
            raise invalid(
                f"A benchmark is under way: {name}.",
                fix="Wait for its end, or stop it: two at once would measure each other.",
            )
        active = await self._road.rows(
            "SELECT run_id, name, details FROM benchmark_runs WHERE status = 'active'", {}
        )
        for row in active:
            process = as_mapping(as_mapping(row["details"]).get("process"))
            if process.get("pid") != os.getpid() and is_alive(process):
                raise invalid(
                    f"A benchmark is under way in a terminal: {row['name']} "
                    f"(process {process['pid']}).",
                    fix="Wait for its end, or stop it there: two at once would measure each other.",
                )
