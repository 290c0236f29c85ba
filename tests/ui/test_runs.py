"""A run over a real engine with scripted models: followed, stopped, abandoned."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import gradio as gr

from tests.conftest import EngineFactory
from workbench.engine import Engine
from workbench.errors import ErrorCode
from workbench.providers.scripted import Schedule, steady
from workbench.types import Options, TimingMode
from workbench.ui import asking, voting
from workbench.ui.catalogue import Catalogue
from workbench.ui.compare import CompareTab
from workbench.ui.composer import Ask
from workbench.ui.drawing import Drawing
from workbench.ui.pairs import Pairs
from workbench.ui.pane import COUNT
from workbench.ui.runs import MAX_TABS, Run, Runs
from workbench.votes import ALL_BAD, TIE

LONG = Schedule(steady(2_000, first_s=0.02, gap_s=0.01))
SHORT = Schedule(steady(5, first_s=0.02, gap_s=0.005))
BROKEN = Schedule(steady(3, first_s=0.02, gap_s=0.005), error=ErrorCode.HF_GENERATION_FAILED)
TICK_S = 0.02


def plan(*models: str, prompt: str = "Go.") -> asking.Plan:
    ask = Ask(prompt, "", TimingMode.CONCURRENT, Options(max_tokens=4_000))
    everywhere = dict.fromkeys(range(1, COUNT + 1))
    chosen = {**everywhere, **dict(enumerate(models, start=1))}
    return asking.plan(ask, tuple(range(1, len(models) + 1)), chosen, dict.fromkeys(chosen, ()))


async def finish(run: Run) -> int:
    ticks = 0
    async for _ in run.watch(TICK_S):
        ticks += 1
    return ticks


async def until_idle(engine: Engine) -> None:
    async with asyncio.timeout(5):
        while engine.active_sessions:
            await asyncio.sleep(0.01)


async def test_all_answers_arrive(make_engine: EngineFactory) -> None:
    engine = make_engine({"a": SHORT, "b": SHORT})
    run = Runs(engine, Run).begin("tab", plan("scripted/a", "scripted/b"))
    assert await finish(run) >= 1
    assert not run.running
    assert [answer.phase for answer in run.plan.answers.values()] == ["done", "done"]
    assert run.plan.turns(1)[0].answer.startswith("The quick")


async def test_one_failure_leaves_the_other(make_engine: EngineFactory) -> None:
    engine = make_engine({"a": BROKEN, "b": SHORT})
    run = Runs(engine, Run).begin("tab", plan("scripted/a", "scripted/b"))
    await finish(run)
    assert [answer.phase for answer in run.plan.answers.values()] == ["error", "done"]
    assert run.plan.turns(1)[0].answer, "the partial text is kept"


async def test_updates_are_coalesced(make_engine: EngineFactory) -> None:
    """Ticks follow the clock, not the tokens."""
    engine = make_engine({"a": Schedule(steady(200, first_s=0.01, gap_s=0.001))})
    run = Runs(engine, Run).begin("tab", plan("scripted/a"))
    started = time.monotonic()
    ticks = await finish(run)
    assert ticks <= (time.monotonic() - started) / TICK_S + 2
    assert run.plan.answers[1].streamed == 200


async def test_stop_reaches_the_engine(make_engine: EngineFactory) -> None:
    engine = make_engine({"a": LONG, "b": LONG})
    runs = Runs(engine, Run)
    run = runs.begin("tab", plan("scripted/a", "scripted/b"))
    following = asyncio.create_task(finish(run))
    while not all(answer.streamed for answer in run.plan.answers.values()):
        await asyncio.sleep(0.01)
    run.stop(1)
    while run.plan.answers[1].running:
        await asyncio.sleep(0.01)
    assert run.plan.answers[2].running, "the other pane goes on"
    run.stop()
    await following
    assert [answer.phase for answer in run.plan.answers.values()] == ["cancelled", "cancelled"]
    assert all(turns[0].answer for turns in (run.plan.turns(1), run.plan.turns(2)))


async def test_stop_before_the_session_has_begun(make_engine: EngineFactory) -> None:
    run = Runs(make_engine({"a": LONG}), Run).begin("tab", plan("scripted/a"))
    run.stop()
    await finish(run)
    assert run.plan.answers[1].phase == "cancelled"


async def test_work_outlives_its_page_for_the_grace_only(
    make_engine: EngineFactory, set_forward: Callable[[float], None]
) -> None:
    engine = make_engine({"a": LONG}, workbench_detach_grace_s=20)
    run = Runs(engine, Run).begin("tab", plan("scripted/a"))
    ticks = run.watch(TICK_S)
    while not run.plan.answers[1].streamed:
        await anext(ticks)
    await ticks.aclose()
    seen = run.plan.answers[1].answer
    ticks = run.watch(TICK_S)  # the page was loaded anew
    await anext(ticks)
    set_forward(21)
    await anext(ticks)
    enough = len(run.plan.answers[1].answer) + 100  # more than comes of one that is stopped
    while run.running and len(run.plan.answers[1].answer) < enough:
        await anext(ticks)
    assert run.running, "somebody watches again"
    assert run.plan.answers[1].answer.startswith(seen)
    await ticks.aclose()
    assert run.running, "for the grace"
    set_forward(21)
    await until_idle(engine)
    assert run.plan.answers[1].phase == "cancelled"
    assert run.plan.answers[1].session is not None
    assert run.plan.answers[1].session.termination_reason == "disconnect"


async def test_nobody_ever_watched(make_engine: EngineFactory) -> None:
    engine = make_engine({"a": LONG}, workbench_detach_grace_s=0.05)
    Runs(engine, Run).begin("tab", plan("scripted/a"))
    await until_idle(engine)


async def test_a_tab_finds_its_run_again_over_a_new_connection(make_engine: EngineFactory) -> None:
    runs = Runs(make_engine({"a": LONG}), Run)
    assert runs.join("connection 1", "secret") is None
    run = runs.begin("connection 1", plan("scripted/a"))
    runs.leave("connection 1")
    assert runs.of("connection 1") is None
    assert runs.join("connection 2", "secret") is run
    assert runs.join("connection 3", "another") is None
    runs.of("connection 2").stop()  # type: ignore[union-attr]
    await finish(run)
    assert run.plan.answers[1].phase == "cancelled"


async def test_one_pane_is_asked_again_beside_the_others(make_engine: EngineFactory) -> None:
    engine = make_engine({"a": SHORT, "b": SHORT})
    first = Runs(engine, Run).begin("tab", plan("scripted/a", "scripted/b"))
    await finish(first)
    before = {number: first.plan.turns(number) for number in first.plan.models}
    again = asking.plan(
        first.plan.ask,
        first.plan.shown,
        first.plan.models,
        {**before, 2: before[2][:-1]},
        only=2,
        kept=first.plan.figures,
    )
    run = Runs(engine, Run).begin("tab", again)
    picture = Drawing(run.plan)
    assert 'data-phase="done"' in picture.values(0)[1], "the other's figures stay"
    await finish(run)
    assert list(run.plan.requests) == [2]
    assert run.plan.turns(1) == before[1]
    assert len(run.plan.turns(2)) == 1


async def test_what_the_user_did_since_is_remembered(make_engine: EngineFactory) -> None:
    run = Runs(make_engine({"a": SHORT}), Run).begin("tab", plan("scripted/a"))
    await finish(run)
    run.rearrange(shown=(1, 2), chosen=(1, "scripted/b"))
    assert run.plan.shown == (1, 2)
    assert run.plan.models[1] == "scripted/b"
    assert run.plan.latest(1) is None, "the figures were another model's"
    assert run.plan.turns(1)[0].answer, "its words stay"


async def test_refused_question_is_no_turn(make_engine: EngineFactory) -> None:
    engine = make_engine({"a": SHORT}, workbench_max_prompt_bytes=100)
    run = Runs(engine, Run).begin("tab", plan("scripted/a", prompt="x" * 1_000))
    await finish(run)
    assert run.refused()
    assert run.plan.answers[1].phase == "rejected"
    assert run.plan.turns(1) == ()


async def test_tabs_are_apart_and_bounded(make_engine: EngineFactory) -> None:
    engine = make_engine({"a": SHORT})
    runs = Runs(engine, Run)
    first = runs.begin("0", plan("scripted/a"))
    assert runs.of("1") is None
    for tab in range(1, MAX_TABS):
        runs.begin(str(tab), plan("scripted/a"))
    assert runs.of("0") is first
    runs.begin("one more", plan("scripted/a"))
    assert runs.of("0") is None
    runs.forget("one more")
    assert runs.of("one more") is None
    await until_idle(engine)


async def test_drawing_gives_every_output_a_value(make_engine: EngineFactory) -> None:
    """Gradio builds a component anew for every output that is skipped, ten times a second."""
    run = Runs(make_engine({"a": SHORT, "b": BROKEN}), Run).begin(
        "tab", plan("scripted/a", "scripted/b")
    )
    picture = Drawing(run.plan)
    async for _ in run.watch(TICK_S):
        values = picture.values(time.monotonic_ns())
        assert len(values) == 1 + 3 * COUNT
        assert all(isinstance(value, str | list) for value in values)
    last = picture.values(time.monotonic_ns())
    assert 'data-phase="done"' in last[1]
    assert 'data-phase="error"' in last[4]
    assert "HF_GENERATION_FAILED" in last[5]
    assert all(old is new for old, new in zip(last[1:], picture.values(0)[1:], strict=True))


async def test_a_vote_is_over_whole_answers_on_the_page(make_engine: EngineFactory) -> None:
    engine = make_engine({"a": SHORT, "b": BROKEN, "c": SHORT})
    run = Runs(engine, Run).begin("tab", plan("scripted/a", "scripted/b", "scripted/c"))
    assert voting.ballot(run) == [], "nothing while answers come"
    await finish(run)
    better = [choice for _, choice in voting.ballot(run)]
    assert better == ["A", "C", TIE, ALL_BAD], "what failed is no answer to prefer"
    third = run.plan.answers[3].session_id
    assert voting.choice_of(run.plan, third) == "C"
    assert voting.choice_of(run.plan, TIE) == TIE
    assert voting.choice_of(run.plan, None) is None
    run.rearrange(shown=(1, 2))
    assert voting.ballot(run) == [], "one answer is left"
    run.voted = "C"
    assert "C" in [choice for _, choice in voting.ballot(run)], "a vote that was cast is readable"


async def test_an_end_that_comes_late_leaves_the_next_run_its_stop(
    make_engine: EngineFactory,
) -> None:
    """A page ends its look at the past of its tab; a quick hand has begun a run by then."""
    engine = make_engine({"a": LONG})
    with gr.Blocks():
        compare = CompareTab(engine, Catalogue(engine), Pairs(engine))
    asked = cast("gr.Request", SimpleNamespace(session_hash="tab"))
    run = compare.desk.runs.begin("tab", plan("scripted/a"))
    assert compare.desk.composer.stop not in await compare._end(asked)
    run.stop()
    await finish(run)
    assert (await compare._end(asked))[compare.desk.composer.stop]["interactive"] is False


async def test_a_page_that_gets_its_answers_back_has_the_histories_before_run_can_be_pressed(
    make_engine: EngineFactory,
) -> None:
    """A question asked before the answers were drawn was sent without what had been said."""
    engine = make_engine({"a": SHORT})
    with gr.Blocks():
        compare = CompareTab(engine, Catalogue(engine), Pairs(engine))
    desk, page = compare.desk, cast("gr.Request", SimpleNamespace(session_hash="page"))
    run = desk.runs.begin("tab", plan("scripted/a"))
    updates = await compare.opening(page, "tab", None, None)
    assert updates[desk.composer.run]["interactive"] is False
    await finish(run)
    updates = await compare.opening(page, "tab", None, None)
    assert updates[desk.composer.run]["interactive"] is True
    assert [turn.prompt for turn in updates[desk.panes[0].turns]] == ["Go."]
    assert updates.keys() <= set(compare.opening_outputs)
