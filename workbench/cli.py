"""``workbench``: the command line.

Exit codes: 0 done, 1 a failure that is explained, 2 wrong usage. Heavy imports happen inside the
commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from workbench.errors import ErrorCode, WorkbenchError, invalid

if TYPE_CHECKING:
    from workbench.client import Workbench
    from workbench.types import ModelInfo, StreamEvent

app = typer.Typer(
    name="workbench",
    help="Compare Ollama and Hugging Face models, with numbers that can be trusted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
models_app = typer.Typer(help="What models there are, and what of them is in memory.")
db_app = typer.Typer(help="The log: every answer, latency and memory figure, in DuckDB.")
app.add_typer(models_app, name="models", no_args_is_help=True)
app.add_typer(db_app, name="db", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", "-n", help="Longest answer in tokens.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy: the likeliest token each time.")]
Seed = Annotated[int | None, typer.Option(help="Drawn and logged when not given.")]
System = Annotated[str | None, typer.Option(help="System prompt.")]
TopP = Annotated[float, typer.Option(help="Likeliest tokens up to this probability; 1: all.")]
TopK = Annotated[int, typer.Option(help="This many likeliest tokens; 0: all.")]
Penalty = Annotated[float, typer.Option("--repetition-penalty", help="1: none.")]
Stop = Annotated[list[str] | None, typer.Option(help="Text that ends the answer; repeatable.")]
NumCtx = Annotated[int | None, typer.Option(help="Context length; the model's own if not given.")]
Logprobs = Annotated[int, typer.Option(help="Alternatives logged with each token; 0: none.")]
Overflow = Annotated[
    str, typer.Option(help="A history beyond the context: truncate (with a warning) or error.")
]
ResponseFormat = Annotated[
    str | None,
    typer.Option(help="json, a JSON schema, or @FILE with one: the answer is held to it."),
]


@app.command()
def serve() -> None:
    """Start the page and the API (WORKBENCH_HOST, WORKBENCH_PORT, WORKBENCH_DB)."""
    from workbench import logs
    from workbench.settings import load_settings

    settings = load_settings()
    logs.configure(settings.workbench_log_level)
    from workbench.server import serve as run

    run(settings)


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="Model id, or a bare name if only one has it.")],
    prompt: Annotated[
        str | None,
        typer.Argument(help="The message, - for standard input; none starts a conversation."),
    ] = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.7,
    seed: Seed = None,
    system: System = None,
    top_p: TopP = 0.9,
    top_k: TopK = 50,
    repetition_penalty: Penalty = 1.0,
    stop: Stop = None,
    num_ctx: NumCtx = None,
    logprobs: Logprobs = 0,
    response_format: ResponseFormat = None,
    overflow: Overflow = "truncate",
    as_json: AsJson = False,
) -> None:
    """Talk to one model; the answer streams."""
    from workbench.types import Message, new_id

    options: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "top_p": top_p,
        "top_k": top_k,
        "repetition_penalty": repetition_penalty,
        "stop": tuple(stop or ()),
        "num_ctx": num_ctx,
        "logprobs": logprobs,
        "response_format": _response_format(response_format),
        "overflow": overflow,
    }
    with _workbench() as wb:
        if prompt is not None:
            _answer(wb, model, _given(prompt), system=system, as_json=as_json, **options)
            return
        history: list[Message] = []
        conversation_id = new_id("con")
        typer.echo("An empty line ends the conversation.", err=True)
        while prompt := _ask():
            text = _answer(
                wb,
                model,
                prompt,
                system=system,
                as_json=as_json,
                history=history,
                conversation_id=conversation_id,
                **options,
            )
            history += [Message("user", prompt), Message("assistant", text)]


@app.command()
def compare(
    prompt: Annotated[str, typer.Argument(help="The message for all models, - for stdin.")],
    model: Annotated[list[str], typer.Option("--model", "-m", help="Give it once per model.")],
    mode: Annotated[
        str, typer.Option(help="concurrent, isolated (one at a time) or interleaved.")
    ] = "concurrent",
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.7,
    seed: Seed = None,
    system: System = None,
    top_p: TopP = 0.9,
    top_k: TopK = 50,
    repetition_penalty: Penalty = 1.0,
    stop: Stop = None,
    num_ctx: NumCtx = None,
    logprobs: Logprobs = 0,
    response_format: ResponseFormat = None,
    overflow: Overflow = "truncate",
    as_json: AsJson = False,
) -> None:
    """Ask several models the same thing and see answers and figures side by side."""
    from contextlib import closing

    from workbench.client import session_row
    from workbench.types import DoneEvent, ErrorEvent, StreamSession

    sessions: dict[int, StreamSession] = {}
    prompt = _given(prompt)
    options: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "top_p": top_p,
        "top_k": top_k,
        "repetition_penalty": repetition_penalty,
        "stop": tuple(stop or ()),
        "num_ctx": num_ctx,
        "logprobs": logprobs,
        "response_format": _response_format(response_format),
        "overflow": overflow,
    }
    with _workbench() as wb:
        events = wb.compare_events(
            model,
            prompt,
            mode=mode,
            system=system,
            source="cli",
            **options,
        )
        from workbench.terminal import LiveTable

        with (
            closing(events),
            LiveTable(model, enabled=not as_json) as table,
            _CtrlCStops(wb) as stopped,
        ):
            for index, event in events:
                stopped.watch(event)
                table.update(index, event)
                if isinstance(event, DoneEvent | ErrorEvent):
                    sessions[index] = event.session
    ordered = [sessions[index] for index in sorted(sessions)]
    if as_json:
        _print_json({"prompt": prompt, "answers": [session_row(item) for item in ordered]})
    if any(session.status.value != "ok" for session in ordered):
        raise typer.Exit(130 if stopped else 1)


# -- models ---------------------------------------------------------------------------------------


@models_app.command("list")
def models_list(as_json: AsJson = False) -> None:
    """All models of all providers."""
    models, problems = _list_models()
    _show_models(models, problems, as_json)


@models_app.command("scan")
def models_scan(as_json: AsJson = False) -> None:
    """Look through model folder and hub cache: what is there, what is broken, how to mend it."""
    from workbench.hf.files import scan
    from workbench.settings import load_settings

    settings = load_settings()
    _show_models(scan(settings.hf_model_path, settings.hub_cache), {}, as_json)


@models_app.command("show")
def models_show(model: str) -> None:
    """All that is known of one model, as JSON."""
    with _workbench() as wb:
        _print_json(wb.show(model).to_dict())


@models_app.command("pull")
def models_pull(
    name: Annotated[
        str,
        typer.Argument(help="ORG/NAME on the Hugging Face hub; demo: a small model, also offline."),
    ],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit; main if not given.")
    ] = None,
    gguf: Annotated[str | None, typer.Option(help="One GGUF file of the repository.")] = None,
    as_json: AsJson = False,
) -> None:
    """Bring a model to this machine; what broke off or was stopped is resumed."""
    if name == "demo":
        _pull_demo(as_json)
        return
    from workbench.terminal import JobBar

    with _workbench() as wb, JobBar(enabled=not as_json) as bar:
        try:
            done = wb.download(name, revision=revision, gguf_file=gguf, on_progress=bar.update)
        except KeyboardInterrupt:
            stopped = "Stopped. What has come is kept: the next pull takes it up."
            typer.echo(stopped, err=True)
            raise typer.Exit(130) from None
    if as_json:
        _print_json(done)
    else:
        typer.echo(done["id"])


@models_app.command("rm")
def models_rm(
    model: Annotated[str, typer.Argument(help="Model id, or a bare name if only one has it.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a Hugging Face model from disk."""
    from workbench import figures

    with _workbench() as wb:
        plan = wb.delete(model, dry_run=True)
        if not yes:
            _confirm_deletion(plan)
        gone = wb.delete(plan["id"])
    if as_json:
        _print_json(gone)
        return
    typer.echo(f"Deleted {gone['id']}: {figures.size(gone['freed_bytes'])} freed.")
    for orphan in gone["orphans"]:
        typer.echo(f"{orphan} has lost its base and cannot be used now.", err=True)


