"""Datasets of three formats are read whole, and what is wrong with one is said with its place."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from workbench.bench import datasets
from workbench.bench.scorers import Answer, Score, build
from workbench.errors import WorkbenchError
from workbench.settings import Settings, load_settings

ITEM = {
    "id": "a",
    "prompt": "What, is it?",
    "expected": "x, y",
    "choices": ["x, y", "z"],
    "cluster": "c",
    "tolerance": 0.5,
    "scorer": "exact",
}


def csv_of(item: dict[str, object]) -> str:
    cells = [json.dumps(v) if isinstance(v, list) else str(v) for v in item.values()]
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    return ",".join(item) + "\n" + ",".join(quoted) + "\n"


def test_the_formats_say_the_same(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "d.jsonl").write_text(json.dumps(ITEM) + "\n\n")
    (tmp_path / "d.csv").write_text("\ufeff" + csv_of(ITEM))
    duckdb.sql(f"COPY (SELECT * FROM read_json('{tmp_path}/d.jsonl')) TO '{tmp_path}/d.parquet'")
    read = [datasets.load(f"d.{kind}", settings, folder=tmp_path) for kind in ("jsonl", "parquet")]
    for dataset in read:
        (item,) = dataset.items
        assert (item.id, item.prompt, item.expected) == ("a", "What, is it?", "x, y")
        assert (item.choices, item.cluster) == (("x, y", "z"), "c")
        assert item.meta == {"tolerance": 0.5, "scorer": "exact"}
    (item,) = datasets.load("d.csv", settings, folder=tmp_path).items
    assert item.choices == ("x, y", "z")
    assert item.meta == {"tolerance": "0.5", "scorer": "exact"}
    assert read[0].digest != read[1].digest


def test_conversations_and_answers_that_are_no_text(tmp_path: Path, settings: Settings) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    record = {"messages": [*turns, {"role": "user", "content": "and?"}], "system": "Be short."}
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps(record | {"expected": {"n": 1}}))
    (item,) = datasets.load(str(path), settings).items
    assert [message.role for message in item.messages] == ["system", "user", "assistant", "user"]
    assert (item.id, item.prompt, item.expected) == ("1", "and?", '{"n": 1}')


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("d.jsonl", '{"prompt": "a"}\n{"prompt": }', "line 2, column 12: no JSON"),
        ("d.jsonl", '{"prompt": "a"}\n[1]', "line 2: not a JSON object"),
        ("d.jsonl", '{"id": "x", "prompt": "a"}\n\n{"id": "x", "prompt": "b"}', "line 3: the id"),
        ("d.jsonl", '{"id": "x"}', "line 1, column 'prompt': give either"),
        ("d.jsonl", '{"prompt": " "}', "line 1, column 'prompt': must be text that is not empty"),
        ("d.jsonl", '{"prompt": "a", "choices": "b"}', "column 'choices': must be a list"),
        ("d.jsonl", '{"messages": [{"role": "boss", "content": "a"}]}', "'boss' is unknown"),
        ("d.jsonl", '{"messages": ["a"]}', "each must be an object with role and content"),
        ("d.jsonl", "\n \n", "has no items"),
        ("d.jsonl", '{"prompt": "' + "x" * 300_000 + '"}', "line 1: the prompt has 300,000 bytes"),
        ("d.jsonl", b'{"prompt": "a"}\n{"prompt": "\xff"}', "line 2: not UTF-8"),
        ("d.csv", "id,prompt\n1,a\n2,b,c\n", "line 3: not as many cells"),
        ("d.csv", 'prompt,choices\na,"[1"\n', "line 2, column 'choices': no JSON"),
        ("d.csv", "prompt,prompt\na,b\n", "two columns are called 'prompt'"),
        ("d.csv", 'prompt\n"a\n', "line 2: unexpected end of data"),
        ("d.parquet", "nothing of the kind", "cannot be read as Parquet"),
        ("d.txt", "hello", "is no dataset"),
        ("d.jsonl", "x" * 2_000_000, "more than 1,048,576"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(data)
    settings = load_settings(_env_file=None, workbench_dataset_max_size=2**20)
    with pytest.raises(WorkbenchError) as caught:
        datasets.load(name, settings, folder=tmp_path)
    assert said in caught.value.message
    assert caught.value.fix


def test_too_many_items_and_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"prompt": "a"}\n' * 3)
    settings = load_settings(_env_file=None, workbench_dataset_max_items=2)
    with pytest.raises(WorkbenchError, match="more than 2 items") as caught:
        datasets.load("d.jsonl", settings, folder=tmp_path)
    assert "WORKBENCH_DATASET_MAX_ITEMS" in caught.value.fix
    with pytest.raises(WorkbenchError, match="No such file") as caught:
        datasets.load("e.jsonl", settings, folder=tmp_path)
    assert "builtin:code" in caught.value.fix
    with pytest.raises(WorkbenchError, match="no dataset 'builtin:no'"):
        datasets.load("builtin:no", settings)


@pytest.mark.parametrize("name", ["reasoning", "extraction", "instructions"])
async def test_our_datasets_accept_right_answers_and_refuse_others(
    settings: Settings, name: str
) -> None:
    dataset = datasets.load(f"builtin:{name}", settings)
    scorer = build("item", settings)
    assert len(dataset.items) >= 30
    assert dataset.clusters >= 12, "too few for an interval"
    for item in dataset.items:
        if item.expected is not None:
            right = await scorer.score(item, Answer(f"{item.expected}\n"))
            assert right.passed, (item.id, right.details)
        wrong = await scorer.score(item, Answer("-54321" if name != "instructions" else " "))
        assert wrong.passed is False, item.id


async def test_our_code_passes_with_the_solution_and_fails_without(settings: Settings) -> None:
    dataset = datasets.load("builtin:code", settings)
    scorer = build("code", settings)

    async def scores(answer: Callable[[str], str]) -> list[Score]:
        told = [(item, answer(item.meta["solution"])) for item in dataset.items]
        return await asyncio.gather(*(scorer.score(item, Answer(text)) for item, text in told))

    solved = await scores(lambda solution: f"So:\n```python\n{solution}```\nDone.")
    assert not [score.details for score in solved if not score.passed]
    assert not any(item.meta["solution"] in item.prompt for item in dataset.items)
    empty = await scores(lambda solution: f"{solution.splitlines()[0]}\n    return []\n")
    assert not any(score.passed for score in empty)
