"""One definition of every figure, for UI, API, benchmarks, notebooks and SQL alike.

Inputs are monotonic nanosecond stamps, outputs seconds, tokens per second and bytes, as their
names say. The SQL views repeat these formulas; a test holds the two equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from workbench.types import Stamps, StreamSession, TokenTimeline

NS: Final = 1_000_000_000

PHASES: Final = (
    "retry_s",
    "queue_s",
    "load_s",
    "dispatch_s",
    "prefill_s",
    "think_s",
    "answer_s",
    "finish_s",
)
"""The phases of a request in order; they add up to ``wall_s``."""

DEFINITIONS: Final[dict[str, str]] = {
    "retry_s": "lost in a failed attempt before the one that these figures belong to, from arrival "
    "to failure",
    "queue_s": "waiting for a slot, without load and retry: slot - queued - load - retry",
    "load_s": "time this request waited for its model to load",
    "dispatch_s": "from the slot until the request was handed to the runtime: sent - slot",
    "prefill_s": "until the first token: first_any - sent",
    "think_s": "from the first token to the first of the answer itself: first_content - first_any",
    "answer_s": "from the first to the last token of the answer: last - first_content",
    "finish_s": "from the last token to the end: end - last",
    "ttft_s": "time to first token, reasoning included: first_any - sent",
    "ttfo_s": "time to the first token of the answer itself: first_content - sent",
    "tpot_s": "time per output token after the first: (last - first_any) / (output_tokens - 1)",
    "itl_p50_s": "median inter-token latency: gaps between events divided by the tokens in each",
    "e2e_s": "end - sent",
    "e2e_eff_s": "end - intended start, so that a late client does not hide the wait",
    "wall_s": "end - queued; the phases add up to it",
    "output_tps": "output tokens / e2e_s, prompt evaluation included",
    "decode_tps": "1 / tpot_s: speed of decoding alone",
    "chars_per_s": "characters of the answer / (last - first_any); compares across tokenizers",
    "mem_peak_bytes": "largest PSS of the model's processes during the request",
    "mem_delta_bytes": "mem_peak_bytes minus the reading just before the request",
    "overlap_s": "time during which another generation or load ran",
    "ttft_late_s": "by how much TTFT may be wrong because the event loop was late when the request "
    "was sent or the first token came",
    "speed_late_s": "by how much the time between first and last token may be, for the same reason",
}
"""What each figure means, in the words that tooltips and docs show."""

MARKS: Final = {
    "contended": "whether another generation or load ran at the same time",
    "ttft_spoilt": "whether ttft_late_s is more than 5 % of ttft_s, and more than 1 ms",
    "speed_spoilt": "whether speed_late_s is more than 5 % of the time between first and last "
    "token, and more than 1 ms",
}
"""What the marks of a row mean: figures that are no speed of the model."""

LAG_SHARE: Final = 0.05
"""A lag of the event loop above this share of a figure spoils it."""

LAG_FLOOR_S: Final = 0.001
"""A lag that is not told: no figure is promised to be truer, and the loop's timers are no finer."""

MIN_SAMPLES: Final[dict[float, int]] = {0.9: 64, 0.99: 662}
"""Quantiles that are not shown below this many samples."""