@models_app.command("verify")
def models_verify(
    model: Annotated[str | None, typer.Argument(help="All models if not given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read every byte of what is on disk and compare; says what is broken and how to mend it."""
    from workbench.terminal import JobBar, print_verdicts

    with _workbench() as wb, JobBar(enabled=not as_json) as bar:
        verdict = wb.verify(model, on_progress=bar.update)
    if as_json:
        _print_json(verdict)
    else:
        print_verdicts(verdict["models"])
    if not verdict["ok"]:
        raise typer.Exit(1)


@models_app.command("load")
def models_load(model: str, as_json: AsJson = False) -> None:
    """Bring a model into the memory of the running server."""
    with _workbench(remote=True) as wb:
        _say_done("loaded", wb.load(model), "memory_bytes", "in memory", as_json)


@models_app.command("unload")
def models_unload(model: str, as_json: AsJson = False) -> None:
    """Take a model out of the memory of the running server."""
    with _workbench(remote=True) as wb:
        _say_done("unloaded", wb.unload(model), "recovered_bytes", "given back", as_json)


@models_app.command("pin")
def models_pin(model: str) -> None:
    """Bring a model into the running server's memory and keep it there."""
    with _workbench(remote=True) as wb:
        wb.pin(model)


@models_app.command("unpin")
def models_unpin(model: str) -> None:
    """Let a pinned model be evicted again."""
    with _workbench(remote=True) as wb:
        wb.unpin(model)


@app.command()
def queue(as_json: AsJson = False) -> None:
    """Who is in the running server's memory, who waits and how long, who would leave next."""
    with _workbench(remote=True) as wb:
        overview = wb.queue()
    if as_json:
        _print_json(overview.to_dict())
        return
    from workbench.terminal import print_overview

    print_overview(overview)


# -- the log --------------------------------------------------------------------------------------


@db_app.command("query")
def db_query(
    sql: Annotated[str, typer.Argument(help="One statement that only reads.")],
    as_json: AsJson = False,
    limit: Annotated[int | None, typer.Option(help="The most rows to print.")] = None,
) -> None:
    """Ask the log; works beside a running server and without one."""
    frame = _read_log(lambda log: log.sql(sql, limit=limit), lambda s: s.query(sql, limit=limit))
    if as_json:
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        typer.echo(json.dumps(rows, ensure_ascii=False, default=_plain))
    else:
        typer.echo(frame.to_string(index=False) if len(frame) else "(no rows)")


@db_app.command("tables")
def db_tables(as_json: AsJson = False) -> None:
    """Tables and views with their columns."""
    tables = _read_log(lambda log: log.tables(), lambda store: store.tables())
    if as_json:
        _print_json(tables)
        return
    for table in tables:
        rows = "" if table["rows"] is None else f", {table['rows']} rows"
        typer.echo(f"{table['name']} ({table['kind']}{rows})")
        typer.echo(f"    {', '.join(table['columns'])}")


@db_app.command("verify")
def db_verify(as_json: AsJson = False) -> None:
    """Is the log whole: checksums, sequence, spool, orphans, views; exit code 1 if not."""
    from workbench.store.verify import unopened, verdict

    try:
        found = _read_log(lambda log: log.verify_log(), lambda store: verdict(store.verify()))
    except WorkbenchError as error:
        if error.code is not ErrorCode.STORE_DAMAGED:
            raise
        found = unopened(error)
    if as_json:
        _print_json(found)
    else:
        for check in found["checks"]:
            typer.echo(f"{check['status']:<5} {check['check']}: {check['message']}")
            if check["fix"]:
                typer.echo(f"      -> {check['fix']}")
    if not found["ok"]:
        raise typer.Exit(1)


@db_app.command("snapshot")
def db_snapshot(
    path: Annotated[Path, typer.Argument(help="File to make.")], as_json: AsJson = False
) -> None:
    """Copy the log, as it is at this moment, into a file of its own; logging goes on."""
    from workbench import figures
    from workbench.terminal import JobBar

    with _workbench() as wb, JobBar(enabled=not as_json) as bar:
        done = wb.snapshot(path, on_progress=bar.update)
    if as_json:
        _print_json(done)
    else:
        size = figures.size(done["size_bytes"])
        typer.echo(f"{done['path']}: {done['sessions']} sessions, {size}")


@db_app.command("export")
def db_export(
    folder: Annotated[Path, typer.Argument(help="Folder to make.")], as_json: AsJson = False
) -> None:
    """Write the log as Parquet, a folder a table and a month, with a manifest."""
    from workbench import figures
    from workbench.terminal import JobBar

    with _workbench() as wb, JobBar(enabled=not as_json) as bar:
        done = wb.export(folder, on_progress=bar.update)
    if as_json:
        _print_json(done)
        return
    rows = sum(table["rows"] for table in done["tables"].values())
    size = figures.size(done["size_bytes"])
    typer.echo(f"{done['path']}: {len(done['tables'])} tables, {rows} rows, {size}")


@db_app.command("import")
def db_import(
    folder: Annotated[Path, typer.Argument(help="An export of another workbench.")],
    name: Annotated[str, typer.Option("--as", help="Its name in queries.")],
    as_json: AsJson = False,
) -> None:
    """Make another's export readable as NAME.latencies; it never mixes with the log itself."""
    from workbench.terminal import JobBar

    with _workbench() as wb, JobBar(enabled=not as_json) as bar:
        done = wb.import_export(folder, name, on_progress=bar.update)
    if as_json:
        _print_json(done)
    else:
        typer.echo(f"{done['sessions']} sessions: workbench db query 'FROM {name}.latencies'")


@db_app.command("prune")
def db_prune(
    older_than: Annotated[
        str, typer.Option("--older-than", help="90d, 12w, 6m, 1y or a date; older sessions go.")
    ],
    keep: Annotated[
        list[str] | None,
        typer.Option(help="runs, scored, errors: stay whatever their age. Default: runs, scored."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete old sessions with their tokens, messages and memory readings."""
    kept = keep or ["runs", "scored"]
    with _workbench() as wb:
        plan = wb.prune(older_than, keep=kept, dry_run=True)
        if dry_run or not plan["sessions"]:
            _show_pruned(plan, as_json)
            return
        if not yes:
            _show_pruned(plan, False)
            _confirm(f"Delete {plan['sessions']} sessions from before {plan['before'][:10]}")
        done = wb.prune(older_than, keep=kept, dry_run=False)
        held, log = wb.remote, wb.settings.workbench_db
    if not held:  # a server has the file open; without one it can be rewritten
        from workbench.store.retention import compact

        freed = done["freed_bytes"] + compact(log.expanduser().absolute())
        done = {**done, "freed_bytes": freed, "free_bytes": 0}
    _show_pruned(done, as_json)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what is well, what is not, and what to do about it."""
    from workbench.doctor import examine

    findings = examine()
    if as_json:
        _print_json([finding.to_dict() for finding in findings])
    else:
        for finding in findings:
            typer.echo(f"{finding.status:<5} {finding.part}: {finding.message}")
            if finding.fix:
                typer.echo(f"      -> {finding.fix}")
    if any(finding.status == "bad" for finding in findings):
        raise typer.Exit(1)


# -- help for the commands ------------------------------------------------------------------------


def _say_done(what: str, done: Mapping[str, Any], name: str, meaning: str, as_json: bool) -> None:
    from workbench import figures

    if as_json:
        _print_json(done)
        return
    size = figures.size(done[name])
    typer.echo(f"{done['id']} {what} in {figures.seconds(done['duration_s'])}: {size} {meaning}.")


def _response_format(text: str | None) -> Mapping[str, Any] | None:
    """What ``--response-format`` asks for, as the engine takes it."""
    if text is None:
        return None
    if text == "json":
        return {"type": "json_object"}
    try:
        if text.startswith("@"):
            text = Path(text[1:]).read_text()
        value = json.loads(text)
    except (OSError, ValueError) as error:
        raise invalid(
            f"--response-format cannot be read: {error}",
            fix="Give json, a JSON schema, or @FILE with one.",
        ) from None
    if isinstance(value, dict) and value.get("type") in ("text", "json_object", "json_schema"):
        return value
    return {"type": "json_schema", "json_schema": {"schema": value}}


def _pull_demo(as_json: bool) -> None:
    from workbench.hf.demo import ensure_demo
    from workbench.settings import load_settings

    ids = ensure_demo(load_settings(), progress=lambda text: typer.echo(text, err=True))
    if as_json:
        _print_json({"models": ids})
    else:
        typer.echo("\n".join(ids))


def _confirm_deletion(plan: Mapping[str, Any]) -> None:
    """Ask in a terminal; elsewhere nobody could answer."""
    from workbench import figures

    what = f"{plan['id']} ({figures.size(plan['size_bytes'])}, {plan['location']})"
    if not sys.stdin.isatty():
        raise invalid(f"Deleting {what} needs a confirmation.", fix="Give --yes.")
    for also in plan["also"]:
        typer.echo(f"With it goes {also}.", err=True)
    for orphan in plan["orphans"]:
        typer.echo(f"{orphan} needs it and could not be used any more.", err=True)
    if not typer.confirm(f"Delete {what}?", err=True):
        typer.echo("Nothing was deleted.", err=True)
        raise typer.Exit(1)


def _show_pruned(pruned: Mapping[str, Any], as_json: bool) -> None:
    from workbench.terminal import pruned_text

    if as_json:
        _print_json(pruned)
    else:
        typer.echo(pruned_text(pruned))


def _confirm(question: str) -> None:
    """Ask in a terminal; elsewhere nobody could answer."""
    if not sys.stdin.isatty():
        raise invalid(f"{question}: this needs a confirmation.", fix="Give --yes.")
    if not typer.confirm(f"{question}?", err=True):
        typer.echo("Nothing was deleted.", err=True)
        raise typer.Exit(1)


def _workbench(remote: bool | None = None) -> Workbench:
    from workbench import logs
    from workbench.client import Workbench

    logs.configure("ERROR")  # what goes wrong is told in words; serve logs in full
    return Workbench(remote=remote, source="cli")


def _list_models() -> tuple[Sequence[ModelInfo], Mapping[str, WorkbenchError]]:
    """Ask a running server, which knows what is resident, or else look without opening the log."""
    import asyncio

    from workbench.discovery import running_server
    from workbench.engine import build_router
    from workbench.settings import load_settings

    settings = load_settings()
    if running_server(settings) is not None:
        with _workbench(remote=True) as wb:
            return wb.list_models()

    async def look() -> tuple[Sequence[ModelInfo], Mapping[str, WorkbenchError]]:
        router = build_router(settings)
        listing = await router.list_models()
        for provider in router.providers.values():
            await provider.close()
        return listing.models, listing.problems

    return asyncio.run(look())


def _read_log(over_server: Any, from_file: Any) -> Any:
    """Read through the server that holds the log, or else from the file itself."""
    from workbench.discovery import running_server
    from workbench.settings import load_settings
    from workbench.store import Store

    settings = load_settings()
    if running_server(settings) is not None:
        with _workbench(remote=True) as wb:
            return over_server(wb)
    with Store.open_readonly(settings.workbench_db) as store:
        return from_file(store)


def _answer(wb: Workbench, model: str, prompt: str, *, as_json: bool, **arguments: Any) -> str:
    from workbench import figures
    from workbench.client import session_row
    from workbench.types import DoneEvent, ErrorEvent, TokenEvent, WarningEvent

    with _CtrlCStops(wb) as stopped:
        for event in wb.stream(model, prompt, source="cli", **arguments):
            stopped.watch(event)
            match event:
                case TokenEvent() if not as_json and event.channel == "content":
                    typer.echo(event.text, nl=False)
                case WarningEvent():
                    typer.echo(f"warning: {event.message}", err=True)
                case DoneEvent() | ErrorEvent():
                    session = event.session
    if as_json:
        _print_json(session_row(session))
    else:
        typer.echo()
        typer.echo(figures.line(session), err=True)
    if session.error is not None and not as_json:
        typer.echo(str(session.error), err=True)
    if session.status.value != "ok":
        raise typer.Exit(130 if stopped else 1)
    return session.text


class _CtrlCStops:
    """The first Ctrl+C stops the models and lets the figures be printed; the second one leaves.

    True once it was pressed.
    """

    def __init__(self, wb: Workbench) -> None:
        self._wb = wb
        self._sessions: set[str] = set()
        self._pressed = False

    def __bool__(self) -> bool:
        return self._pressed

    def watch(self, event: StreamEvent) -> None:
        """Learn which sessions there are to stop."""
        self._sessions.add(event.session_id)

    def __enter__(self) -> Self:
        self._previous = signal.signal(signal.SIGINT, self._stop)
        return self

    def __exit__(self, *unused: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _stop(self, number: int, frame: object) -> None:
        if self._pressed:
            raise KeyboardInterrupt
        self._pressed = True
        for session_id in self._sessions:
            self._wb.cancel(session_id)


def _given(prompt: str) -> str:
    """The prompt, or standard input for ``-`` (a long one does not fit into an argument)."""
    if prompt != "-":
        return prompt
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise invalid(
            f"Standard input is not UTF-8 (byte {error.start}).", fix="Convert it first."
        ) from None


def _ask() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""


def _show_models(
    models: Sequence[ModelInfo], problems: Mapping[str, WorkbenchError], as_json: bool
) -> None:
    if as_json:
        _print_json(
            {
                "models": [model.to_dict() for model in models],
                "problems": {name: error.to_dict() for name, error in problems.items()},
            }
        )
        return
    from workbench.terminal import print_models

    print_models(models, problems)


def _plain(value: Any) -> Any:
    """JSON for what a query may hold: arrays as lists, times and the rest as text."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: run a command, and explain a failure instead of showing a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(given)
    except WorkbenchError as error:
        if "--json" in given:
            _print_json({"error": error.to_dict()})
        typer.echo(str(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
