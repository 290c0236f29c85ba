"""A comparison leaves the log whole, in each format."""

from __future__ import annotations

import csv
import io
import json

import nbformat
import pytest

from tests.conftest import EngineFactory
from workbench import exports
from workbench.bench.spec import parse
from workbench.errors import ErrorCode, WorkbenchError
from workbench.exports import Comparison
from workbench.providers.scripted import Schedule, Step, steady
from workbench.types import ChatRequest, Message, Options


@pytest.fixture
async def found(make_engine: EngineFactory) -> Comparison:
    engine = make_engine(
        {"a": Schedule(steady(3, first_s=0, gap_s=0)), "b": Schedule((Step(0, "=1+1"),))}
    )
    said = (Message("system", "Be brief."), Message("user", 'Say "hi" ```\n😀'))
    options = Options(temperature=0, seed=7)
    calls = [ChatRequest(f"scripted/{name}", said, options, comparison_id="cmp_1") for name in "ab"]
    async for _ in engine.compare(calls):
        pass
    return exports.comparison(engine.store, "cmp_1")


async def test_every_format(found: Comparison) -> None:
    back = json.loads(exports.as_json(found))
    assert {one["answer"] for one in back["sessions"]} == {"The quick brown ", "=1+1"}
    assert all(one["seed"] == 7 and one["options"] and one["digest"] for one in back["sessions"])
    assert {one["system"] for one in back["sessions"]} == {"Be brief."}

    assert "````text\nSay" in exports.as_markdown(found)
    rows = list(csv.DictReader(io.StringIO(exports.as_csv(found))))
    assert {row["answer"] for row in rows} == {"The quick brown ", "'=1+1"}

    notebook = nbformat.reads(exports.as_notebook(found), as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells[1:]:
        compile(cell.source, "cell", "exec")
    assert "'seed': 7" in notebook.cells[1].source

    spec = parse(exports.as_spec(found), "exported")
    assert sorted(spec.models) == ["scripted/a", "scripted/b"]
    assert spec.options == {"temperature": 0.0}
    assert spec.system == "Be brief."


async def test_a_spec_has_the_options_of_each_pane(make_engine: EngineFactory) -> None:
    engine = make_engine({"a": Schedule(steady(3, first_s=0, gap_s=0))})
    said = (Message("user", "Well?"),)
    shape = {"type": "json_schema", "json_schema": {"schema": {"enum": ["a", 1]}}}
    panes = [
        Options(temperature=0, stop=("\n",), top_k=5),
        Options(temperature=0, stop=("\n",)),
        Options(temperature=0, stop=("\n",), response_format=shape),
        Options(temperature=0, stop=("\n",), top_k=5),
    ]
    calls = [ChatRequest("scripted/a", said, one, comparison_id="cmp_2") for one in panes]
    async for _ in engine.compare(calls):
        pass
    spec = parse(exports.as_spec(exports.comparison(engine.store, "cmp_2")), "exported")
    assert spec.options == {"temperature": 0.0, "stop": ["\n"]}
    own = [use.options for use in spec.uses]
    assert own == [{"top_k": 5}, {}, {"response_format": shape}], "in the order of the panes"


async def test_files_keep_order_and_length_of_the_panes(make_engine: EngineFactory) -> None:
    """The second pane ends long before the first one."""
    slow, quick = (Schedule(steady(n, first_s=0, gap_s=0.005)) for n in (40, 2))
    engine = make_engine({"b": slow, "a": quick})
    said = (Message("user", "Well?"),)
    calls = [
        ChatRequest(f"scripted/{name}", said, Options(max_tokens=most), comparison_id="cmp_3")
        for name, most in (("b", 400), ("a", 300))
    ]
    async for _ in engine.compare(calls):
        pass
    found = exports.comparison(engine.store, "cmp_3")
    rows = csv.DictReader(io.StringIO(exports.as_csv(found)))
    assert [row["model"] for row in rows] == ["scripted/b", "scripted/a"]
    spec = parse(exports.as_spec(found), "exported")
    assert [(use.model, use.options) for use in spec.uses] == [
        ("scripted/b", {"max_tokens": 400}),
        ("scripted/a", {"max_tokens": 300}),
    ]


async def test_what_is_not_there(make_engine: EngineFactory) -> None:
    with pytest.raises(WorkbenchError) as caught:
        exports.comparison(make_engine().store, "cmp_none")
    assert caught.value.code is ErrorCode.SESSION_NOT_FOUND
