"""Do the intervals cover, and do the stopping rules keep their word? Played with random numbers.

    python -m benchmarks.calibration [--experiments 2000] [--json]

Times are lognormal, as real ones nearly are: prompts differ a lot, repeats of one a little, and a
prompt may suit one model better (``suits``). Every figure is a share of experiments.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from workbench.analysis.statistics import clustered, estimate, share, sign_flip_p
from workbench.bench import stopping

PROMPTS: Final = 12
REPEATS: Final = 40
FIRST: Final = 5
NOISE: Final = 0.15
EFFECT: Final = 0.05
"""A difference of 5 % between two models: ln(1.05)."""

Logs = NDArray[np.float64]


def experiment(
    draw: np.random.Generator, *, effect: float, suits: float, prompts: int = PROMPTS
) -> Logs:
    """ln(b / a) of every prompt and repeat, prompts x repeats."""
    of_prompt = draw.normal(effect, suits, (prompts, 1)) if suits else effect
    heavy = draw.standard_t(4, (prompts, REPEATS)) * NOISE  # now and then something else runs
    return of_prompt + heavy


def at_every_repeat(logs: Logs) -> tuple[bool, int]:
    """What not to do: test after every repeat at 5 %."""
    for repeats in range(FIRST, REPEATS + 1):
        if sign_flip_p(logs[:, :repeats].mean(axis=1)) <= 0.05:
            return True, repeats
    return False, REPEATS


def by_decision(logs: Logs) -> tuple[bool, int]:
    """:func:`workbench.bench.stopping.decided` at its looks."""
    at = stopping.looks(FIRST, REPEATS)
    for repeats in at:
        means = {"q": logs[:, :repeats].mean(axis=1).tolist()}
        if stopping.decided(means, looks=len(at)).stop:
            return True, repeats
    return False, REPEATS


def by_width(logs: Logs) -> tuple[bool, int]:
    """:func:`workbench.bench.stopping.known` at the same looks, then the ordinary test."""
    for repeats in stopping.looks(FIRST, REPEATS):
        if not stopping.known({"q": logs[:, :repeats].mean(axis=1).tolist()}, within=0.03):
            break
    return sign_flip_p(logs[:, :repeats].mean(axis=1)) <= 0.05, repeats


def once(logs: Logs) -> tuple[bool, int]:
    """All repeats, then the ordinary test."""
    return sign_flip_p(logs.mean(axis=1)) <= 0.05, REPEATS


RULES: Final[dict[str, Callable[[Logs], tuple[bool, int]]]] = {
    "all repeats, one test": once,
    "a test at every repeat": at_every_repeat,
    "decided": by_decision,
    "known": by_width,
}


def stopping_rules(experiments: int) -> list[dict[str, Any]]:
    """How often each rule says that two models differ, and after how many repeats it stops."""
    rows = []
    for name, rule in RULES.items():
        row: dict[str, Any] = {"rule": name}
        for what, effect in (("same", 0.0), ("other", EFFECT)):
            draw = np.random.default_rng(1)
            # The rule that looks 36 times is slow; its figure is far off anyway.
            n = experiments if rule is not at_every_repeat else max(1, experiments // 4)
            ended = [rule(experiment(draw, effect=effect, suits=0.0)) for _ in range(n)]
            row[f"differ_{what}"] = sum(found for found, _ in ended) / n
            row[f"repeats_{what}"] = sum(repeats for _, repeats in ended) / n
        rows.append(row)
    return rows


def nested(logs: Logs, seed: int) -> tuple[float, float]:
    """The other hierarchical bootstrap: prompts are drawn, and then repeats within them."""
    draw = np.random.default_rng(seed)
    prompts, repeats = logs.shape
    chosen = draw.integers(prompts, size=(999, prompts, 1))
    within = draw.integers(repeats, size=(999, prompts, repeats))
    means = logs[chosen, within].mean(axis=(1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def coverage(experiments: int) -> list[dict[str, Any]]:
    """How often 95 % intervals hold the true value."""
    rows = []
    for prompts, repeats, suits in ((6, 5, 0.0), (12, 5, 0.0), (12, 5, 0.2), (40, 5, 0.2)):
        draw = np.random.default_rng(2)
        ours = other = 0
        widths = [0.0, 0.0]
        for seed in range(experiments):
            logs = experiment(draw, effect=EFFECT, suits=suits, prompts=prompts)[:, :repeats]
            found = estimate(logs.mean(axis=1).tolist(), logs.size, seed=seed)
            assert found.low is not None
            assert found.high is not None
            ours += found.low <= EFFECT <= found.high
            low, high = nested(logs, seed)
            other += low <= EFFECT <= high
            widths[0] += found.high - found.low
            widths[1] += high - low
        rows.append(
            {
                "prompts": prompts,
                "repeats": repeats,
                "suits": suits,
                "ours": ours / experiments,
                "nested": other / experiments,
                "width_nested_to_ours": widths[1] / widths[0],
            }
        )
    return rows


def quality(experiments: int) -> list[dict[str, Any]]:
    """Coverage of shares of right answers, where questions of a family go together."""
    rows = []
    for families, size, right in ((8, 4, 0.5), (20, 2, 0.8), (30, 1, 0.95), (30, 1, 0.5)):
        draw = np.random.default_rng(3)
        holds = plain = differ = 0
        for seed in range(experiments):
            a, b = (_scores(draw, families, size, right) for _ in range(2))
            found = share(a)
            assert found.low is not None
            assert found.high is not None
            holds += found.low <= right <= found.high
            n = families * size
            error = 1.96 * math.sqrt(found.value * (1 - found.value) / n)
            plain += abs(found.value - right) <= error
            gaps = {f: [y - x for x, y in zip(a[f], b[f], strict=True)] for f in a}
            differ += (clustered(gaps, n, seed=seed).p or 1) <= 0.05
        rows.append(
            {
                "families": families,
                "questions": families * size,
                "right": right,
                "share": holds / experiments,
                "unclustered": plain / experiments,
                "same_differ": differ / experiments,
            }
        )
    return rows


def _scores(
    draw: np.random.Generator, families: int, size: int, right: float
) -> dict[int, list[float]]:
    """Scores of 0 and 1 whose families are easy or hard: their shares are beta distributed."""
    shares = draw.beta(2 * right, 2 * (1 - right), families)
    return {f: (draw.random(size) < shares[f]).astype(float).tolist() for f in range(families)}


def main() -> None:
    """Play, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=2_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = {
        "stopping": stopping_rules(given.experiments),
        "coverage": coverage(given.experiments),
        "quality": quality(given.experiments),
    }
    if given.json:
        print(json.dumps(found, indent=1))
        return
    for name, rows in found.items():
        print(f"\n{name}")
        print("| " + " | ".join(rows[0]) + " |")
        print("|" + "---|" * len(rows[0]))
        for row in rows:
            cells = (f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values())
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
