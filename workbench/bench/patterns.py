"""The load patterns that a spec may ask for: what each takes, with its defaults."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1, le=100_000)]
Rate = Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)]
Time = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Pause = Annotated[float, Field(ge=0, le=3_600, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1, max_length=100)]
Rates = Annotated[tuple[Rate, ...], Field(min_length=1, max_length=100)]
Arrivals = Literal["poisson", "constant", "bursty"]


class Strict(BaseModel):
    """A table of which every key is known: a misspelt one is refused, never dropped."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Isolated(Strict):
    """One request at a time."""

    pattern: Literal["isolated"] = "isolated"


class Closed(Strict):
    """``users`` who each ask again as soon as they have their answer and have thought."""

    pattern: Literal["closed"]
    users: Counts
    requests: Count | None = None
    think_s: Pause = 0.0


class Timed(Strict):
    """Requests that come when they come, whatever became of those before them."""

    arrivals: Arrivals = "poisson"
    burst: Annotated[float, Field(gt=1, le=1_000)] = 8.0
    """Of bursty arrivals: the variance of the gaps, in units of that of Poisson arrivals."""


class Open(Timed):
    """An open loop of so many requests a second."""

    pattern: Literal["open"]
    rate_per_s: Rates
    requests: Count | None = None
    duration_s: Time | None = None

    @model_validator(mode="after")
    def _one_length(self) -> Open:
        if (self.requests is None) == (self.duration_s is None):
            raise ValueError("give either requests or duration_s")
        return self


class Ramp(Timed):
    """An open loop whose rate rises evenly."""

    pattern: Literal["ramp"]
    from_per_s: Rate
    to_per_s: Rate
    duration_s: Time


class Sweep(Timed):
    """More and more load until an SLO is missed, to find the knee.

    ``of`` says what grows, from ``start`` by ``factor`` up to ``most``; then the gap between the
    last point that was met and the first that was not is halved ``refine`` times.
    """

    pattern: Literal["sweep"]
    of: Literal["users", "rate_per_s"] = "users"
    start: Rate = 1
    factor: Annotated[float, Field(gt=1, le=100)] = 2.0
    most: Rate = 64
    refine: Annotated[int, Field(ge=0, le=20)] = 2
    requests: Count | None = None
    duration_s: Time | None = None

    @model_validator(mode="after")
    def _bounds(self) -> Sweep:
        if self.start > self.most:
            raise ValueError("start is above most")
        if self.of == "users" and self.start < 1:
            raise ValueError("start is less than one user")
        if self.of == "users" and self.duration_s is not None:
            raise ValueError("users are counted by requests, not by duration_s")
        if self.of == "rate_per_s" and (self.requests is None) == (self.duration_s is None):
            raise ValueError("give either requests or duration_s")
        return self


class Trace(Strict):
    """Requests as they once arrived: JSON lines with ``arrival_s`` and a prompt or its length."""

    pattern: Literal["trace"]
    file: str


class Conversation(Strict):
    """Several turns, each with what was said before it."""

    pattern: Literal["conversation"]
    turns: Annotated[int, Field(ge=2, le=100)] = 3
    users: Counts = (1,)
    think_s: Pause = 0.0


class Prefix(Strict):
    """The same long text before every question, against one that no cache can know."""

    pattern: Literal["prefix"]
    prefix_tokens: Count = 512


class Cold(Strict):
    """Each request to a model that is not in memory, against one to a model that is."""

    pattern: Literal["cold"]


class Cancel(Strict):
    """A ``share`` of the users' requests is stopped after so many tokens (least, most)."""

    pattern: Literal["cancel"]
    users: Counts = (1,)
    share: Share = 0.3
    after_tokens: tuple[Count, Count] = (1, 16)
    requests: Count | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Cancel:
        if self.after_tokens[0] > self.after_tokens[1]:
            raise ValueError("after_tokens is [least, most]")
        return self


class Storm(Strict):
    """All models at once, in random order, so that they push each other out of memory."""

    pattern: Literal["storm"]
    users: Counts = (4,)


LOADS = (
    Isolated, Closed, Open, Ramp, Sweep, Trace, Conversation, Prefix, Cold, Cancel, Storm,
)  # fmt: skip

Pattern = Annotated[
    Isolated | Closed | Open | Ramp | Sweep | Trace | Conversation | Prefix | Cold | Cancel | Storm,
    Field(discriminator="pattern"),
]

ALONE = (Isolated, Prefix, Cold)
"""Patterns with one request at a time."""
