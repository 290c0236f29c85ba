"""Scores of a cell's answers, after its trials: scoring must not run beside what is measured."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from workbench import logs
from workbench.bench.faults import keyed
from workbench.bench.items import Item
from workbench.bench.judging import FAILED, Judges
from workbench.bench.plan import Cell
from workbench.bench.recording import Recorder
from workbench.bench.road import Road
from workbench.bench.workload import Workload
from workbench.errors import WorkbenchError, invalid

if TYPE_CHECKING:
    from workbench.bench.scorers import Scorer
    from workbench.settings import Settings

_log = logs.get(__name__)
_PAGE: Final = 200
_AT_ONCE: Final = 4

# What has its scores already is left out, so that a resumed run goes on here too; what a judge
# failed at is put before it again.
_SQL: Final = """
SELECT t.trial, t.session_id, t.task, t.item, t.details->>'$.first' AS logprobs, m.content AS text,
    s.model
FROM benchmark_trials t
JOIN stream_sessions s ON s.session_id = t.session_id
LEFT JOIN messages m ON m.session_id = t.session_id AND m.role = 'assistant'
WHERE t.run_id = $run_id AND t.cell_id = $cell_id AND t.trial > $after
    AND t.status = 'ok' AND t.turn = 0
    AND NOT EXISTS (
        SELECT 1 FROM scores c WHERE c.session_id = t.session_id AND c.scorer = $scorer
            AND (c.details->>'$.judge_failed') IS NULL
    )
    AND list_contains($tasks, t.task)
ORDER BY t.trial LIMIT $limit
"""

Built = Mapping[str, "tuple[Scorer, ...]"]
"""By task, the scorers of its answers."""


def build(workload: Workload, settings: Settings, judges: Judges) -> Built:
    """The scorers that a spec names for each of its datasets.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, an unknown scorer or option.
    """
    from workbench.bench import scorers

    def made(one: Any, key: str) -> Scorer:
        with keyed(key):
            return scorers.build(one, settings, judges.ask)

    return {
        task: tuple(
            made(one, f"datasets.{number}.scorers.{place}") for place, one in enumerate(named)
        )
        for number, (task, named) in enumerate(workload.scorers.items())
    }


def unfit(workload: Workload, built: Built) -> list[str]:
    """Which items cannot be scored as the spec asks, in sentences.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, a scorer can score no item of its dataset.
    """
    from workbench.bench.scorers import lack

    told = []
    for number, (task, scorers) in enumerate(built.items()):
        items = [question.item for question in workload.questions if question.task == task]
        for place, scorer in enumerate(scorers):
            found = Counter(lack(scorer, item) for item in items)
            fit = found.pop("", 0)
            if not found:
                continue
            needs = f"{' or '.join(sorted(found))}, which the scorer {scorer.name!r} needs"
            if not fit:
                raise invalid(
                    f"No item of {task} has {needs}.",
                    fix="Give the items what it needs, or score them in another way.",
                    key=f"datasets.{number}.scorers.{place}",
                )
            told.append(
                f"{len(items) - fit} of {len(items)} items of {task} have no {needs}: their "
                "answers get no score from it"
            )
    return told


async def score(
    road: Road, recorder: Recorder, run_id: str, cell: Cell, built: Built
) -> dict[str, dict[str, Any]]:
    """Score every answer of a cell that has no score yet.

    Returns:
        By scorer: ``scored``, ``unknown`` (could not be told), ``mean`` of those known; of what
        was scored now.
    """
    items = {(task, item.id): item for task, item, _ in cell.workload.questions}
    by_scorer: dict[str, list[tuple[str, Scorer]]] = {}
    for task, scorers in built.items():
        for scorer in scorers:
            by_scorer.setdefault(scorer.name, []).append((task, scorer))
    for name, pairs in by_scorer.items():
        after = -1
        of_task = dict(pairs)
        while rows := await road.rows(
            _SQL,
            {
                "run_id": run_id,
                "cell_id": cell.cell_id,
                "scorer": name,
                "tasks": list(of_task),
                "after": after,
                "limit": _PAGE,
            },
        ):
            room = asyncio.Semaphore(_AT_ONCE)
            await asyncio.gather(
                *(
                    _one(room, recorder, run_id, cell, of_task[row["task"]], items, row)
                    for row in rows
                )
            )
            after = rows[-1]["trial"]
        await recorder.flush()
    return await means(road, run_id, cell)


async def means(road: Road, run_id: str, cell: Cell) -> dict[str, dict[str, Any]]:
    """By scorer: ``scored``, ``unknown`` and ``mean`` of the answers that count."""
    rows = await road.rows(
        "WITH newest AS ("
        "SELECT c.scorer, c.score FROM scores c "
        "JOIN benchmark_trials t ON t.session_id = c.session_id "
        "WHERE c.run_id = $run_id AND c.cell_id = $cell_id AND c.scorer <> 'pairwise' "
        "QUALIFY row_number() OVER ("
        "PARTITION BY c.session_id, c.scorer ORDER BY c.created_at DESC) = 1) "
        "SELECT scorer, count(score) AS scored, count(*) - count(score) AS unknown, "
        "avg(score) AS mean FROM newest GROUP BY scorer",
        {"run_id": run_id, "cell_id": cell.cell_id},
    )
    return {row.pop("scorer"): row for row in rows}


async def _one(
    room: asyncio.Semaphore,
    recorder: Recorder,
    run_id: str,
    cell: Cell,
    scorer: Scorer,
    items: Mapping[tuple[str, str], Item],
    row: Mapping[str, Any],
) -> None:
    import json

    from workbench.bench.scorers import Answer, Score, score_row

    item = items[row["task"], row["item"]]
    answer = Answer(
        row["text"] or "",
        tuple(json.loads(row["logprobs"])) if row["logprobs"] else (),
        row["model"],
        row["session_id"],
    )
    async with room:
        try:
            scored = await scorer.score(item, answer)
        except WorkbenchError as error:  # this item cannot be scored; the others can
            judge = {name: told for name, told in error.details.items() if name == FAILED}
            scored = Score(None, {"reason": str(error), **judge})
        except Exception as error:  # nor may a scorer's defect cost the run: its score is unknown
            _log.exception("scorer_failed", scorer=scorer.name, item=item.id)
            scored = Score(None, {"reason": f"{type(error).__name__}: {error}"})
    await recorder.add(
        "scores",
        score_row(
            scored,
            scorer.name,
            item,
            dataset=row["task"],
            session_id=row["session_id"],
            run_id=run_id,
            cell_id=cell.cell_id,
        ),
    )
