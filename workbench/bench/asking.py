"""A trial as a request: its messages, options and seed. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random
from typing import Final

from workbench.bench import prompts
from workbench.bench.plan import Cell, Trial
from workbench.bench.spec import Spec
from workbench.types import ChatRequest, Message, Options, Priority

SOURCE: Final = "bench"


def request(
    spec: Spec,
    run_id: str,
    trial: Trial,
    *,
    history: Sequence[Message] = (),
    conversation_id: str,
    intended_ns: int | None = None,
    logprobs: int = 0,
    warm_up: bool = False,
) -> ChatRequest:
    """The request of a trial, or of a warm-up like it.

    Args:
        spec: whose.
        run_id: of the run.
        trial: which.
        history: what was said in the turns before, without what :func:`first` gives.
        conversation_id: of its chain.
        intended_ns: when the load pattern wanted it to start.
        logprobs: alternatives that a scorer wants to see.
        warm_up: True leaves the trial's number out: it counts for nothing.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, an option that cannot be.
    """
    cell = trial.cell
    question = cell.workload.questions[trial.question]
    values = {"seed": seed_of(spec, trial), **cell.options}
    if question.output_tokens is not None and "max_tokens" not in cell.own:
        values["max_tokens"] = question.output_tokens
    if logprobs:
        values["logprobs"] = max(logprobs, values.get("logprobs") or 0)
    messages = (*first(spec, trial, warm_up=warm_up), *history)
    if trial.turn:
        messages += (Message("user", follow_up(trial)),)
    return ChatRequest(
        model=cell.model,
        messages=messages,
        options=Options.from_mapping(values),
        timing_mode=spec.mode,
        priority=Priority.BENCHMARK,
        conversation_id=conversation_id,
        intended_ns=intended_ns,
        source=SOURCE,
        run_id=run_id,
        cell_id=cell.cell_id,
        trial=None if warm_up else trial.number,
    )


def prefix_of(spec: Spec, cell: Cell) -> str:
    """What a prompt cache can know of the prompts of a cell: ``unique``, ``shared``, ``none``.

    ``none`` says that nothing was done about it: a question that was put before may be cached.
    """
    if "variant" in cell.load and spec.load.pattern == "prefix":
        return str(cell.load["variant"])
    return "unique" if spec.prefixed else "none"


def first(spec: Spec, trial: Trial, *, warm_up: bool = False) -> tuple[Message, ...]:
    """The messages of the first turn: system prompt, what comes before, the question."""
    cell = trial.cell
    item = cell.workload.questions[trial.question].item
    messages = list(item.messages)
    if spec.system is not None and messages[0].role != "system":
        messages.insert(0, Message("system", spec.system))
    before = _before(spec, trial, warm_up)
    if before:
        place = next(i for i, message in enumerate(messages) if message.role != "system")
        asked = messages[place]
        messages[place] = Message(asked.role, before + asked.content)
    return tuple(messages)


def follow_up(trial: Trial) -> str:
    """What is said in a later turn: the item's own ``turns``, or something that fits any answer."""
    item = trial.cell.workload.questions[trial.question].item
    own = item.meta.get("turns")
    if isinstance(own, Sequence) and not isinstance(own, str) and trial.turn <= len(own):
        return str(own[trial.turn - 1])
    return prompts.FOLLOW_UPS[(trial.turn - 1) % len(prompts.FOLLOW_UPS)]


def seed_of(spec: Spec, trial: Trial) -> int:
    """The sampling seed: the same for all cells that are asked the same."""
    text = f"{spec.seed}/{trial.question}/{trial.repeat}/{trial.turn}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) & 0x7FFF_FFFF


def _before(spec: Spec, trial: Trial, warm_up: bool) -> str:
    cell_id = trial.cell.cell_id
    number = -1 - trial.number if warm_up else trial.number - trial.turn
    kind = prefix_of(spec, trial.cell)
    if spec.load.pattern == "prefix":
        key = f"{cell_id}/shared" if kind == "shared" else f"{cell_id}/{number}"
        return f"{prompts.words(spec.load.prefix_tokens, Random(key))}.\n\n"
    return prompts.opening(f"{cell_id}/{number}") if kind == "unique" else ""
