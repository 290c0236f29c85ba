"""Scorers tell right from wrong, say why, and never run into what an answer holds."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest

from tests.conftest import EngineFactory
from workbench.bench.items import Item
from workbench.bench.scorers import NAMES, Answer, Judge, build, score_row
from workbench.bench.scorers.base import Score
from workbench.bench.scorers.judge import better_of, grade_of
from workbench.bench.scorers.rules import RULES, sentences
from workbench.errors import WorkbenchError
from workbench.providers.scripted import Schedule, Step
from workbench.settings import Settings
from workbench.types import ChatRequest, DoneEvent, ErrorEvent, StreamSession


def item(expected: str | None = None, choices: tuple[str, ...] = (), **meta: Any) -> Item:
    return Item.of("i", "Well?", expected=expected, choices=choices, meta=meta)


CASES: list[tuple[Any, Item, str, float]] = [
    ("exact", item("Paris"), " paris.\n", 1),
    ("exact", item("Paris"), "It is Paris", 0),
    ({"scorer": "exact", "strict": True}, item("Paris"), "paris", 0),
    ("contains", item("new york"), "In New\nYork, of course", 1),
    ("contains", item("art"), "a party", 0),
    ({"scorer": "regex", "pattern": r"\b\d{4}\b"}, item(), "in 1999", 1),
    ("regex", item(pattern="^no$"), "no way", 0),
    ("numeric", item("1234.5"), "First 3, then **1,234.50**.", 1),
    ("numeric", item("-3"), "It is −3", 1),
    ("numeric", item("12"), "12 or 13", 0),
    ("numeric", item("3"), "version v3", 0),
    ("numeric", item("3"), "none", 0),
    ({"scorer": "numeric", "tolerance": 0.1}, item("3.14"), "3.2", 1),
    ("numeric", item("3.14", tolerance="0.01"), "3.2", 0),
    ("numeric", item("6e23"), "6.0e23 of them", 1),
    ("rules", item(rules={"max_words": 3, "contains": "sea"}), "the deep blue", 0.5),
    ("rules", item(rules={"sentences": 2, "no_digits": True}), "I sleep. You wake!", 1),
    ("rules", item(rules={"max_words": 3}), "  ", 0),
    ("rules", item(rules={"json": True}), '{"a": 1}', 1),
    ("rules", item(rules={"contains_times": {"word": "a", "times": 2}}), "A cat, a dog", 1),
    ("json_schema", item(schema={"type": "object", "required": ["a"]}), 'So: {"a": 1}!', 1),
    ("json_schema", item(schema={"type": "object", "required": ["a"]}), '{"b": 1}', 0),
    ("json_schema", item('{"a": "X", "b": [1, 2]}'), '{"a": "x.", "b": [1, 3]}', 2 / 3),
    ("json_schema", item('{"a": 1}'), '{"a": true}', 0),
    ("json_schema", item('{"a": 1}'), '{"a": 1.0}', 1),
    ("json_schema", item("{}"), "no JSON", 0),
    ("json_schema", item("{}"), "[" * 100_000, 0),
    ({"scorer": "json_schema", "strict": True}, item('{"a": 1}'), 'So: {"a": 1}', 0),
    ("choice", item("B", ("A", "B")), "B. because", 1),
    ("choice", item("B", ("A", "B")), "I think it is B", 1),
    ("choice", item("B", ("A", "B")), "A or B", 0),
    ("choice", item("B", ("A", "B")), "Bananas", 0),
]


@pytest.mark.parametrize(("spec", "asked", "text", "value"), CASES, ids=lambda v: str(v)[:40])
async def test_scores(settings: Settings, spec: Any, asked: Item, text: str, value: float) -> None:
    score = await build(spec, settings).score(asked, Answer(text))
    assert score.value == pytest.approx(value)
    assert score.passed is (value == 1)
    assert value == 1 or score.details["reason"]


ENDLESS = r"^(a|aa)+$"


@pytest.mark.parametrize(
    ("spec", "asked", "text"),
    [
        ({"scorer": "regex", "pattern": ENDLESS}, item(), "a" * 99 + "!"),
        ("regex", item(pattern=ENDLESS), "a" * 99 + "!"),
        ("rules", item(rules={"matches": ENDLESS}), "a" * 99 + "!"),
        ("json_schema", item(schema={"items": {"pattern": ENDLESS}}), f'["{"a" * 99}!"]'),
    ],
)
async def test_a_pattern_that_would_search_for_ever_is_stopped_and_holds_nothing_up(
    settings: Settings, spec: Any, asked: Item, text: str
) -> None:
    limited = settings.model_copy(update={"workbench_bench_regex_s": 0.2})
    scoring = asyncio.create_task(build(spec, limited).score(asked, Answer(text)))
    turns = 0
    while not scoring.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert turns > 10, "the loop stood still"
    with pytest.raises(WorkbenchError, match=r"was not done .* after 0.2 s"):
        await scoring


def test_names_of_properties_are_not_searched_without_a_limit(settings: Settings) -> None:
    asked = item(schema={"patternProperties": {ENDLESS: {}}})
    with pytest.raises(WorkbenchError, match="patternProperties"):
        asyncio.run(build("json_schema", settings).score(asked, Answer('{"aaa!": 1}')))


def test_odd_answers_of_great_length_are_read_in_one_go() -> None:
    assert sentences("_" * 200_000 + " one. two") == 2
    assert not RULES["bullets"]("\n" * 200_000, 1)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "judge"])
async def test_an_item_without_what_a_scorer_needs_is_named(settings: Settings, name: str) -> None:
    with pytest.raises(WorkbenchError, match="Item 'i' has no"):
        await build(name, settings).score(item(), Answer("a"))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("bleu", "no scorer 'bleu'"),
        ({"scorer": "exact", "fuzzy": 1}, "no option 'fuzzy'"),
        ({"scorer": "regex", "pattern": "("}, "no regular expression"),
        ("judge", "needs a model"),
    ],
)
def test_specs_that_mean_nothing(settings: Settings, spec: Any, said: str) -> None:
    with pytest.raises(WorkbenchError, match=said) as caught:
        build(spec, settings)
    assert caught.value.fix


def logprobs(**told: float) -> tuple[dict[str, Any], ...]:
    entries = [{"token": t.replace("_", " "), "logprob": math.log(p)} for t, p in told.items()]
    return ({**entries[0], "top_logprobs": entries},)


async def test_a_choice_is_the_likeliest_first_token_whatever_was_sampled(
    settings: Settings,
) -> None:
    scorer = build("choice", settings)
    assert scorer.logprobs == 20
    asked = item("B", ("A", "B", "C"))
    told = logprobs(A=0.3, B=0.2, _B=0.25, The=0.2)
    score = await scorer.score(asked, Answer("A", told))
    assert score.passed
    assert score.details["method"] == "logprob"
    assert score.details["probability"] == pytest.approx(0.45 / 0.75)
    words = item("red", ("red", "green", "grey"))
    score = await scorer.score(words, Answer("green", logprobs(gr=0.6, r=0.3, gre=0.1)))
    assert score.passed, "what begins two choices speaks for neither"
    only = build({"scorer": "choice", "needs_logprobs": True}, settings)
    assert (await only.score(asked, Answer("B"))).value is None


def test_sentences_are_counted_with_their_marks() -> None:
    assert [sentences(t) for t in ("One. Two!", "Wait... what?", "no mark", "", "3.")] == [
        2, 2, 1, 0, 1,
    ]  # fmt: skip


def test_grades_and_preferences_are_read_or_unknown() -> None:
    assert [grade_of(t) for t in ("GRADE: 4", "**Grade: 5**", "3", "GRADE: 9", "good")] == [
        4, 5, 3, None, None,
    ]  # fmt: skip
    assert [better_of(t) for t in ("BETTER: 1", "better: TIE", "BETTER: 3", "")] == [
        "a", "tie", None, None,
    ]  # fmt: skip


async def test_a_judge_is_a_session_of_its_own_outside_the_trials(
    make_engine: EngineFactory, settings: Settings
) -> None:
    def says(*parts: str) -> Schedule:
        return Schedule(tuple(Step(0, part) for part in parts))

    engine = make_engine(
        {"kind": says("GRADE:", " 4"), "first": says("BETTER: 1"), "mute": says("Hm.")}
    )

    async def ask(request: ChatRequest) -> StreamSession:
        async for event in engine.stream(request):
            if isinstance(event, DoneEvent | ErrorEvent):
                return event.session
        raise AssertionError("no end")

    asked = item("42")
    kind = build({"scorer": "judge", "model": "scripted/kind"}, settings, ask)
    score = await kind.score(asked, Answer("forty-two"))
    assert score.value == 0.75
    (row,) = engine.store.rows(
        "SELECT source, run_id, cell_id, trial, session_id FROM stream_sessions"
    )
    assert row["source"] == "judge"
    assert (row["run_id"], row["cell_id"], row["trial"]) == (None, None, None)
    assert row["session_id"] == score.details["judge_session"]

    mute = build({"scorer": "judge", "model": "scripted/mute"}, settings, ask)
    assert (await mute.score(asked, Answer("x"))).value is None

    biased = await Judge(ask, "scripted/first").compare(asked, Answer("x"), Answer("y"))
    assert (biased.winner, biased.consistent) == ("tie", False), "it prefers a place"
    assert len(set(biased.sessions)) == 2


def test_the_row_of_a_score(store: Any) -> None:
    asked = Item.of("i", "Well?", cluster="c")
    row = score_row(
        Score(0.5, {"reason": "half"}),
        "rules",
        asked,
        dataset="d",
        session_id="ses_1",
        run_id="run_1",
        cell_id="cel_1",
    )
    store.insert("scores", row).result()
    (found,) = store.rows("SELECT * FROM scores")
    assert (found["score"], found["passed"], found["family"]) == (0.5, False, "c")
    assert json.loads(found["details"]) == {"reason": "half"}
    with pytest.raises(WorkbenchError):
        Score(1.5)
