"""Loads that failed just now, for which nobody is evicted; and what who is refused is told."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from workbench.budget import DeviceBytes, Prediction
from workbench.errors import ErrorCode, WorkbenchError
from workbench.rotation import refusals
from workbench.rotation.refusals import FailedLoads
from workbench.router import Route

MB, GB = 10**6, 10**9
OURS = "huggingface/a"
THEIRS = "ollama@attic/a"

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


@pytest.mark.parametrize(("now", "ago", "again_s"), [(112.34, 12, 17.7), (129.75, 30, 1.0)])
def test_a_failure_is_told_once_more_with_what_is_different_about_it(
    monkeypatch: pytest.MonkeyPatch, now: float, ago: int, again_s: float
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    loads = FailedLoads(30.0)
    first = WorkbenchError(
        ErrorCode.UNSAFE_FILE,
        "It is pickled.",
        fix="Convert it.",
        operation="check",
        provider="huggingface",
        details={"file": "a.bin"},
    )
    loads.failed("a", first)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert told(loads.refusal("a")) == {
        "code": "UNSAFE_FILE",
        "message": f"It is pickled. (That was {ago} s ago. It was not tried again, because another "
        "model would have had to leave memory for it.)",
        "fix": "Convert it.",
        "operation": "load",
        "provider": "huggingface",
        "details": {"file": "a.bin"},
        "retry_after_s": again_s,
    }


def told(error: WorkbenchError) -> dict[str, Any]:
    """All that a client is told of an error, but when and in which request it was."""
    return {k: v for k, v in error.to_dict().items() if k not in ("timestamp", "correlation_id")}


def route(model: str = OURS) -> Route:
    provider, _, name = model.partition("/")
    return Route(SimpleNamespace(name=provider), name)  # type: ignore[arg-type]


def needs(
    size: int, *, loading: int = 0, loads: int | None = None, token: Mapping[str, int] | None = None
) -> Prediction:
    """Of a model that answers in ``size`` bytes and each token of context."""
    host = {"host": size}
    return Prediction(
        {"host": max(size, loading)},
        host,
        "files" if loads is None else "loads",
        loads or 0,
        0.25,
        token or {},
    )


def fix(
    prediction: Prediction,
    tokens: int,
    capacity: DeviceBytes,
    pinned: Mapping[str, DeviceBytes] | None = None,
    model: str = OURS,
) -> str:
    return refusals.too_large(route(model), "", prediction, capacity, pinned or {}, tokens).fix


def test_a_request_that_never_fits_is_told_with_all_figures() -> None:
    predicted = needs(GB, token={"host": MB})
    pinned = {"b": {"host": GB}, "c": {"host": GB, "cuda:0": 7}}
    error = refusals.too_large(
        route(), "needs 5.00 GB", predicted, {"host": 4 * GB}, pinned, tokens=4000
    )
    assert told(error) == {
        "code": "HF_MEMORY_EXCEEDED",
        "message": "huggingface/a needs 5.00 GB (predicted from its files). Nothing was evicted.",
        "fix": "Shorten the prompt, lower max_tokens, use huggingface/a?num_ctx=512, "
        "or raise WORKBENCH_MEMORY_BUDGET.",
        "operation": "load",
        "provider": "huggingface",
        "details": {
            "need_bytes": {"host": 5 * GB},
            "context_tokens": 4000,
            "budget_bytes": {"host": 4 * GB},
            "pinned": {"b": {"host": GB}, "c": {"host": GB, "cuda:0": 7}},
            "source": "files",
            "error_share": 0.25,
        },
    }


@pytest.mark.parametrize(
    ("loads", "said"), [(1, "from 1 measured load"), (2, "from 2 measured loads")]
)
def test_what_is_known_of_a_model_is_told_with_its_source(loads: int, said: str) -> None:
    error = refusals.too_large(
        route(THEIRS), "needs 2.00 GB", needs(2 * GB, loads=loads), {"host": GB}, {}
    )
    assert error.message == (
        f"ollama@attic/a needs 2.00 GB (predicted {said}). Nothing was evicted."
    )
    assert error.code is ErrorCode.OLLAMA_MEMORY_EXCEEDED
    assert error.provider == "ollama@attic"
    assert error.details["context_tokens"] == 0
    assert error.details["source"] == "loads"


SMALLER = "hoose a smaller model or quantisation, or raise WORKBENCH_MEMORY_BUDGET."


def shorter(name: str) -> str:
    return f"horten the prompt, lower max_tokens, use {name}, or raise WORKBENCH_MEMORY_BUDGET."


def test_a_shorter_context_is_named_where_one_fits() -> None:
    grows = needs(GB, token={"host": MB})
    assert fix(grows, 1000, {"host": GB + 999 * MB}) == "S" + shorter(f"{OURS}?num_ctx=512")
    assert fix(grows, 1025, {"host": GB + 1024 * MB}) == "S" + shorter(f"{OURS}?num_ctx=1024")
    assert fix(grows, 1000, {"host": GB + 256 * MB}) == "S" + shorter(f"{OURS}?num_ctx=256")
    assert fix(grows, 1000, {"host": GB + 256 * MB - 1}) == "C" + SMALLER, "of use to nobody"
    assert fix(grows, 1000, {"host": GB - 1}) == "C" + SMALLER
    assert fix(grows, 300, {"host": GB + 300 * MB}) == "C" + SMALLER, "it is not what is too long"
    assert fix(needs(3 * GB), 1000, {"host": 2 * GB}) == "C" + SMALLER, "it takes no more for any"


def test_a_model_that_cannot_even_be_loaded_is_not_helped_by_a_shorter_context() -> None:
    loads = needs(GB, loading=3 * GB, token={"host": MB})
    assert fix(loads, 2500, {"host": 3 * GB}) == "S" + shorter(f"{OURS}?num_ctx=1024")
    assert fix(loads, 2500, {"host": 3 * GB - 1}) == "C" + SMALLER


def test_every_device_has_its_say_and_one_without_a_limit_has_none() -> None:
    both = Prediction(
        {"host": GB, "cuda:0": GB, "cuda:1": 9 * GB},
        {"cuda:0": GB},
        "files",
        token_bytes={"host": 2 * MB, "cuda:0": 2 * MB, "cuda:1": GB},
    )
    limits = {"host": 4 * GB, "cuda:0": 3 * GB, "cuda:2": 0}
    assert fix(both, 1500, limits) == "S" + shorter(f"{OURS}?num_ctx=512")
    assert fix(both, 1500, {**limits, "host": 1024 * MB}) == "S" + shorter(f"{OURS}?num_ctx=512")
    assert fix(both, 1500, {**limits, "host": GB}) == "S" + shorter(f"{OURS}?num_ctx=256")
    assert fix(both, 1500, {**limits, "host": GB - 1}) == "C" + SMALLER


def test_options_of_a_model_stay_but_for_the_one_that_changes() -> None:
    grows, limits = needs(GB, token={"host": MB}), {"host": 2 * GB}
    kept = "dtype=float32&threads=2"
    for named in (f"?{kept}", "?dtype=float32&num_ctx=8192&threads=2", f"?{kept}&"):
        told = fix(grows, 2000, limits, model=f"{OURS}{named}")
        assert told == "S" + shorter(f"{OURS}?{kept}&num_ctx=512"), named


def test_what_is_pinned_counts_and_is_to_be_unpinned_only_where_that_is_enough() -> None:
    grows, limits = needs(GB, token={"host": MB}), {"host": 4 * GB}
    held = {"b": {"host": GB}, "c": {"host": GB}}
    short = "Unpin a model, s" + shorter(f"{OURS}?num_ctx=512")
    assert fix(grows, 3000, limits, held) == short, "512 fit beside them, not 2048"
    assert fix(grows, 3001, limits, held) == "S" + shorter(f"{OURS}?num_ctx=512")
    most = {"b": {"host": 3 * GB - 256 * MB}}
    short = "Unpin a model, s" + shorter(f"{OURS}?num_ctx=256")
    assert fix(grows, 3000, limits, most) == short
    more = {"b": {"host": 3 * GB - 255 * MB}}
    assert fix(grows, 3000, limits, more) == "Unpin a model, c" + SMALLER
    loads = needs(GB, loading=3 * GB, token={"host": MB})
    assert fix(loads, 3000, limits, {"b": {"host": GB + 1}}) == "Unpin a model, c" + SMALLER
    assert fix(grows, 5, {"host": GB}, {"b": {}}) == "C" + SMALLER
    elsewhere = {"b": {"cuda:0": GB}}
    short = "S" + shorter(f"{OURS}?num_ctx=2048")
    assert fix(grows, 3001, {**limits, "cuda:0": GB}, elsewhere) == short


def test_a_request_for_which_pinned_models_leave_no_place_is_told_what_to_do() -> None:
    assert told(refusals.no_place(route(), "needs a place")) == {
        "code": "HF_MEMORY_EXCEEDED",
        "message": "huggingface/a needs a place. Nothing was evicted.",
        "fix": "Unpin a model, or raise HF_MAX_CACHED_MODELS.",
        "operation": "load",
        "provider": "huggingface",
        "details": {},
    }


def test_a_request_that_waited_for_others_memory_in_vain_is_told_what_to_do() -> None:
    error = refusals.kept_by_others(
        route(THEIRS), "3 MB of memory missing", 61.23456, needs(GB, loading=2 * GB)
    )
    assert told(error) == {
        "code": "OLLAMA_MEMORY_EXCEEDED",
        "message": "ollama@attic/a waited 61 s: 3 MB of memory missing. Nothing was evicted.",
        "fix": "Close programs that need much memory, choose a smaller model, or allow a longer "
        "wait (WORKBENCH_PATIENCE_S).",
        "operation": "load",
        "provider": "ollama@attic",
        "details": {"need_bytes": {"host": 2 * GB}, "waited_s": 61.235},
    }


SHORT = WorkbenchError(
    ErrorCode.HF_MEMORY_EXCEEDED,
    "It does not fit.",
    fix="Choose a smaller one.",
    operation="stream",
    provider="huggingface",
    details={"need_bytes": 7, "evicted": "?"},
)


def test_memory_that_was_not_enough_even_now_is_told_with_who_has_it() -> None:
    figures = {
        "host_available_bytes": 3_400_000,
        "resident_bytes": {"b": 5 * GB, "c": 2_600_000},
    }
    assert told(refusals.even_now(SHORT, ["d", "e"], figures)) == {
        "code": "HF_MEMORY_EXCEEDED",
        "message": "It does not fit. The machine has 3 MB available; in memory: b 5.00 GB, c 3 MB; "
        "evicted: d, e.",
        "fix": "Choose a smaller one.",
        "operation": "stream",
        "provider": "huggingface",
        "details": {"need_bytes": 7, **figures, "evicted": ["d", "e"]},
    }
    figures = {"host_available_bytes": 3 * MB, "resident_bytes": {}}
    assert refusals.even_now(SHORT, [], figures).message == (
        "It does not fit. The machine has 3 MB available; in memory: no other model; "
        "evicted: none, as none was idle."
    )


@pytest.mark.parametrize(
    ("need", "expected"),
    [
        ({"host": 2 * GB}, "it was expected to need 2.00 GB (predicted from 3 measured loads)"),
        ({"cuda:0": GB}, "what it needs is not known"),
    ],
)
def test_a_load_that_the_system_ended_is_told_with_what_there_was(
    need: DeviceBytes, expected: str
) -> None:
    figures = {"host_available_bytes": 7 * MB, "resident_bytes": {"b": 5 * GB, "c": 3 * MB}}
    error = refusals.killed(SHORT, Prediction(need, {}, "loads", 3), 800 * MB, figures)
    assert told(error) == {
        "code": "HF_MEMORY_EXCEEDED",
        "message": f"It does not fit. As its load began, {expected}, and 800 MB were available; "
        "in memory: b 5.00 GB, c 3 MB.",
        "fix": "Unload other models or close programs that need much memory, then ask again; or "
        "choose a smaller or more strongly quantised model. A lower WORKBENCH_MEMORY_BUDGET lets "
        "idle models leave earlier.",
        "operation": "stream",
        "provider": "huggingface",
        "details": {
            "need_bytes": need,
            "evicted": "?",
            "available_at_start_bytes": 800 * MB,
            **figures,
        },
    }
    alone = refusals.killed(SHORT, Prediction(need, {}, "loads", 3), 0, {"resident_bytes": {}})
    assert alone.message.endswith("in memory: no other model.")
