"""``workbench models``: what there is, what of it is in memory and on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.options import AsJson
from workbench.cli.shared import confirm, open_workbench, print_json
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.settings import Settings
    from workbench.types import ModelInfo

Model = Annotated[str, typer.Argument(help="Model id, or a bare name if only one has it.")]

app = typer.Typer(help="Models: list, download, check, load, unload.")


@app.command("list")
def models_list(as_json: AsJson = False) -> None:
    """List all models of all providers."""
    import asyncio

    from workbench.discovery import running_server
    from workbench.settings import load_settings

    settings = load_settings()
    # A running server knows what is resident; else it is looked without opening the log.
    if running_server(settings) is not None:
        with open_workbench(remote=True) as wb:
            _show_models(*wb.list_models(), as_json)
        return
    with asyncio.Runner() as runner:  # its end waits for a scan of the disk that hangs
        _show_models(*runner.run(_list_models(settings)), as_json)


@app.command("scan")
def models_scan(as_json: AsJson = False) -> None:
    """Look through model folder and hub cache: what is there, what is broken, how to fix it."""
    import threading

    from workbench.hf.files import scan
    from workbench.hf.proving import compare_new
    from workbench.settings import load_settings

    settings = load_settings()
    compare_new(settings, lambda step, *_: typer.echo(f"{step} ...", err=True), threading.Event())
    _show_models(scan(settings.hf_model_path, settings.hub_cache), {}, as_json)


@app.command("show")
def models_show(
    model: Model,
    as_json: Annotated[bool, typer.Option("--json", help="It prints JSON in any case.")] = False,
) -> None:
    """Show all that is known of one model, as JSON."""
    with open_workbench() as wb:
        print_json(wb.show(model).to_dict())


@app.command("pull")
def models_pull(
    name: Annotated[
        str,
        typer.Argument(
            help="ORG/NAME on the Hugging Face hub, ollama/NAME, or demo: a small model, which "
            "needs no hub."
        ),
    ],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit; main if not given.")
    ] = None,
    gguf: Annotated[str | None, typer.Option(help="One GGUF file of the repository.")] = None,
    as_json: AsJson = False,
) -> None:
    """Download a model; one that was interrupted is resumed."""
    if name == "demo":
        _pull_demo(as_json)
        return
    from workbench.terminal import JobBar

    with open_workbench() as wb, JobBar(enabled=not as_json) as bar:
        try:
            done = wb.download(name, revision=revision, gguf_file=gguf, on_progress=bar.update)
        except KeyboardInterrupt:
            stopped = "Stopped. What has come is kept: the next pull takes it up."
            typer.echo(stopped, err=True)
            raise typer.Exit(130) from None
    if as_json:
        print_json(done)
    else:
        typer.echo(done["id"])


@app.command("rm")
def models_rm(
    model: Model,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be deleted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a Hugging Face or Ollama model from disk."""
    from workbench import figures

    with open_workbench() as wb:
        plan = wb.delete(model, dry_run=True)
        question, notes = _deletion(plan)
        if dry_run:
            if as_json:
                print_json(plan)
            else:
                typer.echo("\n".join((f"Would {question[0].lower()}{question[1:]}.", *notes)))
            return
        if not yes:
            confirm(question, *notes)
        gone = wb.delete(plan["id"])
    if as_json:
        print_json(gone)
        return
    typer.echo(f"Deleted {gone['id']}: {figures.size(gone['freed_bytes'])} freed.")
    for orphan in gone["orphans"]:
        typer.echo(f"{orphan} has lost its base and cannot be used now.", err=True)


