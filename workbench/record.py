"""The finished record of a call: what its tokens say, also of one whose process was killed."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, replace
from typing import Any, Final, Literal

from workbench import hosts, logs, metrics, wire
from workbench.errors import ErrorCode, WorkbenchError
from workbench.memory import MemoryReading
from workbench.procfs import is_alive
from workbench.store import Store
from workbench.store.journal import Journaled, drop_unread, interrupted
from workbench.store.rows import MemorySample, SessionItem
from workbench.store.writer import Receipt
from workbench.types import Message, ProviderToken, Status, StreamSession, TokenTimeline

_log = logs.get(__name__)

_PATIENCE_S: Final = 5.0
_STORE_WAIT_S: Final = 5.0
"""A stream's end waits this long for its row to be in the log before it goes on."""
_TROUBLED_WAIT_S: Final = 0.5
"""The same where the log says already that it cannot write."""
_SCOPES: Final[Mapping[str, Literal["worker", "ollama"]]] = {
    "ollama": "ollama",
    "huggingface": "worker",
    "scripted": "worker",
}
"""Whose processes were read; those of any other provider are its server's."""


def with_tokens(session: StreamSession, tokens: Sequence[ProviderToken]) -> StreamSession:
    """Fill in all that follows from the tokens: text, stamps, timeline, counts, figures.

    Args:
        session: with its other stamps, and the runtime's own count if it gave one.
        tokens: in the order in which they came.
    """
    counted = [token for token in tokens if token.n_tokens]
    content = [token for token in tokens if token.channel == "content" and token.text]
    text = wire.clean("".join(token.text for token in content))
    reasoning = "".join(token.text for token in tokens if token.channel == "reasoning")
    streamed = sum(token.n_tokens for token in counted)
    output_tokens, count_source = session.output_tokens, session.count_source
    if output_tokens is None and tokens:
        output_tokens, count_source = streamed, "stream"
    stamps = replace(
        session.stamps,
        first_any=counted[0].t_ns if counted else None,
        first_content=content[0].t_ns if content else None,
        last=counted[-1].t_ns if counted else None,
    )
    timeline = TokenTimeline(
        t_ns=tuple(token.t_ns for token in tokens),
        n_tokens=tuple(token.n_tokens for token in tokens),
        n_chars=tuple(len(token.text) for token in tokens),
        channels=tuple(token.channel for token in tokens),
    )
    return replace(
        session,
        stamps=stamps,
        timeline=timeline,
        text=text,
        reasoning=wire.clean(reasoning),
        output_tokens=output_tokens,
        count_source=count_source,
        streamed_tokens=streamed,
        metrics=metrics.session_metrics(
            stamps,
            timeline,
            output_tokens=output_tokens,
            content_chars=len(text),
            mem_before_bytes=session.mem_before_bytes,
            mem_peak_bytes=session.mem_peak_bytes,
            overlap_ns=session.overlap_ns,
            ttft_late_ns=session.ttft_late_ns,
            speed_late_ns=session.speed_late_ns,
        ),
    )


def journal_header(messages: Sequence[Message], environment_id: str | None) -> dict[str, Any]:
    """What the journal keeps of a stream once."""
    return {
        "messages": [[message.role, message.content] for message in messages],
        "environment_id": environment_id,
    }


def journal_tokens(tokens: Sequence[ProviderToken]) -> list[list[Any]]:
    """What the journal keeps of tokens."""
    return [[token.text, token.t_ns, token.n_tokens, token.channel] for token in tokens]


def samples_of(session: StreamSession, reading: MemoryReading) -> tuple[MemorySample, MemorySample]:
    """The rows of one reading: the model's processes, and the host beside them."""
    since_queued = dt.timedelta(microseconds=(reading.t_ns - session.stamps.queued) / 1e3)
    host = MemorySample(
        t_ns=reading.t_ns,
        scope="host",
        session_id=session.session_id,
        host_available_bytes=reading.host_available_bytes,
        at=session.created_at + since_queued,
    )
    own = replace(
        host,
        scope=_SCOPES.get(hosts.family(session.provider), "server"),
        model=session.model,
        pid=reading.pid,
        pss_bytes=reading.pss_bytes,
        rss_bytes=reading.rss_bytes,
        gpu_bytes=reading.gpu_bytes,
    )
    return own, host


