"""``Workbench``: what notebooks and scripts call."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from workbench.errors import ErrorCode, WorkbenchError
from workbench.jobs import Job
from workbench.settings import load_settings
from workbench.types import (
    ChatRequest,
    DoneEvent,
    ErrorEvent,
    Message,
    ModelInfo,
    Options,
    Priority,
    StreamEvent,
    StreamSession,
    Timeouts,
    TimingMode,
    new_id,
)

if TYPE_CHECKING:
    import pandas as pd

    from workbench.bench.progress import Outcome, Progress
    from workbench.bench.road import Road
    from workbench.bench.spec import Spec
    from workbench.insight import Divergence, ParitySheet
    from workbench.insight.ladder import Ladder
    from workbench.rotation import Overview
    from workbench.store import MemorySample
    from workbench.store.rows import Mode

from workbench.client.insight import climb, request_of
from workbench.client.remote import Remote
from workbench.client.sessions import sessions_frame
from workbench.client.transport import connect

E = TypeVar("E", bound=StrEnum)

_POLL_S: Final = 0.2
_STOP_S: Final = 3.0


class Workbench:
    """Models, streams, comparisons and the log, as plain function calls.

    Args:
        remote: True insists on a running server, False on an engine in this process; None takes
            a server if there is one.
        source: what the log says of where loads and downloads came from.
        settings: overrides of the environment by field name, for example
            ``workbench_db="experiment.duckdb"``.

    Raises:
        WorkbenchError: a bad setting, or a log that cannot be opened.
    """

    def __init__(
        self, *, remote: bool | None = None, source: str = "python", **settings: object
    ) -> None:
        self.settings = load_settings(**settings)
        self._transport = connect(self.settings, remote, source)
        # A notebook seldom closes anything: models and log must be released all the same.
        self._finalizer = weakref.finalize(self, self._transport.close)
        # atexit would be too late: closing needs threads, and by then none can be started.
        threading._register_atexit(self._finalizer)  # type: ignore[attr-defined]

    # -- models

    def models(self, *, problems: bool = False) -> pd.DataFrame:
        """All models of all providers as a DataFrame (sizes in bytes).

        Args:
            problems: True adds a row for each provider that could not be asked.
        """
        import pandas as pd

        models, troubles = self.list_models()
        rows = [model.to_dict() for model in models]
        if problems:
            rows += [{"provider": name, "problem": str(e)} for name, e in troubles.items()]
        columns = [
            "id",
            "provider",
            "status",
            "size_bytes",
            "memory_bytes",
            "format",
            "dtype",
            "quantization",
            "context_length",
            "problem",
        ]
        return pd.DataFrame(rows, columns=columns)

    def list_models(self) -> tuple[list[ModelInfo], Mapping[str, WorkbenchError]]:
        """All models as values, and by provider what kept it from telling its own."""
        return self._transport.models()

    def show(self, model: str) -> ModelInfo:
        """All that is known of one model."""
        return self._transport.show(model)

    def load(self, model: str) -> Mapping[str, Any]:
        """Bring a model into memory.

        Returns:
            ``id``, ``duration_s``, ``memory_bytes`` (measured; None if unknown), ``evicted``
            (models that left for it).
        """
        return self._transport.load(model)

    def unload(self, model: str) -> Mapping[str, Any]:
        """Take a model out of memory; a pin on it ends.

        Returns:
            ``id``, ``duration_s``, ``was_resident``, ``recovered_bytes`` (measured; None if
            unknown).
        """
        return self._transport.unload(model)

    def pin(self, model: str) -> Mapping[str, Any]:
        """Bring a model into memory and keep it there: it is neither evicted nor does it expire.

        Returns:
            ``id``, ``evicted``.
        """
        return self._transport.pin(model)

    def unpin(self, model: str) -> Mapping[str, Any]:
        """Let a model be evicted again.

        Returns:
            ``id``, ``was_pinned``.
        """
        return self._transport.unpin(model)

    def queue(self) -> Overview:
        """Who is in memory with how many bytes, who waits and how long, who would leave next."""
        return self._transport.queue()

    # -- models on disk

    def download(
        self,
        model: str,
        *,
        revision: str | None = None,
        gguf_file: str | None = None,
        on_progress: Callable[[Job], None] = lambda job: None,
    ) -> Mapping[str, Any]:
        """Bring a model from the hub to disk; returns when it is there and checked.

        Interrupting stops the download; what has come is kept, and the next call resumes.

        Args:
            model: ``org/name``, or ``org/name/file.gguf`` for one GGUF file.
            revision: branch, tag or commit; None for main.
            gguf_file: the GGUF file, if ``model`` does not name it.
            on_progress: receives the job several times a second.

        Returns:
            ``id``, ``revision`` (the commit), ``size_bytes``, ``downloaded_bytes``, ``path``.

        Raises:
            WorkbenchError: why it failed, with the fix.
        """
        job = self._transport.download(model, revision, gguf_file)
        return self._follow(job, on_progress)

    def verify(
        self, model: str | None = None, *, on_progress: Callable[[Job], None] = lambda job: None
    ) -> Mapping[str, Any]:
        """Read every byte of a Hugging Face model, or of all, and compare with what was recorded.

        Returns:
            ``ok``, and ``models``: per model ``id, ok, checked, checked_bytes, unhashed,
            problems, fix``.
        """
        return self._follow(self._transport.verify(model), on_progress)

    def delete(self, model: str, *, dry_run: bool = False) -> Mapping[str, Any]:
        """Delete a Hugging Face model from disk.

        Args:
            model: model id or a bare name.
            dry_run: True only tells what would go.

        Returns:
            ``id``, ``size_bytes`` (what it takes), ``freed_bytes`` (measured; not if ``dry_run``),
            ``location``, ``also`` (models that go with it), ``orphans`` (LoRA adapters that lose
            their base).

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` while it is answering or being downloaded.
        """
        return self._transport.delete(model, dry_run)

    def job(self, job_id: str) -> Job:
        """A download or check as it is now."""
        return self._transport.job(job_id)

    def _follow(self, job: Job, on_progress: Callable[[Job], None]) -> Mapping[str, Any]:
        try:
            while not job.ended:
                on_progress(job)
                job = self._transport.wait_for_job(job.id, _POLL_S)
        except BaseException:  # Ctrl+C, or an interrupted cell: the work must not go on
            self._transport.cancel_job(job.id)
            self._transport.wait_for_job(job.id, _STOP_S)
            raise
        on_progress(job)
        if job.error is not None:
            raise job.error
        if job.result is None:
            raise WorkbenchError(
                ErrorCode.CANCELLED, f"The {job.kind} was stopped.", operation=job.kind
            )
        return job.result

    # -- generating

    def stream(
        self,
        model: str,
        prompt: str,
        *,
        history: Sequence[Message] = (),
        system: str | None = None,
        conversation_id: str | None = None,
        fallback: str | None = None,
        timeouts: Timeouts | None = None,
        priority: Priority = Priority.INTERACTIVE,
        source: str = "python",
        **options: Any,
    ) -> Generator[StreamEvent, None, None]:
        """Events of one answer as they come; the last is a ``DoneEvent`` or an ``ErrorEvent``.

        Leaving the loop stops the model.

        Args:
            model: model id or a bare name.
            prompt: the user's message.
            history: earlier messages.
            system: system prompt, put before the history.
            conversation_id: to log several turns as one conversation.
            fallback: model to ask if this one fails before its first token.
            timeouts: longest waits per phase.
            priority: ``benchmark`` lets ``interactive`` requests go first.
            source: which face asks; logged.
            options: sampling options (:class:`workbench.types.Options`).

        Raises:
            WorkbenchError: for a request that is wrong in itself.
        """
        request = ChatRequest(
            model=model,
            messages=_messages(prompt, history, system),
            options=Options.from_mapping(options),
            fallback=fallback,
            timeouts=timeouts or Timeouts(),
            priority=_priority(priority),
            conversation_id=conversation_id or new_id("con"),
            source=source,
        )
        with contextlib.closing(self._transport.stream([request])) as events:
            for _, event in events:
                if isinstance(event, ErrorEvent) and event.session.status == "rejected":
                    raise event.error
                yield event

    def chat(self, model: str, prompt: str, **arguments: Any) -> StreamSession:
        """One whole answer with its figures; arguments as for :meth:`stream`.

        Raises:
            WorkbenchError: if the answer failed.
        """
        for event in self.stream(model, prompt, **arguments):
            if isinstance(event, ErrorEvent):
                raise event.error
            if isinstance(event, DoneEvent):
                return event.session
        raise WorkbenchError(
            ErrorCode.INTERNAL, "The stream ended without a result.", operation="chat"
        )

    def compare_events(
        self,
        models: Sequence[str],
        prompt: str,
        *,
        mode: str = "concurrent",
        history: Sequence[Message] = (),
        system: str | None = None,
        fallback: str | None = None,
        timeouts: Timeouts | None = None,
        priority: Priority = Priority.INTERACTIVE,
        source: str = "python",
        **options: Any,
    ) -> Generator[tuple[int, StreamEvent], None, None]:
        """Events of several answers, each with the index of its model; see :meth:`compare`."""
        comparison_id = new_id("cmp")
        chosen = Options.from_mapping(options)
        requests = [
            ChatRequest(
                model=model,
                messages=_messages(prompt, history, system),
                options=chosen,
                timing_mode=_mode(mode),
                fallback=fallback,
                timeouts=timeouts or Timeouts(),
                priority=_priority(priority),
                comparison_id=comparison_id,
                source=source,
            )
            for model in models
        ]
        if not requests:
            raise WorkbenchError(
                ErrorCode.INVALID_REQUEST,
                "There is nothing to compare.",
                fix="Name one or more models.",
                operation="compare",
            )
        return self._transport.stream(requests)

    def compare(
        self, models: Sequence[str], prompt: str, *, show: bool | None = None, **arguments: Any
    ) -> pd.DataFrame:
        """Ask several models the same thing; one row per model, failed ones included.

        Args:
            models: model ids.
            prompt: the user's message.
            show: True shows the answers side by side while they stream; None does so in a
                notebook.
            arguments: ``mode`` (``concurrent``, ``isolated``, ``interleaved``), ``history``,
                ``system``, ``fallback``, ``timeouts``, ``priority`` and the sampling options.

        Returns:
            Columns ``model, status, text``, the figures of :data:`FIGURES`, tokens, and the ids
            under which everything is in the log.
        """
        from workbench.display import LiveComparison, in_notebook

        live = LiveComparison(list(models)) if (in_notebook() if show is None else show) else None
        sessions: dict[int, StreamSession] = {}
        with contextlib.closing(self.compare_events(models, prompt, **arguments)) as events:
            for index, event in events:
                if isinstance(event, DoneEvent | ErrorEvent):
                    sessions[index] = event.session
                if live is not None:
                    live.update(index, event)
        return sessions_frame([sessions[index] for index in sorted(sessions)])

    def cancel(self, session_id: str) -> bool:
        """Stop a running stream from elsewhere; False when there is none of that id."""
        return self._transport.cancel(session_id)

    # -- why they differ

    def parity(
        self, a: str, b: str, prompt: str, *, system: str | None = None, **options: Any
    ) -> ParitySheet:
        """What two models make of one prompt before they answer, and why they will differ.

        Args:
            a: model id or a bare name.
            b: the other one.
            prompt: the user's message.
            system: system prompt of both.
            options: sampling options; temperature 0 unless given.

        Returns:
            The sheet; its ``causes`` are ranked, and a notebook shows it as tables.

        Raises:
            WorkbenchError: of either model.
        """
        request = request_of(a, prompt, system, "python", options)
        return self._transport.parity(request, b)

    def diverge(
        self,
        a: str,
        b: str,
        prompt: str,
        *,
        system: str | None = None,
        repeats: int = 2,
        **options: Any,
    ) -> Divergence:
        """Where two answers to one prompt part, and whether that was a coin toss.

        Both models answer alone on the machine, with the probabilities of the 20 likeliest tokens;
        then ``b`` is made to read ``a``'s answer token by token.

        Args:
            a: model id or a bare name.
            b: the other one.
            prompt: the user's message.
            system: system prompt of both.
            repeats: further answers of each, to see whether it always says the same.
            options: sampling options; greedy and 64 tokens unless given.

        Raises:
            WorkbenchError: of either model.
        """
        request = request_of(a, prompt, system, "python", options)
        return self._transport.diverge(request, b, repeats)

    def ladder(
        self,
        models: Sequence[str],
        *,
        passages: str | Path | None = None,
        on_stage: Callable[[str], None] = lambda stage: None,
    ) -> Ladder:
        """One model in several forms: perplexity, agreement, bytes and speed, with intervals.

        Args:
            models: ids, the one that others are held to first.
            passages: a JSONL file with ``id``, ``prompt``, ``text``; default texts of our own.
            on_stage: told in a few words what is being done, several times a second.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``, or of a model.
        """
        sizes = {model: self.show(model).size_bytes for model in models}
        stages = [""]
        path = None if passages is None else Path(passages)

        async def work(road: Road) -> Ladder:
            return await climb(road, models, path, sizes, stages.append)

        return self._transport.drive(work, lambda: on_stage(stages[-1]))

    # -- benchmarks

    def bench(
        self,
        spec: Spec | Mapping[str, Any] | str | Path,
        *,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> Outcome:
        """Run a benchmark; all it finds is in the log under the run's id.

        Interrupting stops it: :meth:`resume_bench` goes on where it was.

        Args:
            spec: a TOML file, or what one would say as a mapping.
            on_progress: receives the progress several times a second.

        Returns:
            Figures by cell, whether the SLO was kept, ``run_id``.

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` for a spec, dataset or scorer that is wrong; a model
                that fails is no error but in ``failed``.
        """
        from workbench.client import benchmarks

        return benchmarks.run(self._transport, self.settings, spec, on_progress)

    def resume_bench(
        self, run: str, *, on_progress: Callable[[Progress], None] = lambda progress: None
    ) -> Outcome:
        """Go on with a run that was stopped or killed, at the trial where it was.

        Args:
            run: its id or the beginning of it, the name of its spec, or ``last``.
            on_progress: as for :meth:`bench`.
        """
        from workbench.client import benchmarks

        return benchmarks.resume(self._transport, self.settings, run, on_progress)

    # -- the log

    def sql(
        self, query: str, params: Mapping[str, Any] | None = None, /, *, limit: int | None = None
    ) -> pd.DataFrame:
        """Rows of the log: one statement that only reads.

        Args:
            query: may name parameters as ``$name``.
            params: their values.
            limit: the most rows wanted.
        """
        return self._transport.sql(query, params, limit)

    def arena_leaderboard(self, *, blind: bool = True) -> pd.DataFrame:
        """Models by the votes over their answers, with 95 % intervals.

        Args:
            blind: only votes that were cast without knowing the models.

        Returns:
            The columns of :data:`workbench.analysis.ARENA_LEADERBOARD`, the best first.
        """
        from workbench.analysis import arena_leaderboard

        return arena_leaderboard(self.sql, blind=blind)

    def tables(self) -> list[dict[str, Any]]:
        """Tables and views of the log with their columns."""
        return self._transport.tables()

    def verify_log(self) -> Mapping[str, Any]:
        """Whether the log is whole.

        Returns:
            ``ok`` and ``checks``, each with ``check``, ``status`` (ok, note, bad), ``message`` and
            ``fix``.
        """
        return self._transport.verify_log()

    def log(self, table: str, *rows: Mapping[str, Any], mode: Mode = "add") -> None:
        """Log rows of your own, scores or votes for example; on return they are on disk.

        Args:
            table: any but those of sessions, for which there is :meth:`log_session`.
            rows: mappings from column to value; columns left out are null.
            mode: what to do about a primary key that exists: ``add`` (an error), ``keep`` the old
                row, or ``replace`` it.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``; none of the rows was logged.
        """
        self._transport.log_rows(table, rows, mode)

    def log_session(
        self,
        session: StreamSession,
        messages: Sequence[Message] = (),
        samples: Sequence[MemorySample] = (),
    ) -> None:
        """Log a finished session that was measured elsewhere; on return it is on disk.

        Args:
            session: the finished record.
            messages: the history that the model was given.
            samples: memory readings taken while it ran.
        """
        self._transport.log_session(session, messages, samples)

    def snapshot(
        self, path: str | Path, *, on_progress: Callable[[Job], None] = lambda job: None
    ) -> Mapping[str, Any]:
        """Copy the log, as it is at this moment, into a new file; logging goes on meanwhile.

        Returns:
            ``path``, ``size_bytes``, ``sessions``.
        """
        return self._keep("snapshot", on_progress, path=str(_absolute(path)))

    def export(
        self, folder: str | Path, *, on_progress: Callable[[Job], None] = lambda job: None
    ) -> Mapping[str, Any]:
        """Write the log as Parquet into a new folder: a folder a table and a month, a manifest.

        Returns:
            What the manifest says (versions, counts, environments), ``path``, ``size_bytes``.
        """
        return self._keep("export", on_progress, path=str(_absolute(folder)))

    def import_export(
        self,
        folder: str | Path,
        name: str,
        *,
        on_progress: Callable[[Job], None] = lambda job: None,
    ) -> Mapping[str, Any]:
        """Make a colleague's export readable beside the log: ``SELECT * FROM name.latencies``.

        It never mixes with one's own tables. Importing again takes the place of what was there.

        Returns:
            ``name``, ``sessions``, ``log_id``, ``environments``.
        """
        return self._keep("import", on_progress, path=str(_absolute(folder)), name=name)

    def prune(
        self,
        older_than: str,
        *,
        keep: Sequence[str] = ("runs", "scored"),
        dry_run: bool = True,
        on_progress: Callable[[Job], None] = lambda job: None,
    ) -> Mapping[str, Any]:
        """Delete old sessions with all that belongs to them.

        Args:
            older_than: ``90d``, ``12w``, ``6m``, ``1y`` or a date.
            keep: what stays whatever its age: ``runs`` (of benchmarks), ``scored``, ``errors``.
            dry_run: False really deletes.
            on_progress: receives the job.

        Returns:
            ``sessions`` and ``rows`` (per table) that go, ``size_bytes`` of the file,
            ``freed_bytes`` by which it is smaller, and ``free_bytes`` inside it, used next.
        """
        return self._keep(
            "prune", on_progress, older_than=older_than, keep=list(keep), dry_run=dry_run
        )

    def _keep(
        self, kind: str, on_progress: Callable[[Job], None], **arguments: Any
    ) -> Mapping[str, Any]:
        return self._follow(self._transport.keep(kind, arguments), on_progress)

    # -- life

    @property
    def remote(self) -> bool:
        """Whether a server does the work."""
        return isinstance(self._transport, Remote)

    def close(self) -> None:
        """Release models and log; harmless if repeated."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "server" if self.remote else "in this process"
        return f"<Workbench {where}, log {self.settings.workbench_db}>"


def _messages(prompt: str, history: Sequence[Message], system: str | None) -> tuple[Message, ...]:
    first = (Message("system", system),) if system else ()
    return (*first, *history, Message("user", prompt))


def _absolute(path: str | Path) -> Path:
    """The path as the server must see it, whose working directory is another one."""
    return Path(path).expanduser().absolute()


def _mode(name: str) -> TimingMode:
    return _one_of(TimingMode, name, "timing mode")


def _priority(name: str) -> Priority:
    return _one_of(Priority, name, "priority")


def _one_of(kind: type[E], name: str, what: str) -> E:
    try:
        return kind(name)
    except ValueError:
        raise WorkbenchError(
            ErrorCode.INVALID_REQUEST,
            f"The {what} {name!r} is unknown.",
            fix=f"Use one of {', '.join(kind)}.",
            operation="validate",
        ) from None
