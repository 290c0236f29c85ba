"""From logits to the next token of each request (imports torch).

Every request has its own settings and its own random generator, so a seed gives the same choices
alone and inside a batch, as far as the logits are the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from workbench.errors import ErrorCode, WorkbenchError
from workbench.types import Options


class Grammar(Protocol):
    """Says which tokens may come next, and is told which one did."""

    def mask(self, scores: torch.Tensor) -> None:
        """Set the scores of forbidden tokens to minus infinity, in place; shape (vocabulary,)."""
        ...

    def accept(self, token_id: int) -> None:
        """Go on by a token."""
        ...


@dataclass(slots=True)
class Sampler:
    """One request's way to choose a token.

    Args:
        options: sampling settings.
        seed: of this request's random generator.
        prompt: token ids, which the repetition penalty counts too.
        grammar: restricts the choice, or None.
        forced: token ids that are taken one after the other, whatever the model would choose.
    """

    options: Options
    seed: int
    prompt: Sequence[int]
    grammar: Grammar | None = None
    forced: deque[int] | None = None
    _generator: torch.Generator = field(init=False)
    _seen: set[int] = field(init=False)

    def __post_init__(self) -> None:
        # Of the CPU whatever the model's device: the same numbers on every machine.
        self._generator = torch.Generator().manual_seed(self.seed)
        self._seen = set(self.prompt)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.options.temperature == 0

    @property
    def shapes_scores(self) -> bool:
        """Whether the scores change before the likeliest tokens are looked for."""
        return self.grammar is not None or self.options.repetition_penalty != 1.0

    def shape(self, logits: torch.Tensor) -> torch.Tensor:
        """Scores of shape (vocabulary,) after repetition penalty and grammar."""
        scores = logits.float().clone()
        penalty = self.options.repetition_penalty
        if penalty != 1.0:
            # Keskar et al. 2019 (CTRL), section 4.1, for negative scores multiplied instead.
            ids = torch.tensor(sorted(self._seen), device=scores.device)
            seen = scores[ids]
            scores[ids] = torch.where(seen < 0, seen * penalty, seen / penalty)
        if self.grammar is not None:
            self.grammar.mask(scores)
        return scores

    def draw(self, values: torch.Tensor, ids: torch.Tensor) -> int:
        """Sample among the likeliest tokens.

        Args:
            values: their scores in falling order, on the CPU.
            ids: their token ids.
        """
        probabilities = torch.softmax(values.float() / self.options.temperature, dim=-1)
        if self.options.top_p < 1:
            # The smallest set whose probability reaches top_p (Holtzman et al. 2020); the sum
            # before a token decides, so the first one always stays.
            before = probabilities.cumsum(-1) - probabilities
            probabilities[before >= self.options.top_p] = 0
        choice = torch.multinomial(probabilities, 1, generator=self._generator)
        return int(ids[choice])

    def accept(self, token_id: int) -> None:
        """Remember the token that was chosen."""
        self._seen.add(token_id)
        if self.grammar is not None:
            self.grammar.accept(token_id)


def choose(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[int | WorkbenchError]:
    """The next token of each request, or why there is none.

    Args:
        logits: shape (requests, vocabulary).
        samplers: one each.
    """
    highest, likeliest = logits.max(dim=-1)
    # NaN wins every maximum, so one look at the maxima is a look at all logits.
    finite = torch.isfinite(highest).tolist()
    best = likeliest.tolist()
    chosen: list[int | WorkbenchError] = [
        token if good else _not_finite() for token, good in zip(best, finite, strict=True)
    ]
    together: list[int] = []
    for row, sampler in enumerate(samplers):
        if not finite[row]:
            continue
        if sampler.shapes_scores:
            chosen[row] = _one(sampler, sampler.shape(logits[row]))
        elif not sampler.greedy:
            together.append(row)
    if together:
        wanted = [_candidates(samplers[row], logits.shape[-1]) for row in together]
        rows = logits if len(together) == len(samplers) else logits[together]
        values, ids = (part.cpu() for part in torch.topk(rows, max(wanted), dim=-1))
        for at, (row, k) in enumerate(zip(together, wanted, strict=True)):
            chosen[row] = samplers[row].draw(values[at, :k], ids[at, :k])
    for row, sampler in enumerate(samplers):
        token = chosen[row]
        if isinstance(token, int):
            if sampler.forced:
                chosen[row] = token = sampler.forced.popleft()
            sampler.accept(token)
    return chosen


def _one(sampler: Sampler, scores: torch.Tensor) -> int:
    if sampler.greedy:
        return int(scores.argmax())
    values, ids = torch.topk(scores, _candidates(sampler, scores.shape[-1]))
    return sampler.draw(values.cpu(), ids.cpu())


def _candidates(sampler: Sampler, vocabulary: int) -> int:
    top_k = sampler.options.top_k
    return min(top_k, vocabulary) if top_k > 0 else vocabulary


def log_probabilities(
    logits: torch.Tensor, token_id: int, n_top: int
) -> tuple[float, list[tuple[int, float]]]:
    """Log-probability of a token, and of the likeliest ones, before any setting changes them.

    Args:
        logits: shape (vocabulary,).
        token_id: the chosen token.
        n_top: how many others are wanted.
    """
    values = torch.log_softmax(logits.float(), dim=-1)
    top = torch.topk(values, n_top)
    pairs = list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    return float(values[token_id]), pairs


def _not_finite() -> WorkbenchError:
    details: dict[str, Any] = {"numerical": True}
    return WorkbenchError(
        ErrorCode.HF_GENERATION_FAILED,
        "The model computed NaN or infinite logits.",
        fix="Load it with ?dtype=float32 if float16 may overflow; a damaged weight file does this "
        "too (workbench models verify). No sampling setting changes it.",
        operation="stream",
        provider="huggingface",
        details=details,
    )
