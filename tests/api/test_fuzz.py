"""A few requests made from the schemas; benchmarks/api_fuzz.py makes a thousand an operation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.api_fuzz import Fuzzer, Outcome
from tests.live import LiveServer

pytestmark = pytest.mark.filterwarnings("ignore")  # schemathesis' own


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzer]:
    """A server of its own: what is asked of it may be anything."""
    with LiveServer(tmp_path_factory.mktemp("fuzz"), WORKBENCH_RATE_LIMIT="0") as server:
        yield Fuzzer(server.url, server.announced()["token"], examples=6)


def well(outcome: Outcome) -> None:
    assert not outcome.failures, f"{outcome.operation}: {outcome.failures}"


def test_rest(fuzzer: Fuzzer) -> None:
    outcomes = list(fuzzer.rest())
    assert len(outcomes) >= 25
    for outcome in outcomes:
        well(outcome)


def test_graphql(fuzzer: Fuzzer) -> None:
    outcomes = list(fuzzer.graphql())
    assert len(outcomes) == 11
    for outcome in outcomes:
        well(outcome)


@pytest.mark.parametrize("path", ["/api/v1/generate", "/v1/chat/completions"])
def test_hostile_bodies(fuzzer: Fuzzer, path: str) -> None:
    outcome = fuzzer.hostile(path)
    assert outcome.examples > 100
    well(outcome)
