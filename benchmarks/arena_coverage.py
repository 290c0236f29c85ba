"""How often the arena's 95 % intervals hold the true rating, over votes drawn from known strengths.

``python -m benchmarks.arena_coverage`` prints a row a setting, JSON last. Where several votes are
over one prompt, each prompt favours some models at random (a standard deviation of 1 in log-odds);
all models are then equally strong, because otherwise such prompts would also change what the
ratings estimate.
"""

from __future__ import annotations

import argparse
import json
import math

import numpy as np

from workbench.analysis.bradley_terry import Ballot, fit

SETTINGS = (
    # models, votes, prompts
    (2, 10, 10),
    (4, 30, 30),
    (4, 120, 120),
    (6, 300, 300),
    (4, 120, 12),
    (4, 120, 30),
    (4, 400, 40),
)


def coverage(models: int, votes: int, prompts: int, repeats: int, seed: int = 0) -> float:
    """The share of intervals that hold what they estimate."""
    random = np.random.default_rng(seed)
    several = prompts < votes
    held = 0
    for _ in range(repeats):
        true = np.zeros(models) if several else random.normal(0, 0.8, models)
        true = true - true.mean()
        favours = random.normal(0, 1.0 if several else 0.0, (prompts, models))
        ballots = []
        for number in range(votes):
            a, b = (int(one) for one in random.choice(models, 2, replace=False))
            prompt = number % prompts
            margin = true[a] + favours[prompt, a] - true[b] - favours[prompt, b]
            won = random.random() < 1 / (1 + math.exp(-margin))
            ballots.append(Ballot(a, b, float(won), str(prompt)))
        found = fit(ballots, models)
        for model in range(models):
            low, high = found.interval(model)
            held += low <= true[model] <= high
    return held / repeats / models


def main() -> None:
    """All settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    rows = []
    for models, votes, prompts in SETTINGS:
        share = coverage(models, votes, prompts, repeats)
        rows.append({"models": models, "votes": votes, "prompts": prompts, "coverage": share})
        print(f"{models} models, {votes} votes, {prompts} prompts: {share:.3f}", flush=True)
    print(json.dumps({"repeats": repeats, "rows": rows}))


if __name__ == "__main__":
    main()
