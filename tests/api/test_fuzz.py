"""A few requests of those that benchmarks/api_fuzz*.py make, a thousand an operation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import api_fuzz_graphql
from benchmarks.api_fuzz import Fuzzer, Outcome
from tests.live import LiveServer

pytestmark = pytest.mark.filterwarnings("ignore")  # schemathesis' own


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzer]:
    """A server of its own: what is asked of it may be anything."""
    with LiveServer(tmp_path_factory.mktemp("fuzz"), WORKBENCH_RATE_LIMIT="0") as server:
        yield Fuzzer(server.url, server.announced()["token"], examples=4)


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


def test_malformed_graphql(tmp_path: Path) -> None:
    """On a server of its own, whose log must hold no defect."""
    with LiveServer(tmp_path, WORKBENCH_RATE_LIMIT="0") as server:
        for ask in (api_fuzz_graphql.malformed, api_fuzz_graphql.hostile):
            found = api_fuzz_graphql.check_log(server, ask(server, 15))
            assert not found.failures, f"{found.kind}: {found.failures}"
