"""From the stamps of streams to figures, ratios and targets: pure functions.

Stamps are monotonic nanoseconds. Quantiles and gaps between tokens are those of
:mod:`workbench.metrics`, so that a benchmark and a row of the log mean the same by one name.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from workbench.metrics import NS, inter_token_latencies, quantile
from workbench.types import Channel, TokenTimeline

MIN_STEADY_NS: Final = NS
"""A steady window shorter than a second says nothing about a steady state."""


@dataclass(slots=True)
class Trace:
    """One stream as its client saw it.

    ``t_ns`` and ``n_tokens`` have one entry per text that arrived. ``output_tokens`` is the
    runtime's own count, None where none was told (the answer broke off). ``extra`` holds what one
    peer alone tells.
    """

    sent_ns: int
    end_ns: int = 0
    t_ns: list[int] = field(default_factory=list)
    n_tokens: list[int] = field(default_factory=list)
    output_tokens: int | None = None
    prompt_tokens: int | None = None
    finish_reason: str | None = None
    text: str = ""
    error: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """The runtime's count, else what was seen to arrive."""
        return self.output_tokens if self.output_tokens is not None else sum(self.n_tokens)

    @property
    def ttft_s(self) -> float | None:
        """From the request being sent to its first text at the client."""
        return (self.t_ns[0] - self.sent_ns) / NS if self.t_ns else None

    @property
    def decode_tps(self) -> float | None:
        """Tokens per second after the first token; None below two tokens."""
        if self.tokens < 2 or len(self.t_ns) < 2 or self.t_ns[-1] == self.t_ns[0]:
            return None
        return (self.tokens - 1) / ((self.t_ns[-1] - self.t_ns[0]) / NS)

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between tokens; a text of n tokens gives n samples of its gap / n."""
        count = len(self.t_ns)
        content: Channel = "content"
        return inter_token_latencies(
            TokenTimeline(tuple(self.t_ns), tuple(self.n_tokens), (0,) * count, (content,) * count)
        )

    def to_dict(self, zero_ns: int) -> dict[str, Any]:
        """JSON values; stamps as microseconds after ``zero_ns``."""
        return {
            "sent_us": (self.sent_ns - zero_ns) // 1000,
            "end_us": (self.end_ns - zero_ns) // 1000,
            "t_us": [(t - zero_ns) // 1000 for t in self.t_ns],
            "n_tokens": self.n_tokens,
            "output_tokens": self.output_tokens,
            "prompt_tokens": self.prompt_tokens,
            "finish_reason": self.finish_reason,
            "error": self.error,
        }


def steady_window(traces: Sequence[Trace]) -> tuple[int, int] | None:
    """From the last stream's first token to the first stream's last token.

    Returns:
        The bounds, or None when a stream has no token or the window is below a second.
    """
    if not traces or any(not trace.t_ns for trace in traces):
        return None
    start = max(trace.t_ns[0] for trace in traces)
    end = min(trace.t_ns[-1] for trace in traces)
    return (start, end) if end - start >= MIN_STEADY_NS else None


def steady_tps(traces: Sequence[Trace]) -> float | None:
    """Tokens per second of all streams together inside the steady window."""
    window = steady_window(traces)
    if window is None:
        return None
    start, end = window
    tokens = 0.0
    for trace in traces:
        inside = sum(n for t, n in zip(trace.t_ns, trace.n_tokens, strict=True) if start < t <= end)
        # Where an event's tokens are not told, the runtime's total is spread over the events.
        tokens += inside * trace.tokens / sum(trace.n_tokens)
    return tokens / ((end - start) / NS)


def whole_tps(traces: Sequence[Trace]) -> float | None:
    """Tokens per second of all streams together, from the first request to the last end."""
    if not traces:
        return None
    seconds = (max(t.end_ns for t in traces) - min(t.sent_ns for t in traces)) / NS
    return sum(trace.tokens for trace in traces) / seconds if seconds > 0 else None


def tail(samples: Sequence[float]) -> dict[str, float | int | None]:
    """Median, p99 (None below the samples it needs) and maximum, with their number."""
    return {
        "n": len(samples),
        "p50": quantile(samples, 0.5),
        "p99": quantile(samples, 0.99),
        "max": max(samples, default=None),
    }


def median(values: Sequence[float | None]) -> float | None:
    """Median of what was measured, None if nothing was."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def cell_figures(sets: Sequence[Sequence[Trace]], wanted_tokens: int) -> dict[str, Any]:
    """Figures of one peer at one load in one turn.

    Args:
        sets: the repeats; each is all streams that were sent at once.
        wanted_tokens: what each stream was asked for.
    """
    traces = [trace for traces in sets for trace in traces]
    return {
        "streams": len(traces),
        "failed": sum(trace.error is not None for trace in traces),
        "short": sum(trace.error is None and trace.tokens != wanted_tokens for trace in traces),
        "tokens": sum(trace.tokens for trace in traces),
        "whole_tps": median([whole_tps(one) for one in sets]),
        "steady_tps": median([steady_tps(one) for one in sets]),
        "decode_tps": median([trace.decode_tps for trace in traces]),
        "ttft_s": [trace.ttft_s for trace in traces if trace.ttft_s is not None],
        "gaps_s": [gap for trace in traces for gap in trace.gaps_s],
    }


