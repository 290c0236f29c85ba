"""Cells against each other: paired by prompt and repeat, clustered by family, with intervals."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, Literal

from workbench.analysis.statistics import (
    MIN_PROMPTS,
    Estimate,
    clustered,
    exponential,
    holm,
    prompts_needed,
    share,
)
from workbench.bench.evidence import CellEvidence
from workbench.bench.stopping import ALPHA, fewest

if TYPE_CHECKING:
    import pandas as pd

SPEED: Final = ("ttft_s", "tpot_s", "chars_per_s", "e2e_s")
"""Figures that are compared as ratios."""

HIGHER_IS_BETTER: Final = frozenset({"chars_per_s", "decode_tps", "output_tps"})
PAIRWISE: Final = "pairwise"
"""The figure of a judge's preferences: the share that b won less the share that a won."""
ALL_PAIRS: Final = 6
"""With more cells than this each is compared with the first only."""
_CHARS: Final = 0.03
"""Characters of a token that differ by more are of different tokenizers."""
_PROMPT: Final = ["task", "item", "turn"]
_PAIR: Final = [*_PROMPT, "repeat"]

Axis = Literal["model", "options", "variant"]
_VARIES: Final[tuple[Axis, ...]] = ("model", "options", "variant")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two cells in one figure.

    ``ratio`` is b / a (None for scores), ``difference`` is b - a in the figure's unit. ``p`` is
    that of the ratio, or of the difference of scores, adjusted for all comparisons of the run
    (Holm). ``needed`` is how many prompts, or families of prompts, would show what was seen;
    None where it is shown, or nothing can be said. ``least``: with fewer prompts no difference
    between so many comparisons can be shown, however large.
    """

    a: CellEvidence
    b: CellEvidence
    axis: Axis
    figure: str
    ratio: Estimate | None
    difference: Estimate
    p: float | None
    needed: int | None = None
    least: int = 0

    @property
    def clear(self) -> bool:
        """Whether a difference was shown."""
        return self.p is not None and self.p < ALPHA

    @property
    def better(self) -> Literal["a", "b"]:
        """Which one the figure speaks for, shown or not."""
        higher = self.ratio is None or self.figure in HIGHER_IS_BETTER
        return "b" if (self.difference.value > 0) == higher else "a"


def comparable(cells: Sequence[CellEvidence]) -> Iterator[tuple[CellEvidence, CellEvidence, Axis]]:
    """Pairs of cells with the same workload that differ in one thing only."""
    several = len(cells) > ALL_PAIRS
    for a, b in combinations(cells, 2):
        if several and a is not cells[0] and not _next_to_it(cells, a, b):
            continue
        differing = [axis for axis in _VARIES if _value(a, axis) != _value(b, axis)]
        same = (a.workload.get("name"), _load_point(a)) == (b.workload.get("name"), _load_point(b))
        if same and len(differing) == 1:
            yield a, b, differing[0]


def compare(
    cells: Sequence[CellEvidence],
    asked: tuple[str, int] | None = None,
    judged: pd.DataFrame | None = None,
) -> list[Comparison]:
    """Every comparable pair in every figure of speed, every score and what a judge said.

    Tokens of one tokenizer say more than characters, those of two say nothing: only one of the
    two speeds is compared, so that the other does not count among so many comparisons.

    Args:
        cells: of a run.
        asked: as for :func:`adjusted`.
        judged: :attr:`workbench.bench.evidence.Evidence.pairs`.
    """
    found: list[Comparison] = []
    for a, b, axis in comparable(cells):
        untold = "chars_per_s" if same_tokens(a, b) else "tpot_s"
        speeds = [figure for figure in SPEED if figure != untold]
        for figure in dict.fromkeys((*speeds, *((asked[0],) if asked else ()))):
            if (made := speed(a, b, figure, axis)) is not None:
                found.append(made)
        for scorer in sorted(set(a.scores["scorer"]) & set(b.scores["scorer"])):
            if (made := quality(a, b, scorer, axis)) is not None:
                found.append(made)
        if judged is not None and (made := preference(a, b, judged, axis)) is not None:
            found.append(made)
    return adjusted(found, asked)


def adjusted(found: Sequence[Comparison], asked: tuple[str, int] | None = None) -> list[Comparison]:
    """With p values adjusted for how many comparisons there are.

    Args:
        found: the comparisons.
        asked: the figure that the run was to decide and how often it was looked at. Its
            comparisons are a family of their own, at a level that the looks share
            (:mod:`workbench.bench.stopping`): what ended the run is shown here too.
    """
    figure, looks = asked or ("", 1)
    adjusted: dict[int, Comparison] = {}
    for many, family in (
        (looks, [i for i, one in enumerate(found) if one.figure == figure]),
        (1, [i for i, one in enumerate(found) if one.figure != figure]),
    ):
        p_values = holm([_times(found[i].p, many) for i in family])
        least = fewest(sum(p is not None for p in p_values), many)
        for i, p in zip(family, p_values, strict=True):
            adjusted[i] = replace(found[i], p=p, least=least)
    return [adjusted[i] for i in range(len(found))]


def _times(p: float | None, looks: int) -> float | None:
    return None if p is None else min(1.0, p * looks)


def speed(a: CellEvidence, b: CellEvidence, figure: str, axis: Axis = "model") -> Comparison | None:
    """One figure of both, on the prompts and repeats that both answered; None without any."""
    pairs = paired(a.good, b.good, figure)
    pairs = pairs[(pairs["a"] > 0) & (pairs["b"] > 0)]
    if pairs.empty:
        return None
    pairs = pairs.assign(
        difference=pairs["b"] - pairs["a"], log=(pairs["b"] / pairs["a"]).map(math.log)
    )
    logs, gaps = families(pairs, "log"), families(pairs, "difference")
    of_logs = clustered(logs, len(pairs))
    return Comparison(
        a,
        b,
        axis,
        figure,
        exponential(of_logs),
        clustered(gaps, len(pairs)),
        of_logs.p,
        _needed(logs, of_logs),
    )


def quality(
    a: CellEvidence, b: CellEvidence, scorer: str, axis: Axis = "model"
) -> Comparison | None:
    """The scores of both by one scorer, on what both answered; None without any."""
    left, right = (_scored(cell, scorer) for cell in (a, b))
    pairs = paired(left, right, "score")
    if pairs.empty:
        return None
    gaps = families(pairs.assign(difference=pairs["b"] - pairs["a"]), "difference")
    found = clustered(gaps, len(pairs))
    return Comparison(a, b, axis, scorer, None, found, found.p, _needed(gaps, found))


def same_tokens(a: CellEvidence, b: CellEvidence) -> bool:
    """Whether tokens of both hold about as many characters, as those of one tokenizer do.

    Answers differ, so that a few tokens say little: lengths of single tokens scatter by about half
    their mean, and twice the scatter of two such means is let pass.
    """
    tokens = [float(cell.good["output_tokens"].sum()) for cell in (a, b)]
    if min(tokens) == 0:
        return False
    chars = [cell.good["text_chars"].sum() / n for cell, n in zip((a, b), tokens, strict=True)]
    chance = 2 * 0.5 * math.sqrt(1 / tokens[0] + 1 / tokens[1])
    return bool(min(chars) > 0 and max(chars) / min(chars) - 1 <= max(_CHARS, chance))


def preference(
    a: CellEvidence, b: CellEvidence, judged: pd.DataFrame, axis: Axis = "model"
) -> Comparison | None:
    """How much more often a judge preferred b than a, of the pairs that it told; None without."""
    known = verdicts(a, b, judged).dropna(subset=["score"])
    if known.empty:
        return None
    gaps = families(known.assign(turn=0, net=2 * known["score"] - 1), "net")
    found = clustered(gaps, len(known))
    return Comparison(a, b, axis, PAIRWISE, None, found, found.p, _needed(gaps, found))


def verdicts(a: CellEvidence, b: CellEvidence, judged: pd.DataFrame) -> pd.DataFrame:
    """What a judge said of the answers of two cells."""
    return judged[(judged["cell_id"] == b.cell_id) & (judged["against"] == a.cell_id)]


def mean_score(cell: CellEvidence, scorer: str) -> Estimate | None:
    """The mean of a cell's known scores with its interval; None without any."""
    scored = _scored(cell, scorer).dropna(subset=["score"])
    return share(families(scored, "score")) if len(scored) else None


