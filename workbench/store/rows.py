"""What is written: the values that are rows of their own, and how a session becomes rows.

A row is a mapping from column names to values; columns that are left out are null.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from workbench import logs
from workbench.errors import WorkbenchError
from workbench.types import Message, Status, StreamSession, new_id
from workbench.wire import clean

Row = Mapping[str, Any]
Mode = Literal["add", "keep", "replace"]
TITLE_CHARS: Final = 80
"""A conversation is titled with this much of its first user message."""

_RUNTIME: Final = ("total", "load", "prompt_eval", "eval")


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@dataclass(frozen=True, slots=True)
class MemorySample:
    """One reading of one process, or of the host (scope ``host``, without a pid).

    Samples of the processes of one model that were read together share ``t_ns`` (monotonic
    nanoseconds, the clock of the tokens). ``session_id`` is None between requests.
    """

    t_ns: int
    scope: Literal["worker", "ollama", "server", "host", "scripted"]
    session_id: str | None = None
    model: str | None = None
    pid: int | None = None
    pss_bytes: int | None = None
    rss_bytes: int | None = None
    gpu_bytes: int | None = None
    host_available_bytes: int | None = None
    at: dt.datetime = field(default_factory=_now)


@dataclass(frozen=True, slots=True)
class ModelEvent:
    """Something that happened to a model.

    ``before_bytes`` and ``after_bytes`` are of memory, for a download or a delete of disk. After a
    load it is what the model holds, as ``models load`` says it and ``memory_bytes`` of a listing.

    An ``unload`` or ``evict`` is a receipt. ``expected_bytes`` is what the model's processes held
    for themselves alone, ``recovered_bytes`` how much of it they have given back, and ``leak``
    says that it was less than it must be. All are None where the processes cannot be seen. The
    host's available memory stands beside them for information: other processes move it too.
    ``died`` is a process that ended though nobody had asked it to. ``refuse`` is a model for which
    nothing was done, ``reason`` says why. A load ahead of its request has ``prefetch`` in
    ``details``, one that others waited for when who began it had left ``handed_on``.
    ``pressure`` and ``relief`` are of a device's memory that came to another level, without a
    model. ``details.memory`` of a load and of what ended its stay says what was predicted
    and what was measured. ``server_figures`` has in ``details`` what a model's server counted by
    itself while the ``sessions`` named there ran. Whose doing it was is taken from the request in
    whose context the event is made; all None: the workbench's own.
    """

    event: Literal[
        "scan",
        "download",
        "delete",
        "load",
        "unload",
        "evict",
        "refuse",
        "pin",
        "unpin",
        "died",
        "pressure",
        "relief",
        "server_figures",
    ]
    provider: str
    t_ns: int
    ok: bool = True
    model: str | None = None
    reason: str | None = None
    before_bytes: int | None = None
    after_bytes: int | None = None
    duration_s: float | None = None
    expected_bytes: int | None = None
    recovered_bytes: int | None = None
    recovered_share: float | None = None
    leak: bool | None = None
    host_before_bytes: int | None = None
    host_after_bytes: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    correlation_id: str | None = field(default_factory=lambda: logs.bound("correlation_id"))
    source: str | None = field(default_factory=lambda: logs.bound("source"))
    client: str | None = field(default_factory=lambda: logs.bound("client"))
    event_id: str = field(default_factory=lambda: new_id("evt"))
    at: dt.datetime = field(default_factory=_now)


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine and software under which sessions ran; equal ones share an id.

    The host's name is not part of it. ``packages`` maps names to versions; ``details`` holds what
    else may change a figure (driver, governor, thread settings).
    """

    cpu: str
    cores: int
    ram_bytes: int
    os: str
    python: str
    gpu: str | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    git_revision: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def environment_id(self) -> str:
        """Hash of the content."""
        text = json.dumps(asdict(self), sort_keys=True, default=str)
        return f"env_{hashlib.sha256(text.encode()).hexdigest()[:20]}"


# -- what the writer takes -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RowsItem:
    """Rows of any table, written together or not at all.

    ``mode`` says what becomes of a row whose primary key is in the table already: an error
    (``add``), the old one stays (``keep``), the new one takes its place (``replace``).
    """

    table: str
    rows: Sequence[Row]
    mode: Mode = "add"


@dataclass(frozen=True, slots=True)
class SessionItem:
    """A finished session with everything that belongs to it, written together or not at all."""

    session: StreamSession
    messages: Sequence[Message]
    samples: Sequence[MemorySample] = ()
    environment_id: str | None = None


@dataclass(frozen=True, slots=True)
class SharedItem:
    """A session as the log of another workbench has it: its rows by table, and who sent it."""

    writer_id: str
    rows: Mapping[str, Sequence[Row]]

    @property
    def session_id(self) -> str:
        """Of its one row in ``stream_sessions``."""
        return str(self.rows["stream_sessions"][0]["session_id"])


Item = RowsItem | SessionItem | SharedItem


# -- values to rows --------------------------------------------------------------------------------


def columns_of(value: MemorySample | ModelEvent) -> Row:
    """The row of a value whose fields are the columns of its table.

    Only ``at`` differs: it is a reserved word in DuckDB's SQL, so the column is ``created_at``.
    """
    row = {name: getattr(value, name) for name in type(value).__dataclass_fields__}
    row["created_at"] = row.pop("at")
    return row


