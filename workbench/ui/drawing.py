"""What the streaming event sends to the browser: the timeline and every pane, in one fixed order.

Values are given in the form that goes over the wire and every output gets one at every tick. Both
matter: gradio takes a thread and a model validation for a value that it has to process itself, and
builds a component anew for an output that is skipped. Done ten times a second that held up the
event loop, in which Ollama's tokens are stamped, by 50 to 100 ms. A value that did not change costs
nothing: only differences are sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from workbench.ui import notices, strip, timeline
from workbench.ui.asking import Plan
from workbench.ui.conversation import Turn, to_show
from workbench.ui.pane import COUNT, LETTERS, Pane
from workbench.ui.timeline import Row

_LONG_TEXT: Final = 20_000
_LONG_TEXT_NS: Final = 1_000_000_000
"""A text of this many characters is sent once a second: browsers lay the whole answer out again."""


def outputs(chart: Any, panes: Sequence[Pane]) -> list[Any]:
    """The components that :meth:`Drawing.values` fills."""
    return [chart, *(part for one in panes for part in (one.strip, one.notice, one.chat))]


def rows(plan: Plan, shown: Sequence[int]) -> list[Row]:
    """The timeline's lines for the panes on the page."""
    return [
        Row.of(LETTERS[number - 1], plan.answers[number])
        if number in plan.answers
        else Row(LETTERS[number - 1], plan.models[number] or "")
        for number in shown
    ]


class Drawing:
    """The page's picture of one run."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._chat_due = dict.fromkeys(plan.answers, 0)
        self._finished: set[int] = set()
        self._drawn: dict[int, tuple[str, str, list[dict[str, Any]]]] = {
            number: _still(plan, number) for number in range(1, COUNT + 1)
        }

    def values(self, now: int) -> list[Any]:
        """One value per output; those of panes that ended are not made again."""
        for number in self._plan.answers:
            if number not in self._finished:
                self._drawn[number] = self._draw(number, now)
        chart = timeline.render(rows(self._plan, self._plan.shown), now)
        return [chart, *(part for drawn in self._drawn.values() for part in drawn)]

    def _draw(self, number: int, now: int) -> tuple[str, str, list[dict[str, Any]]]:
        answer = self._plan.answers[number]
        chat = self._drawn[number][2]
        if not answer.running:
            self._finished.add(number)
        if not answer.running or self._chat_due[number] <= now:
            turns: tuple[Turn, ...] = self._plan.turns(number)
            model = self._plan.models[number]
            chat = to_show(turns, model, live=answer.running, told=not answer.running)
            pause = _LONG_TEXT_NS if len(answer.answer) > _LONG_TEXT else 0
            self._chat_due[number] = now + pause
        return strip.render(answer, now), notices.render(answer), chat


def _still(plan: Plan, number: int) -> tuple[str, str, list[dict[str, Any]]]:
    """A pane that is not asked: as it was."""
    answer = plan.latest(number)
    chat = to_show(plan.turns(number), plan.models[number], told=answer is not None)
    return strip.render(answer, 0), notices.render(answer), chat
