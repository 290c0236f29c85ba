"""Pairs of the arena: drawn, kept blind until the vote, void when a model fails."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tests.conftest import EngineFactory
from tests.ui.test_runs import BROKEN, LONG, SHORT, finish, until_idle
from workbench.errors import WorkbenchError
from workbench.metrics import NS
from workbench.providers.scripted import Schedule, Step
from workbench.router import Listing
from workbench.types import ModelInfo, TimingMode
from workbench.ui import arena
from workbench.ui.pairs import SIDES, Pairs, drawable
from workbench.ui.voting import cast
from workbench.votes import TIE

WORDY = Schedule((Step(0.02, "Let me see.", 3, "reasoning"), Step(0.02, "word " * 400, 400)))


async def test_sides_are_drawn_and_nothing_is_measured_beside_another(
    make_engine: EngineFactory,
) -> None:
    engine = make_engine(dict.fromkeys("abc", Schedule(())))
    pairs = Pairs(engine)
    seen: Counter[tuple[str, str]] = Counter()
    for _ in range(60):
        pair = pairs.begin("tab", "Go.", ["scripted/a", "scripted/b", "scripted/c"])
        seen[pair.plan.models[1] or "", pair.plan.models[2] or ""] += 1
        assert {one.timing_mode for one in pair.plan.requests.values()} == {TimingMode.ISOLATED}
    assert len(seen) == 6, "every pair, both ways round"
    await until_idle(engine)


async def test_as_much_of_both_answers_is_shown_and_no_more_until_both_are_there(
    make_engine: EngineFactory,
) -> None:
    pairs = Pairs(make_engine({"a": WORDY, "b": WORDY}))
    pair = pairs.begin("tab", "Go.", ["scripted/a", "scripted/b"])
    assert pairs.blind("tab")
    assert "asking" in arena.status(pair, time.monotonic_ns())
    assert [len(arena.shown(pair, side, time.monotonic_ns())) for side in SIDES] == [1, 1]
    await finish(pair)
    later = max(one.ended or 0 for one in pair.plan.answers.values())
    for after_s, chars in ((0.5, 200), (1.0, 400)):
        texts = [arena.shown(pair, side, later + round(after_s * NS)) for side in SIDES]
        assert [len(said[-1]["content"][0]["text"]) for said in texts] == [chars, chars]
    assert not pair.replayed(later + NS)
    assert pair.replayed(later + 6 * NS)
    assert not any("Let me see" in str(arena.shown(pair, side, later + 6 * NS)) for side in SIDES)
    told = "".join(part for side in SIDES for part in arena.revealed(pair, side, later))
    assert "scripted" not in told
    assert 'data-provider=""' in told
    pair.voted = "A"
    assert not pairs.blind("tab")
    assert "Let me see" in str(arena.shown(pair, 1, later))
    assert pair.plan.answers[2].model in "".join(arena.revealed(pair, 2, later))


async def test_a_vote_after_a_look_at_the_names_is_not_blind(make_engine: EngineFactory) -> None:
    engine = make_engine({"a": SHORT, "b": SHORT})
    pairs = Pairs(engine)
    for told in (True, False):
        pair = pairs.begin("tab", "Go.", ["scripted/a", "scripted/b"])
        await finish(pair)
        pair.told = told
        assert ("not as blind" in arena.status(pair, time.monotonic_ns())) is told
        await cast(engine, pair, TIE, pair.plan.answers, arena=True, blind=not pair.told)
    rows = engine.store.rows("SELECT blind FROM votes ORDER BY created_at")
    assert [row["blind"] for row in rows] == [False, True]


async def test_a_model_that_fails_makes_the_pair_void_and_is_not_drawn_again_at_once(
    make_engine: EngineFactory,
) -> None:
    engine = make_engine({"a": SHORT, "b": SHORT, "bad": BROKEN})
    pairs = Pairs(engine)
    pair = pairs.begin("tab", "Go.", ["scripted/a", "scripted/bad"])
    await finish(pair)
    assert pair.void
    assert not pair.votable
    now = time.monotonic_ns()
    page = arena.status(pair, now) + "".join(
        str(part)
        for side in SIDES
        for part in (*arena.revealed(pair, side, now), arena.shown(pair, side, now))
    )
    assert 'data-state="void"' in page
    for word in ("scripted", "HF_GENERATION_FAILED", "quick"):
        assert word not in page
    everyone = ["scripted/a", "scripted/b", "scripted/bad"]
    for _ in range(8):
        pair = pairs.begin("tab", "Go.", everyone)
        if pair.failed:  # the row of failures ends with a pair that answers
            assert "scripted/bad" not in pair.plan.models.values()
        await finish(pair)
    pair = pairs.begin("tab", "Go.", ["scripted/bad", "scripted/a"])
    await finish(pair)
    assert pairs.begin("tab", "Go.", ["scripted/bad", "scripted/a"]), "there is nobody else"
    await until_idle(engine)


async def test_a_pair_that_was_stopped_has_no_vote(make_engine: EngineFactory) -> None:
    pairs = Pairs(make_engine({"a": LONG, "b": LONG}))
    pair = pairs.begin("tab", "Go.", ["scripted/a", "scripted/b"])
    pair.stop()
    await finish(pair)
    assert pair.void
    assert not pairs.blind("tab")
    again = pairs.begin("tab", "Go.", ["scripted/a", "scripted/b"])
    assert not again.failed, "whoever was stopped has not failed"
    again.stop()
    await finish(again)


async def test_nobody_is_asked_without_a_prompt_or_a_second_model(
    make_engine: EngineFactory,
) -> None:
    pairs = Pairs(make_engine({"a": SHORT}))
    with pytest.raises(WorkbenchError, match="prompt is empty"):
        pairs.begin("tab", " ", ["scripted/a", "scripted/b"])
    with pytest.raises(WorkbenchError, match="needs two models"):
        pairs.begin("tab", "Go.", ["scripted/a"])


def test_pairs_are_drawn_from_the_local_models_or_from_those_chosen() -> None:
    def info(name: str, **more: str) -> ModelInfo:
        provider, _, rest = name.partition("/")
        return ModelInfo(id=name, name=rest, provider=provider, **more)  # type: ignore[arg-type]

    listing = Listing(
        [
            info("ollama/b"),
            info("huggingface/a"),
            info("huggingface/broken", status="unusable"),
            info("ollama/embed", task="embedding"),
            info("openai/far"),
            info("scripted/steady"),
        ],
        {},
    )
    assert drawable(listing, ()) == ["huggingface/a", "ollama/b"]
    assert drawable(listing, ("scripted/steady", "openai/far", "gone/model")) == [
        "openai/far",
        "scripted/steady",
    ]
