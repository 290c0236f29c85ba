"""What a pane says besides the answer."""

from __future__ import annotations

import pytest

from tests.ui.events import finished, live, session_event, token
from workbench.errors import ErrorCode, WorkbenchError
from workbench.router import Listing
from workbench.settings import Settings
from workbench.types import Status, WarningEvent
from workbench.ui import hints, notices

EVIL = '<img src=x onerror="alert(1)">'


def test_nothing_to_say() -> None:
    assert notices.render(None) == ""
    assert notices.render(live(session_event(), token("hi", 200), finished())) == ""


def test_error_has_code_message_and_fix() -> None:
    error = WorkbenchError(ErrorCode.HF_TIMEOUT, "Too slow.", fix="Be patient.")
    answer = live(session_event(), token("hi", 200), finished(status=Status.TIMEOUT, error=error))
    markup = notices.render(answer)
    for words in ("HF_TIMEOUT", "Too slow.", "Be patient.", "text that had come is kept"):
        assert words in markup
    assert 'data-kind="error"' in markup


def test_warning_shows_while_the_answer_goes_on() -> None:
    answer = live(session_event(), WarningEvent("ses_1", "PROMPT_TRUNCATED", "5 lost.", 0))
    assert 'data-code="PROMPT_TRUNCATED"' in notices.render(answer)


def test_empty_answer_is_said() -> None:
    assert "ended without text" in notices.render(live(session_event(), finished(tokens=())))


def test_cut_answer_names_the_limit() -> None:
    answer = live(session_event(), token("hi", 200), finished(finish_reason="length"))
    assert "max_tokens (512)" in notices.render(answer)


@pytest.mark.parametrize("code", ["CONTEXT_FULL", "RUNTIME_LIMIT"])
def test_an_answer_that_another_bound_ended_blames_no_other(code: str) -> None:
    full = WarningEvent("ses_1", code, "The context ended it.", 0)
    answer = live(session_event(), token("hi", 200), full, finished(finish_reason="length"))
    said = notices.render(answer)
    assert "The context ended it." in said
    assert "Cut at" not in said
    assert "Ended by" not in said


def test_stop_says_what_was_kept() -> None:
    stopped = finished(status=Status.CANCELLED, termination_reason="user")
    assert "text so far is kept" in notices.render(live(session_event(), token("x", 1), stopped))
    assert "no text had come" in notices.render(live(session_event(), stopped))


def test_everything_is_escaped() -> None:
    error = WorkbenchError(ErrorCode.INTERNAL, EVIL, fix=EVIL)
    answer = live(
        session_event(),
        WarningEvent("ses_1", EVIL, EVIL, 0),
        finished(status=Status.ERROR, error=error),
    )
    assert "<img" not in notices.render(answer)
    assert "<img" not in hints.problem("openai", error, Settings())
    assert "<img" not in hints.progress(EVIL, 1.0)


def test_hint_says_how_to_start_ollama(settings: Settings) -> None:
    error = WorkbenchError(ErrorCode.OLLAMA_UNREACHABLE, "refused", provider="ollama")
    markup = hints.render(Listing([], {"ollama": error}), settings)
    for words in (
        settings.ollama_host,
        "ollama serve",
        "OLLAMA_HOST",
        "workbench models pull demo",
    ):
        assert words in markup
