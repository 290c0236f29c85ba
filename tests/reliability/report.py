"""What campaigns found: for a file, for a table, and of several pieces as one. Values only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

RUNNING: Final = "under way"
DONE: Final = "done"

HEAD: Final = (
    "| where | fault | how | times | told | s each | wrong |",
    "|---|---|---|--:|---|--:|--:|",
)


@dataclass
class Score:
    """What became of one kind of fault."""

    family: str = ""
    how: str = ""
    count: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


@dataclass
class Report:
    """What one campaign found, or several.

    ``ended`` says of each how: ``done``, by which signal, or that it is still under way. ``levels``
    are what the server held at the first rest and at the last.
    """

    seeds: list[int] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    seconds: float = 0.0
    requests: int = 0
    told: Counter[str] = field(default_factory=Counter)
    harmed: int = 0
    starts: int = 0
    levels: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, Score] = field(default_factory=dict)
    """By kind."""
    problems: list[str] = field(default_factory=list)
    """Of all kinds, of rests, and of innocents."""

    @property
    def faults(self) -> int:
        """Those whose end was seen."""
        return sum(score.count for score in self.scores.values())

    def table(self) -> str:
        """A row for each kind, as Markdown."""
        lines = [*HEAD]
        for name, score in self.scores.items():
            told = ", ".join(f"{code} {n}" for code, n in score.outcomes.most_common())
            each = score.seconds / max(1, score.count)
            lines.append(
                f"| {score.family} | {name} | {score.how} | {score.count} | {told} "
                f"| {each:.2f} | {len(score.problems)} |"
            )
        return "\n".join(lines)

    def summary(self) -> dict[str, Any]:
        """The figures of all kinds together."""
        return {
            "seeds": self.seeds,
            "ended": self.ended,
            "seconds": round(self.seconds),
            "faults": self.faults,
            "kinds": len(self.scores),
            "requests": self.requests,
            "told": dict(self.told),
            "harmed": self.harmed,
            "problems": len(self.problems),
            "starts": self.starts,
            "levels": self.levels,
        }

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "scores": {name: vars(one) for name, one in self.scores.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """What :meth:`to_dict` made.

        Raises:
            TypeError: it is something else.
        """
        scores = {
            name: Score(**{**score, "outcomes": Counter(score["outcomes"])})
            for name, score in values["scores"].items()
        }
        return cls(**{**values, "told": Counter(values["told"]), "scores": scores})


def summed(reports: Sequence[Report]) -> Report:
    """Several as one: all is added up, the kinds of a family stand together."""
    whole = Report()
    scores: dict[str, Score] = {}
    for report in reports:
        whole.seeds += report.seeds
        whole.ended += report.ended
        whole.seconds += report.seconds
        whole.requests += report.requests
        whole.told += report.told
        whole.harmed += report.harmed
        whole.starts += report.starts
        whole.levels += report.levels
        whole.problems += report.problems
        for name, score in report.scores.items():
            sum_of = scores.setdefault(name, Score(score.family, score.how))
            sum_of.count += score.count
            sum_of.outcomes += score.outcomes
            sum_of.seconds += score.seconds
            sum_of.problems += score.problems
    families = list(dict.fromkeys(score.family for score in scores.values()))
    for family in families:
        whole.scores |= {name: one for name, one in scores.items() if one.family == family}
    return whole
