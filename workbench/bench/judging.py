"""The way to the judges of a run: one that fails is asked no more, and told of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from workbench.bench.road import Road
from workbench.bench.spec import Spec
from workbench.bench.workload import Workload
from workbench.errors import WorkbenchError
from workbench.types import ChatRequest, StreamSession

FAILED: Final = "judge_failed"
"""Names the judge in the details of an error that is its own, and marks the score it left out."""


class Judges:
    """Puts requests to them.

    Args:
        road: the way to the models.
        patience: failures of a judge in a row after which it is asked no more.
    """

    def __init__(self, road: Road, patience: int) -> None:
        self._road = road
        self._patience = patience
        self._answered: Counter[str] = Counter()
        self._in_a_row: Counter[str] = Counter()
        self._last: dict[str, WorkbenchError] = {}

    async def ask(self, request: ChatRequest) -> StreamSession:
        """The judge's answer.

        Raises:
            WorkbenchError: why it failed, or did before; ``details`` name it as :data:`FAILED`.
        """
        if (lost := self.lost(request.model)) is not None:
            raise lost.with_traceback(None)  # the same one each time: its frames would pile up
        try:
            session = await self._road.ask(request, lambda event: None)
            if session.error is not None:
                raise session.error
        except WorkbenchError as error:
            error.details[FAILED] = request.model
            self._in_a_row[request.model] += 1
            self._last[request.model] = error
            raise
        self._in_a_row[request.model] = 0
        self._answered[request.model] += 1
        return session

    def lost(self, model: str) -> WorkbenchError | None:
        """Why this judge is asked no more; None if it is."""
        return self._last[model] if self._in_a_row[model] >= self._patience else None

    def problems(self) -> Iterator[str]:
        """The judges that were given up, or never answered, and why."""
        for model, error in self._last.items():
            if self.lost(model) is not None or not self._answered[model]:
                yield f"judge {model}: {error}"


class Named(NamedTuple):
    """A judge, the key of the spec that names it or whose items do, and the first such item."""

    model: str
    key: str
    item: str | None = None


def named(spec: Spec, made: Sequence[Workload]) -> list[Named]:
    """The judges of a run: those of the spec, then those that only items name, each once.

    Args:
        spec: whose.
        made: its workloads.
    """
    found = [
        Named(model, f"datasets.{number}.scorers.{place}")
        for number, use in enumerate(spec.datasets)
        for place, scorer in enumerate(use.scorers)
        if (model := _judge(scorer)) is not None
    ]
    if spec.pairwise is not None:
        found.append(Named(spec.pairwise.model, "pairwise.model"))
    known = {one.model for one in found}
    for workload in made:
        keys = {
            task: f"datasets.{number}.scorers.{scorers.index('item')}"
            for number, (task, scorers) in enumerate(workload.scorers.items())
            if "item" in scorers
        }
        for question in workload.questions:
            if (key := keys.get(question.task)) is None:
                continue
            model = _judge(question.item.meta.get("scorer"))
            if model is not None and model not in known:
                known.add(model)
                found.append(Named(model, key, question.item.id))
    return found


def _judge(scorer: object) -> str | None:
    """The model of a judge, as a spec or an item names it."""
    if not isinstance(scorer, Mapping) or scorer.get("scorer") != "judge" or "model" not in scorer:
        return None
    return str(scorer["model"])
