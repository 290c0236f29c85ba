"""``workbench db``: the log."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench import figures
from workbench.cli.options import AsJson
from workbench.cli.shared import confirm, open_workbench, print_json
from workbench.errors import ErrorCode, WorkbenchError

if TYPE_CHECKING:
    from workbench.client import Workbench
    from workbench.jobs import Job

app = typer.Typer(help="The log: every answer, latency and memory figure, in DuckDB.")


@app.command("query")
def db_query(
    sql: Annotated[str, typer.Argument(help="One statement that only reads.")],
    as_json: AsJson = False,
    limit: Annotated[int | None, typer.Option(help="Print at most this many rows.")] = None,
) -> None:
    """Query the log, beside a running server or without one."""
    frame = _read_log(lambda log: log.sql(sql, limit=limit), lambda s: s.query(sql, limit=limit))
    if as_json:
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        typer.echo(json.dumps(rows, ensure_ascii=False, default=plain))
    else:
        typer.echo(frame.to_string(index=False) if len(frame) else "(no rows)")


@app.command("tables")
def db_tables(as_json: AsJson = False) -> None:
    """List tables and views with their columns."""
    tables = _read_log(lambda log: log.tables(), lambda store: store.tables())
    if as_json:
        print_json(tables)
        return
    for table in tables:
        rows = "" if table["rows"] is None else f", {figures.count(table['rows'], 'row')}"
        typer.echo(f"{table['name']} ({table['kind']}{rows})")
        typer.echo(f"    {', '.join(table['columns'])}")


@app.command("verify")
def db_verify(as_json: AsJson = False) -> None:
    """Check the log: checksums, sequence, spool, orphans, views. Exit code 1 if it is damaged."""
    from workbench.store.verify import unopened, verdict

    try:
        found = _read_log(lambda log: log.verify_log(), lambda store: verdict(store.verify()))
    except WorkbenchError as error:
        if error.code is not ErrorCode.STORE_DAMAGED:
            raise
        found = unopened(error)
    if as_json:
        print_json(found)
    else:
        for check in found["checks"]:
            typer.echo(f"{check['status']:<5} {check['check']}: {check['message']}")
            if check["fix"]:
                typer.echo(f"      -> {check['fix']}")
    if not found["ok"]:
        raise typer.Exit(1)


@app.command("snapshot")
def db_snapshot(
    path: Annotated[Path, typer.Argument(help="File to write.")], as_json: AsJson = False
) -> None:
    """Copy the log as it is now into a new file; logging goes on."""

    def said(done: Mapping[str, Any]) -> str:
        size = figures.size(done["size_bytes"])
        return f"{done['path']}: {figures.count(done['sessions'], 'session')}, {size}"

    _do(lambda wb, tell: wb.snapshot(path, on_progress=tell), said, as_json)


@app.command("export")
def db_export(
    folder: Annotated[Path, typer.Argument(help="New folder.")], as_json: AsJson = False
) -> None:
    """Write the log as Parquet, a folder for each table and month, with a manifest."""

    def said(done: Mapping[str, Any]) -> str:
        rows = sum(table["rows"] for table in done["tables"].values())
        size = figures.size(done["size_bytes"])
        tables = figures.count(len(done["tables"]), "table")
        return f"{done['path']}: {tables}, {figures.count(rows, 'row')}, {size}"

    _do(lambda wb, tell: wb.export(folder, on_progress=tell), said, as_json)


@app.command("import")
def db_import(
    folder: Annotated[Path, typer.Argument(help="An export of another workbench.")],
    name: Annotated[str, typer.Option("--as", help="Its name in queries.")],
    as_json: AsJson = False,
) -> None:
    """Make another workbench's export readable as NAME.latencies, apart from your own tables."""

    def said(done: Mapping[str, Any]) -> str:
        sessions = figures.count(done["sessions"], "session")
        return f"{sessions}: workbench db query 'FROM {name}.latencies'"

    _do(lambda wb, tell: wb.import_export(folder, name, on_progress=tell), said, as_json)


@app.command("share")
def db_share(as_json: AsJson = False) -> None:
    """Send new sessions, prompts and answers included, to the log of WORKBENCH_SHARED_LOG."""

    def said(done: Mapping[str, Any]) -> str:
        sessions = figures.count(done["sessions"], "session")
        return f"{sessions} sent to {done['url']} as {done['writer_id']}"

    _do(lambda wb, tell: wb.share(on_progress=tell), said, as_json)


@app.command("prune")
def db_prune(
    older_than: Annotated[str, typer.Option("--older-than", help="90d, 12w, 6m, 1y or a date.")],
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="Kept at any age: runs, scored, errors; repeatable. Default: runs, scored."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be deleted.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete old sessions with their tokens, messages and memory readings."""
    kept = keep or ["runs", "scored"]
    with open_workbench() as wb:
        plan = wb.prune(older_than, keep=kept, dry_run=True)
        if dry_run or not plan["sessions"]:
            _show_pruned(plan, as_json)
            return
        if not yes:
            _show_pruned(plan, False)
            confirm(f"Delete {figures.count(plan['sessions'], 'session')}")
        done = wb.prune(older_than, keep=kept, dry_run=False)
        held, log = wb.remote, wb.settings.workbench_db
    if not held:  # a server has the file open; without one it can be rewritten
        from workbench.store.retention import compact

        freed = done["freed_bytes"] + compact(log.expanduser().absolute())
        done = {**done, "freed_bytes": freed, "free_bytes": 0}
    _show_pruned(done, as_json)


def _do(
    work: Callable[[Workbench, Callable[[Job], None]], Mapping[str, Any]],
    said: Callable[[Mapping[str, Any]], str],
    as_json: bool,
) -> None:
    """Do a job with a bar, and say what came of it.

    Args:
        work: does it with a workbench, and tells how far it is.
        said: its result in words.
        as_json: print the result as it is.
    """
    from workbench.terminal import JobBar

    with open_workbench() as wb, JobBar(enabled=not as_json) as bar:
        done = work(wb, bar.update)
    if as_json:
        print_json(done)
    else:
        typer.echo(said(done))


def _show_pruned(pruned: Mapping[str, Any], as_json: bool) -> None:
    from workbench.terminal import pruned_text

    if as_json:
        print_json(pruned)
    else:
        typer.echo(pruned_text(pruned))


def _read_log(over_server: Any, from_file: Any) -> Any:
    """Read through the server that holds the log, or else from the file itself."""
    from workbench.client.transport import while_held
    from workbench.discovery import running_server
    from workbench.settings import load_settings
    from workbench.store import Store

    settings = load_settings()

    def read() -> Any:
        if running_server(settings) is not None:
            with open_workbench(remote=True) as wb:
                return over_server(wb)
        with Store.open_readonly(settings.workbench_db) as store:
            return from_file(store)

    return while_held(settings, read)


def plain(value: Any) -> Any:
    """JSON for what a query may hold: arrays as lists, times and the rest as text."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value.tolist() if hasattr(value, "tolist") else str(value)