def journal_memory(readings: Sequence[MemoryReading]) -> list[list[Any]]:
    """What the journal keeps of memory readings."""
    return [list(astuple(reading)) for reading in readings]


async def why_not_stored(store: Store, receipt: Receipt) -> WorkbenchError | None:
    """Wait until queries of every process see a row; acknowledged, it is safe before that.

    Returns:
        None, or why it is not in the log: not yet, or never.
    """
    stored = asyncio.wrap_future(receipt.stored)
    wait_s = _STORE_WAIT_S if store.last_error is None else _TROUBLED_WAIT_S
    try:
        await asyncio.wait_for(asyncio.shield(stored), wait_s)
    except WorkbenchError as problem:
        return problem
    except TimeoutError:
        if receipt.done():
            return receipt.exception()
        return store.last_error or WorkbenchError(
            ErrorCode.STORE_UNAVAILABLE,
            "the log does not answer",
            fix="See: workbench doctor.",
            operation="log",
        )
    return None


def recover(store: Store) -> int:
    """Log the streams that a killed process left as ``interrupted``, up to their last journal.

    Returns:
        How many there were.
    """
    count = 0
    drop_unread(store.path)
    for found in interrupted(store.path):
        try:
            item = _item(found)
        except (WorkbenchError, LookupError, TypeError, ValueError) as error:
            _set_aside(found, error)
            continue
        (row,) = store.rows(
            "SELECT count(*) AS n FROM stream_sessions WHERE session_id = ?",
            [item.session.session_id],
        )
        if not row["n"]:
            try:
                store.submit(item).result(_PATIENCE_S)
            except TimeoutError:  # it waits in the queue; the next start sees whether it came
                break
            except WorkbenchError as error:
                if error.code is not ErrorCode.INVALID_REQUEST:
                    raise
                _set_aside(found, error)  # the log has no room for it, now or later
                continue
            count += 1
            _log.warning(
                "stream_interrupted",
                session_id=item.session.session_id,
                model=item.session.model,
                streamed_tokens=item.session.streamed_tokens,
            )
        found.forget()
    return count


def _set_aside(found: Journaled, error: Exception) -> None:
    """Keep what cannot be logged for whoever wants to look at it."""
    _log.error("journal_unreadable", journal=found.path.name, reason=type(error).__name__)
    found.path.rename(found.path.with_suffix(".unreadable"))


def recover_runs(store: Store) -> int:
    """Give benchmarks that a killed process left as ``active`` the status ``interrupted``.

    Returns:
        How many there were.
    """
    gone = []
    for row in store.rows("FROM benchmark_runs WHERE status = 'active'"):
        details = json.loads(row["details"] or "{}")
        if not is_alive(details.get("process", {})):
            ended = {"status": "interrupted", "spec": json.loads(row["spec"]), "details": details}
            gone.append(row | ended)
            _log.warning("benchmark_interrupted", run_id=row["run_id"], name=row["name"])
    if gone:
        with suppress(TimeoutError):  # it waits in the queue; the next start sees whether it came
            store.insert("benchmark_runs", *gone, mode="replace").result(_PATIENCE_S)
    return len(gone)


def _item(found: Journaled) -> SessionItem:
    session = wire.decode_session(found.state)
    tokens = [ProviderToken(text, t_ns, n, channel) for text, t_ns, n, channel in found.tokens]
    end = max([found.at_ns, *(token.t_ns for token in tokens)])
    session = replace(
        session,
        status=Status.INTERRUPTED,
        termination_reason="process killed",
        error=None,
        stamps=replace(session.stamps, end=end),
    )
    messages = tuple(Message(role, content) for role, content in found.header["messages"])
    readings = [MemoryReading(*values) for values in found.memory]
    return SessionItem(
        with_tokens(session, tokens),
        messages,
        tuple(row for reading in readings for row in samples_of(session, reading)),
        environment_id=found.header["environment_id"],
    )
