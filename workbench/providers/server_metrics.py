"""What a server tells of itself in Prometheus' form: read, and the change between two readings.

Names stay the server's own: vLLM's time to first token is not ours. Nothing is kept of series that
did not move.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from workbench.providers.openai_errors import MalformedAnswer

OWN: Final = ("vllm:", "sglang:", "tgi_", "llamacpp:", "workbench_", "trtllm_")
"""How the names of inference servers begin; Python's and the process's own are left out."""
_MODEL_LABELS: Final = ("model_name", "model")


@dataclass(frozen=True, slots=True)
class Reading:
    """Sums over the labels of one model. ``t_ns`` is monotonic, when it was asked for.

    ``sums`` and ``counts`` are of histograms and summaries, by the name of the family.
    """

    t_ns: int
    sums: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)
    counters: Mapping[str, float] = field(default_factory=dict)
    gauges: Mapping[str, float] = field(default_factory=dict)


def parse(text: str, t_ns: int, models: frozenset[str]) -> Reading:
    """Read a page of metrics.

    Args:
        text: as ``/metrics`` gives it.
        t_ns: when it was asked for.
        models: names that series may carry; those of others, of another server behind the same
            page, are left out.

    Raises:
        MalformedAnswer: it is none.
    """
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, dict[str, float]] = {"sums": {}, "counts": {}, "counters": {}, "gauges": {}}
    try:
        for family in text_string_to_metric_families(text):
            if not family.name.startswith(OWN):
                continue
            for sample in family.samples:
                label = next((sample.labels[x] for x in _MODEL_LABELS if x in sample.labels), None)
                if label is not None and label not in models:
                    continue
                kind = _kind(family.type, family.name, sample.name)
                if kind is not None:
                    known = found[kind]
                    known[family.name] = known.get(family.name, 0.0) + float(sample.value)
    except (ValueError, IndexError, KeyError) as error:
        raise MalformedAnswer(f"its metrics cannot be read: {error}") from error
    return Reading(t_ns, **found)


def _kind(type_: str, family: str, sample: str) -> str | None:
    if type_ in ("histogram", "summary"):
        return {f"{family}_sum": "sums", f"{family}_count": "counts"}.get(sample)
    if type_ == "counter":
        return "counters" if sample in (family, f"{family}_total") else None
    return "gauges" if type_ == "gauge" else None


def change(before: Reading, after: Reading) -> dict[str, Any] | None:
    """What happened between two readings; None if the server has started anew or did nothing.

    Returns:
        ``over_s``, ``means`` (of each histogram that moved: ``mean`` and ``count`` of what it
        observed meanwhile), ``counters`` (by how much they rose), ``gauges`` (as they are now).
    """
    means: dict[str, Any] = {}
    for name, count in after.counts.items():
        n = count - before.counts.get(name, 0.0)
        if n < 0:
            return None
        if n > 0:
            total = after.sums.get(name, 0.0) - before.sums.get(name, 0.0)
            means[name] = {"mean": total / n, "count": int(n)}
    counters = {
        name: value - before.counters.get(name, 0.0)
        for name, value in after.counters.items()
        if value != before.counters.get(name, 0.0)
    }
    if any(rise < 0 for rise in counters.values()) or not (means or counters):
        return None
    return {
        "over_s": (after.t_ns - before.t_ns) / 1e9,
        "means": means,
        "counters": counters,
        "gauges": dict(after.gauges),
    }
