"""The SQL box: results as table and plot, refusals with their fix, limits that are shown."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from tests.conftest import EngineFactory
from workbench.ui.history.console import SHOWN_ROWS, Console

PAGE: Any = SimpleNamespace(session_hash="page")


@pytest.fixture
async def console(make_engine: EngineFactory) -> Console:
    with gr.Blocks():
        return Console(make_engine(workbench_page_query_rows=1000))


async def test_a_result_is_a_table_and_a_plot(console: Console) -> None:
    shown = await console._ask(
        PAGE, "SELECT 'm' || i AS model, i * 1.5 AS ttft_s FROM range(3) r(i)"
    )
    assert shown[1].startswith("3 rows, 2 columns")
    assert list(shown[4]["value"]["ttft_s"]) == ["0", "1.5", "3"]
    assert [axis["value"] for axis in shown[5:9]] == ["bar", "model", "ttft_s", "(none)"]
    assert shown[9]["value"].data[0].type == "bar"
    redrawn = await console._redraw(shown[0], "histogram", "ttft_s", "(none)", "(none)")
    assert redrawn[0]["value"].data[0].type == "histogram"
    wrong = await console._redraw(shown[0], "line", "ttft_s", "model", "(none)")
    assert "holds no numbers" in wrong[1]


async def test_more_rows_than_are_shown_are_told(console: Console) -> None:
    shown = await console._ask(PAGE, "FROM range(5000)")
    assert shown[1].startswith("the first 1,000 rows")
    assert "WORKBENCH_PAGE_QUERY_ROWS" in shown[1]
    assert len(shown[4]["value"]) == SHOWN_ROWS


REFUSED = {
    "SELEC 1": "SELEC",
    "": "Type one",
    "DELETE FROM stream_sessions": "Use SELECT",
    "SELECT * FROM read_csv('/etc/passwd')": "not allowed",
    "SELECT nothing FROM latencies": "nothing",
}


async def test_errors_have_a_code(console: Console) -> None:
    for sql, words in REFUSED.items():
        shown = await console._ask(PAGE, sql)
        assert "INVALID_REQUEST" in shown[2]
        assert words in shown[2]
        assert shown[0] is None
        assert shown[3]["visible"] is False, "what was shown before is not its result"


async def test_a_long_statement_can_be_stopped(console: Console) -> None:
    endless = "SELECT count(*) FROM range(1000000000) a, range(1000000000) b"
    asking = asyncio.create_task(console._ask(PAGE, endless))
    while "page" not in console._running:
        await asyncio.sleep(0.01)
    console._interrupt(PAGE)
    shown = await asking
    assert "stopped" in shown[2].lower()


async def test_queries_are_kept_by_name(console: Console) -> None:
    assert "INVALID_REQUEST" in console._keep("", "SELECT 1")[2]
    assert console._keep("mine", "SELECT 41 + 1 AS n")[0]["value"] == "mine"
    assert console._choose("mine") == ["SELECT 41 + 1 AS n", "mine"]
    assert "deleted" in console._drop("mine")[2]
    assert "those marked ready stay" in console._drop("mine")[2]
    assert "stream_sessions" in await console._list()