@app.command("verify")
def models_verify(
    model: Annotated[str | None, typer.Argument(help="All models if not given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read every byte on disk, open tokenizers, compare tensors; say what is broken."""
    from workbench.terminal import JobBar, print_verdicts

    with open_workbench() as wb, JobBar(enabled=not as_json) as bar:
        try:
            verdict = wb.verify(model, on_progress=bar.update)
        except KeyboardInterrupt:
            typer.echo("Stopped before all was read; nothing was changed.", err=True)
            raise typer.Exit(130) from None
    if as_json:
        print_json(verdict)
    else:
        print_verdicts(verdict["models"])
    if not verdict["ok"]:
        raise typer.Exit(1)


@app.command("load")
def models_load(model: Model, as_json: AsJson = False) -> None:
    """Load a model into the running server's memory."""
    from workbench import figures

    with open_workbench(remote=True) as wb:
        try:
            done = wb.load(model)
        except KeyboardInterrupt:  # the server gives up a load whose client has gone
            typer.echo("cancelled", err=True)
            raise typer.Exit(130) from None
    if as_json:
        print_json(done)
        return
    if done["was_resident"]:
        what = "was in memory already"
    else:
        what = f"loaded in {figures.seconds(done['duration_s'])}"
    typer.echo(f"{done['id']} {what}: {figures.size(done['memory_bytes'])} in memory.")
    _say_evicted(done)


@app.command("unload")
def models_unload(model: Model, as_json: AsJson = False) -> None:
    """Unload a model from the running server's memory."""
    with open_workbench(remote=True) as wb:
        done = wb.unload(model)
    if as_json:
        print_json(done)
    elif done["was_resident"]:
        typer.echo(f"{done['id']} unloaded in {_given_back(done)}.")
    else:
        typer.echo(f"{done['id']} was not in memory.")


@app.command("pin")
def models_pin(model: Model, as_json: AsJson = False) -> None:
    """Load a model into the running server's memory and keep it there."""
    with open_workbench(remote=True) as wb:
        done = wb.pin(model)
    if as_json:
        print_json(done)
        return
    typer.echo(f"{done['id']} is in memory and stays there until it is unpinned.")
    _say_evicted(done)


@app.command("unpin")
def models_unpin(model: Model, as_json: AsJson = False) -> None:
    """Allow a pinned model to be evicted again."""
    with open_workbench(remote=True) as wb:
        done = wb.unpin(model)
    if as_json:
        print_json(done)
    elif done["was_pinned"]:
        typer.echo(f"The pin of {done['id']} has ended: it may be evicted again.")
    else:
        typer.echo(f"{done['id']} had no pin; nothing has changed.")


def _say_evicted(done: Mapping[str, Any]) -> None:
    if done["evicted"]:
        typer.echo(f"Evicted for it: {', '.join(done['evicted'])}.")


def _given_back(done: Mapping[str, Any]) -> str:
    """How long an unload took, and what came back of what the model held for itself.

    What it shared with the process it was forked from was never its own, and stays there.
    """
    from workbench import figures

    took, held, back = done["duration_s"], done["expected_bytes"], done["recovered_bytes"]
    if held is None or back is None:
        told = "what came back cannot be seen from here"
    elif back >= held:
        told = f"all {figures.size(held)} of its own given back"
    else:
        told = f"{figures.size(back)} of its own {figures.size(held)} given back"
    return f"{figures.seconds(took)}: {told}"


def _pull_demo(as_json: bool) -> None:
    from workbench.hf.demo import ensure_demo
    from workbench.settings import load_settings

    ids = ensure_demo(load_settings(), progress=lambda text: typer.echo(text, err=True))
    if as_json:
        print_json({"models": ids})
    else:
        typer.echo("\n".join(ids))


def _deletion(plan: Mapping[str, Any]) -> tuple[str, Sequence[str]]:
    """What would be deleted, and what to know before that. A list counts the weights only."""
    from workbench import figures

    size = f"{figures.size(plan['size_bytes'])} on disk with all its files"
    return f"Delete {plan['id']} ({size}, {plan['location']})", (
        *(f"With it goes {also}." for also in plan["also"]),
        *(f"{orphan} needs it and could not be used any more." for orphan in plan["orphans"]),
    )


async def _list_models(
    settings: Settings,
) -> tuple[Sequence[ModelInfo], Mapping[str, WorkbenchError]]:
    from workbench.registration import build_router

    router = build_router(settings)
    listing = await router.list_models()
    for provider in router.providers.values():
        await provider.close()
    return listing.models, listing.problems


def _show_models(
    models: Sequence[ModelInfo], problems: Mapping[str, WorkbenchError], as_json: bool
) -> None:
    if as_json:
        print_json(
            {
                "models": [model.to_dict() for model in models],
                "problems": {name: error.to_dict() for name, error in problems.items()},
            }
        )
        return
    from workbench.terminal import print_models

    print_models(models, problems)
