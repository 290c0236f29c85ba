"""The choice of a token, against transformers' own processors."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from workbench.errors import WorkbenchError
from workbench.hf.sampling import Sampler, choose, log_probabilities
from workbench.types import Options

VOCABULARY = 60


def logits(seed: int = 0, rows: int = 1) -> torch.Tensor:
    return 3 * torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def sampler(seed: int = 1, prompt: tuple[int, ...] = (), **options: Any) -> Sampler:
    return Sampler(Options(**options), seed, prompt)


def probabilities(scores: torch.Tensor, prompt: tuple[int, ...], options: Options) -> torch.Tensor:
    """What transformers' processors make of the same scores."""
    processors = LogitsProcessorList()
    if options.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
    processors.append(TemperatureLogitsWarper(options.temperature))
    if options.top_k:
        processors.append(TopKLogitsWarper(options.top_k))
    if options.top_p < 1:
        processors.append(TopPLogitsWarper(options.top_p))
    return torch.softmax(processors(torch.tensor([prompt]), scores), dim=-1)[0]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
        {"temperature": 0.5, "top_k": 5, "top_p": 1.0},
        {"temperature": 1.3, "top_k": 0, "top_p": 0.6},
        {"temperature": 0.9, "top_k": 12, "top_p": 0.8},
        {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.7},
    ],
)
def test_tokens_are_drawn_as_often_as_transformers_would(options: dict[str, Any]) -> None:
    prompt = (3, 7, 11)
    scores = logits(4)
    expected = probabilities(scores.clone(), prompt, Options(**options))
    drawn: Counter[int] = Counter()
    n = 6000
    chosen = sampler(prompt=prompt, **options)
    for _ in range(n):
        # The set of tokens seen so far would grow; only the draw is looked at here.
        chosen._seen = set(prompt)
        (token,) = choose(scores, [chosen])
        assert isinstance(token, int)
        drawn[token] += 1
    assert all(expected[token] > 0 for token in drawn)
    measured = torch.tensor([drawn[token] / n for token in range(VOCABULARY)])
    # Five standard errors of a share.
    assert (measured - expected).abs().max() < 5 * (0.25 / n) ** 0.5


def test_greedy_takes_the_likeliest_after_the_penalty() -> None:
    scores = logits(2)
    (plain,) = choose(scores, [sampler(temperature=0.0)])
    assert plain == int(scores.argmax())
    penalised = RepetitionPenaltyLogitsProcessor(2.0)(torch.tensor([[plain]]), scores.clone())
    (other,) = choose(scores, [sampler(temperature=0.0, repetition_penalty=2.0, prompt=(plain,))])
    assert other == int(penalised.argmax())


def test_a_seed_draws_the_same_whoever_stands_beside_it() -> None:
    def draws(neighbours: int) -> list[int]:
        mine = sampler(5, temperature=1.0, top_k=9, top_p=0.9)
        others = [sampler(n, temperature=1.2, top_k=30 - n, top_p=1.0) for n in range(neighbours)]
        found = []
        for step in range(20):
            first = logits(step)
            rows = torch.cat([first, logits(100 + step, neighbours)]) if neighbours else first
            token = choose(rows, [mine, *others])[0]
            assert isinstance(token, int)
            found.append(token)
        return found

    assert draws(0) == draws(3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_fails_its_row_alone(bad: float) -> None:
    rows = logits(1, rows=3)
    rows[1, 7] = bad
    first, second, third = choose(rows, [sampler(temperature=0.0) for _ in range(3)])
    assert isinstance(first, int)
    assert isinstance(third, int)
    assert isinstance(second, WorkbenchError)
    assert second.details["numerical"] is True


def test_log_probabilities_are_those_of_all_logits() -> None:
    row = logits(3)[0]
    value, top = log_probabilities(row, 5, 4)
    expected = torch.log_softmax(row, dim=-1)
    assert value == pytest.approx(float(expected[5]))
    assert [token for token, _ in top] == torch.topk(row, 4).indices.tolist()
    assert [found for _, found in top] == pytest.approx(torch.topk(expected, 4).values.tolist())
