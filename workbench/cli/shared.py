"""What the commands share: the workbench they open, what they print and ask."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import typer

from workbench.errors import invalid

if TYPE_CHECKING:
    from workbench.client import Workbench


def open_workbench(remote: bool | None = None) -> Workbench:
    """The facade, silent about all that is told in words."""
    from workbench import logs
    from workbench.client import Workbench

    logs.configure("ERROR")  # what goes wrong is told in words; serve logs in full
    return Workbench(remote=remote, source="cli")


def print_json(value: Any) -> None:
    """Indented, and readable in any script."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def confirm(question: str, *notes: str) -> None:
    """Ask in a terminal; elsewhere nobody could answer.

    Args:
        question: what would be done, without its question mark.
        notes: what to know before answering.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, there is no terminal.
    """
    if not sys.stdin.isatty():
        told = " ".join((f"{question}: this needs a confirmation.", *notes))
        raise invalid(told, fix="Give --yes.")
    for note in notes:
        typer.echo(note, err=True)
    if not typer.confirm(f"{question}?", err=True):
        typer.echo("Nothing was deleted.", err=True)
        raise typer.Exit(1)
