"""Small versions of benchmarks/api_storm.py: clients that leave, and too many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from benchmarks import api_storm
from benchmarks.api_storm import Server
from tests.live import LiveServer

pytestmark = pytest.mark.alone

LONG = (("scripted/stall", 512), ("scripted/steady", 512), ("scripted/slow-load", 512))
SHORT = (("scripted/steady", 4), ("scripted/chunks", 16))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with LiveServer(
        tmp_path_factory.mktemp("storm"),
        WORKBENCH_RATE_LIMIT="0",
        WORKBENCH_CLIENT_CONNECTIONS="80",
        WORKBENCH_MAX_REQUESTS="48",
    ) as running:
        yield Server(running.port, running.announced()["token"], running.pid)


def test_clients_that_leave_leave_nothing_running(server: Server) -> None:
    left = asyncio.run(api_storm.disconnects(server, 45, LONG))
    found = api_storm.account(server, left)
    assert found["busy"] == 0, "places are free again"
    assert found["rows"] + found["never_a_session"] == 45
    assert set(found["statuses"]) <= {"cancelled/disconnect", "ok/None"}, found
    assert found["statuses"]["cancelled/disconnect"] >= 30


def test_too_many_get_an_answer_or_an_honest_refusal(server: Server) -> None:
    found = asyncio.run(api_storm.storm(server, 96, SHORT))
    told = api_storm.summary(found)
    assert set(found.statuses) == {200, 429, 503}, "the limits let some in and refuse the others"
    assert sum(found.statuses.values()) == 96
    assert told["cut_short"] == 0, "none hangs, none is cut short"
    assert told["refused_without_retry_after"] == 0
    assert found.alive_s, "health answered meanwhile"
    after = asyncio.run(api_storm.storm(server, 4, SHORT))
    assert dict(after.statuses) == {200: 4}, "all is well afterwards"
