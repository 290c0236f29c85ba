"""The ladder's figures, on texts whose probabilities are known by construction."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer

from workbench.bench.road import Road
from workbench.cli.insight import ladder as ladder_command
from workbench.cli.ladder_view import StageView, print_ladder
from workbench.errors import WorkbenchError
from workbench.insight.ladder import Ladder, Rung, ladder
from workbench.insight.passages import Passage, read
from workbench.insight.probabilities import Step
from workbench.types import ChatRequest, StreamEvent, StreamSession, TokenEvent

PASSAGES = tuple(Passage(f"p{n}", f"kind {n % 4}", "Say it.", "one two three") for n in range(8))


def text(share: float, likeliest: str = "own") -> tuple[Step, ...]:
    """Three tokens that each have this probability."""
    value = math.log(share)
    return tuple(
        Step(word, value, ((word if likeliest == "own" else likeliest, value),))
        for word in ("one", " two", " three")
    )


def rung(model: str, *shares: float, likeliest: str = "own") -> Rung:
    texts = {f"p{n}": text(share, likeliest) for n, share in enumerate(shares)}
    speeds = {f"p{n}": 20.0 + n for n in range(len(shares))}
    return Rung(model, texts, speeds, dict.fromkeys(speeds, 0.1), size_bytes=100)


def test_perplexity_ratio_and_agreement_are_those_of_the_definition() -> None:
    shares = [0.5, 0.4, 0.5, 0.45, 0.5, 0.4, 0.5, 0.45]
    first = rung("a", *shares)
    worse = rung("b", *(share / 1.1 for share in shares), likeliest="other")
    found = Ladder((first, worse), {f"p{n}": f"kind {n % 4}" for n in range(8)})
    one, two = found.frame().to_dict("records")
    expected = math.exp(-sum(map(math.log, shares)) / len(shares))
    assert one["perplexity"] == pytest.approx(expected)
    assert one["perplexity_low"] < expected < one["perplexity_high"]
    assert two["perplexity_ratio"] == pytest.approx(1.1)
    assert two["perplexity_ratio_low"] == pytest.approx(1.1), "the same in every passage"
    assert two["agreement"] == 0
    assert not one["perplexity_is_bound"]
    assert one["decode_tps_low"] < one["decode_tps"] < one["decode_tps_high"]


def test_forms_that_cut_texts_differently_get_no_ratio() -> None:
    first = rung("a", 0.5, 0.5)
    other = replace(first, model="b", texts={"p0": text(0.5)[:1], "p1": text(0.5)})
    found = Ladder((first, other), {"p0": "x", "p1": "y"})
    assert found.row(other)["perplexity_ratio"] is None
    assert found.row(other)["perplexity"] is not None


class FakeRoad:
    """Answers forced requests with the pieces it is given."""

    def __init__(self) -> None:
        self.asked: list[ChatRequest] = []

    async def ask(
        self, request: ChatRequest, on_event: Callable[[StreamEvent], None]
    ) -> StreamSession:
        self.asked.append(request)
        for seq, piece in enumerate(request.forced):
            entry = {"token": piece, "logprob": -1.0, "top_logprobs": []}
            on_event(TokenEvent("s", seq, piece, 1, "content", 0, (entry,)))
        figures = {"decode_tps": 10.0, "ttft_s": 0.1, "mem_peak_bytes": 5}
        return cast(StreamSession, SimpleNamespace(metrics=figures, error=None))


def climb(models: Sequence[str]) -> tuple[Ladder, FakeRoad]:
    road = FakeRoad()
    made = asyncio.run(ladder(cast(Road, road), models, PASSAGES, sizes={}))
    return made, road


def test_ollama_is_asked_in_the_pieces_of_a_form_that_cuts_texts_itself() -> None:
    found, road = climb(["ollama/x", "huggingface/x"])
    assert [one.model for one in found.rungs] == ["ollama/x", "huggingface/x"]
    assert road.asked[0].model == "huggingface/x"
    assert {one.source for one in road.asked} == {"insight"}
    assert {one.timing_mode for one in road.asked} == {"isolated"}
    forced = [one for one in road.asked if one.model == "ollama/x" and one.forced]
    assert forced[0].forced == ("one", " two", " three")


@pytest.mark.parametrize("models", [["a/x"], ["a/x", "a/x"], []])
def test_a_ladder_needs_different_forms(models: list[str]) -> None:
    with pytest.raises(WorkbenchError, match="cannot be climbed"):
        climb(models)


def test_our_passages_are_whole_and_of_several_kinds() -> None:
    ours = read()
    assert len(ours) >= 12
    assert len({one.cluster for one in ours}) >= 6


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "is no passage"),
        (json.dumps({"id": 1, "prompt": "x"}), "is no passage"),
        (json.dumps({"id": 1, "prompt": "x", "text": " "}), "must not be empty"),
        ("", "0 passages"),
        ("\n".join([json.dumps({"id": 1, "prompt": "x", "text": "y"})] * 2), "the same id"),
    ],
)
def test_bad_passages_name_the_line(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(line)
    with pytest.raises(WorkbenchError, match=said):
        read(path)


def test_a_model_without_probabilities_is_named() -> None:
    class Mute(FakeRoad):
        async def ask(self, request: ChatRequest, on_event: Any) -> StreamSession:
            return cast(StreamSession, SimpleNamespace(metrics={}, error=None))

    with pytest.raises(WorkbenchError, match="tells no probabilities"):
        asyncio.run(ladder(cast(Road, Mute()), ["a/x", "a/y"], PASSAGES, sizes={}))


def test_every_form_is_printed_whole_in_a_narrow_place(capsys: pytest.CaptureFixture[str]) -> None:
    models = [f"huggingface/{'long-name-' * 9}?quantization={form}" for form in ("int8", "int4")]
    found, _ = climb(models)
    print_ladder(found)
    shown = capsys.readouterr().out
    for model in models:
        assert f"  {model}\n" in shown
    assert "…" not in shown


def test_a_ratio_says_which_side_is_only_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """A perplexity that is at least so much makes a ratio at least, or at most, so much."""
    exact = rung("a", 0.5, 0.5)
    texts = {name: (replace(s[0], logprob=None), *s[1:]) for name, s in exact.texts.items()}
    bounded = replace(exact, model="b", texts=texts)
    kinds = {"p0": "x", "p1": "y"}
    for rungs, sign in (((exact, bounded), ">="), ((bounded, exact), "<=")):
        found = Ladder(rungs, kinds)
        assert found.row(rungs[1])["perplexity_ratio_bound"] == sign
        print_ladder(found)
        assert f"{sign} 1.000" in capsys.readouterr().out
    both = Ladder((bounded, replace(bounded, model="c")), kinds)
    assert both.row(both.rungs[1])["perplexity_ratio"] is None


def test_why_there_are_no_intervals_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    found = Ladder((rung("a", 0.5, 0.4), rung("b", 0.4, 0.5)), {"p0": "x", "p1": "y"})
    print_ladder(found)
    assert "No intervals: they need 6 passages, and there are 2." in capsys.readouterr().out
    assert found.to_dict()["notes"]
    kinds = {f"p{n}": f"kind {n}" for n in range(8)}
    assert not Ladder((rung("a", *[0.5] * 8),), kinds).notes()
    assert "8 kinds" not in str(Ladder((), {f"p{n}": "one" for n in range(8)}).notes())


def test_a_stopped_ladder_shows_what_was_climbed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stopped(FakeRoad):
        async def ask(self, request: ChatRequest, on_event: Any) -> StreamSession:
            if request.model == "a/z":
                raise KeyboardInterrupt
            return await super().ask(request, on_event)

    class Bench:
        def ladder(self, models: Sequence[str], **watch: Any) -> Ladder:
            climbed, tell = watch["on_ladder"], watch["on_stage"]
            road = cast(Road, Stopped())
            work = ladder(road, models, PASSAGES, sizes={}, tell=tell, climbed=climbed)
            return asyncio.run(work)

    @contextlib.contextmanager
    def opened() -> Iterator[Bench]:
        yield Bench()

    monkeypatch.setattr("workbench.cli.insight.open_workbench", opened)
    with pytest.raises(typer.Exit) as left:
        ladder_command(["a/x", "a/y", "a/z"], passages=None, as_json=False)
    shown = capsys.readouterr()
    assert left.value.exit_code == 130
    assert "1  a/x" in shown.out
    assert "2  a/y" in shown.out
    assert "a/z" not in shown.out
    assert "Stopped; not measured: a/z." in shown.err
    assert "a/x (1 of 3) reads passage 1 of 8" in shown.err


def test_without_a_terminal_a_stage_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr("workbench.cli.ladder_view.time.monotonic", lambda: now[0])
    with StageView() as view:
        for second in range(25):
            now[0] = 100.0 + second
            view.update(f"stage {second}")
            view.update(f"stage {second}")
    assert capsys.readouterr().err.split("\n") == ["stage 0", "stage 10", "stage 20", ""]
