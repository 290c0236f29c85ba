"""Does a fast form of a model still answer like the model? Asked once per model and machine.

A fast path that answers nonsense is worse than a slow one, so nothing is trusted unseen: the same
text goes through the model as its files have it (in float32 up to two billion parameters) and
through the fast form (imports torch).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import torch

from workbench.hf.slots import SlotRunner
from workbench.hf.weights import PromptWeights

TEXT: Final = (
    "The river was low that summer, and the fox knew every stone in it. She crossed at dawn, when "
    "the water was cold and the farm dogs slept, and came back before the first light touched the "
    "roof of the barn. Green plants use sunlight to make sugar from carbon dioxide and water, and "
    "give off oxygen. In 1969 the Apollo 11 mission landed the first people on the Moon; two of "
    "them walked outside for two and a half hours, while the third stayed in orbit. To compute the "
    "mean of a list in Python, write sum(values) / len(values), and mind the empty list. A good "
    "engineer measures twice and cuts once."
)

# Perplexity may rise by this factor, and at least this share of the likeliest next tokens must be
# the same. Packing changes no more than the last bits; eight bits are close to lossless in the
# literature (Dettmers et al. 2022); four bits are chosen for memory and cost a little.
LIMITS: Final[Mapping[str, tuple[float, float]]] = {
    "packed": (1.01, 0.97),
    "int8": (1.03, 0.93),
    "int4": (1.20, 0.75),
}
_LONGEST: Final = 160
_SHORTEST: Final = 24
_BATCHES: Final = (1, 8)
_PROMPTS: Final = (32, 64, 128)
_PROMPTS_PAY: Final = 1.1
_STEPS: Final = 16
_WORK: Final = 8e10
"""Parameters times tokens of the check: it shall take seconds, not minutes."""


Paces = Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one fast form of one model did on one machine.

    Attributes:
        form: that was asked for, one of :data:`workbench.hf.weights.MAKINGS`.
        passed: whether it may be used.
        problem: why not, empty if it may.
        perplexity: of the text, through the fast form.
        reference_perplexity: through the reference.
        greedy_agreement: share of positions where both find the same token likeliest.
        reference: the type of the reference's weights.
        speedup_1: time of a step of one answer before, over the time after.
        speedup_8: the same for eight answers in a batch.
        made: how, one of :data:`workbench.hf.weights.FORMS`; empty if it could not be made.
        prompts_from: tokens that a pass over prompts must have to be quicker in bfloat16; 0 if it
            never is, or not right; None if it was not asked.
        prompts_speedup: of the longest pass that was measured.
        prompts_perplexity: of the text, most of it read as a prompt, the end in steps after it.
        prompts_agreement: as ``greedy_agreement``, in the same way.
    """

    form: str
    passed: bool
    problem: str = ""
    perplexity: float | None = None
    reference_perplexity: float | None = None
    greedy_agreement: float | None = None
    reference: str = ""
    speedup_1: float | None = None
    speedup_8: float | None = None
    made: str = ""
    prompts_from: int | None = None
    prompts_speedup: float | None = None
    prompts_perplexity: float | None = None
    prompts_agreement: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


