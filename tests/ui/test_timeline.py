"""The timeline: bars on a common clock, each with its phase as a word."""

from __future__ import annotations

import itertools
import re

from tests.ui.events import MS, finished, live, session_event, token
from workbench.live import Segment
from workbench.types import PromptEvent
from workbench.ui import timeline
from workbench.ui.timeline import Row


def bars(markup: str) -> list[tuple[str, float, float]]:
    """(phase, left, width) in percent of the track."""
    found = re.findall(
        r'class="wb-bar" data-phase="(\w+)" style="left:([\d.]+)%;width:([\d.]+)%"', markup
    )
    return [(phase, float(left), float(width)) for phase, left, width in found]


def test_idle_rows_have_no_bars() -> None:
    markup = timeline.render([Row("A"), Row("B")], 0)
    assert 'data-state="idle"' in markup
    assert markup.count('class="wb-row"') == 2
    assert bars(markup) == []


def test_bars_adjoin_and_fit() -> None:
    answer = live(
        session_event(), PromptEvent("s", 1000 * MS), token("a", 2000), finished(end_ms=4000)
    )
    drawn = bars(timeline.render([Row.of("A", answer)], 9_000 * MS))
    assert [phase for phase, _, _ in drawn] == ["queued", "prompt", "answering"]
    for (_, left, width), (_, following, _) in itertools.pairwise(drawn):
        assert abs(left + width - following) < 0.02
    assert 95 < drawn[-1][1] + drawn[-1][2] < 100


def test_rows_share_one_clock() -> None:
    """Two panes that waited the same time have equally wide bars at the same place."""
    early = Row("A", "x/a", (Segment("queued", 0, 1000 * MS),))
    late = Row("B", "x/b", (Segment("queued", 1000 * MS, 4000 * MS),))
    (_, left_a, width_a), (_, left_b, width_b) = bars(timeline.render([early, late], 0))
    assert left_a == 0
    assert abs(left_b - width_a) < 0.02
    assert abs(width_b - 3 * width_a) < 0.05


def test_open_segment_grows_with_the_clock() -> None:
    row = Row("A", "x/a", (Segment("loading", 0),))
    (_, _, at_half), *_ = bars(timeline.render([row], 500 * MS))
    (_, _, at_one), *_ = bars(timeline.render([row], 1000 * MS))
    assert abs(at_one - 2 * at_half) < 0.05


def test_axis_has_a_readable_number_of_marks() -> None:
    for seconds in (0.1, 1, 3, 7, 18, 60, 400, 1800, 20_000):
        row = Row("A", "x/a", (Segment("loading", 0, round(seconds * 1000 * MS)),))
        axis = timeline.render([row], 0).split('class="wb-axis"')[1]
        assert 3 <= axis.count("<span") <= 10, seconds
        assert max(map(float, re.findall(r"left:([\d.]+)%", axis))) <= 96, "its words are cut off"


def test_provider_is_marked_and_words_are_escaped() -> None:
    markup = timeline.mark("A", "ollama/smollm2:135m")
    assert 'data-provider="ollama"' in markup
    evil = timeline.render([Row("A", '"><script>x</script>')], 0)
    assert "<script>" not in evil
