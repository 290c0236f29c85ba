"""What a cell's model is asked: questions made here, of datasets, or of a trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.bench import prompts
from workbench.bench.faults import keyed
from workbench.bench.items import Item
from workbench.bench.load import trace
from workbench.bench.patterns import Trace
from workbench.bench.spec import Prompts, Spec

if TYPE_CHECKING:
    from workbench.settings import Settings


class Question(NamedTuple):
    """An item with the dataset it is of."""

    task: str
    item: Item
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """Questions that one cell asks.

    ``output_tokens`` is the longest answer (None: as the options say), ``arrivals_s`` when a trace
    has each question arrive. ``scorers`` are those of each task, as a spec names them; ``digests``
    tell datasets apart that have the same name.
    """

    name: str
    questions: tuple[Question, ...]
    output_tokens: int | None = None
    arrivals_s: tuple[float, ...] = ()
    scorers: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """What the log says of it."""
        return {
            "name": self.name,
            "questions": len(self.questions),
            "output_tokens": self.output_tokens,
            "digests": dict(self.digests),
        }


def workloads(spec: Spec, settings: Settings, folder: Path | None = None) -> list[Workload]:
    """The workloads of a spec; each makes cells of its own.

    Args:
        spec: what is asked for.
        settings: bounds of datasets.
        folder: what relative paths start from.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``: a dataset or a trace that cannot be read.
    """
    if isinstance(spec.load, Trace):
        return [_traced(spec, (folder or Path.cwd()) / spec.load.file)]
    if spec.datasets:
        return [_asked(spec, settings, folder)]
    made = spec.prompts or Prompts()
    return [
        Workload(
            f"{length} to {answer} tokens",
            tuple(
                Question(f"made of {length} tokens", item)
                for item in prompts.synthetic(made.count, length, spec.seed)
            ),
            answer,
        )
        for length in made.input_tokens
        for answer in made.output_tokens
    ]


def _asked(spec: Spec, settings: Settings, folder: Path | None) -> Workload:
    from workbench.bench import datasets

    questions: list[Question] = []
    scorers: dict[str, tuple[Any, ...]] = {}
    digests: dict[str, str] = {}
    for number, use in enumerate(spec.datasets):
        with keyed(f"datasets.{number}.source"):
            dataset = datasets.load(use.source, settings, folder=folder)
        items: Sequence[Item] = dataset.items
        if use.limit is not None and use.limit < len(items):
            # Not the first ones: a file is often sorted by kind.
            items = Random(f"{spec.seed}/{dataset.name}").sample(items, use.limit)
        questions += [Question(dataset.name, item) for item in items]
        scorers[dataset.name] = use.scorers
        digests[dataset.name] = dataset.digest
    return Workload(", ".join(scorers), tuple(questions), scorers=scorers, digests=digests)


def _traced(spec: Spec, path: Path) -> Workload:
    found = trace.read(path)
    rng = Random(f"trace/{spec.seed}")
    questions = []
    for one in found:
        if one.input_tokens is not None:
            item = Item.of(one.id, prompts.story(one.input_tokens, rng))
        else:
            item = Item(one.id, one.messages)
        questions.append(Question(path.stem, item, one.output_tokens))
    return Workload(path.stem, tuple(questions), arrivals_s=tuple(one.arrival_s for one in found))
