"""The panes of the Compare tab: added, removed, given another model or another's history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from workbench.ui import pane, strip, tabs, timeline
from workbench.ui.choosing import Choosing
from workbench.ui.conversation import Turn, adopted, to_show
from workbench.ui.desk import AT_ONCE, Desk, Updates, idle_rows, named, nothing, split
from workbench.ui.voting import Voting


class Arranging:
    """Wires them.

    Args:
        desk: the tab's components.
        choosing: knows the models.
        voting: is over the answers that are left.
    """

    def __init__(self, desk: Desk, choosing: Choosing, voting: Voting) -> None:
        self._desk = desk
        self._choosing = choosing
        self._voting = voting
        for one in desk.panes:
            one.model.input(
                self._chooser(one.number),
                [desk.shown, one.turns, *desk.models],
                [one.badge, one.strip, one.notice, one.chat, desk.tabs, voting.ballot],
                **AT_ONCE,
            )
            one.remove.click(
                self._remover(one.number),
                [desk.shown, *desk.models],
                [*desk.layout_outputs, voting.ballot],
                **AT_ONCE,
            )
            one.spread.click(
                self._spreader(one.number),
                [desk.shown, *desk.models, *desk.turns],
                [*desk.picture, *desk.turns, voting.ballot],
                **AT_ONCE,
            )
        desk.composer.add_pane.click(
            self._add,
            [desk.shown, *desk.models],
            [
                *(*desk.layout_outputs, voting.ballot, *desk.models),
                *(p.badge for p in desk.panes),
            ],
            **AT_ONCE,
        )
        desk.composer.clear.click(self.cleared, desk.shown, self.cleared_outputs, **AT_ONCE)

    @property
    def cleared_outputs(self) -> list[Any]:
        """What :meth:`cleared` speaks of."""
        desk = self._desk
        buttons = [button for one in desk.panes for button in (one.again, one.spread)]
        return [desk.isolate, self._voting.ballot, *desk.picture, *desk.turns, *buttons]

    def _chooser(self, number: int) -> Callable[..., Any]:
        async def chosen(
            request: gr.Request,
            shown: tuple[int, ...],
            turns: tuple[Turn, ...],
            *models: str | None,
        ) -> Updates:
            desk, one = self._desk, self._desk.panes[number - 1]
            model = named(models[number - 1])
            run = desk.run_of(request)
            if run is not None and (run.running or run.plan.models[number] == model):
                return {desk.tabs: tabs.render(shown, models)}  # left as it was
            # The figures were another model's: they go, its words stay.
            if run is not None:
                run.rearrange(chosen=(number, model))
            return {
                one.badge: pane.badge(number, model),
                one.strip: strip.render(None, 0),
                one.notice: "",
                one.chat: to_show(turns, model),
                desk.tabs: tabs.render(shown, models),
                **self._voting.offer(run),
            }

        return chosen

    async def _add(
        self, request: gr.Request, shown: tuple[int, ...], *models: str | None
    ) -> Updates:
        hidden = [p.number for p in self._desk.panes if p.number not in shown]
        if not hidden:
            return {self._desk.shown: shown}
        added, chosen = hidden[0], [*models]
        updates: Updates = {}
        if models[added - 1] is None:
            free = chosen[added - 1] = self._choosing.free(models)
            updates[self._desk.panes[added - 1].model] = gr.update(value=free)
            updates[self._desk.panes[added - 1].badge] = pane.badge(added, free)
        return {**updates, **self._arranged(request, tuple(sorted((*shown, added))), chosen)}

    def _remover(self, number: int) -> Callable[..., Any]:
        async def remove(
            request: gr.Request, shown: tuple[int, ...], *models: str | None
        ) -> Updates:
            rest = tuple(n for n in shown if n != number) or shown
            return self._arranged(request, rest, [*models])

        return remove

    def _arranged(
        self, request: gr.Request, shown: tuple[int, ...], models: list[str | None]
    ) -> Updates:
        run = self._desk.run_of(request)
        if run is not None:
            run.rearrange(shown=shown)
            for number in shown:
                if run.plan.models[number] != (model := named(models[number - 1])):
                    run.rearrange(chosen=(number, model))
        return {**self._desk.layout(run, shown, models), **self._voting.offer(run)}

    def _spreader(self, number: int) -> Callable[..., Any]:
        async def spread(request: gr.Request, shown: tuple[int, ...], *values: Any) -> Updates:
            """All other panes go on from this one's answer."""
            desk = self._desk
            _, models, turns = split(shown, *values)
            run, source = desk.run_of(request), turns[number][-1].model if turns[number] else None
            if source is None or (run is not None and run.running):
                raise nothing()
            carried = {
                n: adopted(turns[number], source, model)
                for n in shown
                if n != number and (model := models[n])
            }
            after = {**turns, **carried}
            if run is not None:
                run.rearrange(earlier=after)
            updates: Updates = {
                desk.timeline: timeline.render(idle_rows(shown), 0),
                **self._voting.offer(run),
            }
            for one in desk.panes:
                updates[one.strip] = strip.render(None, 0)
                updates[one.notice] = ""
                updates[one.chat] = to_show(after[one.number], models[one.number])
                updates[one.turns] = after[one.number]
            return updates

        return spread

    async def cleared(self, request: gr.Request, shown: tuple[int, ...]) -> Updates:
        """A new conversation in every pane; what was said is in the log."""
        desk = self._desk
        desk.runs.forget(request.session_hash)
        off = gr.update(interactive=False)
        updates: Updates = {
            desk.timeline: timeline.render(idle_rows(shown), 0),
            desk.isolate: gr.update(interactive=False, variant="secondary"),
            **self._voting.offer(None),
        }
        for one in desk.panes:
            updates[one.strip] = strip.render(None, 0)
            updates[one.notice] = ""
            updates[one.chat] = []
            updates[one.turns] = ()
            updates[one.again] = updates[one.spread] = off
        return updates
