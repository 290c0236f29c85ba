"""Loads that failed just now: for how long nobody is evicted for such a model."""

from __future__ import annotations

import time

import pytest

from workbench.errors import ErrorCode, WorkbenchError
from workbench.rotation.refusals import FailedLoads

BROKEN = WorkbenchError(ErrorCode.HF_MODEL_LOAD_FAILED, "broken")


def test_a_failure_that_lasts_counts_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    loads = FailedLoads(30.0)
    loads.failed("a", BROKEN)
    now = 129.0
    assert loads.doomed("a")
    assert not loads.doomed("b")
    now = 130.0
    assert not loads.doomed("a"), "it may have been mended since: the next request tries it"


@pytest.mark.parametrize(
    "error",
    [
        WorkbenchError(ErrorCode.HF_MEMORY_EXCEEDED, "too little memory"),
        WorkbenchError(ErrorCode.HF_MODEL_LOAD_FAILED, "", details={"transient": True}),
        RuntimeError(),
    ],
)
def test_what_may_go_away_by_itself_is_tried_again(error: Exception) -> None:
    loads = FailedLoads(30.0)
    loads.failed("a", error)
    assert not loads.doomed("a")


def test_a_load_that_went_well_is_no_failure_any_more() -> None:
    loads = FailedLoads(30.0)
    loads.failed("a", BROKEN)
    loads.loaded("a")
    assert not loads.doomed("a")
