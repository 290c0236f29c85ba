"""The strip: what tests and eyes read off it, in every phase."""

from __future__ import annotations

import re

import pytest

from tests.ui.events import MS, finished, live, session_event, token
from workbench.errors import ErrorCode, WorkbenchError
from workbench.live import LiveAnswer
from workbench.metrics import DEFINITIONS
from workbench.types import MemoryEvent, PromptEvent, QueuedEvent, Status
from workbench.ui import strip

NAMES = ("elapsed", "ttft", "tps", "tokens", "memory")


def read(markup: str) -> dict[str, tuple[str, str]]:
    """(raw value, shown text) by metric."""
    found = re.findall(
        r'data-metric="(\w+)" data-value="([^"]*)" title="[^"]*">(.*?)</span>(?=<|$)', markup
    )
    return {name: (value, re.sub("<[^>]+>", "", text).strip()) for name, value, text in found}


def phase(markup: str) -> str:
    match = re.search(r'class="wb-strip" data-phase="(\w+)"', markup)
    assert match
    return match[1]


@pytest.fixture
def streaming() -> LiveAnswer:
    return live(
        session_event(),
        PromptEvent("ses_1", 100 * MS),
        MemoryEvent("ses_1", 655_000_000, 0, 110 * MS),
        token("a", 200),
        token("b", 250),
        token("c", 300),
    )


def test_idle_shows_dashes_in_every_slot() -> None:
    markup = strip.render(None, 0)
    assert phase(markup) == "idle"
    shown = read(markup)
    assert tuple(shown) == NAMES
    assert all(value == "" and "–" in text for value, text in shown.values())


def test_streaming_figures_are_live_estimates(streaming: LiveAnswer) -> None:
    markup = strip.render(streaming, 912 * MS)
    shown = read(markup)
    assert phase(markup) == "answering"
    assert shown["elapsed"] == ("0.912", "0.9 s")
    assert shown["ttft"] == ("0.1", "TTFT 100 ms")
    assert shown["tps"] == ("20.0", "20 tok/s")  # two gaps of 50 ms, as tpot_s is defined
    assert shown["tokens"] == ("3", "~3 tok")
    assert shown["memory"] == ("655000000", "655 MB")


def test_final_figures_are_the_records(streaming: LiveAnswer) -> None:
    streaming.take(finished(mem_peak_bytes=700_000_000))
    shown = read(strip.render(streaming, 99_000 * MS))
    assert shown["elapsed"] == ("1.0", "1.0 s"), "a finished answer's clock stands still"
    assert shown["ttft"] == ("0.1", "TTFT 100 ms")
    assert float(shown["tps"][0]) == pytest.approx(10)
    assert shown["tokens"] == ("3", "3 tok"), "the runtime's own count has no tilde"
    assert shown["memory"] == ("700000000", "700 MB")


def test_count_that_the_runtime_did_not_give_keeps_its_tilde(streaming: LiveAnswer) -> None:
    streaming.take(finished(status=Status.CANCELLED, count_source="stream"))
    assert read(strip.render(streaming, 0))["tokens"][1] == "~3 tok"


def test_gpu_memory_is_shown_beside_the_hosts(streaming: LiveAnswer) -> None:
    streaming.take(MemoryEvent("ses_1", 655_000_000, 2_100_000_000, 400 * MS))
    assert read(strip.render(streaming, 0))["memory"][1] == "655 MB + 2.10 GB GPU"


def test_contended_figures_are_marked(streaming: LiveAnswer) -> None:
    streaming.take(finished(overlap_ns=666 * MS))
    markup = strip.render(streaming, 0)
    assert 'data-contended="74"' in markup
    assert "contended 74 %" in markup


def test_figures_that_a_late_event_loop_spoils_are_marked(streaming: LiveAnswer) -> None:
    streaming.take(finished(ttft_late_ns=400 * MS, speed_late_ns=0))
    markup = strip.render(streaming, 0)
    assert 'data-late="true"' in markup
    assert "late 400 ms" in markup
    assert 'data-late="false"' in strip.render(live(session_event(), finished(ttft_late_ns=0)), 0)


def test_without_a_token_there_is_no_figure_to_mark() -> None:
    error = WorkbenchError(ErrorCode.HF_MODEL_LOAD_FAILED, "No.")
    done = finished(status=Status.ERROR, tokens=(), error=error, overlap_ns=900 * MS)
    markup = strip.render(live(session_event(), done), 0)
    assert phase(markup) == "error"
    assert 'data-contended="0"' in markup
    assert read(markup)["ttft"] == ("", "TTFT –")


def test_queue_position_is_shown() -> None:
    answer = live(session_event(), QueuedEvent("ses_1", 2, "another request runs alone", MS))
    assert "position 2: another request runs alone" in strip.render(answer, 2 * MS)


def test_tooltips_are_the_one_definition() -> None:
    markup = strip.render(None, 0)
    for name in ("ttft_s", "decode_tps", "tpot_s"):
        assert DEFINITIONS[name] in markup.replace("&#x27;", "'")


def test_fallback_names_the_model_that_answered(streaming: LiveAnswer) -> None:
    streaming.take(finished(fallback_from="ollama/gone", model="scripted/steady"))
    assert "answered by scripted/steady" in strip.render(streaming, 0)


def test_words_from_outside_are_escaped() -> None:
    evil = '"><script>alert(1)</script>'
    answer = live(session_event(), QueuedEvent("ses_1", 1, evil, MS))
    assert "<script>" not in strip.render(answer, 0)
    answer.take(finished(device=evil, dtype=evil, fallback_from="x", model=evil))
    assert "<script>" not in strip.render(answer, 0)
