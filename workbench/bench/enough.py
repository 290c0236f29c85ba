"""Whether a run has its answer: what the log says so far, put to the stopping rules."""

from __future__ import annotations

import asyncio
import math
import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import combinations

from workbench.bench import stopping
from workbench.bench.plan import Cell
from workbench.bench.road import Road
from workbench.bench.spec import METRICS, Spec

Key = tuple[str, str, str, int]
"""Task, family, item and turn: what was asked."""


class Enough:
    """Looks at a run between its repeats, and remembers what earlier looks answered.

    Args:
        spec: its ``stop`` says what is wanted.
        cells: of the run; those of one load and workload are compared.
    """

    def __init__(self, spec: Spec, cells: Sequence[Cell]) -> None:
        self._spec = spec
        self._pairs = list(comparable(cells))
        self._families = {
            cell.cell_id: len({(q.task, q.item.family) for q in cell.workload.questions})
            for cell in cells
        }
        self._looks = stopping.looks(spec.stop.min_repeats, max(spec.repeats, 1))
        self._answers: Mapping[Hashable, stopping.Answer] = {}

    def hopeless(self) -> str | None:
        """Why ``stop.decided`` can never be, in words: too few prompts; None if it can.

        Prompts of one cluster count as one.
        """
        if not self._spec.stop.decided or not self._pairs:
            return None
        least = stopping.fewest(len(self._pairs), len(self._looks))
        prompts = [min(self._families[a], self._families[b]) for a, b in self._pairs]
        short = [count for count in prompts if count < least]
        if not short:
            return None
        return (
            f"stop.decided cannot be met, all repeats are run: it takes {least} independent "
            f"prompts (pairs of cells: {len(prompts)}, looks: {len(self._looks)}), and there are "
            f"{min(short)}"
        )

    async def look(
        self, road: Road, run_id: str, repeats: int, planned: Mapping[str, int]
    ) -> str | None:
        """Why the run can stop after so many repeats, and after all of them what came of it.

        None if it cannot stop, or this is no look.

        Args:
            road: the way to the log.
            run_id: of the run.
            repeats: that are done.
            planned: by cell, how many trials these repeats have. What a resumed run did beyond
                them is not looked at, so that it finds again what it had found.
        """
        stop = self._spec.stop
        wanted = stop.within is not None or stop.decided
        if not wanted or not self._pairs or repeats not in self._looks:
            return None
        values = await measured(road, run_id, stop.metric, planned)
        questions: dict[Hashable, list[float]] = {p: logs(values, *p) for p in self._pairs}
        return await asyncio.to_thread(self._judge, questions, repeats)

    def _judge(self, questions: Mapping[Hashable, list[float]], repeats: int) -> str | None:
        stop = self._spec.stop
        if stop.within is not None and not stopping.known(questions, stop.within):
            if repeats == self._spec.repeats:
                return f"{stop.metric} is known to {stop.within:.0%}"
            return f"stopped after {repeats} repeats: {stop.metric} is known to {stop.within:.0%}"
        if stop.decided:
            verdict = stopping.decided(
                questions, looks=len(self._looks), earlier=self._answers, margin=stop.margin
            )
            self._answers = verdict.answers
            if verdict.stop:
                if repeats == self._spec.repeats:
                    return f"{stop.metric} is decided"
                return f"stopped after {repeats} repeats: {stop.metric} is decided"
            if repeats == self._spec.repeats:
                return (
                    f"{stop.metric} is not decided after all {repeats} repeats for "
                    f"{len(verdict.open)} of {len(questions)} pairs of cells"
                )
        return None


async def measured(
    road: Road, run_id: str, metric: str, planned: Mapping[str, int]
) -> dict[str, dict[Key, list[float]]]:
    """By cell, by what was asked: the figure of each repeat, of so many trials of the cell."""
    assert metric in (*METRICS, "output_tps", "decode_tps")  # it becomes part of the SQL
    rows = await road.rows(
        f"SELECT t.cell_id, t.trial, t.task, t.family, t.item, t.turn, l.{metric} AS value "  # noqa: S608
        "FROM benchmark_trials t JOIN latencies l ON l.session_id = t.session_id "
        f"WHERE t.run_id = $run_id AND t.status = 'ok' AND l.{metric} > 0 ORDER BY t.trial",
        {"run_id": run_id},
    )
    values: dict[str, dict[Key, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["trial"] >= planned.get(row["cell_id"], 0):
            continue
        key = row["task"], row["family"], row["item"], row["turn"]
        values[row["cell_id"]][key].append(row["value"])
    return values


def logs(values: Mapping[str, Mapping[Key, list[float]]], a: str, b: str) -> list[float]:
    """For each family of questions that both were asked, the mean of ln(b / a).

    First over the repeats of a question, then over the questions of the family, which are no
    independent evidence.
    """
    families: dict[tuple[str, str], list[float]] = defaultdict(list)
    for key in sorted(values[a].keys() & values[b].keys()):
        pairs = zip(values[a][key], values[b][key], strict=False)
        families[key[:2]].append(statistics.fmean(math.log(y / x) for x, y in pairs))
    return [statistics.fmean(means) for means in families.values()]


def comparable(cells: Iterable[Cell]) -> Iterable[tuple[str, str]]:
    """Pairs of cells that were asked the same under the same load and differ in one thing."""
    groups: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        load = sorted((name, value) for name, value in cell.load.items() if name != "variant")
        groups[f"{load} {cell.workload.name}"].append(cell)
    for group in groups.values():
        for a, b in combinations(group, 2):
            differ = (a.contender != b.contender, a.common != b.common, _variant(a, b))
            if sum(differ) == 1:
                yield a.cell_id, b.cell_id


def _variant(a: Cell, b: Cell) -> bool:
    return bool(a.load.get("variant") != b.load.get("variant"))