def bandwidth_share(
    decode_tps: float | None, weight_bytes: float | None, bytes_per_s: float | None
) -> float | None:
    """How much of the memory-bandwidth limit one stream's decoding reaches.

    A step reads all weights once for all its streams, so at more streams the rate of one of them
    is the rate of steps.
    """
    if not decode_tps or not weight_bytes or not bytes_per_s:
        return None
    return decode_tps * weight_bytes / bytes_per_s


# -- turns ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over turns."""

    median: float
    low: float
    high: float
    turns: int

    def text(self, digits: int = 3) -> str:
        """``1.62 [1.58-1.70]``."""
        return f"{self.median:.{digits}g} [{self.low:.{digits}g}-{self.high:.{digits}g}]"


def spread(values: Sequence[float | None]) -> Spread | None:
    """Median and range over the turns in which it was measured."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(statistics.median(known), min(known), max(known), len(known))


def ratios(
    ours: Mapping[int, float | None], theirs: Mapping[int, float | None]
) -> list[float | None]:
    """Ours over theirs within each turn that has both; figures of different turns never meet."""
    found: list[float | None] = []
    for turn in sorted(ours.keys() & theirs.keys()):
        mine, other = ours[turn], theirs[turn]
        found.append(mine / other if mine is not None and other else None)
    return found


def differences(
    ours: Mapping[int, float | None], theirs: Mapping[int, float | None]
) -> list[float | None]:
    """Ours less theirs within each turn that has both."""
    found: list[float | None] = []
    for turn in sorted(ours.keys() & theirs.keys()):
        mine, other = ours[turn], theirs[turn]
        found.append(mine - other if mine is not None and other is not None else None)
    return found


# -- targets --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """What an issue wants; ``bound`` is the least, or with ``at_most`` the largest, value."""

    name: str
    bound: float
    at_most: bool = False
    strict: bool = False
    unit: str = "x"

    def verdict(self, values: Sequence[float | None], *, gate: bool | None = True) -> str:
        """``met``, ``missed`` or ``not measured``, by the median over turns.

        Args:
            values: one per turn.
            gate: whether the variant passed the quality gate; speed that fails it does not count,
                and without a gate that ran nothing is called met.
        """
        found = spread(values)
        if found is None:
            return "not measured"
        inside = found.median <= self.bound if self.at_most else found.median >= self.bound
        if self.strict and found.median == self.bound:
            inside = False
        if not inside:
            return "missed"
        if gate is None:
            return "met (quality not measured)"
        return "met" if gate else "missed (fails the quality gate)"


# -- quality --------------------------------------------------------------------------------------


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens agree before the first that does not."""
    for index, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return index
    return min(len(a), len(b))


def equal_share(a: Sequence[int], b: Sequence[int]) -> float:
    """Share of positions that hold the same token, of the longer answer's positions."""
    longest = max(len(a), len(b))
    return sum(x == y for x, y in zip(a, b, strict=False)) / longest if longest else 1.0
