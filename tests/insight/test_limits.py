"""What limits decoding, on limits given by hand; the measuring itself only has to be plausible."""

from __future__ import annotations

import pytest

from workbench.insight.limits import MachineLimits, measure, share_of, weight_bytes
from workbench.types import ModelInfo

LIMITS = MachineLimits(bytes_per_s=10e9, flops=100e9)


def model(**facts: object) -> ModelInfo:
    return ModelInfo("huggingface/x", "x", "huggingface", **facts)  # type: ignore[arg-type]


def test_share_of_the_bandwidth_is_bytes_read_over_bytes_that_can_be_read() -> None:
    info = model(parameters=100_000_000, dtype="bfloat16", size_bytes=1)
    share = share_of(LIMITS, info, 40.0)
    assert share is not None
    assert share.weight_bytes == 200e6
    assert share.bandwidth == pytest.approx(0.8)
    assert share.compute == pytest.approx(2 * 1e8 * 40 / 100e9)
    assert "limited by memory: 80%" in share.says


def test_a_model_far_from_both_limits_is_said_to_be_limited_by_something_else() -> None:
    share = share_of(LIMITS, model(parameters=1_000_000, dtype="float32"), 10.0)
    assert share is not None
    assert "neither" in share.says


def test_weights_of_unknown_size_have_no_share() -> None:
    assert share_of(LIMITS, model(), 10.0) is None
    packed = ModelInfo("ollama/x", "x", "ollama", parameters=10, dtype="float32", size_bytes=7)
    assert weight_bytes(packed) == 7, "another runtime's files say what it reads"


def test_this_machine_has_limits() -> None:
    limits = measure()
    assert 1e8 < limits.bytes_per_s < 1e13
    assert 1e8 < limits.flops < 1e16