def sample_ids(tokenizer: Any, parameters: int) -> list[int]:
    """Token ids of the text, fewer for a large model."""
    longest = int(max(_SHORTEST, min(_LONGEST, _WORK // max(parameters, 1))))
    return list(tokenizer(TEXT)["input_ids"])[:longest]


@torch.inference_mode()
def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    """Logits at every position, shape (tokens, vocabulary), float32."""
    inputs = torch.tensor([ids], device=model.device)
    return model(input_ids=inputs, use_cache=False).logits[0].float()  # type: ignore[no-any-return]


@torch.inference_mode()
def paces(runner: SlotRunner) -> dict[int, float]:
    """Seconds of a decoding step by the number of answers in it: the best of a few.

    On one thread: whatever else this machine does now, two would wait for each other, and a
    comparison of forms would be one of luck.
    """
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    best = {}
    for n in _BATCHES:
        tokens = [[5]] * n
        times = []
        for step in range(4):
            begun = time.perf_counter()
            runner.forward(0, tokens, [step] * n)
            times.append(time.perf_counter() - begun)
        best[n] = min(times)
    runner.cache.release()
    torch.set_num_threads(usual)
    return best


@torch.inference_mode()
def prompt_paces(runner: SlotRunner) -> tuple[dict[int, float], dict[int, float]]:
    """Seconds of a pass over a prompt by its tokens, as steps are done and in bfloat16.

    On one thread, the better of two, in turns.
    """
    usual, usual_from = torch.get_num_threads(), runner.prompts_from
    torch.set_num_threads(1)
    best: tuple[dict[int, float], dict[int, float]] = ({}, {})
    for n in _PROMPTS:
        for _ in range(2):
            for way, prompts_from in zip(best, (0, 1), strict=True):
                runner.prompts_from = prompts_from
                begun = time.perf_counter()
                runner.forward(0, [[5] * n], [0])
                spent = time.perf_counter() - begun
                way[n] = min(spent, way.get(n, spent))
    runner.cache.release()
    torch.set_num_threads(usual)
    runner.prompts_from = usual_from
    return best


@torch.inference_mode()
def logits_as_used(model: Any, runner: SlotRunner, prompts: PromptWeights, ids: list[int]) -> Any:
    """As :func:`logits_of`, the last tokens in steps after the others were read as a prompt."""
    read = len(ids) - _STEPS
    prompts.reading = True
    rows = [logits_of(model, ids[:read])]
    prompts.reading = False
    usual, runner.prompts_from = runner.prompts_from, 1
    runner.forward(0, [ids[:read]], [0])
    rows += [runner.forward(0, [[ids[n]]], [n]).float() for n in range(read, len(ids))]
    runner.prompts_from = usual
    runner.cache.release()
    return torch.cat(rows)


def judge_prompts(
    verdict: Verdict,
    ids: list[int],
    expected: torch.Tensor,
    got: torch.Tensor,
    times: tuple[Paces, Paces],
) -> Verdict:
    """Whether, and from how many tokens on, prompts are to be read in bfloat16.

    Args:
        verdict: on the form of the steps.
        ids: the text.
        expected: logits of the reference, shape (tokens, vocabulary).
        got: see :func:`logits_as_used`.
        times: see :func:`prompt_paces`.
    """
    most, least = LIMITS[verdict.form]
    other = _perplexity(got, ids)
    agreement = float((expected.argmax(-1) == got.argmax(-1)).float().mean())
    right = math.isfinite(other) and other <= _perplexity(expected, ids) * most
    paying = [n for n in _PROMPTS if times[0][n] / times[1][n] >= _PROMPTS_PAY]
    # Quicker at one length and not at a longer one is chance.
    start = min(paying, default=0) if max(_PROMPTS) in paying else 0
    return replace(
        verdict,
        prompts_from=start if right and agreement >= least else 0,
        prompts_speedup=times[0][max(_PROMPTS)] / times[1][max(_PROMPTS)],
        prompts_perplexity=other if math.isfinite(other) else None,
        prompts_agreement=agreement,
    )


def judge(
    form: str,
    made: str,
    ids: list[int],
    expected: torch.Tensor,
    got: torch.Tensor,
    *,
    reference: str,
    before: Paces,
    after: Paces,
) -> Verdict:
    """Compare the fast form's logits with the reference's.

    Args:
        form: that was asked for.
        made: how it was made.
        ids: the text.
        expected: logits of the reference, shape (tokens, vocabulary).
        got: those of the fast form.
        reference: type of the reference's weights.
        before: see :func:`paces`, of the model as it was loaded.
        after: of the fast form.
    """
    most, least = LIMITS[form]
    one, other = _perplexity(expected, ids), _perplexity(got, ids)
    agreement = float((expected.argmax(-1) == got.argmax(-1)).float().mean())
    problem = ""
    if not math.isfinite(other) or other > one * most:
        problem = f"its perplexity is {other:.3g}, against {one:.3g} of the model in {reference}"
    elif agreement < least:
        problem = f"only {agreement:.0%} of its likeliest tokens are those of the model"
    return Verdict(
        form=form,
        passed=not problem,
        problem=problem,
        perplexity=other if math.isfinite(other) else None,
        reference_perplexity=one,
        greedy_agreement=agreement,
        reference=reference,
        speedup_1=before[1] / after[1],
        speedup_8=before[8] / after[8],
        made=made,
    )


def is_faster(verdict: Verdict) -> bool:
    """Whether the form saves time, over one and eight answers taken together."""
    return (verdict.speedup_1 or 0) * (verdict.speedup_8 or 0) > 1


def _perplexity(logits: torch.Tensor, ids: list[int]) -> float:
    targets = torch.tensor(ids[1:], device=logits.device)
    return float(torch.exp(torch.nn.functional.cross_entropy(logits[:-1], targets)))
