"""One text in the tokens of two models: which of them stand at the same places. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.insight.probabilities import Step
from workbench.insight.spelling import places


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of the text that both models cut at its two ends, in the tokens of each."""

    a: tuple[Step, ...]
    b: tuple[Step, ...]

    @property
    def is_known(self) -> bool:
        """Whether all of its tokens are told and have a probability, in both."""
        return all(step.is_known for step in (*self.a, *self.b))

    @property
    def heads(self) -> tuple[Step, Step]:
        """The tokens that both chose after the same text."""
        return self.a[0], self.b[0]


def stretches(a: Sequence[Step], b: Sequence[Step]) -> tuple[Stretch, ...]:
    """The shortest stretches that both cut at their ends, in order.

    Tokens of a character that one side does not tell apart are in one stretch.
    """
    where = [_first_at(steps) for steps in (a, b)]
    shared = sorted(where[0].keys() & where[1].keys())
    ends = [[at[start] for start in shared] for at in where]
    found = []
    for number in range(len(shared)):
        parts = [
            tuple(steps[own[number] : own[number + 1] if number + 1 < len(own) else None])
            for steps, own in zip((a, b), ends, strict=True)
        ]
        found.append(Stretch(parts[0], parts[1]))
    return tuple(found)


def _first_at(steps: Sequence[Step]) -> dict[int, int]:
    """The first token at each known place."""
    found: dict[int, int] = {}
    for index, place in enumerate(places(steps)):
        if place is not None:
            found.setdefault(place, index)
    return found