def paired(a: pd.DataFrame, b: pd.DataFrame, column: str) -> pd.DataFrame:
    """Rows of both that are of the same prompt and repeat, with their values as a and b."""
    left, right = (
        frame.dropna(subset=[column])
        .drop_duplicates(_PAIR)[[*_PAIR, "family", column]]
        .rename(columns={column: name})
        for frame, name in ((a, "a"), (b, "b"))
    )
    return left.merge(right.drop(columns="family"), on=_PAIR)


def families(pairs: pd.DataFrame, column: str) -> Mapping[Hashable, Sequence[float]]:
    """By family, one value a prompt: the mean of a column over its repeats."""
    means = pairs.groupby(["task", "family", *_PROMPT[1:]], dropna=False)[column].mean()
    found: dict[Hashable, list[float]] = {}
    for key, value in means.items():
        assert isinstance(key, tuple)
        found.setdefault(key[:2], []).append(float(value))
    return found


def _scored(cell: CellEvidence, scorer: str) -> pd.DataFrame:
    return cell.scores[cell.scores["scorer"] == scorer].assign(turn=0)


def _needed(values: Mapping[Hashable, Sequence[float]], found: Estimate) -> int | None:
    if found.p is None or found.p < ALPHA or found.value == 0 or len(values) < MIN_PROMPTS:
        return None
    means = [sum(group) / len(group) for group in values.values()]
    return prompts_needed(means, found.value)


def _value(cell: CellEvidence, axis: str) -> Any:
    return {
        "model": cell.contender,
        "options": cell.key[0],
        "variant": cell.load.get("variant"),
    }[axis]


def _load_point(cell: CellEvidence) -> dict[str, Any]:
    return {name: value for name, value in cell.load.items() if name != "variant"}


def _next_to_it(cells: Sequence[CellEvidence], a: CellEvidence, b: CellEvidence) -> bool:
    """Whether b has no earlier cell to be compared with at its own options, load and workload."""
    first = next(cell for cell in cells if cell.key == b.key)
    return a is first
