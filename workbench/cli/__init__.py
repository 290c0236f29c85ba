"""``workbench``: the command line.

Exit codes: 0 done, 1 a failure that is explained, 2 wrong usage. Heavy imports happen inside the
commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from workbench import __version__
from workbench.cli import bench, insight, log, models, talk
from workbench.cli.options import AsJson
from workbench.cli.shared import open_workbench, print_json
from workbench.errors import WorkbenchError, invalid

app = typer.Typer(
    name="workbench",
    help="Compare Ollama and Hugging Face models, with numbers that can be trusted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(models.app, name="models", no_args_is_help=True)
app.add_typer(bench.app, name="bench", no_args_is_help=True)
app.add_typer(log.app, name="db", no_args_is_help=True)
app.command()(talk.chat)
app.command()(talk.compare)
app.command()(insight.parity)
app.command()(insight.diverge)
app.command()(insight.ladder)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"workbench {__version__}")
        raise typer.Exit


@app.callback()
def _workbench(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on, in place of WORKBENCH_HOST.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65_535, help="Port to listen on, in place of WORKBENCH_PORT."),
    ] = None,
) -> None:
    """Start the page and the API, with the log of WORKBENCH_DB."""
    from workbench import logs
    from workbench.settings import load_settings, unknown_variables

    given = {"workbench_host": host, "workbench_port": port}
    settings = load_settings(**{name: one for name, one in given.items() if one is not None})
    logs.configure(settings.workbench_log_level)
    for name, meant in unknown_variables().items():
        logs.get(__name__).warning("unknown_variable", variable=name, meant=meant)
    from workbench.server import serve as run

    run(settings)


@app.command()
def queue(as_json: AsJson = False) -> None:
    """Show what is in the server's memory, who waits and how long, what would be evicted next."""
    with open_workbench(remote=True) as wb:
        overview = wb.queue()
    if as_json:
        print_json(overview.to_dict())
        return
    from workbench.terminal import print_overview

    print_overview(overview)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check the installation; say how to fix what is wrong. Exit code 1 if something is."""
    from workbench.doctor import examine

    findings = examine()
    if as_json:
        print_json([finding.to_dict() for finding in findings])
    else:
        for finding in findings:
            typer.echo(f"{finding.status:<5} {finding.part}: {finding.message}")
            if finding.fix:
                typer.echo(f"      -> {finding.fix}")
    if any(finding.status == "bad" for finding in findings):
        raise typer.Exit(1)


def _check_text(given: Sequence[str]) -> None:
    for argument in given:
        if not argument.isprintable() and any("\ud800" <= c <= "\udfff" for c in argument):
            raise invalid(
                f"An argument is no valid UTF-8: {argument.encode('utf-8', 'replace')!r}.",
                fix="Write it anew, or give a prompt as a file through your shell.",
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: run a command, and explain a failure instead of showing a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A model may say half of a surrogate pair, and a terminal may not know every character.
        with contextlib.suppress(OSError):  # a file that was swapped for a pipe cannot be sought
            sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _check_text(given)
        app(given)
    except WorkbenchError as error:
        if "--json" in given:
            print_json({"error": error.to_dict()})
        typer.echo(str(error), err=True)
        sys.exit(1)
