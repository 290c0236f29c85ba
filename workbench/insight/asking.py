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
from workbench.inspection import Inspection
from workbench.types import (
    ChatRequest,
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
        steps = await _steps(asker, asked)
        texts = []
        for number in range(repeats):
            tell(f"{model} answers again ({number + 1} of {repeats})")
            texts.append("".join(step.text for step in await _steps(asker, asked)))
        answers.append(Answer(model, steps, tuple(texts)))
    first, second = answers
    pieces = tuple(step.text for step in first.steps if step.text)
    forced: Sequence[Step] = ()
    if pieces:
        tell(f"{other} scores the answer of {request.model}")
        # The text is given: nothing of it may be taken for a stop string.
        plain = replace(options, stop=(), response_format=None)
        forced = await _steps(asker, replace(request, model=other, options=plain, forced=pieces))
    return Divergence(first, second, tuple(forced))


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


async def _steps(asker: Asker, request: ChatRequest) -> tuple[Step, ...]:
    """The tokens of one answer."""
    steps: list[Step] = []
    async with aclosing(asker.stream(_fresh(request))) as events:
        async for event in events:
            if isinstance(event, ErrorEvent):
                raise event.error
            if isinstance(event, TokenEvent):
                add_tokens(steps, event)
    if not steps:
        raise WorkbenchError(
            ErrorCode.INVALID_REQUEST,
            f"{request.model} answered without text, so there is nothing to compare.",
            fix="Ask something else.",
            operation="diverge",
        )
    return tuple(steps)


def add_tokens(steps: list[Step], event: TokenEvent) -> None:
    """Append an event's tokens; text without a token of its own belongs to the one before."""
    if not event.logprobs:
        if event.text and steps:
            last = steps[-1]
            steps[-1] = replace(last, text=last.text + event.text)
        return
    if len(event.logprobs) == 1:
        if event.text:  # an end token has none
            steps.append(Step.from_entry(event.text, event.logprobs[0]))
        return
    # Joined for a slow reader: the tokens' own texts are all there is.
    for entry in event.logprobs:
        text = str(entry["token"])
        if text in event.text:
            steps.append(Step.from_entry(text, entry))


def _fresh(request: ChatRequest) -> ChatRequest:
    """The request as one of its own."""
    return replace(request, session_id=new_id("ses"), conversation_id=new_id("con"))