def environment_row(environment: Environment) -> Row:
    """The row of ``environments``."""
    content = asdict(environment)
    columns = {name: value for name, value in content.items() if name != "details"}
    return {
        "environment_id": environment.environment_id,
        "created_at": _now(),
        "content": content,
        **columns,
    }


def error_row(
    error: WorkbenchError,
    *,
    model: str | None = None,
    session_id: str | None = None,
    correlation_id: str | None = None,
) -> Row:
    """The row of ``errors``."""
    return {
        "error_id": new_id("err"),
        "created_at": error.at,
        "code": error.code.value,
        "message": error.message,
        "fix": error.fix or None,
        "operation": error.operation or None,
        "provider": error.provider,
        "model": model,
        "session_id": session_id,
        "correlation_id": correlation_id,
        "details": error.details,
    }


def session_row(item: SessionItem) -> Row:
    """The row of ``stream_sessions``; ``seq`` is given where it is written."""
    session = item.session
    stamps, error = session.stamps, session.error
    other = {name: ns for name, ns in session.runtime_ns.items() if name not in _RUNTIME}
    return {
        "session_id": session.session_id,
        "conversation_id": session.conversation_id,
        "correlation_id": session.correlation_id,
        "comparison_id": session.comparison_id,
        "environment_id": item.environment_id,
        "run_id": session.run_id,
        "cell_id": session.cell_id,
        "trial": session.trial,
        "created_at": session.created_at,
        "source": session.source,
        "requested_model": session.requested_model,
        "model": session.model,
        "provider": session.provider,
        "fallback_from": session.fallback_from,
        "digest": session.digest,
        "dtype": session.dtype,
        "quantization": session.quantization,
        "device": session.device,
        "threads": session.threads,
        "cold": session.cold,
        "options": session.options,
        "seed": session.seed,
        "timing_mode": session.timing_mode.value,
        "status": session.status.value,
        "finish_reason": session.finish_reason,
        "termination_reason": session.termination_reason,
        "error_code": error.code.value if error else None,
        "error_message": error.message if error else None,
        "warnings": session.warnings,
        "queued_ns": stamps.queued,
        "intended_ns": stamps.intended,
        "slot_ns": stamps.slot,
        "sent_ns": stamps.sent,
        "first_any_ns": stamps.first_any,
        "first_content_ns": stamps.first_content,
        "last_ns": stamps.last,
        "end_ns": stamps.end,
        "load_ns": stamps.load_ns,
        "retry_ns": stamps.retry_ns,
        "overlap_ns": session.overlap_ns,
        "ttft_late_ns": session.ttft_late_ns,
        "speed_late_ns": session.speed_late_ns,
        **{f"runtime_{name}_ns": session.runtime_ns.get(name) for name in _RUNTIME},
        "prompt_tokens": session.prompt_tokens,
        "output_tokens": session.output_tokens,
        "streamed_tokens": session.streamed_tokens,
        "count_source": session.count_source,
        "text_chars": len(session.text),
        "reasoning_chars": len(session.reasoning),
        "mem_before_bytes": session.mem_before_bytes,
        "mem_peak_bytes": session.mem_peak_bytes,
        "gpu_peak_bytes": session.gpu_peak_bytes,
        "metrics": session.metrics,
        "details": {**session.details, "runtime_ns": other} if other else session.details,
    }


def timeline_row(session: StreamSession) -> Row:
    """The row of ``token_streams``."""
    timeline = session.timeline
    return {
        "session_id": session.session_id,
        "t_ns": timeline.t_ns,
        "n_tokens": timeline.n_tokens,
        "n_chars": timeline.n_chars,
        "channels": timeline.channels,
    }


def conversation_row(item: SessionItem) -> Row:
    """The row of ``conversations``; the first user message gives the title."""
    asked = next((message.content for message in item.messages if message.role == "user"), "")
    return {
        "conversation_id": item.session.conversation_id,
        "created_at": item.session.created_at,
        "source": item.session.source,
        "title": " ".join(asked.split())[:TITLE_CHARS] or None,
    }


def history_rows(item: SessionItem) -> Iterator[Row]:
    """The rows of ``messages`` for what the model was given.

    The last one is the question of this very session and carries its id, as its answer does.
    """
    last = len(item.messages) - 1
    for position, message in enumerate(item.messages):
        yield {
            "session_id": item.session.session_id if position == last else None,
            "message_id": new_id("msg"),
            "conversation_id": item.session.conversation_id,
            "position": position,
            "role": message.role,
            "content": clean(message.content),
            "created_at": item.session.created_at,
        }


def answer_rows(item: SessionItem) -> Iterator[Row]:
    """The row of ``messages`` for the answer, whole or partial; none if nothing was answered."""
    session = item.session
    if session.text or session.reasoning or session.status is Status.OK:
        yield {
            "message_id": new_id("msg"),
            "conversation_id": session.conversation_id,
            "session_id": session.session_id,
            "position": len(item.messages),
            "role": "assistant",
            "content": clean(session.text),
            "reasoning": clean(session.reasoning) or None,
            "created_at": session.created_at,
        }
