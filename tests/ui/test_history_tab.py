"""The History and Models tables and their plots, from real rows."""

from __future__ import annotations

import gradio as gr
import pandas as pd

from tests.conftest import EngineFactory
from tests.ui.test_runs import BROKEN, SHORT, finish, plan
from workbench import analysis
from workbench.errors import ErrorCode
from workbench.providers.scripted import Schedule, steady
from workbench.store import Store
from workbench.types import ChatRequest, Message, ModelInfo
from workbench.ui import history, models
from workbench.ui.runs import Run, Runs

QUICK = Schedule(steady(3, first_s=0.01, gap_s=0.001))


async def sessions(make_engine: EngineFactory, store: Store) -> pd.DataFrame:
    runs = Runs(make_engine({"a": SHORT, "b": BROKEN}), Run)
    await finish(runs.begin("tab", plan("scripted/a", "scripted/b", prompt="Why is\nit so?")))
    return store.query(history._SESSIONS, {"rows": 10})


async def test_rows_show_what_was_asked(make_engine: EngineFactory, store: Store) -> None:
    rows = history.table(await sessions(make_engine, store)).set_index("model")
    assert list(rows["prompt"]) == ["Why is it so?"] * 2
    assert rows.loc["scripted/a", "status"] == "ok"
    assert rows.loc["scripted/b", "status"] == "error HF_GENERATION_FAILED"
    assert rows.loc["scripted/a", "tokens"] == "5 tok"
    assert str(rows.loc["scripted/a", "contended"]).endswith(" %")
    assert str(rows.loc["scripted/a", "TTFT"]).endswith("ms")


async def test_filter_needs_every_word(make_engine: EngineFactory, store: Store) -> None:
    found = await sessions(make_engine, store)
    assert len(history.matching(found, "")) == 2
    assert list(history.matching(found, "SO? error")["model"]) == ["scripted/b"]
    assert history.matching(found, "nowhere").empty
    assert history.table(history.matching(found, "nowhere")).empty


async def test_plots_are_made(make_engine: EngineFactory, store: Store) -> None:
    found = await sessions(make_engine, store)
    assert {trace.y[0] for trace in analysis.plot_ttft(found).data} == {"scripted/a", "scripted/b"}
    gaps = analysis.token_gaps(store.query, found["session_id"].iloc[0])
    assert len(analysis.plot_gaps(gaps).data) == 2, "both panes of the comparison"


async def test_the_newest_session_is_shown_in_detail_until_another_is_chosen(
    make_engine: EngineFactory, store: Store
) -> None:
    engine = make_engine({"a": SHORT, "b": QUICK})
    with gr.Blocks():
        tab = history.HistoryTab(engine)
    hidden = await tab.refresh("")
    assert [update["visible"] for update in (*hidden[2:4], *hidden[4:7])] == [False] * 5
    for model in ("a", "b"):
        async for _ in engine.stream(ChatRequest(f"scripted/{model}", (Message("user", "hi"),))):
            pass
    _, _, ttft, tpot, heading, gaps, memory, found = await tab.refresh("")
    assert "scripted/b" in heading
    for plot in (ttft, tpot, gaps, memory):
        assert plot["visible"]
        assert plot["value"].layout.title.text
    assert "No memory was read" in memory["value"].layout.annotations[0].text
    event = gr.SelectData(None, {"index": [1, 0], "value": "x"})
    heading, gaps, _ = await tab._picked(found, event)
    assert "scripted/a" in heading
    assert len(gaps["value"].data[0].x) == 4


def test_empty_log_says_what_will_be_here() -> None:
    assert "Nothing was logged yet" in history.summary(0, 0)
    assert "3 of 8" in history.summary(8, 3)
    assert list(history.table(pd.DataFrame()).columns) == list(history.COLUMNS)


def test_models_table_has_units_and_dashes() -> None:
    info = ModelInfo(
        id="ollama/x", name="x", provider="ollama", size_bytes=92_000_000, context_length=8192
    )
    row = models.table([info]).iloc[0]
    assert (row["on disk"], row["in memory"], row["context"]) == ("92 MB", "–", "8,192")


async def test_every_row_shows_its_own_question(make_engine: EngineFactory, store: Store) -> None:
    """Also where a follow-up got no answer, and where the one before it got none."""
    engine = make_engine({"answers": QUICK, "fails": Schedule((), error=ErrorCode.INTERNAL)})
    told = (Message("user", "first"), Message("assistant", "yes"))
    for model, messages in [
        ("answers", told[:1]),
        ("fails", (*told, Message("user", "unanswered"))),
        ("answers", (*told, Message("user", "second"))),
    ]:
        request = ChatRequest(f"scripted/{model}", messages, conversation_id="con_1")
        async for _ in engine.stream(request):
            pass
    rows = store.query(history._SESSIONS, {"rows": 10})
    assert list(rows["prompt"]) == ["second", "unanswered", "first"]
