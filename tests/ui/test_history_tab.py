"""The History tab over a real log: rows, filters, the chosen session, what is opened again."""

from __future__ import annotations

import datetime as dt

import gradio as gr
import pytest

from tests.conftest import EngineFactory
from tests.ui.test_runs import BROKEN, SHORT, finish, plan
from workbench import analysis
from workbench.engine import Engine
from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.scripted import Schedule, steady
from workbench.store import Store
from workbench.store.recall import recall
from workbench.store.records import session
from workbench.store.search import Found, Wanted, search
from workbench.types import ChatRequest, Message, Options, TimingMode
from workbench.ui import asking, drawing, reopening, strip
from workbench.ui.asking import Plan
from workbench.ui.catalogue import Catalogue
from workbench.ui.composer import Ask
from workbench.ui.history import HistoryTab, detail, filters, found
from workbench.ui.history import tab as history
from workbench.ui.runs import Run, Runs

QUICK = Schedule(steady(3, first_s=0.01, gap_s=0.001))
NOW = dt.datetime(2026, 3, 10, 12, tzinfo=dt.UTC)


async def asked(engine: Engine, made: Plan) -> Run:
    run = Runs(engine, Run).begin("tab", made)
    await finish(run)
    return run


async def test_rows_show_what_was_asked(make_engine: EngineFactory, store: Store) -> None:
    engine = make_engine({"a": SHORT, "b": BROKEN})
    await asked(engine, plan("scripted/a", "scripted/b", prompt="Why <b>is</b>\nit so?"))
    rows = search(store, Wanted(), within_s=1).rows
    shown = found.render(rows)
    assert shown.count("Why &lt;b&gt;is&lt;/b&gt; it so?</td>") == 2
    for words in ("scripted/a", "HF_GENERATION_FAILED", "contended", "5</td>"):
        assert words in shown
    whole = detail.render(session(store, rows[0]["session_id"]))
    assert "Why &lt;b&gt;is&lt;/b&gt;\nit so?" in whole
    assert "The quick" in whole
    assert found.render([]) == ""
    late = rows[0] | {"contended": False, "ttft_spoilt": True, "ttft_late_s": 0.4}
    assert '<td class="figure" title="late 400 ms">' in found.render([late])


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("any time", None, None),
        ("last hour", "2026-03-10T11", None),
        ("2026-03-01", "2026-03-01T00", "2026-03-02T00"),
        ("2026-03-01..2026-03-02", "2026-03-01T00", "2026-03-03T00"),
        ("2026-03-01 08:00 ..", "2026-03-01T08", None),
        ("..2026-03-01T10:00+02:00", None, "2026-03-01T08"),
    ],
)
def test_a_time_is_read_as_people_write_it(text: str, since: str | None, until: str | None) -> None:
    got = filters.span(text, NOW)
    assert [one and one.astimezone(dt.UTC).isoformat()[:13] for one in got] == [since, until]


def test_a_time_that_is_none_is_told() -> None:
    with pytest.raises(WorkbenchError, match="2026-01-31") as caught:
        filters.span("yesterday", NOW)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


async def test_a_comparison_comes_back_as_it_was(make_engine: EngineFactory, store: Store) -> None:
    """Two panes, one failed, with a system prompt, own options and an earlier turn."""
    engine = make_engine({"a": SHORT, "b": BROKEN})
    first = plan("scripted/a", "scripted/b", prompt="One.")
    run = await asked(engine, first)
    second = await asked(
        engine,
        plan_after(run, "Two.", Options(max_tokens=7, temperature=0)),
    )
    again = reopening.reopened(recall(store, second.plan.comparison_id or ""))
    assert again.comparison_id == second.plan.comparison_id
    assert again.ask.prompt == "Two."
    assert again.ask.options.max_tokens == 7
    assert [again.models[n] for n in again.shown] == ["scripted/a", "scripted/b"]
    for number in again.shown:
        was, now = second.plan.answers[number], again.answers[number]
        assert strip.render(now, 0) == strip.render(was, 0)
        assert [one.phase for one in now.segments] == [one.phase for one in was.segments]
    assert [turn.prompt for turn in again.turns(1)] == ["One.", "Two."]
    assert again.turns(1)[0].answer == second.plan.turns(1)[0].answer

    # It is ended: nothing of it is asked again, and its picture can be drawn.
    sessions = search(store, Wanted(), within_s=1).sessions
    reopened = await asked(engine, again)
    assert not reopened.running
    assert search(store, Wanted(), within_s=1).sessions == sessions
    assert len(drawing.Drawing(again).values(0)) == 1 + 3 * 6


