"""A live answer follows the events: phases, stamps, texts, and what history keeps."""

from __future__ import annotations

from tests.ui.events import MS, finished, live, session_event, token
from workbench.errors import ErrorCode, WorkbenchError
from workbench.types import LoadingEvent, PromptEvent, QueuedEvent, Status
from workbench.ui.conversation import turn_of


def test_phases_follow_each_other_without_gaps() -> None:
    answer = live(
        session_event(5),
        QueuedEvent("ses_1", 2, "another request runs alone", 10 * MS),
        LoadingEvent("ses_1", "loading it", 50 * MS),
        PromptEvent("ses_1", 100 * MS),
        token("hm", 200, channel="reasoning"),
        token("yes", 300),
        finished(end_ms=500),
    )
    assert [(s.phase, s.start // MS, (s.end or 0) // MS) for s in answer.segments] == [
        ("queued", 5, 50),
        ("loading", 50, 100),
        ("prompt", 100, 200),
        ("thinking", 200, 300),
        ("answering", 300, 500),
    ]
    assert answer.phase == "done"


def test_time_before_the_session_is_not_waiting() -> None:
    """The page's own way from the click to the engine is no part of the request."""
    answer = live(session_event(400))
    assert answer.elapsed_s(500 * MS) == 0.1
    assert answer.segments[0].start == 400 * MS


def test_halves_of_a_character_are_joined_and_a_lone_one_is_marked() -> None:
    answer = live(session_event(), token("so \ud83d", 1), token("\ude00 \ud83d", 2))
    assert answer.answer == "so \N{GRINNING FACE} \N{REPLACEMENT CHARACTER}"


def test_channels_are_kept_apart() -> None:
    answer = live(session_event(), token("hm", 1, channel="reasoning"), token("yes", 2))
    assert (answer.reasoning, answer.answer) == ("hm", "yes")
    assert answer.streamed == 2


def test_queued_and_loading_say_what_is_waited_for() -> None:
    queued = live(session_event(), QueuedEvent("ses_1", 2, "busy", MS))
    assert queued.detail == "position 2: busy"
    for estimate_s, words in ((0.4, "a second"), (42.0, "42 s"), (300.0, "5 min")):
        told = live(session_event(), QueuedEvent("ses_1", 2, "busy", MS, estimate_s))
        assert told.detail == f"position 2, about {words}: busy"
        assert told.detail_at(MS) == told.detail
    assert told.detail_at(276_001 * MS) == "position 2, about 24 s: busy", "it counts down"
    assert told.detail_at(999_000 * MS) == "position 2, about a second: busy"
    assert live(session_event(), LoadingEvent("ses_1", "loading x", MS)).detail == "loading x"
    started = live(session_event(), LoadingEvent("ses_1", "loading x", MS), PromptEvent("s", MS))
    assert started.detail == ""


def test_failure_keeps_the_partial_text() -> None:
    error = WorkbenchError(ErrorCode.OLLAMA_STREAM_BROKEN, "The connection was reset.")
    answer = live(session_event(), token("half", 200), finished(status=Status.ERROR, error=error))
    turn = turn_of(answer)
    assert (answer.phase, turn.answer, turn.note) == (
        "error",
        "half",
        "error OLLAMA_STREAM_BROKEN",
    )


def test_fallback_is_measured_by_itself() -> None:
    """The failed attempt's stamps must not enter the figures of the model that answers."""
    answer = live(
        session_event(0),
        PromptEvent("ses_1", 100 * MS),
        session_event(300, "scripted/other", "ses_2"),
        PromptEvent("ses_2", 400 * MS),
        token("hi", 450),
    )
    assert answer.session_id == "ses_2"
    assert answer.sent == 400 * MS
    assert answer.asked == 0, "the user has waited since the first attempt"
