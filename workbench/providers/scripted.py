"""The ``scripted`` provider: plays a known schedule, so that the measuring itself can be tested.

It serves tests, docs and demos: no model, no randomness, every token at a known moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field

from workbench.errors import ErrorCode, WorkbenchError, invalid
from workbench.providers.base import CancellationToken, ResidentModel, Weightless
from workbench.types import (
    Channel,
    ChatRequest,
    FinishReason,
    ModelInfo,
    ProviderEvent,
    ProviderFinish,
    ProviderToken,
    ProviderToolCall,
    ProviderWarning,
    ToolCall,
)

_WORDS = ("The", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "again.")
_SPIN_S = 0.002
"""asyncio's timers are good to a millisecond or two; the rest of a wait is polled."""


@dataclass(frozen=True, slots=True)
class Step:
    """Text due ``delay_s`` seconds after the step before it."""

    delay_s: float
    text: str
    n_tokens: int = 1
    channel: Channel = "content"


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a scripted model does when asked."""

    steps: tuple[Step, ...]
    finish_s: float = 0.0
    finish_reason: FinishReason = "stop"
    load_s: float = 0.0
    error: ErrorCode | None = None
    warning: ProviderWarning | None = None
    prompt_tokens: int = 10
    description: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    """Asked for after the last step, if the request offers functions at all."""
    sees: bool = False
    """Whether it takes images, of which it makes nothing."""


def steady(
    n_events: int,
    *,
    first_s: float,
    gap_s: float,
    chunk: int = 1,
    channel: Channel = "content",
) -> tuple[Step, ...]:
    """``n_events`` events of ``chunk`` tokens each, the first after ``first_s``."""
    words = [f"{_WORDS[i % len(_WORDS)]} " for i in range(n_events * chunk)]
    return tuple(
        Step(
            first_s if i == 0 else gap_s,
            "".join(words[i * chunk : (i + 1) * chunk]),
            chunk,
            channel,
        )
        for i in range(n_events)
    )


SCHEDULES: Mapping[str, Schedule] = {
    "steady": Schedule(
        steady(60, first_s=0.1, gap_s=0.025), description="first token 100 ms, then 40 tokens/s"
    ),
    "chunks": Schedule(
        steady(12, first_s=0.1, gap_s=0.2, chunk=8), description="eight tokens at a time"
    ),
    "reasoning": Schedule(
        steady(20, first_s=0.1, gap_s=0.02, channel="reasoning")
        + steady(40, first_s=0.02, gap_s=0.02),
        description="thinks for 20 tokens, then answers",
    ),
    "stall": Schedule(
        (
            *steady(10, first_s=0.1, gap_s=0.02),
            Step(3.0, "after the stall "),
            *steady(10, first_s=0.02, gap_s=0.02),
        ),
        description="stops for three seconds in the middle",
    ),
    "error": Schedule(
        steady(10, first_s=0.1, gap_s=0.02),
        error=ErrorCode.INTERNAL,
        description="fails after ten tokens",
    ),
    "tools": Schedule(
        steady(3, first_s=0.1, gap_s=0.02),
        tool_calls=(ToolCall("call_1", "get_weather", '{"city": "Paris"}'),),
        description="says three words, then asks for the weather of Paris",
    ),
    "long": Schedule(
        steady(1250, first_s=0.1, gap_s=0.02, chunk=8),
        description="10,000 tokens, 400 tokens/s: 25 seconds",
    ),
    "slow-load": Schedule(
        steady(20, first_s=0.1, gap_s=0.02), load_s=2.0, description="takes two seconds to load"
    ),
}


@dataclass
class ScriptedProvider(Weightless):
    """Plays :class:`Schedule` objects by name.

    Args:
        schedules: the models of this provider.
    """

    schedules: Mapping[str, Schedule] = field(default_factory=lambda: dict(SCHEDULES))
    name: str = "scripted"
    shares_cores: bool = False
    concurrency: int = 1_000

    def __post_init__(self) -> None:
        super().__init__()

    async def list_models(self) -> list[ModelInfo]:
        """One entry per schedule."""
        return [await self.show(name) for name in self.schedules]

    async def show(self, model: str) -> ModelInfo:
        """The schedule's description."""
        schedule = self._schedule(model)
        return ModelInfo(
            id=f"{self.name}/{model}",
            name=model,
            provider=self.name,
            status="resident" if model in self._resident else "available",
            format="schedule",
            chat_template=True,
            digest=f"script:{model}",
            details={
                "description": schedule.description,
                **({"capabilities": ["completion", "vision"]} if schedule.sees else {}),
            },
        )

    async def load(
        self, model: str, *, keep_alive_s: float, num_ctx: int | None = None
    ) -> ResidentModel:
        """Wait the schedule's ``load_s`` the first time."""
        if self.resident(model) is None:
            await asyncio.sleep(self._schedule(model).load_s)
        return await super().load(model, keep_alive_s=keep_alive_s, num_ctx=num_ctx)

    async def stream(
        self, request: ChatRequest, model: str, seed: int, cancel: CancellationToken
    ) -> AsyncGenerator[ProviderEvent, None]:
        """Play the schedule against absolute deadlines, so that lateness does not add up."""
        schedule = self._schedule(model)
        if request.forced:
            raise invalid(
                f"scripted/{model} plays a schedule and knows no probabilities.",
                fix="Choose a real model.",
            )
        if request.tools and not schedule.tool_calls:
            raise invalid(
                f"scripted/{model} cannot call functions.",
                fix="Leave tools out, or choose scripted/tools.",
            )
        if schedule.warning is not None:
            yield schedule.warning
        options = request.options
        given = {
            "response_format": options.response_format is not None,
            "logprobs": options.logprobs > 0,
        }
        if without := [name for name, wanted in given.items() if wanted]:
            yield ProviderWarning(
                "WITHOUT_EFFECT",
                f"scripted/{model} plays a schedule: {' and '.join(without)} had no effect.",
                {"options": without},
            )
        due = time.monotonic()
        produced, finish_reason = 0, schedule.finish_reason
        for step in schedule.steps:
            due += step.delay_s
            if await _until(due, cancel):
                break
            if produced + step.n_tokens > request.options.max_tokens:
                finish_reason = "length"
                break
            produced += step.n_tokens
            yield ProviderToken(step.text, time.monotonic_ns(), step.n_tokens, step.channel)
        else:
            if schedule.error is not None:
                raise WorkbenchError(
                    schedule.error,
                    f"The schedule of scripted/{model} ends in an error.",
                    fix="This model fails on purpose; choose another.",
                    operation="stream",
                    provider=self.name,
                )
            await _until(due + schedule.finish_s, cancel)
            for call in schedule.tool_calls if request.tools else ():
                yield ProviderToolCall(call, time.monotonic_ns())
        yield ProviderFinish(
            finish_reason, schedule.prompt_tokens, produced, count_source="runtime"
        )

    def _schedule(self, model: str) -> Schedule:
        try:
            return self.schedules[model]
        except KeyError:
            raise WorkbenchError(
                ErrorCode.MODEL_NOT_FOUND,
                f"There is no schedule named {model!r}.",
                fix=f"The scripted models are {', '.join(self.schedules)}.",
                operation="resolve",
                provider=self.name,
            ) from None


async def _until(due: float, cancel: CancellationToken) -> bool:
    """Wait until the monotonic time ``due``; True when cancelled first."""
    coarse = due - time.monotonic() - _SPIN_S
    if coarse > 0:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(cancel.wait(), coarse)
    while time.monotonic() < due and not cancel.cancelled:  # noqa: ASYNC110 (polls a clock)
        await asyncio.sleep(0)
    return cancel.cancelled
