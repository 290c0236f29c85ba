"""How often the analysis sees a difference where there is none, or misses the one there is.

    python -m benchmarks.aa_calibration [DESIGN ...] [--effect 1.5]

Two "models" that are the same are compared again and again, through the functions that
``analysis.model_differences`` uses: paired by prompt and repeat, every prompt counting the same.
At 95 % an interval must miss "no difference" in 5 % of the comparisons, and so must p fall below
0.05. Each design is a way in which latencies scatter:

    even       a factor of every prompt, log-normal scatter of 10 % of every answer
    stalls     the same, and one answer in twenty takes ten times as long
    uneven     the scatter differs from prompt to prompt, between 2 and 50 %
    drift      the machine becomes slower and faster while it is measured (a random walk), a and b
               in turns, in random order
    measured   nothing is drawn: the same piece of work (hashing, of another length for each prompt)
               is timed for a and for b, in random order

With an effect b takes so many times as long as a, and an interval errs where it leaves that out:
the ratio, or the mean difference in seconds over all prompts that there could be.

Progress goes to stderr, one line of JSON for each design comes last.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workbench.analysis.statistics import Estimate

    Draw = Callable[[np.random.Generator, int, int], NDArray[np.float64]]
    """Makes latencies: prompts x repeats x (a, b)."""

_BYTES: Final = 20_000


def even(chance: np.random.Generator, prompts: int, repeats: int) -> NDArray[np.float64]:
    """Log-normal around a level of each prompt."""
    import numpy as np

    level = chance.normal(0, 1, (prompts, 1, 1))
    return np.exp(level + chance.normal(0, 0.1, (prompts, repeats, 2)))


def stalls(chance: np.random.Generator, prompts: int, repeats: int) -> NDArray[np.float64]:
    """One in twenty takes ten times as long."""
    import numpy as np

    late = chance.random((prompts, repeats, 2)) < 0.05
    return even(chance, prompts, repeats) * np.where(late, 10, 1)


def uneven(chance: np.random.Generator, prompts: int, repeats: int) -> NDArray[np.float64]:
    """Prompts scatter differently."""
    import numpy as np

    spread = np.exp(chance.uniform(np.log(0.02), np.log(0.5), (prompts, 1, 1)))
    return np.exp(spread * chance.normal(0, 1, (prompts, repeats, 2)))


def drift(chance: np.random.Generator, prompts: int, repeats: int) -> NDArray[np.float64]:
    """A random walk of 3 % a step below what is drawn; who of a and b goes first is drawn too."""
    import numpy as np

    walk = np.cumsum(chance.normal(0, 0.03, 2 * prompts * repeats))
    order = chance.permuted(np.tile([0, 1], (prompts * repeats, 1)), axis=1)
    slots = np.take_along_axis(walk.reshape(-1, 2), order, axis=1)
    # Repeats of a prompt are apart: a whole round over all prompts lies between them.
    rounds = slots.reshape(repeats, prompts, 2).transpose(1, 0, 2)
    return even(chance, prompts, repeats) * np.exp(rounds)


def measured(chance: np.random.Generator, prompts: int, repeats: int) -> NDArray[np.float64]:
    """Time the same work for both."""
    import numpy as np

    found = np.empty((prompts, repeats, 2))
    texts = [bytes(_BYTES + 2_000 * prompt) for prompt in range(prompts)]
    for repeat in range(repeats):
        for prompt in chance.permutation(prompts):
            for side in chance.permutation(2):
                began = time.perf_counter_ns()
                hashlib.sha256(texts[prompt]).digest()
                found[prompt, repeat, side] = time.perf_counter_ns() - began
    return found


DESIGNS: Final[dict[str, Draw]] = {
    "even": even,
    "stalls": stalls,
    "uneven": uneven,
    "drift": drift,
    "measured": measured,
}


def calibrate(
    design: str, *, comparisons: int, prompts: int, repeats: int, seed: int, effect: float = 1.0
) -> dict[str, object]:
    """Compare a with a, or with what takes ``effect`` times as long.

    Returns:
        The shares of intervals that leave the truth out, and of p values below 0.05, each with its
        own 95 % interval.
    """
    import numpy as np
    from scipy import stats

    from workbench.analysis.statistics import difference, ratio

    apart = _mean_difference(design, prompts, repeats, effect) if effect != 1 else 0.0
    counts = {"ratio_interval": 0, "ratio_p": 0, "difference_interval": 0}
    for number in range(comparisons):
        chance = np.random.default_rng([seed, number])
        values = DESIGNS[design](chance, prompts, repeats) * (1, effect)
        pairs = {i: [(float(a), float(b)) for a, b in rows] for i, rows in enumerate(values)}
        relative, absolute = ratio(pairs, seed=number), difference(pairs, seed=number)
        counts["ratio_interval"] += not _covers(relative, effect)
        counts["ratio_p"] += relative.p is not None and relative.p < 0.05
        counts["difference_interval"] += not _covers(absolute, apart)
        if (number + 1) % 200 == 0:
            print(design, prompts, number + 1, counts, file=sys.stderr, flush=True)
    shares = {}
    for name, count in counts.items():
        bounds = stats.binomtest(count, comparisons).proportion_ci(0.95)
        shares[name] = [round(x, 4) for x in (count / comparisons, bounds.low, bounds.high)]
    return {
        "design": design,
        "comparisons": comparisons,
        "prompts": prompts,
        "repeats": repeats,
        "effect": effect,
        "outside": shares,
    }


def _mean_difference(design: str, prompts: int, repeats: int, effect: float) -> float:
    """The mean of b - a over very many prompts."""
    import numpy as np

    if design == "measured":
        raise SystemExit("What is measured has no effect that is known: leave it out.")
    chance = np.random.default_rng(0)
    drawn = [DESIGNS[design](chance, prompts, repeats).mean() for _ in range(20_000)]
    return float(np.mean(drawn)) * (effect - 1)


def _covers(found: Estimate, value: float) -> bool:
    assert found.low is not None
    assert found.high is not None
    return found.low <= value <= found.high


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the designs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("designs", nargs="*", default=list(DESIGNS), help="default: all")
    parser.add_argument("--comparisons", type=int, default=2_000)
    parser.add_argument("--prompts", type=int, nargs="+", default=[10, 30])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--effect", type=float, default=1.0, help="b takes so many times as long")
    given = parser.parse_args(arguments)
    found = [
        calibrate(
            design,
            comparisons=given.comparisons,
            prompts=prompts,
            repeats=given.repeats,
            seed=given.seed,
            effect=given.effect,
        )
        for design in given.designs
        for prompts in given.prompts
    ]
    for one in found:
        print(json.dumps(one))


if __name__ == "__main__":
    main()
