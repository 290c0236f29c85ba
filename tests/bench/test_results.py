"""What a cell came to: throughput of its steady part, and whether its client was late."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bench.conftest import Run, rows, spec_of
from workbench.bench import results
from workbench.engine import Engine

STAMPS = """
SELECT sent_ns, first_any_ns, last_ns, end_ns, output_tokens
FROM stream_sessions WHERE trial IS NOT NULL
"""


async def test_the_steady_part_leaves_out_filling_and_draining(run: Run, engine: Engine) -> None:
    load = {"pattern": "closed", "users": 4, "requests": 24}
    outcome = await run(models=["scripted/a"], repeats=1, load=load)
    (cell,) = outcome.cells.values()
    found = await rows(engine, STAMPS)
    begin, end = min(r["end_ns"] for r in found), max(r["sent_ns"] for r in found)
    tokens = sum(
        r["output_tokens"]
        * max(0, min(r["last_ns"], end) - max(r["first_any_ns"], begin))
        / (r["last_ns"] - r["first_any_ns"])
        for r in found
    )
    assert 0 < tokens < sum(r["output_tokens"] for r in found)
    assert cell["results"]["steady_s"] == pytest.approx((end - begin) / 1e9)
    assert cell["results"]["steady_tps"] == pytest.approx(tokens / ((end - begin) / 1e9))


async def test_without_a_steady_part_there_is_no_figure_of_one(run: Run) -> None:
    together = {"pattern": "closed", "users": 3, "requests": 3}  # all begin before any ends
    outcome = await run(models=["scripted/long"], repeats=1, load=together)
    (cell,) = outcome.cells.values()
    assert cell["results"]["throughput_tps"] > 0
    assert (cell["results"]["steady_s"], cell["results"]["steady_tps"]) == (None, None)
    mixed = await run()
    assert {cell["results"]["steady_tps"] for cell in mixed.cells.values()} == {None}


COUNTS = {
    "trials": 8, "ok": 6, "failed": 2, "refused": 2, "output_tokens": 48, "span_s": 4.0,
    "arriving_s": 0.1, "blocks": 1, "steady_s": 0.01, "steady_tokens": 7.0, "met": 6, "issued": 8,
}  # fmt: skip


@pytest.mark.parametrize(("of", "saturated"), [("users", None), ("rate_per_s", True)])
def test_only_what_arrives_by_itself_can_be_too_much(of: str, saturated: bool | None) -> None:
    load = {"pattern": "sweep", "of": of, "start": 1, "most": 8, "requests": 8}
    found = results.figures(COUNTS, spec_of(load=load, slo={"ttft_s": 1}), mixed=False)
    assert found["saturated"] is saturated


def test_what_failed_was_not_served_and_a_part_of_an_answer_is_no_steady_part() -> None:
    spec = spec_of(load={"pattern": "closed", "users": 8, "requests": 8})
    found = results.figures(COUNTS, spec, mixed=False)
    assert found["requests_per_s"] == 6 / 4
    assert (found["steady_s"], found["steady_tps"]) == (None, None)  # 7 tokens; an answer has 8
    enough = results.figures(COUNTS | {"steady_tokens": 8.0}, spec, mixed=False)
    assert enough["steady_tps"] == 800


QUIET = [0.0002] * 995 + [0.02] * 5
BUSY = [0.0002] * 900 + [0.02] * 100
STALL = [0.0002] * 800 + [i / 400 for i in range(200)]


def figures(**known: float) -> dict[str, Any]:
    names = [f"{name}_p{q}_s" for name in ("ttft", "e2e_eff") for q in (50, 90, 99)]
    return {**dict.fromkeys(names), **known}


@pytest.mark.parametrize(
    ("samples", "found", "spoilt"),
    [
        # Five late moments in a thousand move no median, and no p99 is told of so few answers.
        (QUIET, figures(ttft_p50_s=0.01), set()),
        (QUIET, figures(ttft_p50_s=0.0001), set()),  # nothing is measured to 0.1 ms
        # A tenth of all moments late by 20 ms: 2 ms on average.
        (BUSY, figures(ttft_p50_s=0.01), {"ttft_p50_s"}),
        (BUSY, figures(ttft_p50_s=0.1, ttft_p99_s=0.2), {"ttft_p99_s"}),
        (BUSY, figures(ttft_p50_s=0.1, ttft_p99_s=2.0), set()),
        (STALL, figures(ttft_p50_s=0.5), {"ttft_p50_s"}),
    ],
)
def test_a_late_client_is_told_of_by_the_figure_that_it_spoils(
    samples: list[float], found: dict[str, Any], spoilt: set[str]
) -> None:
    told = results.lag(samples, found, stamped=True)
    assert set(told["client_lag_spoils"]) == spoilt
    assert told["client_lag"] is bool(spoilt)


def test_stamps_of_another_process_are_not_late_but_starts_are() -> None:
    found = figures(ttft_p50_s=0.001, e2e_eff_p50_s=0.5)
    assert results.lag(BUSY, found, stamped=False)["client_lag"] is False
    assert results.lag(STALL, found, stamped=False)["client_lag_spoils"].keys() == {"e2e_eff_p50_s"}
    assert results.lag([], found, stamped=True)["client_lag"] is None
    words = results.late({"client_lag_spoils": {"ttft_p99_s": 0.02}})
    assert "TTFT p99 by up to 20 ms" in words
