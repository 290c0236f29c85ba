"""Answers of two cells to the same question, put before a judge: which one is better.

After all trials, as all scoring. Each pair is asked in both orders, since judges like a place as
well as an answer (Zheng et al., *Judging LLM-as-a-Judge*, arXiv 2306.05685, 2023, section 4.1):
a judge that names another answer when they change places has said nothing, and counts as a tie.
Of the repeats of a question only the first is judged, because more are no new evidence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, Final

from workbench.bench.enough import comparable
from workbench.bench.items import Item
from workbench.bench.judging import FAILED, Judges
from workbench.bench.plan import Cell
from workbench.bench.recording import Recorder
from workbench.bench.road import Road
from workbench.bench.spec import Pairwise
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.bench.scorers import Judge

SCORER: Final = "pairwise"
"""The name of these rows in ``scores``: 1 is for the row's session, 0 for ``details.against``."""

_AT_ONCE: Final = 4

_SQL: Final = """
SELECT t.cell_id, t.session_id, t.task, t.item, s.model, m.content AS text
FROM benchmark_trials t
JOIN stream_sessions s ON s.session_id = t.session_id
LEFT JOIN messages m ON m.session_id = t.session_id AND m.role = 'assistant'
WHERE t.run_id = $run_id AND t.status = 'ok' AND t.turn = 0 AND t.repeat = 0
    AND NOT t.cancelled_on_purpose AND s.fallback_from IS NULL AND list_contains($cells, t.cell_id)
ORDER BY t.task, t.item
"""

_DONE: Final = f"""
SELECT session_id, details->>'$.against' AS against FROM scores
WHERE run_id = $run_id AND scorer = '{SCORER}' AND (details->>'$.{FAILED}') IS NULL
"""  # noqa: S608


class Pairs:
    """Judges the answers of a run pair by pair.

    Args:
        road: the way to the log.
        judges: the way to the judge.
        recorder: takes the rows.
        run_id: of the run.
        wanted: the judge, and how many questions.
        seed: of the questions that are drawn where there are more.
    """

    def __init__(
        self,
        road: Road,
        judges: Judges,
        recorder: Recorder,
        run_id: str,
        wanted: Pairwise,
        *,
        seed: int,
    ) -> None:
        from workbench.bench.scorers import Judge
        from workbench.bench.scorers.judge import RUBRIC

        self._road = road
        self._recorder = recorder
        self._run_id = run_id
        self._wanted = wanted
        self._seed = seed
        self._judge: Judge = Judge(judges.ask, wanted.model, wanted.rubric or RUBRIC)
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._judges = judges

    async def judge(self, cells: Sequence[Cell]) -> None:
        """Judge every pair of comparable cells on the questions that both answered."""
        rows = await self._road.rows(_DONE, {"run_id": self._run_id})
        done = {(row["session_id"], row["against"]) for row in rows}
        by_id = {cell.cell_id: cell for cell in cells}
        for a, b in comparable(cells):
            answered = await self._answered(a, b)
            items = {(task, item.id): item for task, item, _ in by_id[b].workload.questions}
            await asyncio.gather(
                *(
                    self._one(b, items[key], left, right)
                    for key, left, right in answered
                    if (right["session_id"], left["session_id"]) not in done
                )
            )
            await self._recorder.flush()
            if self._lost:
                return

    @property
    def _lost(self) -> bool:
        return self._judges.lost(self._wanted.model) is not None

    async def _answered(
        self, a: str, b: str
    ) -> list[tuple[tuple[str, str], Mapping[str, Any], Mapping[str, Any]]]:
        """The questions that both answered with both rows; some of them if there are many."""
        rows = await self._road.rows(_SQL, {"run_id": self._run_id, "cells": [a, b]})
        by_cell: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {a: {}, b: {}}
        for row in rows:
            by_cell[row["cell_id"]][row["task"], row["item"]] = row
        keys = sorted(by_cell[a].keys() & by_cell[b].keys())
        if len(keys) > self._wanted.questions:
            keys = Random(f"{self._seed}/pairs").sample(keys, self._wanted.questions)
        return [(key, by_cell[a][key], by_cell[b][key]) for key in keys]

    async def _one(
        self, cell_id: str, item: Item, a: Mapping[str, Any], b: Mapping[str, Any]
    ) -> None:
        from workbench.bench.scorers import Answer, Score, score_row

        async with self._room:
            if self._lost:
                return
            left, right = (
                Answer(row["text"] or "", model=row["model"], session_id=row["session_id"])
                for row in (a, b)
            )
            told: dict[str, Any] = {"judge": self._wanted.model, "against": a["session_id"]}
            try:
                found = await self._judge.compare(item, left, right)
            except WorkbenchError as error:
                score = Score(None, {**told, "reason": str(error), FAILED: self._wanted.model})
            else:
                value = (
                    None if found.winner is None else {"a": 0.0, "tie": 0.5, "b": 1.0}[found.winner]
                )
                score = Score(
                    value,
                    {
                        **told,
                        "against_cell": a["cell_id"],
                        "consistent": found.consistent,
                        "said": list(found.said),
                        "judge_sessions": list(found.sessions),
                    },
                )
        await self._recorder.add(
            "scores",
            score_row(
                score,
                SCORER,
                item,
                dataset=str(b["task"]),
                session_id=str(b["session_id"]),
                run_id=self._run_id,
                cell_id=cell_id,
            ),
        )
