"""Plans are the same for the same spec, mix what is to be compared, and ask everything."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from workbench.bench import asking, plan
from workbench.bench.plan import Block, Cell, Trial
from workbench.bench.spec import Spec
from workbench.bench.workload import workloads
from workbench.errors import WorkbenchError
from workbench.settings import Settings


def made(settings: Settings, folder: Path | None = None, **keys: Any) -> tuple[Spec, list[Cell]]:
    spec = Spec.of({"name": "x", "models": ["a/1", "b/2"], "repeats": 3, **keys})
    return spec, plan.cells(spec, "run_1", workloads(spec, settings, folder))


def trials(blocks: list[Block]) -> list[Trial]:
    return [trial for block in blocks for chain in block.chains for trial in chain]


def test_cells_are_models_by_options_by_lengths_by_load(settings: Settings) -> None:
    _, cells = made(
        settings,
        models=["a/1", "a/1?dtype=float32"],
        grid={"temperature": [0, 1], "load_options": {"threads": [1, 2]}},
        prompts={"count": 2, "input_tokens": [20, 40], "output_tokens": 8},
        load={"pattern": "closed", "users": [1, 4]},
    )
    assert len(cells) == 2 * 2 * 2 * 2 * 2
    assert len({cell.cell_id for cell in cells}) == len(cells)
    assert {cell.model for cell in cells} == {
        "a/1?threads=1",
        "a/1?threads=2",
        "a/1?dtype=float32&threads=1",
        "a/1?dtype=float32&threads=2",
    }
    assert {cell.load["users"] for cell in cells} == {1, 4}
    assert all(cell.options["max_tokens"] == 8 for cell in cells)


def test_a_model_may_have_a_length_of_its_own(settings: Settings) -> None:
    short = {"model": "a/1", "options": {"max_tokens": 3}}
    spec, cells = made(settings, models=[short, "b/2"], prompts={"output_tokens": 8})
    assert [cell.options["max_tokens"] for cell in cells] == [3, 8]
    asked = {
        call.model: call.options.max_tokens
        for trial in trials(list(plan.blocks(spec, cells)))
        for call in [asking.request(spec, "run_1", trial, conversation_id="con")]
    }
    assert asked == {"a/1": 3, "b/2": 8}


def test_the_same_spec_gives_the_same_plan_and_another_seed_another_order(
    settings: Settings,
) -> None:
    spec, cells = made(settings)
    assert list(plan.blocks(spec, cells)) == list(plan.blocks(spec, cells))
    other, _ = made(settings, seed=5)
    assert list(plan.blocks(spec, cells)) != list(plan.blocks(other, cells))
    again = plan.cells(spec, "run_2", [cell.workload for cell in cells[:1]])
    assert not {cell.cell_id for cell in cells} & {cell.cell_id for cell in again}


def test_interleaved_questions_go_to_all_models_before_the_next(settings: Settings) -> None:
    spec, cells = made(settings)
    blocks = list(plan.blocks(spec, cells))
    assert [block.repeat for block in blocks] == [0, 1, 2]
    firsts = []
    for block in blocks:
        asked = [chain[0] for chain in block.chains]
        for one, other in zip(asked[::2], asked[1::2], strict=True):
            assert one.question == other.question
            assert {one.cell.model, other.cell.model} == {"a/1", "b/2"}
            firsts.append(one.cell.model)
    assert len(set(firsts)) == 2  # no model is always second
    orders = [[chain[0].question for chain in block.chains] for block in blocks]
    assert orders[0] != orders[1]


def test_every_question_is_put_equally_often_and_numbers_have_no_gap(settings: Settings) -> None:
    spec, cells = made(settings, order="blocks")
    found = trials(list(plan.blocks(spec, cells)))
    for cell in cells:
        own = [trial for trial in found if trial.cell == cell]
        assert [trial.number for trial in own] == list(range(18))
        asked = Counter((trial.question, trial.repeat) for trial in own)
        assert asked == Counter((q, r) for q in range(6) for r in range(3))
    assert list(plan.expected(spec, cells).values()) == [18, 18]


def test_models_meet_the_same_arrivals_and_questions(settings: Settings) -> None:
    load = {"pattern": "open", "rate_per_s": 5, "duration_s": 20}
    spec, cells = made(settings, load=load, repeats=2)
    by_model: dict[str, list[tuple[Any, ...]]] = {"a/1": [], "b/2": []}
    for trial in trials(list(plan.blocks(spec, cells))):
        by_model[trial.cell.model].append((trial.at_s, trial.question, trial.repeat))
    assert by_model["a/1"] == by_model["b/2"]
    assert len({(question, again) for _, question, again in by_model["a/1"]}) == len(
        by_model["a/1"]
    )


def test_users_share_their_requests_and_conversations_have_turns(settings: Settings) -> None:
    spec, cells = made(settings, load={"pattern": "closed", "users": 8, "requests": 20}, repeats=1)
    blocks = list(plan.blocks(spec, cells))
    assert [(block.users, len(block.chains)) for block in blocks] == [(8, 20), (8, 20)]
    spec, cells = made(settings, load={"pattern": "conversation", "turns": 3}, repeats=1)
    (chain, *_) = next(plan.blocks(spec, cells)).chains
    assert [trial.turn for trial in chain] == [0, 1, 2]


def test_a_share_is_cancelled_and_storms_mix_models(settings: Settings) -> None:
    load = {"pattern": "cancel", "users": 4, "share": 0.3, "requests": 1000}
    spec, cells = made(settings, load=load, repeats=1, models=["a/1"])
    stops = [trial.stop_after for trial in trials(list(plan.blocks(spec, cells)))]
    stopped = [stop for stop in stops if stop is not None]
    assert 250 < len(stopped) < 350
    assert {min(stopped), max(stopped)} == {1, 16}
    spec, cells = made(settings, load={"pattern": "storm", "users": 3}, repeats=1)
    (block,) = plan.blocks(spec, cells)
    assert block.users == 3
    assert len({chain[0].cell.model for chain in block.chains}) == 2


def test_variants_are_cells_and_prefixes_are_not_mixed(settings: Settings) -> None:
    spec, cells = made(settings, load={"pattern": "cold"})
    assert [cell.load["variant"] for cell in cells] == ["cold", "warm"] * 2
    assert all(len(block.cells) == 4 for block in plan.blocks(spec, cells))
    spec, cells = made(settings, load={"pattern": "prefix"})
    assert all(len(block.cells) == 1 for block in plan.blocks(spec, cells))


def test_a_trace_is_played_as_it_was(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(
        '{"arrival_s": 12.5, "prompt": "second", "output_tokens": 3}\n\n'
        '{"arrival_s": 10, "input_tokens": 40}\n'
        '{"arrival_s": 12.5, "messages": [{"role": "user", "content": "third"}]}\n'
    )
    load = {"pattern": "trace", "file": "t.jsonl"}
    spec, cells = made(settings, tmp_path, load=load, repeats=1)
    block = next(plan.blocks(spec, cells))
    assert [chain[0].at_s for chain in block.chains] == [0.0, 2.5, 2.5]
    asked = cells[0].workload.questions
    assert [question.output_tokens for question in asked] == [None, 3, None]
    assert asked[2].item.prompt == "third"
    assert 30 < len(asked[0].item.prompt.split()) < 50


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "x"}', "arrival_s"),
        ('{"arrival_s": 1}', "not told once"),
        ('{"arrival_s": 1, "prompt": "x", "input_tokens": 3}', "not told once"),
        ('{"arrival_s": -1, "prompt": "x"}', "arrival_s"),
        ('{"arrival_s": 1, "messages": [{"role": "user"}]}', "content"),
        ("arrival", "Invalid JSON"),
    ],
)
def test_a_bad_line_of_a_trace_is_named(
    settings: Settings, tmp_path: Path, line: str, said: str
) -> None:
    (tmp_path / "t.jsonl").write_text('{"arrival_s": 0, "prompt": "x"}\n' + line)
    with pytest.raises(WorkbenchError, match=r"t\.jsonl, line 2") as caught:
        made(settings, tmp_path, load={"pattern": "trace", "file": "t.jsonl"})
    assert said in str(caught.value)
