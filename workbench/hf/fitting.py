"""The way a model is run: the fastest form of its weights that is right (imports torch)."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf import quality, weights
from workbench.hf.footprint import FLOAT32_UP_TO_PARAMETERS
from workbench.hf.options import LoadOptions
from workbench.hf.protocol import Load
from workbench.hf.quality import Verdict
from workbench.hf.slots import PlainRunner, Runner, SlotRunner, agrees_with_plain, supports_slots


@dataclass(slots=True)
class Fitted:
    """A model and the way it is run."""

    model: Any
    runner: Runner
    form: str
    parameters: int
    verdict: Verdict | None = None


def fit(
    wanted: Load,
    options: LoadOptions,
    device: str,
    tokenizer: Any,
    whole: Callable[[], Any],
) -> Fitted:
    """Load the model in the fastest form that was asked for or may be chosen, and is right.

    Args:
        wanted: what is asked for.
        options: of it.
        device: where to.
        tokenizer: of the model.
        whole: loads the model as its files have it.

    Raises:
        WorkbenchError: ``HF_INVALID_CONFIG`` if a form that was demanded is refused.
    """
    form = _wanted_form(wanted, options, device)
    model = whole()
    size = model.num_parameters()  # before a conversion, which leaves no parameters to count
    if form != "plain" and getattr(model, "is_quantized", False):
        if options.quantization != "none":
            raise _refused(form, "its files are quantised already")
        form = "plain"
    if options.engine == "plain" or not supports_slots(model):
        if options.quantization != "none":
            raise _refused(form, "its architecture is not supported")
        return Fitted(model, PlainRunner(model), "plain", size)
    known = Verdict(**wanted.verdict) if wanted.verdict and form != "plain" else None
    if known is not None and known.passed:
        prompts = weights.PromptWeights.of(model) if wanted.prompts and known.prompts_from else None
        weights.convert(model, known.made, wanted.threads, prompts)
        start = 0 if prompts is None else known.prompts_from or 0
        fast = SlotRunner(model, torch.float32, prompts, start)
        return Fitted(model, fast, known.made, size, known)
    verdict = known
    for made in weights.MAKINGS.get(form, ()) if known is None else ():
        if model is None:
            model = whole()
        verdict, runner = _try_form(model, form, made, tokenizer, prompts=wanted.prompts)
        if verdict.passed and runner is not None:
            return Fitted(model, runner, made, size, verdict)
        del runner
        model = None  # converted in place, of no more use; freed before it is loaded again
        give_back_memory()
    if options.quantization != "none":
        raise _refused(form, verdict.problem if verdict is not None else "")
    if model is None:
        model = whole()
    return Fitted(model, _runner(model, model.dtype), "plain", size, verdict)


def _wanted_form(wanted: Load, options: LoadOptions, device: str) -> str:
    if options.quantization != "none":
        if device != "cpu":
            raise WorkbenchError(
                ErrorCode.HF_INVALID_CONFIG,
                f"{options.quantization} weights are made for the CPU only so far.",
                fix="Leave quantization out on a GPU, or add device=cpu.",
                operation="load",
                provider="huggingface",
            )
        return options.quantization
    automatic = options.dtype == "auto" and options.engine == "auto" and device == "cpu"
    return "packed" if automatic else "plain"


def _runner(model: Any, activations: torch.dtype) -> Runner:
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    if agrees_with_plain(model, vocabulary, activations):
        return SlotRunner(model, activations)
    return PlainRunner(model)


def _try_form(
    model: Any, form: str, made: str, tokenizer: Any, *, prompts: bool
) -> tuple[Verdict, SlotRunner | None]:
    """Convert the model, in place, and see whether it is still right and faster than before."""
    stored = weights.PromptWeights.of(model) if prompts else None
    parameters = model.num_parameters()
    if not isinstance(_runner(model, model.dtype), SlotRunner):
        return Verdict(form, False, "its forward pass does not take our cache"), None
    before = quality.paces(SlotRunner(model, model.dtype))
    ids = quality.sample_ids(tokenizer, parameters)
    if parameters <= FLOAT32_UP_TO_PARAMETERS:
        model.float()
    reference = dtype_name(model)
    expected = quality.logits_of(model, ids)
    if not bool(torch.isfinite(expected).all()):
        return Verdict(form, False, "the model itself computes NaN or infinite logits"), None
    try:
        weights.convert(model, made, torch.get_num_threads(), stored)
        runner = SlotRunner(model, torch.float32, stored)
        runner.record()
        after = quality.paces(runner)
        got = quality.logits_of(model, ids)
    except (weights.Unsuitable, RuntimeError, AttributeError, TypeError) as error:
        return Verdict(form, False, first_line(error) or type(error).__name__), None
    verdict = quality.judge(
        form,
        made,
        ids,
        expected,
        got,
        reference=reference,
        before=before,
        after=after,
    )
    if verdict.passed and form == "packed" and not quality.is_faster(verdict):
        verdict = replace(verdict, passed=False, problem="it is not faster on this machine")
    if verdict.passed and prompts:
        verdict = replace(verdict, prompts_from=0)
    if verdict.passed and stored is not None:
        with suppress(RuntimeError, TypeError, IndexError):  # then prompts are read as steps are
            used = quality.logits_as_used(model, runner, stored, ids)
            times = quality.prompt_paces(runner)
            verdict = quality.judge_prompts(verdict, ids, expected, used, times)
        runner.prompts_from, stored.reading = verdict.prompts_from or 0, False
        if not runner.prompts_from:
            weights.forget(model)
    return verdict, runner


def prompts_from(runner: Runner) -> int:
    """Tokens of a pass over prompts from which on it is done in bfloat16; 0: never."""
    return runner.prompts_from if isinstance(runner, SlotRunner) else 0


def is_recorded(runner: Runner) -> bool:
    """Whether its steps run as one recorded graph."""
    return isinstance(runner, SlotRunner) and runner.recorded


def _refused(form: str, problem: str) -> WorkbenchError:
    return WorkbenchError(
        ErrorCode.HF_INVALID_CONFIG,
        f"{form} is not used for this model on this machine: {problem}.",
        fix="Leave quantization out, or try the other one (int8, int4).",
        operation="load",
        provider="huggingface",
        details={"quality": problem},
    )


def dtype_name(model: Any) -> str:
    """The type of its weights, without torch's prefix."""
    return str(model.dtype).removeprefix("torch.")


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, short enough to show."""
    return next((line for line in str(error).splitlines() if line.strip()), "")[:500]


def give_back_memory() -> None:
    """Return what was used and freed again, so that the measured memory is the model's."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
