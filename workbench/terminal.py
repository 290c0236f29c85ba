"""What the command line shows: tables, live panes, a line of figures."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column, Table
from rich.text import Text

from workbench import figures
from workbench.errors import WorkbenchError
from workbench.jobs import Job
from workbench.live import LiveAnswer
from workbench.rotation import Overview
from workbench.types import ModelInfo, StreamEvent

_REDRAWS_PER_S = 8
_STATUS = {"leased": "answering"}


def print_models(models: Sequence[ModelInfo], problems: Mapping[str, WorkbenchError]) -> None:
    """A table of models, then what kept a provider from telling its own."""
    longest = max((len(model.id) for model in models), default=0)
    # Ids are there to be copied: a narrow terminal may wrap a line, but none is cut short.
    console = Console(width=max(Console().width, longest + 70))
    if models:
        table = Table(box=None, pad_edge=False)
        table.add_column("model", no_wrap=True)
        for name in ("status", "size", "memory", "weights", "context"):
            table.add_column(name, justify="right" if name in ("size", "memory") else "left")
        for model in models:
            table.add_row(
                escape(model.id),
                model.status,
                figures.size(model.size_bytes),
                figures.size(model.memory_bytes),
                " ".join(part for part in (model.format, model.quantization or model.dtype) if part)
                or "–",
                str(model.context_length or "–"),
            )
        console.print(table)
    else:
        console.print("No models yet. Get a small one with: workbench models pull demo")
    for model in models:
        if model.problem:
            console.print(f"{model.id}: {model.problem}", markup=False)
    for name, error in problems.items():
        known = error.message.startswith(f"{name}:")
        console.print(str(error) if known else f"{name}: {error}", markup=False)


def print_verdicts(verdicts: Sequence[Mapping[str, Any]]) -> None:
    """What the full check found, a line per model and one per problem."""
    console = Console()

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    if not verdicts:
        say("There are no Hugging Face models on disk.")
    for verdict in verdicts:
        counts = f"{figures.count(verdict['checked'], 'file')}, "
        counts += f"{figures.size(verdict['checked_bytes'])} compared"
        if verdict["unhashed"]:
            counts += f"; hash of {', '.join(verdict['unhashed'])} noted for the next check"
        if verdict["tokenizer"]:
            counts += "; tokenizer opened"
        say(f"{'ok' if verdict['ok'] else 'bad':<4} {verdict['id']} ({counts})")
        for problem in verdict["problems"]:
            say(f"     {problem}")
        if verdict["fix"]:
            say(f"     -> {verdict['fix']}")


def print_overview(overview: Overview) -> None:
    """Memory by device, the models in it, the requests that wait."""
    console = Console()
    for device, limit in overview.limit_bytes.items():
        held = figures.size(overview.held_bytes.get(device, 0))
        why = "" if limit else "; other programs hold what was for models"
        console.print(f"{device}: {held} of {figures.size(limit)} held{why}", highlight=False)
    # Ids are folded and not cut: their ends tell variants apart.
    residents = Table(Column("model", overflow="fold"), box=None)
    for name in ("status", "memory", "predicted peak", "unloaded in"):
        residents.add_column(name)
    for resident in overview.residents:
        left = resident.expires_in_s
        residents.add_row(
            escape(resident.model),
            _STATUS.get(resident.status, resident.status) + (", pinned" if resident.pinned else ""),
            _by_device(resident.held_bytes),
            _by_device(resident.peak_bytes),
            "–" if left is None else figures.seconds(left),
        )
    nothing = "No model of ours is in memory." if overview.others else "No model is in memory."
    console.print(residents if overview.residents else nothing)
    for name, sizes in overview.others.items():
        line = f"{name}: {_by_device(sizes)}, loaded by another program"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if overview.next_victims:
        console.print(f"first to make room: {escape(', '.join(overview.next_victims))}")
    waiting = Table("", Column("waiting for", overflow="fold"), "waited", "about", box=None)
    waiting.add_column("why", overflow="fold")
    for one in overview.waiting:
        about = "–" if one.estimate_s is None else figures.seconds(one.estimate_s)
        why = one.reason + (f" (leaves: {', '.join(one.evicts)})" if one.evicts else "")
        waiting.add_row(
            str(one.position), escape(one.model), figures.seconds(one.waited_s), about, escape(why)
        )
    bounds = f"at most {overview.max_waiting}, {overview.max_waiting_per_model} for one model"
    console.print(waiting if overview.waiting else f"Nobody waits ({bounds}).", highlight=False)


def _by_device(sizes: Mapping[str, int]) -> str:
    parts = [
        figures.size(size) + (f" {device}" if device != "host" else "")
        for device, size in sizes.items()
        if size
    ]
    return " + ".join(parts) or "–"


class JobBar:
    """A bar on standard error with bytes, speed and the time left; only in a terminal.

    Args:
        enabled: False shows nothing at all (for ``--json``).
    """

    def __init__(self, *, enabled: bool) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, max_width=40)),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not (enabled and console.is_terminal),
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def update(self, job: Job) -> None:
        """Show where the job is."""
        if self._task is None and job.bytes_total is not None:
            # Begun only now: what an earlier try had brought must not count as speed.
            self._task = self._progress.add_task(
                escape(job.message), total=job.bytes_total, completed=job.bytes_done
            )
        elif self._task is not None:
            self._progress.update(
                self._task,
                completed=job.bytes_done,
                total=job.bytes_total,
                description=escape(job.message),
            )


def pruned_text(pruned: Mapping[str, Any]) -> str:
    """What a pruning deletes, or would, and what becomes of the file."""
    sessions, left, kept = (pruned[f"sessions{name}"] for name in ("", "_left", "_kept"))
    verb = "would go" if pruned["dry_run"] else f"{'is' if sessions == 1 else 'are'} gone"
    moment = dt.datetime.fromisoformat(pruned["before"]).astimezone(dt.UTC)
    lines = [
        f"{sessions:,} of {figures.count(sessions + left, 'session')} {verb}: those from before "
        f"{moment:%Y-%m-%d %H:%M} UTC" + (f", but {kept} that --keep names." if kept else ".")
    ]
    gone = {table: rows for table, rows in pruned["rows"].items() if rows}
    lines += [f"    {table}: {figures.count(rows, 'row')}" for table, rows in gone.items()]
    if not pruned["dry_run"]:
        freed, free = figures.size(pruned["freed_bytes"]), figures.size(pruned["free_bytes"])
        lines.append(
            f"The file is {freed} smaller."
            + (
                f" {free} inside it are free and are used next; to give them back as well, stop "
                "the server and prune again."
                if pruned["free_bytes"]
                else ""
            )
        )
    return "\n".join(lines)


class OnScreen:
    """What is drawn anew on a terminal while a block runs, and gone after it.

    Args:
        console: where.
        enabled: False shows nothing at all (for ``--json``).
    """

    def __init__(self, console: Console, *, enabled: bool) -> None:
        self._console = console
        self._enabled = enabled
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self._enabled and self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()


class LiveTable(OnScreen):
    """Answers side by side in the terminal while they stream.

    Args:
        models: one column each.
        enabled: False shows nothing at all (for ``--json``).
    """

    def __init__(self, models: Sequence[str], *, enabled: bool) -> None:
        super().__init__(Console(), enabled=enabled)
        self._panes = [LiveAnswer(model) for model in models]
        self._drawn = 0.0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._enabled and error is None:
            self._console.print(self._table(whole=True))

    def update(self, index: int, event: StreamEvent) -> None:
        """Take an event of column ``index``; redraws a few times a second."""
        self._panes[index].take(event)
        now = time.monotonic()
        if self._live.is_started and now - self._drawn > 1 / _REDRAWS_PER_S:
            self._drawn = now
            self._live.update(self._table(whole=False), refresh=True)

    def _table(self, *, whole: bool) -> Table:
        """The panes; while streaming only the end of each text, so that the screen holds it."""
        table = Table(expand=True, show_lines=True)
        rows = max(self._console.height - 8, 5)
        strips, texts = [], []
        for pane in self._panes:
            table.add_column(Text(pane.model), ratio=1, overflow="fold")
            waiting = f"{pane.phase} {pane.detail}".strip()
            strips.append(Text(figures.line(pane.session) if pane.session else waiting))
            text = pane.answer if whole else "\n".join(pane.answer.splitlines()[-rows:])
            notes = [f"warning: {message}" for _, message in pane.warnings]
            notes += [str(pane.error)] if pane.error else []
            texts.append(Text("\n".join([text, *notes])))
        table.add_row(*strips)
        table.add_row(*texts)
        return table
