"""``Workbench``: the sync facade for notebooks and scripts.

With a server running on this database it speaks to the server, so that a model is never loaded
twice and the log has one writer; otherwise it runs an engine of its own on a background event
loop. Both ways give the same values.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar
from urllib.parse import quote

from workbench import logs, wire
from workbench.errors import ErrorCode, WorkbenchError
from workbench.jobs import Job
from workbench.settings import Settings, load_settings
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
    import httpx
    import pandas as pd

    from workbench.rotation import Overview
    from workbench.store import MemorySample
    from workbench.store.remote import QuackReader
    from workbench.store.rows import Mode

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

_POLL_S: Final = 0.2
_STOP_S: Final = 3.0

FIGURES = (
    "ttft_s",
    "tpot_s",
    "decode_tps",
    "output_tps",
    "chars_per_s",
    "e2e_s",
    "queue_s",
    "load_s",
    "mem_peak_bytes",
)
"""The figures that a comparison shows; all others are in ``latencies``."""


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
        self._transport = _connect(self.settings, remote, source)
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
            ``id``, ``duration_s``, ``memory_bytes`` (measured; None if unknown).
        """
        return self._transport.load(model)

    def unload(self, model: str) -> Mapping[str, Any]:
        """Take a model out of memory; a pin on it ends.

        Returns:
            ``id``, ``duration_s``, ``recovered_bytes`` (measured; None if unknown).
        """
        return self._transport.unload(model)

    def pin(self, model: str) -> None:
        """Bring a model into memory and keep it there: it is neither evicted nor does it expire."""
        self._transport.pin(model)

    def unpin(self, model: str) -> None:
        """Let a model be evicted again."""
        self._transport.unpin(model)

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
                ``system``, ``timeouts``, ``priority`` and the sampling options.

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
        return isinstance(self._transport, _Remote)

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


def sessions_frame(sessions: Sequence[StreamSession]) -> pd.DataFrame:
    """Finished sessions as a DataFrame, one row each; units are in the column names."""
    import pandas as pd

    return pd.DataFrame([session_row(session) for session in sessions])


def session_row(session: StreamSession) -> dict[str, Any]:
    """The part of a finished session that comparisons show."""
    return {
        "model": session.model,
        "status": session.status.value,
        "text": session.text,
        **{name: session.metrics.get(name) for name in FIGURES},
        "prompt_tokens": session.prompt_tokens,
        "output_tokens": session.output_tokens,
        "finish_reason": session.finish_reason,
        "contended": session.overlap_ns > 0,
        "error_code": session.error.code.value if session.error else None,
        "error": str(session.error) if session.error else None,
        "warnings": [warning.message for warning in session.warnings],
        "fallback_from": session.fallback_from,
        "seed": session.seed,
        "session_id": session.session_id,
        "conversation_id": session.conversation_id,
        "comparison_id": session.comparison_id,
    }


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


# -- two ways to an engine ------------------------------------------------------------------------


class _Transport(Protocol):
    def models(self) -> tuple[list[ModelInfo], Mapping[str, WorkbenchError]]: ...
    def show(self, model: str) -> ModelInfo: ...
    def load(self, model: str) -> Mapping[str, Any]: ...
    def unload(self, model: str) -> Mapping[str, Any]: ...
    def pin(self, model: str) -> None: ...
    def unpin(self, model: str) -> None: ...
    def queue(self) -> Overview: ...
    def download(self, model: str, revision: str | None, gguf_file: str | None) -> Job: ...
    def verify(self, model: str | None) -> Job: ...
    def delete(self, model: str, dry_run: bool) -> Mapping[str, Any]: ...
    def job(self, job_id: str) -> Job: ...
    def wait_for_job(self, job_id: str, timeout_s: float) -> Job: ...
    def cancel_job(self, job_id: str) -> Job: ...
    def stream(
        self, requests: Sequence[ChatRequest]
    ) -> Generator[tuple[int, StreamEvent], None, None]: ...
    def cancel(self, session_id: str) -> bool: ...
    def sql(
        self, query: str, params: Mapping[str, Any] | None, limit: int | None
    ) -> pd.DataFrame: ...
    def tables(self) -> list[dict[str, Any]]: ...
    def verify_log(self) -> Mapping[str, Any]: ...
    def log_rows(self, table: str, rows: Sequence[Mapping[str, Any]], mode: Mode) -> None: ...
    def log_session(
        self,
        session: StreamSession,
        messages: Sequence[Message],
        samples: Sequence[MemorySample],
    ) -> None: ...
    def keep(self, kind: str, arguments: Mapping[str, Any]) -> Job: ...
    def close(self) -> None: ...


