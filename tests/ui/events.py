"""Streams made by hand: the events of one model call with times in milliseconds."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

from workbench import metrics
from workbench.errors import WorkbenchError
from workbench.live import LiveAnswer
from workbench.types import (
    Channel,
    DoneEvent,
    ErrorEvent,
    Options,
    SessionEvent,
    Stamps,
    Status,
    StreamEvent,
    StreamSession,
    TimingMode,
    TokenEvent,
    TokenTimeline,
)

MS = 1_000_000
MODEL = "ollama/smollm2:135m"


def live(*events: StreamEvent, model: str = MODEL, prompt: str = "Hello?") -> LiveAnswer:
    """An answer that has taken these events."""
    answer = LiveAnswer(model=model, prompt=prompt, conversation_id="con_1", asked=0)
    for event in events:
        answer.take(event)
    return answer


def session_event(ms: float = 0, model: str = MODEL, session_id: str = "ses_1") -> SessionEvent:
    provider = model.partition("/")[0]
    return SessionEvent(session_id, "con_1", "cor_1", model, provider, model, 7, round(ms * MS))


def token(text: str, ms: float, n_tokens: int = 1, channel: Channel = "content") -> TokenEvent:
    return TokenEvent("ses_1", 0, text, n_tokens, channel, round(ms * MS))


def finished(
    *,
    status: Status = Status.OK,
    end_ms: float = 1000,
    sent_ms: float = 100,
    tokens: Iterable[float] = (200, 300, 400),
    error: WorkbenchError | None = None,
    **changes: Any,
) -> DoneEvent | ErrorEvent:
    """The last event, with the figures that the engine would have computed."""
    at = [round(ms * MS) for ms in tokens]
    stamps = Stamps(
        queued=0,
        end=round(end_ms * MS),
        slot=round(sent_ms * MS),
        sent=round(sent_ms * MS),
        first_any=at[0] if at else None,
        first_content=at[0] if at else None,
        last=at[-1] if at else None,
    )
    timeline = TokenTimeline(tuple(at), (1,) * len(at), (3,) * len(at), ("content",) * len(at))
    disturbed = {"overlap_ns": 0} | {
        name: changes.pop(name)
        for name in ("overlap_ns", "ttft_late_ns", "speed_late_ns")
        if name in changes
    }
    values: dict[str, Any] = {
        "session_id": "ses_1",
        "conversation_id": "con_1",
        "correlation_id": "cor_1",
        "requested_model": MODEL,
        "model": MODEL,
        "provider": "ollama",
        "status": status,
        "created_at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        "stamps": stamps,
        "options": Options(),
        "seed": 7,
        "timing_mode": TimingMode.CONCURRENT,
        "source": "ui",
        "output_tokens": len(at) or None,
        "count_source": "runtime" if at else None,
        **disturbed,
        "error": error,
        "metrics": metrics.session_metrics(
            stamps, timeline, output_tokens=len(at), content_chars=9, **disturbed
        ),
    }
    session = StreamSession(**{**values, **changes})
    if error is not None:
        return ErrorEvent("ses_1", error, session, stamps.end)
    return DoneEvent("ses_1", session, stamps.end)
