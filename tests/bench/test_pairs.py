"""A judge of pairs is asked in both orders, and a preference for a place is none for an answer."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator

import pytest

from tests.bench.conftest import rows, spec_of
from tests.conftest import EngineFactory
from workbench.bench.comparisons import PAIRWISE
from workbench.bench.evidence import gather
from workbench.bench.findings import caveats, findings
from workbench.bench.progress import Outcome
from workbench.bench.runner import Runner
from workbench.client.roads import LocalRoad
from workbench.engine import Engine
from workbench.errors import ErrorCode, WorkbenchError
from workbench.providers.base import CancellationToken
from workbench.providers.scripted import Schedule, ScriptedProvider, Step
from workbench.types import ChatRequest, ProviderEvent

ANSWERS = {"good": "a fine answer", "bad": "a poor answer"}


class Judging(ScriptedProvider):
    """Answers as above; its judges read what they are shown."""

    async def stream(
        self, request: ChatRequest, model: str, seed: int, cancel: CancellationToken
    ) -> AsyncGenerator[ProviderEvent, None]:
        said = ANSWERS.get(model, "")
        prompt = request.messages[-1].content
        if model == "fair":
            said = f"BETTER: {1 if prompt.index('fine') < prompt.index('poor') else 2}"
        elif model == "placed":
            said = "BETTER: 1"
        elif model == "mute":
            said = "Well, both."
        elif model == "broken":
            raise WorkbenchError(ErrorCode.INTERNAL, "It broke.")
        played = dataclasses.replace(self, schedules={model: Schedule((Step(0.0, said),))})
        async for event in ScriptedProvider.stream(played, request, model, seed, cancel):
            yield event


@pytest.fixture
def engine(make_engine: EngineFactory) -> Engine:
    names = (*ANSWERS, "fair", "placed", "mute", "broken")
    schedules = {name: Schedule((Step(0.0, "x"),)) for name in names}
    engine = make_engine(schedules)
    engine.router.providers["scripted"] = Judging(schedules)  # type: ignore[index]
    return engine


async def judged(engine: Engine, judge: str, **keys: object) -> Outcome:
    spec = spec_of(
        models=["scripted/bad", "scripted/good"],
        prompts={"count": 9},
        repeats=1,
        pairwise={"model": f"scripted/{judge}", **keys},
    )
    return await Runner(LocalRoad(engine, "test"), engine.settings, spec).run()


async def said(engine: Engine, run_id: str) -> str:
    evidence = await asyncio.to_thread(gather, engine.store.query, run_id)
    told = [
        finding.sentence
        for finding in findings(evidence)
        if finding.comparison is not None and finding.comparison.figure == PAIRWISE
    ]
    return "\n".join([*told, *(caveat.text for caveat in caveats(evidence))])


async def test_a_judge_of_answers_is_believed(engine: Engine) -> None:
    outcome = await judged(engine, "fair", questions=8)
    assert outcome.exit_code == 0
    text = await said(engine, outcome.run_id)
    assert (
        "scripted/fair prefers scripted/good to scripted/bad: 100% to 0%, 0% ties, +100.0 points"
        in text
    )
    assert "on 8 independent prompts; its two orders agreed in 100%." in text
    (found,) = await rows(
        engine,
        "SELECT count(*) AS n, count(*) FILTER (run_id IS NULL AND trial IS NULL) AS outside "
        "FROM stream_sessions WHERE source = 'judge'",
    )
    assert found == {"n": 16, "outside": 16}, "both orders, none of them a trial"
    assert all("pairwise" not in cell["results"]["scores"] for cell in outcome.cells.values())


async def test_a_judge_of_places_is_not(engine: Engine) -> None:
    outcome = await judged(engine, "placed")
    text = await said(engine, outcome.run_id)
    assert "No preference of scripted/placed was shown" in text
    assert "0% to 0%, 100% ties" in text
    assert "agreed in 0% (of the other 9 it took the first place in both 9 times)" in text
    assert "mostly changed its mind" in text


async def test_a_judge_that_says_nothing_or_fails_is_told_of(engine: Engine) -> None:
    outcome = await judged(engine, "mute")
    assert outcome.exit_code == 0
    assert "of 9 of its 9 pairs the judge said nothing" in await said(engine, outcome.run_id)
    outcome = await judged(engine, "broken")
    assert outcome.exit_code == 2
    assert "judge scripted/broken" in outcome.failed[0]
    assert len(outcome.cells) == 2, "what was measured is there all the same"
