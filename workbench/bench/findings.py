"""What a run found, in sentences, and what must be known before its figures are compared.

Pure: evidence in, words out. A sentence names who is better, by how much with the 95 % interval,
and on how many prompts; where nothing was shown it says what could have been.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from workbench import figures
from workbench.analysis.statistics import MIN_PROMPTS, Estimate
from workbench.bench import stopping
from workbench.bench.comparisons import (
    HIGHER_IS_BETTER,
    PAIRWISE,
    Comparison,
    compare,
    mean_score,
    verdicts,
)
from workbench.bench.evidence import CellEvidence, Evidence, as_mapping, changed, short
from workbench.bench.results import late
from workbench.bench.slo import kept

if TYPE_CHECKING:
    import pandas as pd

MIN_REPEATS: Final = 5
_MANY: Final = 10_000
_GIST: Final = 300
"""Characters of a failure's message and fix that are told."""
_SHARE: Final = 0.05
"""A share of trials that is worth a warning."""

Strength = Literal["clear", "open"]

_VERBS: Final = {
    "ttft_s": "answers first",
    "ttfo_s": "begins its answer first",
    "tpot_s": "takes less time a token",
    "itl_p50_s": "takes less time from token to token",
    "chars_per_s": "writes faster",
    "e2e_s": "is done first",
}
_NAMES: Final = {
    "ttft_s": "time to first token",
    "ttfo_s": "time to the first token of the answer itself",
    "tpot_s": "time per output token",
    "itl_p50_s": "median time between tokens",
    "chars_per_s": "characters/s",
    "decode_tps": "tokens/s after the first",
    "output_tps": "tokens/s, prompt included",
    "e2e_s": "time of the whole answer",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence and the comparison behind it; ``clear`` where a difference was shown.

    What is said of the SLO has no comparison.
    """

    sentence: str
    strength: Strength
    comparison: Comparison | None


@dataclass(frozen=True, slots=True)
class Caveat:
    """What makes figures doubtful, and of which cells (by label; empty: of all)."""

    text: str
    cells: tuple[str, ...] = ()
    urgent: bool = False
    """Whether the few lines at a run's end tell it too: what was measured is not what was meant."""


def findings(evidence: Evidence) -> list[Finding]:
    """Of the SLO first, then every comparison: what was shown, quality before speed, by size."""
    asked = _asked(evidence)
    made = [
        Finding(sentence(evidence, one), "clear" if one.clear else "open", one)
        for one in compare(evidence.cells, asked, evidence.pairs)
    ]
    order = {"ttft_s": 1, "chars_per_s": 2, "e2e_s": 3, "tpot_s": 4}

    def place(finding: Finding) -> tuple[bool, int, float]:
        one = finding.comparison
        assert one is not None
        gap = one.difference.value if one.ratio is None else math.log(one.ratio.value)
        return finding.strength == "open", order.get(one.figure, 0), -abs(gap)

    of_slo = [Finding(sentence, "clear", None) for sentence in kept(evidence)]
    return [*of_slo, *sorted(made, key=place)]


def compared(found: Iterable[Finding]) -> list[Comparison]:
    """The comparisons behind findings."""
    return [finding.comparison for finding in found if finding.comparison is not None]


def sentence(evidence: Evidence, one: Comparison) -> str:
    """A comparison in words."""
    a, b = evidence.label(one.a), evidence.label(one.b)
    on = f"{one.difference.prompts} {'prompt' if one.difference.prompts == 1 else 'prompts'}"
    if one.figure == PAIRWISE:
        return _of_pairs(one, verdicts(one.a, one.b, evidence.pairs), a, b)
    if one.ratio is None:
        return _of_scores(one, a, b)
    if one.ratio.low is None:
        return (
            f"{_NAMES[one.figure].capitalize()}: {b} / {a} = {one.ratio.value:.2f} on {on}; "
            f"an interval needs {MIN_PROMPTS}."
        )
    if not one.clear:
        return _nothing_shown(one, a, b, on)
    better, worse = (a, b) if one.better == "a" else (b, a)
    if one.figure in HIGHER_IS_BETTER:
        times = one.ratio if one.better == "b" else _inverse(one.ratio)
        return f"{better} writes {_times(times)} as fast as {worse} ({_NAMES[one.figure]}, {on})."
    gap = one.difference
    by = _interval(gap if one.better == "a" else _negative(gap), one.figure)
    slower = one.ratio if one.better == "a" else _inverse(one.ratio)
    return (
        f"{better} {_VERBS[one.figure]}, by {by}: {worse} takes {_times(slower)} as long "
        f"({_NAMES[one.figure]}, {on})."
    )


def caveats(evidence: Evidence, *, between: bool = True) -> list[Caveat]:
    """What must be known before the figures of a run are compared.

    Args:
        evidence: of the run.
        between: also what tells its cells from each other; False: each is compared with itself.
    """
    return [
        *_of_the_run(evidence),
        *(caveat for cell in evidence.cells for caveat in _of_cell(evidence, cell)),
        *(_between_cells(evidence) if between else ()),
    ]


def _asked(evidence: Evidence) -> tuple[str, int] | None:
    """The figure that the run was to decide, and how often it may have been looked at."""
    stop = evidence.spec.get("stop") or {}
    if not stop.get("decided"):
        return None
    repeats = int(evidence.spec.get("repeats", 1))
    return str(stop["metric"]), len(stopping.looks(int(stop["min_repeats"]), repeats))


# -- sentences -----------------------------------------------------------------------------------


def _of_scores(one: Comparison, a: str, b: str) -> str:
    scores = [mean_score(cell, one.figure) for cell in (one.a, one.b)]
    shares = [f"{score.value:.0%}" if score else figures.DASH for score in scores]
    families = f"{one.difference.prompts} independent prompts"
    gap = one.difference
    if gap.low is None or gap.high is None:
        return (
            f"{one.figure}: {a} {shares[0]}, {b} {shares[1]} on {families}; "
            f"an interval needs {MIN_PROMPTS}."
        )
    if not one.clear:
        return (
            f"{one.figure}: no difference was shown between {a} ({shares[0]}) and {b} "
            f"({shares[1]}): {gap.value * 100:+.1f} points [{gap.low * 100:.1f}, "
            f"{gap.high * 100:.1f}] on {families}{_what_it_takes(one, gap.detectable, 'points')}."
        )
    if one.better == "a":
        a, b, shares, gap = b, a, shares[::-1], _negative(gap)
    assert gap.low is not None
    assert gap.high is not None
    return (
        f"{one.figure}: {b} is right more often than {a}, {shares[1]} against {shares[0]}: "
        f"{gap.value * 100:+.1f} points [{gap.low * 100:.1f}, {gap.high * 100:.1f}] on {families}."
    )


def _of_pairs(one: Comparison, judged: pd.DataFrame, a: str, b: str) -> str:
    known = judged.dropna(subset=["score"])
    judge = ", ".join(map(short, known["judge"].unique()))
    won = [float((known["score"] == value).mean()) for value in (0, 1, 0.5)]
    gap = one.difference
    if one.better == "a":
        a, b, won, gap = b, a, [won[1], won[0], won[2]], _negative(gap)
    shares = f"{won[1]:.0%} to {won[0]:.0%}, {won[2]:.0%} ties"
    on = f"{gap.prompts} independent prompts"
    agreed = float(known["consistent"].astype(bool).mean())
    both = f"its two orders agreed in {agreed:.0%}{_places(known)}"
    if gap.low is None or gap.high is None:
        return (
            f"{judge} judged {b} against {a}: {shares} on {on}; {both}; an interval needs "
            f"{MIN_PROMPTS}."
        )
    net = f"{gap.value * 100:+.1f} points [{gap.low * 100:.1f}, {gap.high * 100:.1f}]"
    if not one.clear:
        return (
            f"No preference of {judge} was shown between {b} and {a}: {shares}, {net} on {on}"
            f"{_what_it_takes(one, gap.detectable, 'points')}; {both}."
        )
    return f"{judge} prefers {b} to {a}: {shares}, {net} on {on}; {both}."


def _places(known: pd.DataFrame) -> str:
    """Which place the judge preferred where its two orders did not agree."""
    odd = known[~known["consistent"].astype(bool)]
    first = int(((odd["said"] == "a") & (odd["said_swapped"] == "b")).sum())
    second = int(((odd["said"] == "b") & (odd["said_swapped"] == "a")).sum())
    if not first and not second:
        return ""
    place, times = ("first", first) if first >= second else ("second", second)
    return f" (of the other {len(odd)} it took the {place} place in both {times} times)"


def _nothing_shown(one: Comparison, a: str, b: str, on: str) -> str:
    assert one.ratio is not None
    if one.difference.prompts < one.least:
        return (
            f"{_NAMES[one.figure].capitalize()}: {b} / {a} = {one.ratio.value:.2f} "
            f"[{one.ratio.low:.2f}, {one.ratio.high:.2f}] on {on}{_what_it_takes(one, None, '')}."
        )
    return (
        f"No difference in {_NAMES[one.figure]} was shown between {a} and {b}: {_times(one.ratio)} "
        f"on {on}{_what_it_takes(one, one.ratio.detectable, 'ratio')}."
    )


def _what_it_takes(one: Comparison, detectable: float | None, kind: str) -> str:
    if one.difference.prompts < one.least:
        return (
            ", which are too few to show any difference among so many comparisons: that takes "
            f"{one.least}"
        )
    if not detectable:
        return ""
    size = f"{detectable * 100:.1f} points" if kind == "points" else f"{detectable:.2f}×"
    text = f"; so many show {size} four times in five"
    if one.needed is not None:
        many = f"more than {_MANY:,}" if one.needed > _MANY else f"about {one.needed:,}"
        text += f", and {many} would be needed for what was seen"
    return text


def _times(ratio: Estimate) -> str:
    return f"{ratio.value:.2f} times [{ratio.low:.2f}, {ratio.high:.2f}]"


def _interval(gap: Estimate, figure: str) -> str:
    assert gap.low is not None
    assert gap.high is not None
    assert figure.endswith("_s")
    unit, scale = ("ms", 1e3) if abs(gap.value) < 1 else ("s", 1.0)
    half = (gap.high - gap.low) / 2 * scale
    digits = min(3, max(0, -math.floor(math.log10(half)))) if half > 0 else 1
    low, value, high = (f"{v * scale:.{digits}f}" for v in (gap.low, gap.value, gap.high))
    return f"{value} {unit} [{low}, {high}]"


def _negative(gap: Estimate) -> Estimate:
    return _mapped(gap, lambda value: -value)


def _inverse(ratio: Estimate) -> Estimate:
    return _mapped(ratio, lambda value: 1 / value)


def _mapped(found: Estimate, change: Callable[[float], float]) -> Estimate:
    """An estimate seen from the other side: its bounds change places."""
    low, high = (None if v is None else change(v) for v in (found.high, found.low))
    return replace(found, value=change(found.value), low=low, high=high)


# -- warnings ------------------------------------------------------------------------------------


def _of_the_run(evidence: Evidence) -> Iterator[Caveat]:
    if evidence.run["status"] in ("partial", "error"):
        failed = "; ".join(as_mapping(evidence.run["details"]).get("failed", ()))
        yield Caveat(f"A part of the run failed: {failed.rstrip('.') or 'it says no more'}.")
    elif evidence.run["status"] not in ("ok", "done"):
        yield Caveat(f"The run is not finished: its status is {evidence.run['status']}.")
    if len(evidence.environments) > 1:
        yield Caveat(
            "The environment changed while it ran (software, settings or machine): "
            "cells from before and after must not be compared."
        )
    repeats = evidence.spec.get("repeats")
    if isinstance(repeats, int) and repeats < MIN_REPEATS:
        yield Caveat(f"Repeats: {repeats}; fewer than {MIN_REPEATS} say little of scatter.")


def _of_cell(evidence: Evidence, cell: CellEvidence) -> Iterator[Caveat]:
    label = (evidence.label(cell),)
    if not len(cell.trials):
        yield Caveat("has no trials", label)
        return
    for name, values in cell.identity().items():
        if len(values) > 1:
            yield Caveat(
                f"{name} changed while it ran ({', '.join(map(str, values))}): it is not one "
                "model in one form",
                label,
            )
    yield from _of_trials(cell, label)
    if cell.results.get("client_lag"):
        yield Caveat(late(cell.results), label)
    if cell.results.get("saturated"):
        why = "its queue grew without end"
        if cell.results.get("refused"):
            why = "a limit of the workbench refused some"
        yield Caveat(f"answers did not keep up with arrivals: {why}", label)
    judged = evidence.pairs[evidence.pairs["cell_id"] == cell.cell_id]
    if unsaid := int(judged["score"].isna().sum()):
        yield Caveat(f"of {unsaid} of its {len(judged)} pairs the judge said nothing usable", label)
    told = judged.dropna(subset=["score"])
    if len(told) and told["consistent"].astype(bool).mean() < 0.5:
        yield Caveat(
            "its judge mostly changed its mind when the answers changed places: it says little",
            label,
        )
    for scorer, scores in cell.scores.groupby("scorer"):
        unknown = scores[scores["score"].isna()]
        if len(unknown):
            reasons = unknown["details"].map(lambda told: as_mapping(told).get("reason", ""))
            yield Caveat(
                f"{scorer}: {len(unknown)} of {len(scores)} answers could not be scored and count "
                f"nowhere ({str(reasons.mode().iloc[0])[:_GIST] or 'no reason given'})",
                label,
                urgent=len(unknown) == len(scores),
            )
    if cell.scores["details"].astype(str).str.contains('"contained": ?false', regex=True).any():
        yield Caveat("its code ran without being cut off from files and network", label)


def _of_trials(cell: CellEvidence, label: tuple[str, ...]) -> Iterator[Caveat]:
    trials, good = cell.trials, cell.good
    failed = int((~trials["status"].isin(["ok", "cancelled"])).sum())
    if failed:
        yield Caveat(
            f"{failed} of {len(trials)} trials failed ({_reasons(trials)}); the figures are of the "
            "others",
            label,
            urgent=True,
        )
    if cell.beside:
        yield Caveat(
            f"{cell.beside} of {int(trials['session_id'].notna().sum())} answers overlapped "
            "requests that were not of this run: another run or somebody's chat slowed them",
            label,
            urgent=True,
        )
    fallbacks = int(trials["fallback_from"].notna().sum())
    if fallbacks:
        yield Caveat(
            f"another model answered {figures.count(fallbacks, 'trial')}, left out here", label
        )
    alone = cell.load.get("pattern") in ("isolated", "prefix", "cold", None)
    contended = _share(good["contended"])
    if alone and contended > 0 and not cell.beside:
        yield Caveat(
            f"{contended:.0%} of its answers ran beside other work of the workbench: slower than "
            "alone",
            label,
        )
    cold = _share(good["cold"])
    if cell.load.get("variant") != "cold" and cold > _SHARE:
        yield Caveat(f"{cold:.0%} of its answers waited for a load", label)
    if (good["prefix"] == "none").any() and good["repeat"].max() > 0:
        yield Caveat(
            "the same prompts came again without a prefix of their own: a prompt cache may have "
            "shortened their time to first token",
            label,
        )
    if changed(good["count_source"].dropna().tolist()):
        yield Caveat("its tokens were counted in more than one way", label)


def _reasons(trials: pd.DataFrame) -> str:
    """Why trials failed: each code once, with the message and the fix of its first."""
    told = []
    known = trials[trials["error_code"].notna()]
    for code, group in known.groupby("error_code", sort=True):
        first = group.iloc[0]
        words = [first[n] for n in ("error_message", "error_fix") if isinstance(first[n], str)]
        many = f"{len(group)} × " if known["error_code"].nunique() > 1 else ""
        told.append(f"{many}{code}{': ' if words else ''}{' '.join(words)[:_GIST]}")
    return "; ".join(told) or "no code"


def _between_cells(evidence: Evidence) -> Iterator[Caveat]:
    cells = [cell for cell in evidence.cells if len(cell.good)]
    lengths = {evidence.label(cell): cell.good["output_tokens"].median() for cell in cells}
    known = [value for value in lengths.values() if value == value and value > 0]
    if len(known) > 1 and max(known) / min(known) > 1 + 2 * _SHARE:
        yield Caveat(
            "Answers are not of the same length (median "
            + ", ".join(f"{name}: {value:.0f}" for name, value in lengths.items())
            + " tokens): times of whole answers compare the lengths too."
        )
    if any(cell.own for cell in cells):
        listed = "; ".join(
            f"{evidence.label(cell)}: "
            + (", ".join(f"{k} {v}" for k, v in cell.own.items()) or "none")
            for cell in cells
        )
        yield Caveat(f"Models were asked with options of their own: {listed}.")
    for name, parts in (
        ("the form of their weights", ("dtype", "quantization")),
        ("device", ("device",)),
        ("threads", ("threads",)),
    ):
        told = {cell.model: _told(cell, parts) for cell in cells}
        # Not every runtime tells its device and threads; what is unknown is not another one.
        if len(set(told.values()) - (set() if len(parts) > 1 else {figures.DASH})) > 1:
            listed = "; ".join(f"{short(model)}: {value}" for model, value in told.items())
            yield Caveat(f"Models differ in {name} as well: {listed}.")


def _told(cell: CellEvidence, parts: tuple[str, ...]) -> str:
    found = cell.identity()
    return " ".join(str(value) for name in parts for value in found[name]) or figures.DASH


def _share(flags: Iterable[object]) -> float:
    values = [bool(flag) for flag in flags if flag is not None and flag == flag]
    return sum(values) / len(values) if values else 0.0
