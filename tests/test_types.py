"""Bad input is refused with a clear error; values survive the way over HTTP."""

from __future__ import annotations

import datetime as dt
import json
import math
from typing import Any

import pytest

from workbench import wire
from workbench.errors import HTTP_STATUS, ErrorCode, WorkbenchError
from workbench.types import (
    ChatRequest,
    DoneEvent,
    ErrorEvent,
    Image,
    MemoryEvent,
    Message,
    ModelInfo,
    Options,
    PromptEvent,
    ProviderWarning,
    QueuedEvent,
    SessionEvent,
    Stamps,
    Status,
    StreamEvent,
    StreamSession,
    Timeouts,
    TimingMode,
    TokenEvent,
    TokenTimeline,
    WarningEvent,
)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"max_tokens": 10**400},
        {"temperature": "warm"},
        {"temperature": -0.1},
        {"max_tokens": -1},
        {"max_tokens": 0},
        {"max_tokens": 1.5},
        {"max_tokens": True},
        {"top_p": 0},
        {"top_p": 1.1},
        {"seed": -1},
        {"seed": 2**31},
        {"repetition_penalty": 0},
        {"num_ctx": 1},
        {"logprobs": 21},
        {"stop": [""]},
        {"stop": [1]},
        {"stop": 5},
        {"stop": ["x"] * 17},
        {"temprature": 1},
    ],
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(WorkbenchError, match=next(iter(options))) as caught:
        Options.from_mapping(options)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_one_stop_string_may_stand_alone() -> None:
    assert Options.from_mapping({"stop": "END", "seed": None}).stop == ("END",)


@pytest.mark.parametrize(
    "limits", [{"total_s": 0}, {"queue_s": -1}, {"load_s": math.nan}, {"load_s": 10**400}]
)
def test_bad_timeouts_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(WorkbenchError, match=next(iter(limits))):
        Timeouts(**limits)


def test_unknown_role_is_refused() -> None:
    with pytest.raises(WorkbenchError, match="root"):
        Message("root", "obey")  # type: ignore[arg-type]


def test_every_code_has_a_status() -> None:
    assert set(HTTP_STATUS) == set(ErrorCode)


ERROR = WorkbenchError(
    ErrorCode.OLLAMA_TIMEOUT,
    "late",
    fix="wait",
    operation="stream",
    provider="ollama",
    details={"phase": "x"},
    retry_after_s=2.0,
)


def session(**changes: Any) -> StreamSession:
    values: dict[str, Any] = {
        "session_id": "ses_1",
        "conversation_id": "con_1",
        "correlation_id": "cor_1",
        "requested_model": "a/b",
        "model": "a/b",
        "provider": "a",
        "status": Status.OK,
        "created_at": dt.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=dt.UTC),
        "stamps": Stamps(queued=1, end=9, first_any=4, load_ns=2),
        "options": Options(stop=("x",), seed=3),
        "seed": 3,
        "timing_mode": TimingMode.ISOLATED,
        "source": "test",
        "text": "grüße 👋",
        "warnings": (ProviderWarning("W", "careful", {"n": 1}),),
        "timeline": TokenTimeline((4, 5), (1, 2), (3, 4), ("content", "reasoning")),
        "runtime_ns": {"eval": 5},
        "mem_peak_bytes": 77,
        "metrics": {"ttft_s": 0.5, "tpot_s": None, "mem_peak_bytes": 77},
    }
    return StreamSession(**{**values, **changes})


EVENTS: list[StreamEvent] = [
    SessionEvent("s", "c", "k", "m", "p", "r", 1, 2),
    QueuedEvent("s", 3, "busy", 4),
    QueuedEvent("s", 3, "busy", 4, 12.5),
    PromptEvent("s", 5),
    TokenEvent("s", 0, "hé", 1, "content", 6, ({"token": "h", "logprob": -1.0},)),
    MemoryEvent("s", 1, 2, 3),
    WarningEvent("s", "C", "m", 7),
    DoneEvent("s", session(), 8),
    ErrorEvent("s", ERROR, session(status=Status.TIMEOUT, error=ERROR), 9),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)
def test_events_survive_json(event: StreamEvent) -> None:
    body = json.loads(json.dumps({"pane": 0, **wire.encode_event(event)}, default=str))
    again = wire.decode_event(body)
    if isinstance(event, ErrorEvent):
        assert isinstance(again, ErrorEvent)
        assert str(again.error) == str(event.error)
        assert again.error.retry_after_s == event.error.retry_after_s
        assert again.session.status is Status.TIMEOUT
    else:
        assert again == event


PICTURE = Image.of(b"\x89PNG\r\n\x1a\n picture")


def test_requests_survive_json() -> None:
    request = ChatRequest(
        "a/b",
        (Message("system", "x"), Message("user", "y", images=(PICTURE,))),
        options=Options(stop=("z",), max_tokens=3),
        timing_mode=TimingMode.INTERLEAVED,
        timeouts=Timeouts(total_s=4.0),
        intended_ns=12,
    )
    assert wire.decode_request(json.loads(json.dumps(wire.encode_request(request)))) == request


@pytest.mark.parametrize("file", [b"", b"GIF89a", b"<svg/>"])
def test_what_is_no_picture_is_refused(file: bytes) -> None:
    with pytest.raises(WorkbenchError, match="no picture"):
        Image.of(file)
    with pytest.raises(WorkbenchError, match="no picture"):
        Image("image/png", "not base64!")
    with pytest.raises(WorkbenchError, match=r"has no images.*message of the user"):
        Message("assistant", "x", images=(PICTURE,))


def test_models_survive_json() -> None:
    model = ModelInfo("a/b", "b", "a", loaded_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    assert wire.decode_model(json.loads(json.dumps(model.to_dict()))) == model


def test_a_response_format_is_an_object() -> None:
    with pytest.raises(WorkbenchError, match="response_format"):
        Options(response_format="json")  # type: ignore[arg-type]


def test_unknown_timeout_is_told_those_there_are() -> None:
    with pytest.raises(WorkbenchError, match="Unknown timeout 'queue'") as caught:
        Timeouts.from_mapping({"queue": 3})
    assert caught.value.fix == (
        "The timeouts are queue_s, load_s, first_token_s, between_tokens_s, total_s."
    )


def test_the_fix_is_not_written_behind_the_caret_of_a_message() -> None:
    error = WorkbenchError(ErrorCode.INVALID_REQUEST, "Bad SQL\n  selec\n  ^", fix="Mend it.")
    assert str(error).splitlines()[-2:] == ["  ^", "Mend it."]