def _connect(settings: Settings, remote: bool | None, source: str) -> _Transport:
    from workbench.discovery import running_server

    found = running_server(settings) if remote is not False else None
    if found is not None:
        return _Remote(settings, found, source)
    if remote:
        raise WorkbenchError(
            ErrorCode.SERVER_UNREACHABLE,
            f"No server is running on {settings.workbench_db}.",
            fix="Start one with: workbench serve.",
            operation="connect",
        )
    return _Local(settings, source)


class _Local:
    """An engine in this process, on an event loop of its own in a background thread."""

    def __init__(self, settings: Settings, source: str) -> None:
        from workbench import environment
        from workbench.engine import build
        from workbench.store import Store
        from workbench.store.database import durability

        # In a notebook or script only what goes wrong is worth a line, unless it asked for more.
        chosen = "workbench_log_level" in settings.model_fields_set
        logs.configure_default(settings.workbench_log_level if chosen else "WARNING")
        self._source = source
        store = Store.open(settings.workbench_db, durability=durability(settings))
        store.set_environment(environment.capture(settings))
        self._engine = build(settings, store)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine", daemon=True)
        self._thread.start()

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        with logs.correlation(new_id("cor"), source=self._source):
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl+C, or an interrupted cell: the work must not go on
            raise

    def models(self) -> tuple[list[ModelInfo], Mapping[str, WorkbenchError]]:
        listing = self._await(self._engine.list_models())
        return list(listing.models), listing.problems

    def show(self, model: str) -> ModelInfo:
        return self._await(self._engine.show(model))

    def load(self, model: str) -> Mapping[str, Any]:
        return self._await(self._engine.load(model))

    def unload(self, model: str) -> Mapping[str, Any]:
        return self._await(self._engine.unload(model))

    def pin(self, model: str) -> None:
        self._await(self._engine.pin(model))

    def unpin(self, model: str) -> None:
        self._await(self._engine.unpin(model))

    def queue(self) -> Overview:
        async def look() -> Overview:
            return self._engine.overview()

        return self._await(look())

    def download(self, model: str, revision: str | None, gguf_file: str | None) -> Job:
        with logs.correlation(new_id("cor"), source=self._source):
            return self._engine.download(model, revision, gguf_file)

    def verify(self, model: str | None) -> Job:
        return self._await(self._engine.verify(model))

    def delete(self, model: str, dry_run: bool) -> Mapping[str, Any]:
        if not dry_run:
            return self._await(self._engine.delete(model))
        return self._await(self._engine.plan_deletion(model)).to_dict()

    def job(self, job_id: str) -> Job:
        return self._engine.disk.jobs.get(job_id)

    def wait_for_job(self, job_id: str, timeout_s: float) -> Job:
        return self._engine.disk.jobs.wait(job_id, timeout_s)

    def cancel_job(self, job_id: str) -> Job:
        return self._engine.disk.jobs.cancel(job_id)

    def stream(
        self, requests: Sequence[ChatRequest]
    ) -> Generator[tuple[int, StreamEvent], None, None]:
        events = self._engine.compare(requests)

        async def following() -> tuple[int, StreamEvent] | None:
            return await anext(events, None)

        try:
            while (item := self._await(following())) is not None:
                yield item
        finally:
            self._await(events.aclose())

    def cancel(self, session_id: str) -> bool:
        async def stop() -> bool:
            return self._engine.cancel(session_id)

        return self._await(stop())

    def sql(self, query: str, params: Mapping[str, Any] | None, limit: int | None) -> pd.DataFrame:
        return self._engine.store.query(query, params, limit=limit)

    def tables(self) -> list[dict[str, Any]]:
        return self._engine.store.tables()

    def verify_log(self) -> Mapping[str, Any]:
        from workbench.store.verify import verdict

        return verdict(self._engine.store.verify())

    def keep(self, kind: str, arguments: Mapping[str, Any]) -> Job:
        return self._engine.log.begin(kind, arguments)

    def log_rows(self, table: str, rows: Sequence[Mapping[str, Any]], mode: Mode) -> None:
        from workbench.store.outside import check_rows

        self._engine.store.submit(check_rows(table, rows, mode)).result()

    def log_session(
        self,
        session: StreamSession,
        messages: Sequence[Message],
        samples: Sequence[MemorySample],
    ) -> None:
        self._engine.store.log_session(session, messages, samples).stored.result()

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self._await(self._engine.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()


class _Remote:
    """The engine of a running server, over REST and server-sent events."""

    def __init__(self, settings: Settings, server: Mapping[str, Any], source: str) -> None:
        self._settings = settings
        self._source = source
        self._log: QuackReader | None = None
        self._use(server)

    def _use(self, server: Mapping[str, Any]) -> None:
        import httpx

        self._server = server
        self._parks = bool(server.get("log"))
        # Loopback must not go through a proxy; a stream may be silent for as long as a model loads.
        self._http = httpx.Client(
            base_url=f"{server['url']}/api/v1",
            headers={
                "Authorization": f"Bearer {server['token']}",
                wire.SOURCE_HEADER: self._source,
            },
            timeout=httpx.Timeout(10, read=None),
            trust_env=False,
        )

    def _moved(self) -> bool:
        """Follow a server that was restarted meanwhile; False if there is none, or no other."""
        from workbench.discovery import running_server

        found = running_server(self._settings)
        if found is None or found == self._server:
            return False
        self.close()
        self._use(found)
        return True

    def _call(self, method: str, path: str, body: object = None) -> Any:
        with self._explained():
            answer = self._send(method, path, body)
        if answer.is_error:
            raise _refused(answer.status_code, answer.text)
        return json.loads(answer.text) if answer.text else None

    def _send(self, method: str, path: str, body: object) -> httpx.Response:
        import httpx

        try:
            answer = self._http.request(method, path, json=body)
        except (httpx.ConnectError, httpx.RemoteProtocolError):  # nothing was done
            if not self._moved():
                raise
        else:
            # Another server on the same port does not know the token of the one before.
            if answer.status_code != httpx.codes.UNAUTHORIZED or not self._moved():
                return answer
        return self._http.request(method, path, json=body)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except httpx.HTTPError as error:
            raise WorkbenchError(
                ErrorCode.SERVER_UNREACHABLE,
                f"The workbench server does not answer ({type(error).__name__}).",
                fix="See its log, or start it again with: workbench serve.",
                operation="http",
            ) from None

    def models(self) -> tuple[list[ModelInfo], Mapping[str, WorkbenchError]]:
        body = self._call("GET", "/models")
        problems = {
            name: WorkbenchError.from_dict(error) for name, error in body["problems"].items()
        }
        return [wire.decode_model(model) for model in body["models"]], problems

    def show(self, model: str) -> ModelInfo:
        return wire.decode_model(self._call("GET", _model_path(model)))

    def load(self, model: str) -> Mapping[str, Any]:
        done = self._call("POST", "/models/load", {"model": model})
        return {name: done[name] for name in ("id", "duration_s", "memory_bytes")}

    def unload(self, model: str) -> Mapping[str, Any]:
        done = self._call("POST", "/models/unload", {"model": model})
        return {name: done[name] for name in ("id", "duration_s", "recovered_bytes")}

    def pin(self, model: str) -> None:
        self._call("POST", "/models/pin", {"model": model})

    def unpin(self, model: str) -> None:
        self._call("POST", "/models/unpin", {"model": model})

    def queue(self) -> Overview:
        from workbench.rotation import Overview

        return Overview.from_dict(self._call("GET", "/queue"))

    def download(self, model: str, revision: str | None, gguf_file: str | None) -> Job:
        asked = {"model": model, "revision": revision, "gguf_file": gguf_file}
        return Job.from_dict(self._call("POST", "/models/download", asked))

    def verify(self, model: str | None) -> Job:
        return Job.from_dict(self._call("POST", "/models/verify", {"model": model}))

    def delete(self, model: str, dry_run: bool) -> Mapping[str, Any]:
        path = f"{_model_path(model)}{'?dry_run=true' if dry_run else ''}"
        gone: dict[str, Any] = self._call("DELETE", path)
        return gone

    def job(self, job_id: str) -> Job:
        return Job.from_dict(self._call("GET", f"/jobs/{job_id}"))

    def wait_for_job(self, job_id: str, timeout_s: float) -> Job:
        until = time.monotonic() + timeout_s
        while True:
            job = self.job(job_id)
            if job.ended or time.monotonic() >= until:
                return job
            time.sleep(min(_POLL_S, timeout_s))

    def cancel_job(self, job_id: str) -> Job:
        return Job.from_dict(self._call("DELETE", f"/jobs/{job_id}"))

    def stream(
        self, requests: Sequence[ChatRequest]
    ) -> Generator[tuple[int, StreamEvent], None, None]:
        body = {"requests": [wire.encode_request(request) for request in requests]}
        with self._explained(), self._http.stream("POST", "/streams", json=body) as answer:
            if answer.is_error:
                raise _refused(answer.status_code, answer.read().decode())
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    event = json.loads(line.removeprefix("data:"))
                    yield event["pane"], wire.decode_event(event)

    def cancel(self, session_id: str) -> bool:
        return bool(self._call("DELETE", f"/streams/{session_id}")["cancelled"])

    def sql(self, query: str, params: Mapping[str, Any] | None, limit: int | None) -> pd.DataFrame:
        import pandas as pd

        asked = {"sql": query, "params": params, "limit": limit}
        body = self._call("POST", "/query", {**asked, "park": self._parks})
        if "parked" in body:
            frame = self._fetch(body["parked"])
            if frame is not None:
                return frame
            body = self._call("POST", "/query", asked)
        dtypes = {column["name"]: column["dtype"] for column in body["columns"]}
        return pd.DataFrame(body["rows"], columns=list(dtypes)).astype(dtypes)

    def _fetch(self, table: str) -> pd.DataFrame | None:
        """A large result, over Quack; None if that is not to be had here."""
        place = self._server["log"]
        try:
            if place is None:  # restarted without it, between two questions
                return None
            if self._log is None:
                from workbench.store.remote import QuackReader

                offline = self._settings.workbench_offline
                self._log = QuackReader(place["uri"], place["token"], offline=offline)
            return self._log.fetch(table)
        except WorkbenchError as error:
            logs.get(__name__).warning("quack_unusable", reason=str(error))
            self._parks = False
            return None
        finally:
            self._call("DELETE", f"/query/{table}")

    def tables(self) -> list[dict[str, Any]]:
        tables: list[dict[str, Any]] = self._call("GET", "/tables")["tables"]
        return tables

    def verify_log(self) -> Mapping[str, Any]:
        verdict: dict[str, Any] = self._call("GET", "/log/verify")
        return verdict

    def keep(self, kind: str, arguments: Mapping[str, Any]) -> Job:
        return Job.from_dict(self._call("POST", f"/log/jobs/{kind}", arguments))

    def log_rows(self, table: str, rows: Sequence[Mapping[str, Any]], mode: Mode) -> None:
        from workbench.store.outside import encode_rows

        self._call("POST", "/log", {"items": [encode_rows(table, rows, mode)]})

    def log_session(
        self,
        session: StreamSession,
        messages: Sequence[Message],
        samples: Sequence[MemorySample],
    ) -> None:
        from workbench.store.outside import encode_session

        self._call("POST", "/log", {"items": [encode_session(session, messages, samples)]})

    def close(self) -> None:
        self._http.close()
        if self._log is not None:
            self._log.close()
            self._log = None


def _model_path(model: str) -> str:
    """A model's address: its name may hold ``?`` and ``..``, which must not end or change it."""
    return f"/models/{quote(model, safe='')}"


def _refused(status: int, text: str) -> WorkbenchError:
    try:
        return WorkbenchError.from_dict(json.loads(text))
    except (ValueError, KeyError):
        return WorkbenchError(
            ErrorCode.INTERNAL, f"The server answered {status}: {text[:200]}", operation="http"
        )