def plan_after(run: Run, prompt: str, options: Options) -> Plan:
    made = run.plan
    turns = {number: made.turns(number) for number in made.models}
    ask = Ask(prompt, "", TimingMode.CONCURRENT, options)
    return asking.plan(ask, made.shown, made.models, turns)


async def test_other_models_are_asked_the_same(make_engine: EngineFactory, store: Store) -> None:
    engine = make_engine({"a": SHORT, "b": QUICK, "c": QUICK})
    said = (
        Message("system", "Be brief."),
        Message("user", "first"),
        Message("assistant", "yes"),
        Message("user", "second"),
    )
    async for _ in engine.stream(ChatRequest("scripted/a", said, Options(seed=3))):
        pass
    (row,) = search(store, Wanted(), within_s=1).rows
    made = reopening.asked_of_others(
        recall(store, row["session_id"]), ["scripted/b", "scripted/a", "scripted/c"]
    )
    assert made.shown == (1, 2, 3)
    for request in made.requests.values():
        assert request.messages == said
        assert request.options.seed == 3
    authors = [made.earlier[number][0].author for number in made.shown]
    assert authors == ["scripted/a", "", "scripted/a"], "whose words they are is said"


async def test_the_tab_finds_chooses_and_deletes(make_engine: EngineFactory, store: Store) -> None:
    engine = make_engine({"a": SHORT, "b": QUICK})
    with gr.Blocks():
        tab = HistoryTab(engine, Catalogue(engine))
    fields = ["", "any time", *[""] * 6]
    nothing = await tab.refresh(*fields)
    assert "Nothing was logged yet" in nothing[2]
    for model in ("a", "b"):
        async for _ in engine.stream(ChatRequest(f"scripted/{model}", (Message("user", "hi"),))):
            pass
    page = await tab.refresh(*fields)
    assert page[0].count("data-session=") == 2
    assert page[1].startswith("2 sessions")
    none = await tab._first("zebra", *fields[1:])
    assert "Nothing matches" in none[2]
    wrong = await tab._first("", "never", *fields[2:])
    assert "INVALID_REQUEST" in wrong[2]

    newest = page[5].shown[0]
    chosen = await tab._choose(gr.EventData(None, {"id": newest, "ids": [newest]}))
    assert "scripted/b" in chosen[6]
    assert chosen[7]["value"].layout.title.text == "Inter-token gaps"
    asking = await tab._ask_deletion((newest,), "")
    assert "1 session" in asking[1]
    assert search(store, Wanted(), within_s=1).sessions == 2, "asking deletes nothing"
    left = await tab._delete_now(asking[3], page[5], *fields)
    assert "1 session is deleted" in left[2]
    assert newest not in left[0]


async def test_plots_are_made(make_engine: EngineFactory, store: Store) -> None:
    await asked(make_engine({"a": SHORT, "b": BROKEN}), plan("scripted/a", "scripted/b"))
    sessions = store.query("FROM latencies")
    plotted = analysis.plot_ttft(sessions)
    assert {trace.y[0] for trace in plotted.data} == {"scripted/a", "scripted/b"}
    gaps = analysis.token_gaps(store.query, sessions["session_id"].iloc[0])
    assert len(analysis.plot_gaps(gaps).data) == 2, "both panes of the comparison"


def test_how_far_a_search_came_is_said() -> None:
    page = Found([], "7", None, NOW)
    assert "searched back to 2026-03-10 12:00" in history.summary(page, narrow=True)
