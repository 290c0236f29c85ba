"""``workbench bench``: benchmarks from spec files."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli import bench_report
from workbench.cli.options import AsJson
from workbench.cli.shared import open_workbench, print_json
from workbench.errors import WorkbenchError, invalid, unwritable

if TYPE_CHECKING:
    from workbench.bench.progress import Outcome, Progress
    from workbench.client import Workbench

app = typer.Typer(help="Benchmarks from spec files; results are in the log.")
app.command("report")(bench_report.report)
app.command("diff")(bench_report.diff)

_INTERRUPTED = 130
_SENTENCES = 3
"""Findings that a run ends with; its report has all of them."""

RunName = Annotated[
    str, typer.Argument(help="A run's id or its beginning, its spec's name, or `last`.")
]


@app.command("init")
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("bench.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite it.")] = False,
) -> None:
    """Write a spec with a comment on every key."""
    from importlib import resources

    template = resources.files("workbench.bench").joinpath("template.toml").read_text()
    if path.exists() and not force:
        raise invalid(f"{path} is there already.", fix="Give another path, or --force.")
    try:
        path.write_text(template, encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error.strerror) from None
    typer.echo(f"Name your models in {path}, then: workbench bench run {quote(str(path))}")


@app.command("run")
def run(
    spec: Annotated[Path, typer.Argument(help="The spec, a TOML file.")],
    as_json: AsJson = False,
) -> None:
    """Run a spec. Exit code 0: every SLO kept, 1: one missed, 2: something failed."""
    _run(lambda wb, show: wb.bench(spec, on_progress=show), as_json=as_json)


@app.command("resume")
def resume(name: RunName, as_json: AsJson = False) -> None:
    """Continue a run that was stopped or killed; exit codes as for run, 2 also if it is done."""
    _run(lambda wb, show: wb.resume_bench(name, on_progress=show), as_json=as_json)


@app.command("list")
def list_runs(
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(help="Show at most this many.")] = 20,
) -> None:
    """List the runs in the log, newest first."""
    from workbench.bench.listing import runs

    with open_workbench() as wb:
        found = runs(wb.sql, limit)
    if as_json:
        print_json(found)
        return
    from workbench.cli.bench_view import print_runs

    print_runs(found)


@app.command("export")
def export(
    name: RunName,
    folder: Annotated[Path, typer.Argument(help="New folder.")],
    form: Annotated[str, typer.Option("--format", help="parquet or csv.")] = "parquet",
    as_json: AsJson = False,
) -> None:
    """Write a run's trials, cells and scores to files, and its spec to run.json."""
    from workbench.bench.listing import export_run
    from workbench.figures import count

    with open_workbench() as wb:
        written = export_run(wb.sql, name, folder, form)
    if as_json:
        print_json(written)
    else:
        for file, rows in written["files"].items():
            typer.echo(f"{file}: {count(rows, 'row')}")


def _run(
    work: Callable[[Workbench, Callable[[Progress], None]], Outcome], *, as_json: bool
) -> None:
    from workbench.cli.bench_view import RunView, print_outcome

    last: list[Progress] = []

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)  # as Ctrl+C: what is done is kept, and told of
    try:
        with open_workbench() as wb, RunView(enabled=not as_json) as view:

            def show(progress: Progress) -> None:
                last[:] = [progress]
                view.update(progress)

            outcome = work(wb, show)
            found = [] if as_json else _found(wb, outcome)
    except KeyboardInterrupt:
        if last:
            typer.echo(f"Stopped. Go on with: workbench bench resume {last[0].run_id}", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    except WorkbenchError as error:
        if as_json:
            print_json({"error": error.to_dict()})
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    finally:
        signal.signal(signal.SIGTERM, before)
    if as_json:
        print_json(outcome.to_dict())
    else:
        print_outcome(outcome, found)
    raise typer.Exit(outcome.exit_code)


def _found(wb: Workbench, outcome: Outcome) -> list[str]:
    """What the report opens with."""
    from workbench.bench.evidence import gather
    from workbench.bench.findings import caveats, findings

    if not outcome.cells:
        return []
    evidence = gather(wb.sql, outcome.run_id)
    return [
        *(one.sentence for one in findings(evidence)[:_SENTENCES]),
        *(": ".join((*one.cells, one.text)) for one in caveats(evidence) if one.urgent),
    ]
