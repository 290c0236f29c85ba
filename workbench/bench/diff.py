"""Two runs side by side: what changed, whether they may be compared at all, and what got worse."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from workbench import figures
from workbench.bench.comparisons import (
    HIGHER_IS_BETTER,
    SPEED,
    Comparison,
    adjusted,
    quality,
    speed,
)
from workbench.bench.evidence import IDENTITY, CellEvidence, Evidence, short
from workbench.bench.findings import Caveat, caveats
from workbench.errors import invalid

MACHINE: Final = ("cpu", "cores", "ram_bytes", "gpu")
"""What makes it another machine: its figures are not comparable."""

_QUESTIONS: Final = ("seed", "prompts", "datasets", "system", "prefix", "timing_mode", "order")
"""Keys of a spec that change what is asked, or under which conditions."""

TOLERANCE: Final = 0.05

Kind = Literal["machine", "software", "model", "spec", "cells"]


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is not the same; ``fatal`` if figures must therefore not be compared."""

    kind: Kind
    what: str
    before: str
    after: str
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of one cell before and after, with the comparison of the pairs."""

    cell: str
    comparison: Comparison
    before: float | None
    after: float | None
    worse: bool


@dataclass(frozen=True, slots=True)
class Diff:
    """Everything that differs between two runs.

    ``reasons`` say why figures must not be compared; empty if they may be.
    """

    before: Evidence
    after: Evidence
    changes: tuple[Change, ...]
    differences: tuple[Difference, ...]
    caveats: tuple[tuple[Literal["before", "after"], Caveat], ...]
    reasons: tuple[str, ...]

    @property
    def regressions(self) -> list[Difference]:
        """Figures that were shown to be worse, by more than is tolerated."""
        return [difference for difference in self.differences if difference.worse]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "before": self.before.run_id,
            "after": self.after.run_id,
            "comparable": not self.reasons,
            "reasons": list(self.reasons),
            "changes": [
                {"kind": c.kind, "what": c.what, "before": c.before, "after": c.after}
                for c in self.changes
            ],
            "figures": [_figure(difference) for difference in self.differences],
            "regressions": [f"{d.cell}: {d.comparison.figure}" for d in self.regressions],
            "caveats": [
                {"run": which, "text": caveat.text, "cells": list(caveat.cells)}
                for which, caveat in self.caveats
            ],
        }


def diff(before: Evidence, after: Evidence, *, tolerance: float = TOLERANCE) -> Diff:
    """What changed from one run to the other.

    A regression is a difference that was shown (5 %, Holm over all figures) and is larger than
    ``tolerance``: a ratio for times and speeds, points for scores. How the machine drifts between
    two runs is not in any interval: repeat a run on its own to see how much that is.

    Args:
        before: the older one.
        after: the newer one.
        tolerance: what does not count as worse, 0.05 for 5 %.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, a tolerance that is none.
    """
    if not 0 <= tolerance < 1:
        raise invalid(f"A tolerance is {tolerance}.", fix="Give a share, 0.05 for 5 %.")
    pairs = list(_matched(before, after))
    changes = tuple(_changes(before, after, pairs))
    reasons = [f"{c.what}: {c.before} → {c.after}" for c in changes if c.fatal]
    if not pairs:
        reasons.append("no cell of one run is in the other")
    found = [
        one
        for a, b in pairs
        for one in (
            *(speed(a, b, figure) for figure in SPEED),
            *(
                quality(a, b, scorer)
                for scorer in sorted(set(a.scores["scorer"]) & set(b.scores["scorer"]))
            ),
        )
        if one is not None
    ]
    if pairs and not found:
        reasons.append("no prompt was answered in both")
    told = [("before", c) for c in caveats(before, between=False)] + [
        ("after", c) for c in caveats(after, between=False)
    ]
    return Diff(
        before,
        after,
        changes,
        tuple(_difference(after, one, tolerance) for one in adjusted(found)),
        tuple(told),  # type: ignore[arg-type]
        tuple(reasons),
    )


def _difference(after: Evidence, one: Comparison, tolerance: float) -> Difference:
    if one.ratio is None:
        values = [_mean(cell, one.figure) for cell in (one.a, one.b)]
        too_much = -one.difference.value > tolerance
    else:
        values = [cell.median(one.figure) for cell in (one.a, one.b)]
        change = one.ratio.value
        too_much = (1 / change if one.figure in HIGHER_IS_BETTER else change) > 1 + tolerance
    worse = one.clear and one.better == "a" and too_much
    return Difference(after.label(one.b), one, values[0], values[1], worse)


def _mean(cell: CellEvidence, scorer: str) -> float | None:
    known = cell.scores.loc[cell.scores["scorer"] == scorer, "score"].dropna()
    return float(known.mean()) if len(known) else None


def _matched(before: Evidence, after: Evidence) -> Iterator[tuple[CellEvidence, CellEvidence]]:
    """Cells that were asked the same in the same way; else those of the same place and model."""
    left = list(before.cells)
    for cell in after.cells:
        same = [c for c in left if c.contender == cell.contender and c.key == cell.key] or [
            c
            for c in left
            if c.contender == cell.contender
            and (c.key[1:], len(left)) == (cell.key[1:], len(after.cells))
        ]
        if same:
            left.remove(same[0])
            yield same[0], cell


def _changes(
    before: Evidence, after: Evidence, pairs: list[tuple[CellEvidence, CellEvidence]]
) -> Iterator[Change]:
    yield from _environment(before, after)
    for key in sorted(before.spec.keys() | after.spec.keys()):
        old, new = before.spec.get(key), after.spec.get(key)
        if old != new and key not in ("models", "name"):
            yield Change("spec", key, _text(old), _text(new), fatal=key in _QUESTIONS)
    for a, b in pairs:
        label = after.label(b)
        if a.workload.get("digests") != b.workload.get("digests"):
            yield Change("spec", f"{label}: dataset", "one", "another of this name", fatal=True)
        if a.key[0] != b.key[0]:
            yield Change("spec", f"{label}: options", a.key[0], b.key[0], fatal=True)
        old_identity, new_identity = a.identity(), b.identity()
        for name in IDENTITY:
            old, new = old_identity[name], new_identity[name]
            if old and new and old != new:
                # A new digest is what a comparison of versions is about; another form or device
                # is told as well, and neither forbids it.
                yield Change("model", f"{label}: {name}", _list(old), _list(new))
    matched = {id(cell) for pair in pairs for cell in pair}
    for evidence, words in ((before, ("there", figures.DASH)), (after, (figures.DASH, "there"))):
        for cell in evidence.cells:
            if id(cell) not in matched:
                yield Change("cells", evidence.label(cell), *words)


def _environment(before: Evidence, after: Evidence) -> Iterator[Change]:
    old, new = _facts(before), _facts(after)
    for name in sorted(old.keys() | new.keys(), key=lambda n: (n not in MACHINE, n)):
        if old.get(name) != new.get(name):
            machine = name in MACHINE or name == "governor"
            yield Change(
                "machine" if machine else "software",
                name,
                _text(old.get(name)),
                _text(new.get(name)),
                fatal=machine,
            )


def _facts(evidence: Evidence) -> dict[str, Any]:
    """The environment as one level of names; that of the most trials if there are several."""
    counts: dict[str, int] = {}
    for cell in evidence.cells:
        for one, count in cell.trials["environment_id"].value_counts().items():
            counts[str(one)] = counts.get(str(one), 0) + int(count)
    chosen = max(counts, key=lambda one: counts[one], default="")
    content = dict(evidence.environments.get(chosen, {}))
    nested = {**(content.pop("packages", None) or {}), **(content.pop("details", None) or {})}
    return {**content, **nested}


def _text(value: Any) -> str:
    if value is None:
        return figures.DASH
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _list(values: tuple[Any, ...]) -> str:
    return ", ".join(
        short(str(value))[:24] if "/" in str(value) else str(value)[:24] for value in values
    )


def _figure(difference: Difference) -> Mapping[str, Any]:
    one = difference.comparison
    estimate = one.ratio if one.ratio is not None else one.difference
    return {
        "cell": difference.cell,
        "figure": one.figure,
        "before": difference.before,
        "after": difference.after,
        "scale": "ratio" if one.ratio is not None else "difference",
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "p": one.p,
        "prompts": estimate.prompts,
        "worse": difference.worse,
    }
