"""``workbench bench report`` and ``diff``: what a run found, and what changed between two."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from workbench.cli.options import AsJson
from workbench.cli.shared import open_workbench, print_json
from workbench.errors import WorkbenchError, invalid, unwritable

if TYPE_CHECKING:
    from workbench.bench.evidence import Evidence

FORMS: Final = (".html", ".md", ".csv", ".parquet")
_NOT_COMPARABLE: Final = 2

Run = Annotated[
    str, typer.Argument(help="A run's id or its beginning, its spec's name, or `last`.")
]


def report(
    name: Run = "last",
    html: Annotated[bool, typer.Option("--html", help="Write a page with charts.")] = False,
    markdown: Annotated[bool, typer.Option("--md", help="Print Markdown (the default).")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help=f"File to write: {', '.join(FORMS)}.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Report what a run found, with intervals, and what its figures must not be used for."""
    from workbench.bench.evidence import gather

    if html and markdown:
        raise invalid("--html and --md are two reports.", fix="Give one of them.")
    if out is not None and out.suffix not in FORMS:
        raise invalid(f"{out} names no form.", fix=f"End it in one of {', '.join(FORMS)}.")
    with open_workbench() as wb:
        evidence = gather(wb.sql, name)
    if as_json:
        from workbench.bench.report import as_values

        print_json(as_values(evidence))
        return
    if html and out is None:
        out = Path(f"{evidence.run_id}.html")
    if out is None:
        from workbench.bench.report import markdown as text

        typer.echo(text(evidence), nl=False)
        return
    from workbench.figures import count

    _write(evidence, out, html=html, markdown=markdown)
    typer.echo(f"{out}: {evidence.name}, {count(len(evidence.cells), 'cell')}")


def diff(
    before: Annotated[str, typer.Argument(help="The older run.")],
    after: Annotated[str, typer.Argument(help="The newer one.")],
    tolerance: Annotated[
        float, typer.Option(help="Changes up to this do not count: 0.05 is 5 %, or 5 points.")
    ] = 0.05,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Judge also what must not be compared.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what changed from one run to another.

    Exit code 0: nothing got worse, 1: something did, 2: the runs cannot be compared.
    """
    from workbench.bench.diff import diff as compared
    from workbench.bench.evidence import gather
    from workbench.bench.report import diff_markdown

    try:
        with open_workbench() as wb:
            found = compared(gather(wb.sql, before), gather(wb.sql, after), tolerance=tolerance)
    except WorkbenchError as error:  # 1 says that something got worse
        if as_json:
            print_json({"error": error.to_dict()})
        typer.echo(str(error), err=True)
        raise typer.Exit(_NOT_COMPARABLE) from None
    if as_json:
        print_json(found.to_dict())
    else:
        typer.echo(diff_markdown(found), nl=False)
    if found.reasons and not anyway:
        raise typer.Exit(_NOT_COMPARABLE)
    if found.regressions:
        raise typer.Exit(1)


def _write(evidence: Evidence, out: Path, *, html: bool, markdown: bool) -> None:
    from workbench.bench.report import markdown as text
    from workbench.bench.report import page, summary, write_table

    form = ".html" if html else ".md" if markdown else out.suffix
    if form in (".csv", ".parquet"):
        write_table(summary(evidence), out)
        return
    try:
        out.write_text(page(evidence) if form == ".html" else text(evidence), encoding="utf-8")
    except OSError as error:
        raise unwritable(out, error.strerror) from None