def quantile(values: Sequence[float], q: float) -> float | None:
    """Quantile with linear interpolation (Hyndman and Fan's type 7, DuckDB's quantile_cont).

    Args:
        values: samples in any order.
        q: in [0, 1].

    Returns:
        The quantile, or None when there are too few samples for it (``MIN_SAMPLES``).
    """
    if len(values) < MIN_SAMPLES.get(q, 1):
        return None
    ordered = sorted(values)
    rank = q * (len(ordered) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def inter_token_latencies(timeline: TokenTimeline) -> list[float]:
    """Seconds between tokens, one sample per token after the first event.

    An event of n tokens gives n samples of its gap / n: a runtime that sends eight tokens at once
    is not eight times faster for it. Events without a token (text held back earlier) are skipped.
    """
    samples: list[float] = []
    previous: int | None = None
    for t_ns, n_tokens in zip(timeline.t_ns, timeline.n_tokens, strict=True):
        if n_tokens == 0:
            continue
        if previous is not None:
            samples += [(t_ns - previous) / NS / n_tokens] * n_tokens
        previous = t_ns
    return samples


def phases(stamps: Stamps) -> dict[str, float]:
    """Seconds in each of :data:`PHASES`; they add up to end - queued exactly.

    A stamp that was never reached takes the value of the next one that was, so that the time goes
    to the phase in which the request ended.
    """
    chain = [
        stamps.queued,
        stamps.slot,
        stamps.sent,
        stamps.first_any,
        stamps.first_content,
        stamps.last,
        stamps.end,
    ]
    filled: list[int] = []
    following = stamps.end
    for stamp in reversed(chain):
        following = min(following, stamp) if stamp is not None else following
        filled.append(following)
    queued, slot, sent, first_any, first_content, last, end = reversed(filled)
    waited = slot - queued
    retried = min(stamps.retry_ns, waited)
    load = min(stamps.load_ns, waited - retried)
    return {
        "retry_s": retried / NS,
        "queue_s": (waited - retried - load) / NS,
        "load_s": load / NS,
        "dispatch_s": (sent - slot) / NS,
        "prefill_s": (first_any - sent) / NS,
        "think_s": (first_content - first_any) / NS,
        "answer_s": (last - first_content) / NS,
        "finish_s": (end - last) / NS,
    }


def time_per_output_token(stamps: Stamps, output_tokens: int | None) -> float | None:
    """TPOT in seconds: (last - first_any) / (n - 1); None below two tokens."""
    first, last = stamps.first_any, stamps.last
    if first is None or last is None or output_tokens is None or output_tokens < 2:
        return None
    return (last - first) / NS / (output_tokens - 1)


def session_metrics(
    stamps: Stamps,
    timeline: TokenTimeline,
    *,
    output_tokens: int | None,
    content_chars: int,
    mem_before_bytes: int | None = None,
    mem_peak_bytes: int | None = None,
    overlap_ns: int = 0,
    ttft_late_ns: int | None = None,
    speed_late_ns: int | None = None,
) -> dict[str, float | int | None]:
    """Every figure of one stream session, by the names of the ``latencies`` view."""
    figures: dict[str, float | int | None] = dict(phases(stamps))
    wall_s = (stamps.end - stamps.queued) / NS
    e2e_s = (stamps.end - stamps.sent) / NS if stamps.sent is not None else None
    tpot_s = time_per_output_token(stamps, output_tokens)
    streaming_s = (
        (stamps.last - stamps.first_any) / NS
        if stamps.first_any is not None and stamps.last is not None
        else 0.0
    )
    intended = stamps.intended if stamps.intended is not None else stamps.queued
    figures.update(
        ttft_s=_since(stamps.sent, stamps.first_any),
        ttfo_s=_since(stamps.sent, stamps.first_content),
        tpot_s=tpot_s,
        itl_p50_s=quantile(inter_token_latencies(timeline), 0.5),
        e2e_s=e2e_s,
        e2e_eff_s=(stamps.end - intended) / NS,
        wall_s=wall_s,
        output_tps=output_tokens / e2e_s if output_tokens is not None and e2e_s else None,
        decode_tps=1 / tpot_s if tpot_s else None,
        chars_per_s=content_chars / streaming_s if streaming_s and content_chars else None,
        mem_peak_bytes=mem_peak_bytes,
        mem_delta_bytes=(
            mem_peak_bytes - mem_before_bytes
            if mem_peak_bytes is not None and mem_before_bytes is not None
            else None
        ),
        overlap_s=overlap_ns / NS,
        ttft_late_s=ttft_late_ns / NS if ttft_late_ns is not None else None,
        speed_late_s=speed_late_ns / NS if speed_late_ns is not None else None,
    )
    return figures


def spoilt(session: StreamSession) -> dict[str, bool]:
    """Which figures a late event loop may have made wrong by more than is promised.

    That is by more than :data:`LAG_SHARE` of what was timed, and :data:`LAG_FLOOR_S`. A figure that
    is not there, or whose stamps no event loop of ours gave, is not spoilt.

    Returns:
        ``ttft_spoilt``, and ``speed_spoilt``: time per output token and the rates that follow.
    """
    stamps = session.stamps
    first, sent, last = stamps.first_any, stamps.sent, stamps.last
    if first is None or sent is None or last is None:
        return {"ttft_spoilt": False, "speed_spoilt": False}
    return {
        "ttft_spoilt": _exceeds(session.ttft_late_ns, first - sent),
        "speed_spoilt": last > first and _exceeds(session.speed_late_ns, last - first),
    }


def _exceeds(late_ns: int | None, timed_ns: int) -> bool:
    return late_ns is not None and late_ns > max(LAG_FLOOR_S * NS, LAG_SHARE * timed_ns)


def overlap_ns(start: int, end: int, others: Sequence[tuple[int, int]]) -> int:
    """Nanoseconds of [start, end] during which at least one of the other intervals ran."""
    total, reached = 0, start
    for other_start, other_end in sorted(others):
        low = max(other_start, reached)
        total += max(min(other_end, end) - low, 0)
        reached = max(reached, other_end)
    return total


def _since(start: int | None, stamp: int | None) -> float | None:
    return (stamp - start) / NS if start is not None and stamp is not None else None
