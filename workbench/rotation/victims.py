"""Which resident models make room: the oldest by use decide who may go, bytes decide who must.

The two rules pull apart: the least recently used models may be many and small, the fewest bytes
may belong to the model that is needed next. They are reconciled in this order:

1. Candidates are taken in order of their last use until what they hold suffices. Nobody who was
   used later than these is touched, whatever its size.
2. Of these, the fewest bytes that suffice go: a small old model stays if a larger one beside it
   has to go anyway.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from workbench.budget import DeviceBytes

_EXHAUSTIVE: Final = 8
"""Up to so many candidates all subsets are looked at; of more, superfluous ones are dropped."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may go, and what that would free."""

    model: str
    bytes: DeviceBytes
    counted: bool
    """Whether it gives a cached place back too."""


def choose(
    candidates: Sequence[Candidate], short: DeviceBytes, places: int
) -> tuple[str, ...] | None:
    """The models that go, in the candidates' order.

    Args:
        candidates: the one to go first before the others.
        short: bytes that are missing, by device.
        places: cached places that are missing.

    Returns:
        No model if nothing is missing; None if all candidates together are not enough.
    """
    useful = [
        candidate
        for candidate in candidates
        if (places > 0 and candidate.counted) or any(candidate.bytes.get(d) for d in short)
    ]
    prefix: list[Candidate] = []
    for candidate in useful:
        if _suffice(prefix, short, places):
            break
        prefix.append(candidate)
    if not _suffice(prefix, short, places):
        return None
    chosen = _fewest(prefix, short, places)
    return tuple(candidate.model for candidate in prefix if candidate in chosen)


def _fewest(
    prefix: Sequence[Candidate], short: Mapping[str, int], places: int
) -> Collection[Candidate]:
    if len(prefix) <= _EXHAUSTIVE:
        subsets = (s for size in range(len(prefix) + 1) for s in combinations(prefix, size))
        return min((s for s in subsets if _suffice(s, short, places)), key=_total)
    kept = list(prefix)
    by_size = sorted(prefix, key=lambda c: sum(c.bytes.values()))
    for candidate in reversed(by_size):  # of equal ones that used last
        without = [other for other in kept if other is not candidate]
        if _suffice(without, short, places):
            kept = without
    return kept


def _suffice(models: Collection[Candidate], short: Mapping[str, int], places: int) -> bool:
    return sum(model.counted for model in models) >= places and all(
        sum(model.bytes.get(device, 0) for model in models) >= size
        for device, size in short.items()
    )


def _total(models: Collection[Candidate]) -> int:
    return sum(sum(model.bytes.values()) for model in models)
