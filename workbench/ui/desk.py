"""The components of the Compare tab, and what several of its handlers say about them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import gradio as gr

from workbench.engine import Engine
from workbench.errors import WorkbenchError
from workbench.figures import escape
from workbench.ui import drawing, pane, tabs, timeline
from workbench.ui.asking import Plan
from workbench.ui.composer import Composer
from workbench.ui.conversation import Turn
from workbench.ui.pane import Pane
from workbench.ui.runs import Run, Runs
from workbench.ui.timeline import Row

TICK_S: Final = 0.1
"""The page's rhythm while answers come: what the eye can follow, and cheap."""

KEPT: Final = "() => [...window.workbenchTab(), sessionStorage.getItem('workbench-kept') ?? '']"
"""Asks the page's script which browser tab this is, and what was typed and compared in it."""

QUIET: Final[dict[str, Any]] = {
    "show_progress": "hidden",
    "api_visibility": "private",
    "concurrency_limit": None,
}
LAST: Final[dict[str, Any]] = {**QUIET, "trigger_mode": "always_last"}
"""For what is chosen: gradio would drop a choice that comes while the one before is answered."""
# Not queued: a stop must not wait behind the run that it stops, and a small change of the page is
# there at once. Not processed: the values are in their wire form.
AT_ONCE: Final[dict[str, Any]] = {
    "show_progress": "hidden",
    "api_visibility": "private",
    "queue": False,
    "postprocess": False,
}

Updates = dict[Any, Any]
_KNOWN: Final = object()


@dataclass(frozen=True)
class Desk:
    """What the tab consists of."""

    engine: Engine
    runs: Runs[Run]
    timeline: gr.HTML
    isolate: gr.Button
    tabs: gr.HTML
    hint: gr.HTML
    told: gr.HTML
    """What was wrong with something that the user gave."""
    get_demo: gr.Button
    why: gr.Button
    """Opens the Insight tab with the first two panes."""
    panes: Sequence[Pane]
    composer: Composer
    shown: gr.State
    """``tuple[int, ...]``: the panes on the page."""

    @property
    def models(self) -> list[Any]:
        """The pickers."""
        return [one.model for one in self.panes]

    @property
    def turns(self) -> list[Any]:
        """The histories."""
        return [one.turns for one in self.panes]

    @property
    def own(self) -> list[Any]:
        """The fields of the panes' own options."""
        return [one.own for one in self.panes]

    @property
    def picture(self) -> list[Any]:
        """What a stream of answers fills."""
        return drawing.outputs(self.timeline, self.panes)

    @property
    def busy_outputs(self) -> list[Any]:
        """What :meth:`busy` speaks of."""
        composer = self.composer
        return [
            *(composer.run, composer.stop, composer.add_pane, composer.clear, self.isolate),
            *self.models,
            *(button for p in self.panes for button in (p.stop, p.again, p.spread, p.remove)),
        ]

    @property
    def layout_outputs(self) -> list[Any]:
        """What :meth:`layout` speaks of."""
        return [
            *(self.shown, self.timeline, self.tabs, self.composer.add_pane),
            *(part for p in self.panes for part in (p.column, p.remove)),
        ]

    def run_of(self, request: gr.Request) -> Run | None:
        """The last run of the tab that asks."""
        return self.runs.of(request.session_hash)

    def busy(self, plan: Plan, busy: bool) -> Updates:
        """What may be pressed while answers come, and what only then."""
        composer = self.composer
        idle = gr.update(interactive=not busy)
        updates: Updates = {
            composer.run: idle,
            composer.stop: gr.update(interactive=busy),
            composer.add_pane: gr.update(interactive=not busy and len(plan.shown) < pane.COUNT),
            composer.clear: idle,
            self.isolate: gr.update(interactive=False, variant="secondary"),
        }
        for one in self.panes:
            said = bool(plan.turns(one.number))
            updates[one.model] = idle
            updates[one.stop] = gr.update(interactive=busy and one.number in plan.answers)
            updates[one.again] = gr.update(interactive=not busy and said)
            updates[one.spread] = gr.update(interactive=not busy and said and len(plan.shown) > 1)
            updates[one.remove] = gr.update(interactive=not busy and len(plan.shown) > 1)
        return updates

    def histories(self, plan: Plan) -> Updates:
        """Of all panes, with the answers of a plan."""
        return {one.turns: plan.turns(one.number) for one in self.panes}

    def layout(
        self, run: Run | None, shown: tuple[int, ...], models: Sequence[str | None]
    ) -> Updates:
        """Which panes are on the page."""
        lines = drawing.rows(run.plan, shown) if run else idle_rows(shown)
        updates: Updates = {
            self.shown: shown,
            self.timeline: timeline.render(lines, time.monotonic_ns()),
            self.tabs: tabs.render(shown, models),
            self.composer.add_pane: gr.update(interactive=len(shown) < pane.COUNT),
        }
        for one in self.panes:
            updates[one.column] = gr.update(visible=one.number in shown)
            updates[one.remove] = gr.update(interactive=len(shown) > 1)
        return updates


def merged(*several: Updates) -> Updates:
    """Updates of the same components together."""
    whole: Updates = {}
    for updates in several:
        for component, value in updates.items():
            known = whole.get(component)
            if isinstance(known, dict) and isinstance(value, dict):
                value = {**known, **value}
            whole[component] = value
    return whole


def news(updates: Updates) -> Updates:
    """What a page that has just been built does not show yet.

    Each property that is set costs the browser a look through the whole page, or several.
    """
    whole = {component: _news(component, value) for component, value in updates.items()}
    return {component: value for component, value in whole.items() if value is not _KNOWN}


def _news(component: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        known = not isinstance(component, gr.State) and value == component.value
        return _KNOWN if known else value
    kept = {
        name: new
        for name, new in value.items()
        if name in ("__type__", "value") or getattr(component, name, _KNOWN) != new
    }
    return kept if len(kept) > 1 else _KNOWN


def by_pane(values: Sequence[Any]) -> dict[int, Any]:
    """Values in the order of the panes, by their numbers."""
    return dict(enumerate(values, start=1))


def split(
    shown: tuple[int, ...], *values: Any
) -> tuple[tuple[int, ...], dict[int, str | None], dict[int, tuple[Turn, ...]]]:
    """The panes on the page; models and histories by pane."""
    models = [named(model) for model in values[: pane.COUNT]]
    return shown, by_pane(models), by_pane(values[pane.COUNT :])


def named(model: str | None) -> str | None:
    """What stands in a picker, which can be typed: an emptied one has no model."""
    return (model or "").strip() or None


def idle_rows(shown: Sequence[int]) -> list[Row]:
    """The timeline before any question."""
    return [Row(pane.LETTERS[number - 1]) for number in shown]


def message(problem: WorkbenchError) -> gr.Error:
    """What the page shows when input is wrong: it is the user's to mend, so no traceback.

    It stays until it is closed or the next question is asked: gradio would close a message with the
    first one of its kind, however late it came.
    """
    title = problem.code.value
    return gr.Error(escape(problem), duration=None, title=title, print_exception=False)


def nothing() -> gr.Error:
    """Ends a chain of events without a word."""
    return gr.Error(visible=False, print_exception=False)
