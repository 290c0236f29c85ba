"""Figures of servers in Prometheus' form: what changed while an answer ran."""

from __future__ import annotations

import pytest

from workbench.providers.openai_errors import MalformedAnswer
from workbench.providers.server_metrics import change, parse

NAMES = frozenset({"org/m"})


def page(count: int, total: float, tokens: int, model: str = "org/m") -> str:
    """In vLLM's form."""
    label = f'{{engine="0",model_name="{model}"'
    return f"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{label}}} 2.0
# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{label}}} {tokens}
vllm:generation_tokens_created{label}}} 1.7e+09
# HELP vllm:time_to_first_token_seconds Histogram of time to first token in seconds.
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{label},le="0.1"}} {count}
vllm:time_to_first_token_seconds_bucket{label},le="+Inf"}} {count}
vllm:time_to_first_token_seconds_count{label}}} {count}
vllm:time_to_first_token_seconds_sum{label}}} {total}
# HELP python_gc_objects_collected_total Objects collected during gc
# TYPE python_gc_objects_collected_total counter
python_gc_objects_collected_total{{generation="0"}} 17.0
"""


def test_means_are_of_what_was_counted_meanwhile() -> None:
    before = parse(page(10, 2.0, 500), 0, NAMES)
    after = parse(page(12, 2.5, 540) + page(99, 9.0, 9999, "other"), 3 * 10**9, NAMES)
    assert change(before, after) == {
        "over_s": 3.0,
        "means": {"vllm:time_to_first_token_seconds": {"mean": 0.25, "count": 2}},
        "counters": {"vllm:generation_tokens": 40.0},
        "gauges": {"vllm:num_requests_running": 2.0},
    }


def test_a_server_that_started_anew_or_did_nothing_changed_nothing() -> None:
    before = parse(page(10, 2.0, 500), 0, NAMES)
    assert change(before, parse(page(1, 0.2, 5), 1, NAMES)) is None
    assert change(before, parse(page(10, 2.0, 500), 1, NAMES)) is None


@pytest.mark.parametrize("text", ["vllm:x{", 'vllm:x{a="b} 1', "vllm:x one"])
def test_what_is_no_page_of_metrics_is_said_to_be_none(text: str) -> None:
    with pytest.raises(MalformedAnswer):
        parse(text, 0, NAMES)
