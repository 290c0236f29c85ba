"""``workbench parity``, ``workbench diverge`` and ``workbench ladder``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from workbench.cli.options import AsJson, request_options
from workbench.cli.shared import open_workbench, print_json
from workbench.errors import invalid

if TYPE_CHECKING:
    from workbench.insight import Divergence, ParitySheet
    from workbench.insight.ladder import Ladder

_INTERRUPTED = 130

Models = Annotated[list[str], typer.Option("--model", "-m", help="Model id; give two.")]
Prompt = Annotated[str, typer.Argument(help="The message.")]
Repeats = Annotated[int, typer.Option(help="Further answers of each, to see if it varies.")]

_SAMPLING: Final = ("temperature", "top_p", "top_k", "repetition_penalty", "system", "num_ctx")


@request_options(*_SAMPLING, temperature=0.0)
def parity(
    model: Models,
    prompt: Prompt,
    as_json: AsJson = False,
    *,
    request: dict[str, Any],
) -> None:
    """Show what two models make of one prompt, and why their answers will differ."""
    first, second = _two(model)
    with open_workbench() as wb:
        sheet = wb.parity(first, second, prompt, **request)
    if as_json:
        print_json(sheet.to_dict())
    else:
        _print_sheet(sheet)


@request_options("max_tokens", *_SAMPLING, "seed", max_tokens=64, temperature=0.0)
def diverge(
    model: Models,
    prompt: Prompt,
    repeats: Repeats = 2,
    as_json: AsJson = False,
    *,
    request: dict[str, Any],
) -> None:
    """Find where two answers part, and whether chance, rounding or another model explains it."""
    first, second = _two(model)
    with open_workbench() as wb:
        found = wb.diverge(first, second, prompt, repeats=repeats, **request)
    if as_json:
        print_json(found.to_dict())
    else:
        _print_divergence(found)


def ladder(
    model: Annotated[
        list[str],
        typer.Option("--model", "-m", help="Model id of a form, the best first; give two or more."),
    ],
    passages: Annotated[
        Path | None, typer.Option(help="JSONL with id, prompt, text. Default: built in.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure one model in several forms: quality, bytes and speed, with intervals."""
    from workbench.cli.ladder_view import StageView, print_ladder

    so_far: list[Ladder] = []
    stopped = False
    with open_workbench() as wb, StageView() as view:
        try:
            wb.ladder(model, passages=passages, on_stage=view.update, on_ladder=so_far.append)
        except KeyboardInterrupt:
            stopped = True
    if so_far and as_json:
        print_json(so_far[-1].to_dict())
    elif so_far:
        print_ladder(so_far[-1])
    if stopped:
        done = [rung.model for rung in so_far[-1].rungs] if so_far else []
        left = ", ".join(one for one in model if one not in done)
        said = f"Stopped; not measured: {left or 'nothing'}."
        if done and model[0] not in done:
            said += f" The ratios are to {done[0]}, as {model[0]} was not yet read."
        typer.echo(said, err=True)
        raise typer.Exit(_INTERRUPTED)


def _two(models: list[str]) -> tuple[str, str]:
    if len(models) != 2:
        raise invalid(
            f"{len(models)} models are given.",
            fix="Give two: -m MODEL -m MODEL; they may be equal.",
        )
    return models[0], models[1]


def _print_sheet(sheet: ParitySheet) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(soft_wrap=False)
    same = {True: "the same token ids", False: "different prompts", None: "ids not told by both"}
    console.print(Text(f"A {sheet.a.model}   B {sheet.b.model}: {same[sheet.same_prompt]}"))
    if not sheet.causes:
        console.print("Nothing was found that would make the answers differ.")
    for number, cause in enumerate(sheet.causes, start=1):
        console.print(Text(f"{number}. {cause.effect}: {cause.says}"))
        console.print(Text(f"   -> {cause.fix}"))
    if any(not stretch.same for stretch in sheet.stretches()):
        line = Text("prompt: ")
        for stretch in sheet.stretches():
            if stretch.same:
                text = stretch.a
                line.append(text if len(text) <= 60 else f"{text[:28]} ... {text[-28:]}")
            else:
                line.append(f"[-{stretch.a}-]" if stretch.a else "", style="red")
                line.append(f"{{+{stretch.b}+}}" if stretch.b else "", style="green")
        console.print(line)
    table = Table("fact", "A", "B", box=None, pad_edge=False)
    for fact in sheet.facts():
        mark = "bold" if fact.differs else ""
        table.add_row(*(Text(part, style=mark) for part in (fact.name, fact.a, fact.b)))
    console.print(table)


def _print_divergence(found: Divergence) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(soft_wrap=False)
    console.print(Text(f"{found.verdict}: {found.says}"))
    for answer, name in ((found.a, "A"), (found.b, "B")):
        shared = len(found.shared_text)
        line = Text(f"{name} {answer.model}: ")
        line.append(answer.text[:shared])
        line.append(answer.text[shared:], style="bold")
        console.print(line)
        if answer.repeats:
            console.print(f"  {found.steady(answer)}")
    table = Table("figure", "value", box=None, pad_edge=False)
    for name, value in found.figures():
        table.add_row(name, value)
    console.print(table)
    parting = found.parting
    if parting is not None and found.aligned:
        _print_alternatives(console, found, parting)


def _print_alternatives(console: object, found: Divergence, parting: tuple[int, int]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from workbench.insight.probabilities import shares

    assert isinstance(console, Console)
    table = Table("where they part", "A", "B", box=None, pad_edge=False)
    sides = [
        shares(answer.steps[index].top) if index < len(answer.steps) else {}
        for answer, index in zip((found.a, found.b), parting, strict=True)
    ]
    likeliest = sorted(
        sides[0].keys() | sides[1].keys(),
        key=lambda name: (-max(side.get(name, 0.0) for side in sides), name),
    )
    for name in likeliest[:8]:
        told = [f"{side[name]:.1%}" if name in side else "-" for side in sides]
        table.add_row(Text(repr(name)), *told)  # "[/INST]" is no markup
    console.print(table)
    for letter, answer, index in zip("AB", (found.a, found.b), parting, strict=True):
        if index >= len(answer.steps):
            console.print(f"{letter} ends where the other goes on.")
