"""Asks two models, one after the other, for what a sheet or a divergence needs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final, Protocol

from workbench.errors import ErrorCode, WorkbenchError, invalid
from workbench.insight.divergence import Answer, Divergence
from workbench.insight.probabilities import Step
from workbench.insight.sheet import ParitySheet
from workbench.insight.spelling import UNTOLD, own_name, pieces, shared_out, tells_last
from workbench.inspection import Inspection
from workbench.types import (
    ChatRequest,
    DoneEvent,
    ErrorEvent,
    StreamEvent,
    TimingMode,
    TokenEvent,
    new_id,
)

N_TOP: Final = 20
"""Alternatives asked for per token; Ollama gives no more."""
MAX_REPEATS: Final = 20
MAX_TOKENS: Final = 1_024
SOURCE: Final = "insight"
"""Under which the log has these sessions; views of speed leave them out."""

_WINDOW: Final = 200
"""Characters that a runtime holds back at most, while they might be the beginning of a mark."""

REPEATS: Final = 2
"""Further answers of each model by default."""

Tell = Callable[[str], None]


class Asker(Protocol):
    """The road to the models; the engine is one."""

    def stream(self, request: ChatRequest) -> AsyncGenerator[StreamEvent, None]:
        """Run one model call."""
        ...

    async def inspect(self, request: ChatRequest) -> Inspection:
        """What the runtime would make of a request."""
        ...


async def parity(asker: Asker, request: ChatRequest, other: str) -> ParitySheet:
    """The sheet of two models for one request.

    Args:
        asker: the road to the models.
        request: to the first model.
        other: id of the second model.

    Raises:
        WorkbenchError: of either model.
    """
    first = await asker.inspect(_fresh(request))
    second = await asker.inspect(_fresh(replace(request, model=other)))
    return ParitySheet.of(first, second)


async def diverge(
    asker: Asker,
    request: ChatRequest,
    other: str,
    *,
    repeats: int = REPEATS,
    tell: Tell = lambda stage: None,
) -> Divergence:
    """Let two models answer, and the second one score the first one's answer.

    Runs alone on the machine, one call after the other: nothing may disturb the arithmetic that is
    compared, not even the number of threads.

    Args:
        asker: the road to the models.
        request: to the first model; its ``max_tokens`` bounds the answers.
        other: id of the second model.
        repeats: further answers of each, to see whether it always says the same.
        tell: told in a few words what is being done.

    Raises:
        WorkbenchError: of either model.
    """
    _check(request, other, repeats)
    options = replace(request.options, logprobs=N_TOP)
    request = replace(request, options=options, timing_mode=TimingMode.ISOLATED, source=SOURCE)
    answers = []
    for model in (request.model, other):
        asked = replace(request, model=model)
        tell(f"{model} answers")
        steps, cut = await _steps(asker, asked)
        texts = []
        for number in range(repeats):
            tell(f"{model} answers again ({number + 1} of {repeats})")
            again, _ = await _steps(asker, asked)
            texts.append("".join(step.text for step in again))
        answers.append(Answer(model, steps, tuple(texts), cut))
    first, second = answers
    given = pieces(first.steps)
    forced: Sequence[Step] = ()
    if given:
        tell(f"{other} scores the answer of {request.model}")
        # The text is given: nothing of it may be taken for a stop string.
        plain = replace(options, stop=(), response_format=None)
        asked = replace(request, model=other, options=plain, forced=given)
        forced, _ = await _steps(asker, asked)
    return Divergence(first, second, tuple(forced), options.temperature, options.seed)


def _check(request: ChatRequest, other: str, repeats: int) -> None:
    if not 0 <= repeats <= MAX_REPEATS:
        raise invalid(f"repeats is {repeats}.", fix=f"Choose repeats between 0 and {MAX_REPEATS}.")
    most = request.options.max_tokens
    if most > MAX_TOKENS:
        raise invalid(
            f"max_tokens is {most:,}: some runtimes are asked for each token of an answer again.",
            fix=f"Choose max_tokens up to {MAX_TOKENS}.",
            option="max_tokens",
        )


async def _steps(asker: Asker, request: ChatRequest) -> tuple[tuple[Step, ...], bool]:
    """The tokens of one answer, and whether it was cut at ``max_tokens``."""
    steps: list[Step] = []
    cut = False
    async with aclosing(asker.stream(_fresh(request))) as events:
        async for event in events:
            if isinstance(event, ErrorEvent):
                raise event.error
            if isinstance(event, TokenEvent):
                add_tokens(steps, event)
            if isinstance(event, DoneEvent):
                cut = event.session.finish_reason == "length"
    found = settled(steps)
    if not found:
        raise WorkbenchError(
            ErrorCode.INVALID_REQUEST,
            f"{request.model} answered without text, so there is nothing to compare.",
            fix="Ask something else.",
            operation="diverge",
        )
    return found, cut


def add_tokens(steps: list[Step], event: TokenEvent) -> None:
    """Append an event's tokens; text without a token of its own belongs to the one before."""
    if not event.logprobs:
        if event.text and steps:
            steps[-1] = _longer(steps[-1], event.text)
        return
    texts = [event.text]
    if len(event.logprobs) > 1:
        # Joined for a slow reader, or by a runtime that waits for whole characters.
        texts = shared_out(event.text, [own_name(entry) for entry in event.logprobs])
    elif not (steps and steps[-1].is_part and not steps[-1].text) and tells_last(
        event.text, own_name(event.logprobs[0])
    ):
        steps.append(Step("", None, (), UNTOLD))
    for text, entry in zip(texts, event.logprobs, strict=True):
        steps.append(Step.from_entry(text, entry))


def settled(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Without the tokens that are no part of the text: the end token, marks, what stopped it.

    Text that a runtime held back and let go with its end token is the last token's.
    """
    found = list(steps)
    if len(found) > 1 and not found[-2].text and not found[-1].is_part:
        last = found[-1]
        if last.name.strip() not in last.text:
            found[-2:] = [_longer(found[-2], last.text)]
    text, kept = "", []
    for step in reversed(found):
        text = (step.text + text)[:_WINDOW]
        if step.text or step.is_part or (step.name.strip() and step.name.strip() in text):
            kept.append(step)
    return tuple(reversed(kept))


def _longer(step: Step, text: str) -> Step:
    return replace(step, text=step.text + text, token=step.name)


def _fresh(request: ChatRequest) -> ChatRequest:
    """The request as one of its own."""
    return replace(request, session_id=new_id("ses"), conversation_id=new_id("con"))
