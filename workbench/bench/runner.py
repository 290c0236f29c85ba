"""Runs a benchmark: blocks in the order of the plan, every trial over the one road.

What is done is in the log at once, so that a run can be stopped, or killed, and resumed: the plan
is the same again, and what has its row is left out. A cell that fails is given up, the others go
on.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from workbench.bench import checking, plan, results, scoring
from workbench.bench.enough import Enough
from workbench.bench.evidence import as_mapping
from workbench.bench.judging import Judges, named
from workbench.bench.listing import NAMED
from workbench.bench.load import knee, loops
from workbench.bench.pairs import Pairs
from workbench.bench.patterns import Sweep
from workbench.bench.plan import Block, Cell, Chain, Trial
from workbench.bench.progress import Outcome, Progress, label
from workbench.bench.recording import (
    Recorder,
    cell_row,
    now,
    run_row,
)
from workbench.bench.road import Road
from workbench.bench.spec import Spec
from workbench.bench.trials import Trials
from workbench.bench.workload import Workload, workloads
from workbench.errors import invalid
from workbench.lag import LagSampler
from workbench.procfs import is_alive, this_process
from workbench.settings import Settings
from workbench.types import StreamSession, new_id

_LAG_INTERVAL_S: Final = 0.02
_MOST_LAGS: Final = 100_000


class Runner:
    """One run of a spec.

    Args:
        road: the way to the models and to the log.
        settings: bounds.
        spec: what to run.
        folder: what relative paths of the spec start from.
        run_id: of the run; None draws one.
        on_start: told the progress, which goes on changing.
    """

    def __init__(
        self,
        road: Road,
        settings: Settings,
        spec: Spec,
        *,
        folder: Path | None = None,
        run_id: str | None = None,
        on_start: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self._road = road
        self._settings = settings
        self._spec = spec
        self._folder = (folder or Path.cwd()).absolute()
        self._run_id = run_id or new_id("run")
        self._on_start = on_start
        self._recorder = Recorder(road)
        self._trials = Trials(road, self._recorder, spec, self._run_id, self._count)
        self._progress = Progress(self._run_id, spec.name)
        self._created_at = now()
        self._details: dict[str, Any] = {}
        self._environment_id: str | None = None
        self._done: dict[str, set[int]] = {}
        self._begun: dict[str, Cell] = {}
        self._begun_at: dict[str, dt.datetime] = {}
        self._ended: set[str] = set()
        self._finished: dict[str, dict[str, Any]] = {}
        self._warm: set[str] = set()
        self._lags: dict[str, list[float]] = {}
        self._sampled: tuple[str, ...] = ()
        self._knees: dict[str, float | None] = {}
        self._built: dict[str, scoring.Built] = {}
        self._block = 0
        self._judges = Judges(road, spec.stop.failures)
        self._unanswered: dict[str, str] = {}
        self._limit: asyncio.Timeout | None = None

    @classmethod
    async def resume(
        cls,
        road: Road,
        settings: Settings,
        name: str,
        *,
        on_start: Callable[[Progress], None] = lambda progress: None,
    ) -> Runner:
        """The rest of a run that was stopped or killed.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``: there is no such run, it is under way or done.
        """
        rows = await road.rows(
            f"FROM benchmark_runs WHERE {NAMED} LIMIT 1",
            {"name": name},
        )
        if not rows:
            raise invalid(f"There is no run {name!r}.", fix="List them: workbench bench list.")
        row = rows[0]
        details = as_mapping(row["details"])
        if row["status"] == "active" and is_alive(details.get("process", {})):
            raise invalid(
                f"The run {row['run_id']} is under way (process {details['process']['pid']}).",
                fix="Stop it there, or wait.",
            )
        if row["status"] == "ok":
            raise invalid(f"The run {row['run_id']} is done.", fix="Run its spec again.")
        runner = cls(
            road,
            settings,
            Spec.of(as_mapping(row["spec"])),
            folder=Path(details["folder"]),
            run_id=row["run_id"],
            on_start=on_start,
        )
        runner._created_at = row["created_at"]
        runner._environment_id = row["environment_id"]
        runner._details = details
        return runner

    async def run(self) -> Outcome:
        """Run what is not done yet.

        Cancelling the task stops the run: it can be resumed.

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` for a dataset or scorer that is wrong, before
                anything runs; what the log says when it takes no rows any more.
        """
        made = workloads(self._spec, self._settings, self._folder)
        fresh = not self._details
        self._check_same(made)
        for workload in made:
            built = scoring.build(workload, self._settings, self._judges)
            self._built[workload.name] = built
            for told in await asyncio.to_thread(scoring.unfit, workload, built):
                self._note(told)
            for task, scorers in built.items():
                self._trials.logprobs[task] = max((one.logprobs for one in scorers), default=0)
        cells = plan.cells(self._spec, self._run_id, made)
        if fresh:
            asked = [cell.model for cell in cells], named(self._spec, made)
            for told in await checking.check(self._road, self._spec, *asked):
                self._note(told)
        await self._look_back()
        await self._write_run("active")
        self._recorder.start()
        lag = LagSampler(self._take_lag, interval_s=_LAG_INTERVAL_S)
        lag.start()
        self._on_start(self._progress)
        status = "error"
        try:
            try:
                async with asyncio.timeout(None) as limit:
                    self._limit = limit
                    if isinstance(self._spec.load, Sweep):
                        await self._sweep(self._spec.load, cells)
                    else:
                        await self._all(cells)
            except TimeoutError:
                if not limit.expired():
                    raise
                self._note(f"stopped after max_s = {self._spec.stop.max_s:g} s")
            for cell_id, cell in self._begun.items():
                if cell_id not in self._ended:
                    await self._finish(cell)
            await self._judge_pairs()
            status = self._status()
        except asyncio.CancelledError:
            status = "cancelled"
            raise
        finally:
            lag.close()
            # A run that is stopped leaves what it has, whoever cancels it meanwhile.
            await asyncio.shield(asyncio.ensure_future(self._close(status)))
        return self.outcome(status)

    def outcome(self, status: str) -> Outcome:
        """What became of it so far."""
        found = [cell["results"] for cell in self._finished.values()]
        found += [{"slo_met": False}] * len(self._trials.given_up)
        return Outcome(
            run_id=self._run_id,
            name=self._spec.name,
            status=status,
            slo_met=results.slo_met(self._spec, found, self._knees, status),
            failed=tuple(self._failed()),
            cells=self._finished,
            knees=self._knees,
            notes=tuple(self._progress.notes),
        )

    def _status(self) -> str:
        """``ok`` if nothing failed, ``partial`` if something did and some cells have answers."""
        trials = {cell_id: cell["results"]["trials"] for cell_id, cell in self._finished.items()}
        if not any(count and cell_id not in self._unanswered for cell_id, count in trials.items()):
            return "error"
        return "partial" if any(self._failed()) else "ok"

    def _failed(self) -> Iterator[str]:
        """What failed. To find a load that is too much is a sweep's job, and no failure."""
        lost = {cell_id: str(error) for cell_id, error in self._trials.given_up.items()}
        lost |= {name: f"every request failed: {why}" for name, why in self._unanswered.items()}
        for cell_id, why in lost.items():
            shown = self._progress.cells[cell_id]
            if not self._bears_less(self._begun[cell_id]):
                yield f"{shown.model} ({shown.label}): {why}"
        yield from self._judges.problems()

    def _bears_less(self, cell: Cell) -> bool:
        """Whether another point of the same sweep has answers."""
        answered = (self._begun[name] for name in self._finished if name not in self._unanswered)
        return any(plan.same_sweep(cell, other) for other in answered)

    # -- before and after

    def _check_same(self, made: Sequence[Workload]) -> None:
        """A resumed run must ask what it asked before."""
        digests = {name: digest for one in made for name, digest in one.digests.items()}
        before = self._details.get("digests")
        if before is not None and before != digests:
            raise invalid(
                "A dataset of this run is not what it was.",
                fix="Put the old file back, or begin a new run.",
            )
        self._details = {
            **self._details,
            "folder": str(self._folder),
            "digests": digests,
            "process": this_process(),
        }

    async def _look_back(self) -> None:
        """What an earlier try has done."""
        rows = await self._road.rows(
            "SELECT cell_id, list(trial) AS trials, max((details->>'$.block')::INTEGER) AS block "
            "FROM benchmark_trials WHERE run_id = $run_id GROUP BY cell_id",
            {"run_id": self._run_id},
        )
        self._done = {row["cell_id"]: set(row["trials"]) for row in rows}
        self._block = max((row["block"] for row in rows), default=-1) + 1
        if rows:
            self._details["resumed"] = [*self._details.get("resumed", ()), now().isoformat()]

    async def _write_run(self, status: str, *, finished: bool = False) -> None:
        row = run_row(
            self._run_id,
            self._spec,
            created_at=self._created_at,
            status=status,
            details=self._details,
            environment_id=self._environment_id,
            finished=finished,
        )
        await self._road.log("benchmark_runs", [row], "replace")

    async def _close(self, status: str) -> None:
        await self._recorder.close()
        for cell_id, cell in self._begun.items():
            if cell_id not in self._ended:
                self._progress.cells[cell_id].phase = "stopped"
                await self._write_cell(cell, status)
        await self._learn_environment()
        outcome = self.outcome(status)
        self._details = {
            **self._details,
            "slo_met": outcome.slo_met,
            "failed": list(outcome.failed),
            "knees": dict(outcome.knees),
            "notes": list(outcome.notes),
        }
        await self._write_run(status, finished=True)

    async def _learn_environment(self) -> None:
        """The environment that the sessions of this run name; several are told of."""
        rows = await self._road.rows(
            "SELECT environment_id, max(seq) AS last FROM stream_sessions "
            "WHERE run_id = $run_id AND environment_id IS NOT NULL GROUP BY 1 ORDER BY last",
            {"run_id": self._run_id},
        )
        if rows:
            self._environment_id = rows[0]["environment_id"]
        if len(rows) > 1:
            self._details["environments"] = [row["environment_id"] for row in rows]
            self._note("the environment changed while it ran: do not compare its halves")

    def _note(self, text: str) -> None:
        if text not in self._progress.notes:
            self._progress.notes.append(text)

    # -- cells

    async def _all(self, cells: Sequence[Cell]) -> None:
        totals = plan.expected(self._spec, cells)
        for cell in cells:
            self._expect(cell, totals[cell.cell_id])
        enough, repeat = Enough(self._spec, cells), 0
        if told := enough.hopeless():
            self._note(told)
        planned: Counter[str] = Counter()
        for block in plan.blocks(self._spec, cells):
            if block.repeat != repeat:
                repeat = block.repeat
                await self._recorder.flush()
                if why := await enough.look(self._road, self._run_id, repeat, planned):
                    self._note(why)
                    break
            planned.update(trial.cell.cell_id for chain in block.chains for trial in chain)
            await self._run_block(block)
        else:
            await self._recorder.flush()
            if told := await enough.look(self._road, self._run_id, self._spec.repeats, planned):
                self._note(told)

    def _expect(self, cell: Cell, total: int | None) -> None:
        shown = self._progress.add(cell, total)
        shown.done = len(self._done.get(cell.cell_id, ()))
        self._progress.skipped += shown.done
        if shown.done:  # begun by an earlier try, and ended by this one even if no trial is left
            self._begun[cell.cell_id] = cell
            self._begun_at[cell.cell_id] = now()

    async def _sweep(self, sweep: Sweep, cells: Sequence[Cell]) -> None:
        """Each model up to its knee; a load point is a cell."""
        position = 0
        for base in cells:
            tried: dict[float, bool] = {}
            while (point := knee.next_point(sweep, tried)) is not None:
                cell = plan.at_point(base, self._run_id, point, position)
                position += 1
                self._expect(cell, None)
                for block in plan.blocks(self._spec, [cell]):
                    await self._run_block(block)
                await self._finish(cell)
                # Given up: a load that it does not bear, whatever it kept below.
                found = self._finished.get(cell.cell_id)
                tried[point] = found is not None and bool(found["results"]["slo_met"])
            self._knees[f"{base.model} · {base.workload.name}"] = knee.knee(tried)

    async def _run_block(self, block: Block) -> None:
        chains = list(self._left(block))
        running = {chain[0].cell.cell_id: chain for chain in reversed(chains)}
        for cell in block.cells:
            if cell.cell_id in running:
                await self._begin(cell)
                if len(block.cells) == 1 or cell.cell_id not in self._warm:
                    await self._warm_up(cell, running[cell.cell_id][0])
        number, self._block = self._block, self._block + 1

        async def do(chain: Chain, intended_ns: int) -> None:
            await self._trials.chain(chain, intended_ns, number, block.think_s)

        self._start_the_clock()
        self._sampled = tuple(running)
        try:
            if block.users:
                await loops.closed(chains, block.users, block.think_s, do)
            else:
                most = self._settings.workbench_bench_max_in_flight
                await loops.open_loop(chains, do, most=most)
        finally:
            self._sampled = ()
            for cell_id in self._trials.given_up:
                shown = self._progress.cells[cell_id]
                shown.phase, shown.total = "failed", shown.done

    def _start_the_clock(self) -> None:
        """``max_s`` counts from the first trial: a slow load must not leave none."""
        max_s, limit = self._spec.stop.max_s, self._limit
        if max_s is not None and limit is not None and limit.when() is None:
            limit.reschedule(asyncio.get_running_loop().time() + max_s)

    def _left(self, block: Block) -> Iterator[Chain]:
        """The chains of a block that are not done; one that was broken off begins again."""
        for chain in block.chains:
            cell_id = chain[0].cell.cell_id
            done = self._done.get(cell_id, ())
            if cell_id not in self._trials.given_up and any(t.number not in done for t in chain):
                yield chain

    async def _warm_up(self, cell: Cell, like: Trial) -> None:
        self._progress.cells[cell.cell_id].phase = "warming up"
        await self._trials.warm_up(cell, like)
        self._warm.add(cell.cell_id)
        if cell.cell_id not in self._trials.given_up:
            self._progress.cells[cell.cell_id].phase = "running"

    async def _begin(self, cell: Cell) -> None:
        if cell.cell_id not in self._begun:
            self._begun[cell.cell_id] = cell
            self._begun_at[cell.cell_id] = now()
            await self._write_cell(cell, "active")

    async def _finish(self, cell: Cell) -> None:
        """Score a cell and tell what it came to, once all its trials are done."""
        shown = self._progress.cells[cell.cell_id]
        await self._recorder.flush()
        if self._environment_id is None:
            await self._learn_environment()
        problem = self._trials.given_up.get(cell.cell_id)
        found = await results.of_cell(self._road, self._run_id, self._spec, cell)
        failure = found.pop("failure")
        if problem is None and results.unanswered(found):
            self._unanswered[cell.cell_id] = failure or "no error is known"
        stamped = found.pop("provider") != "huggingface" and not self._road.remote
        found |= results.lag(self._lags.pop(cell.cell_id, []), found, stamped=stamped)
        if found["client_lag"]:
            self._note(f"{cell.model} ({label(cell)}): {results.late(found)}")
        if problem is None:
            shown.phase = "scoring"
            built = self._built[cell.workload.name]
            found["scores"] = await scoring.score(
                self._road, self._recorder, self._run_id, cell, built
            )
            self._finished[cell.cell_id] = {
                "model": cell.model,
                "label": label(cell),
                "results": found,
            }
        self._ended.add(cell.cell_id)
        why = self._unanswered.get(cell.cell_id) if problem is None else str(problem)
        shown.phase = "done" if why is None else "failed"
        shown.note = why or ""
        if why is not None and self._bears_less(cell):
            self._note(f"{cell.model} ({label(cell)}) counts as missed: {why}")
        details = {} if problem is None else {"error": problem.to_dict()}
        await self._write_cell(cell, "ok" if why is None else "error", found, details)

    async def _judge_pairs(self) -> None:
        if self._spec.pairwise is None:
            return
        judged = [cell_id for cell_id in self._finished if cell_id not in self._unanswered]
        for cell_id in judged:
            self._progress.cells[cell_id].phase = "scoring"
        pairs = Pairs(
            self._road,
            self._judges,
            self._recorder,
            self._run_id,
            self._spec.pairwise,
            seed=self._spec.seed,
        )
        await pairs.judge([self._begun[cell_id] for cell_id in judged])
        for cell_id in judged:
            self._progress.cells[cell_id].phase = "done"

    async def _write_cell(
        self,
        cell: Cell,
        status: str,
        found: Mapping[str, Any] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        row = cell_row(
            self._run_id,
            self._spec,
            cell,
            created_at=self._begun_at[cell.cell_id],
            status=status,
            trials=self._progress.cells[cell.cell_id].total,
            results=found,
            details=details,
        )
        await self._road.log("benchmark_cells", [row], "replace")

    def _count(self, trial: Trial, session: StreamSession | None, status: str) -> None:
        self._progress.cells[trial.cell.cell_id].take(session, status)

    def _take_lag(self, lag_s: float) -> None:
        """A loop that stands still takes no samples: those that it missed are put in.

        As HdrHistogram corrects for coordinated omission: each would have been late by what was
        left of the stop.
        """
        for cell_id in self._sampled:
            samples = self._lags.setdefault(cell_id, [])
            left_s = lag_s
            while len(samples) < _MOST_LAGS:
                samples.append(left_s)
                left_s -= _LAG_INTERVAL_S
                if left_s <= 0:
                    break
