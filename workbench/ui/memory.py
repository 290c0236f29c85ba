"""The memory panel of the Models tab, kept up to date while the tab is open."""

from __future__ import annotations

from typing import Any, Final

import gradio as gr

from workbench import logs
from workbench.engine import Engine
from workbench.errors import WorkbenchError
from workbench.ui import budget, queue
from workbench.ui.budget import Holder, Next, Picture
from workbench.ui.markup import html

_log = logs.get(__name__)

_EVERY_S: Final = 1.0


class MemoryPanel:
    """Builds the panel at the current place.

    ``chosen`` is given to :meth:`follow`, because it is built below the panel.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._bar = html("", elem_id="models-memory")
        self._queue = html("", elem_id="models-queue")
        self.timer = gr.Timer(_EVERY_S, active=False)
        """Ticks while the tab is in sight; the page sees to that."""

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`look` fills."""
        return [self._bar, self._queue]

    def follow(self, chosen: Any, pin: Any, **event: Any) -> None:
        """Draw again with every tick and whenever another model is chosen.

        Args:
            chosen: the dropdown of the model that Load would load.
            pin: the button, which says what it would do.
            event: gradio's settings of the events.
        """
        for happens in (self.timer.tick, chosen.change):
            happens(self._look, chosen, [*self.outputs, pin], **event)

    async def _look(self, chosen: str | None) -> tuple[Any, Any, Any]:
        try:
            model = await resolved(self._engine, chosen)
            pinned = is_pinned(self._engine, model)
            return *await self.look(model), "Unpin" if pinned else "Pin"
        except Exception as error:  # a tick that fails leaves what is shown; the next one may not
            _log.warning("panel_not_drawn", error=type(error).__name__)
            return gr.skip(), gr.skip(), gr.skip()

    async def look(self, chosen: str | None = None) -> tuple[str, str]:
        """The panel and the queue as they are now."""
        overview = self._engine.overview()
        return (
            budget.render(await picture(self._engine, chosen)),
            queue.render(overview.waiting, overview.max_waiting),
        )


def named(chosen: object) -> str:
    """What was chosen or typed, without space around it; empty for nothing."""
    return chosen.strip() if isinstance(chosen, str) else ""


async def resolved(engine: Engine, chosen: object) -> str:
    """The model id of what was chosen or typed; as it stands where no model is meant by it."""
    model = named(chosen)
    if not model:
        return ""
    try:
        return (await engine.router.resolve(model)).model
    except WorkbenchError:
        return model


def is_pinned(engine: Engine, model: str) -> bool:
    """Whether a model is kept in memory at the user's wish."""
    return any(one.model == model and one.pinned for one in engine.overview().residents)


async def picture(engine: Engine, chosen: str | None = None) -> Picture:
    """What the engine's book and rotation say now; ``chosen`` is a model id."""
    book, there = engine.book, holders(engine)
    known = {holder.model for holder in there}
    return Picture(
        limit=book.limits(),
        capacity=book.capacity,
        holders=there,
        alerts=book.alerts,
        next=None if not chosen or chosen in known else await _next(engine, chosen),
    )


def holders(engine: Engine) -> tuple[Holder, ...]:
    """Every name that is in memory, whoever loaded it, and by whichever name.

    What a server elsewhere keeps is its own: of a runtime that nothing is loaded into from here,
    only what was measured on this machine counts.

    Nothing is read for it beside a measurement.
    """
    book, providers = engine.book, engine.router.providers
    held, others = book.held(), book.others

    def loads(model: str) -> bool:
        return providers[model.partition("/")[0]].loads

    residents = {
        one.model: one
        for one in engine.overview().residents
        if loads(one.model) or held.get(one.model)
    }
    names = [*residents, *(model for model in others if held.get(model))]
    names += [twin for name in names for twin in sorted(book.shared(name))]
    found = []
    for model in dict.fromkeys(names):
        resident, own = residents.get(model), held.get(model, {})
        runner = [] if own else sorted(book.shared(model) - {model}, key=lambda n: not held.get(n))
        found.append(
            Holder(
                model=model,
                status=resident.status if resident else "idle",
                held=own,
                prediction=book.expectation(model),
                pinned=resident.pinned if resident else False,
                ours=others.keys().isdisjoint(book.shared(model)),
                shares_with=next(
                    (n for n in runner if held.get(n) or (not resident and n in residents)), None
                ),
                expires_in_s=resident.expires_in_s if resident and loads(model) else None,
            )
        )
    return tuple(found)


async def _next(engine: Engine, chosen: str) -> Next | None:
    try:
        preview = await engine.preview(chosen)
    except WorkbenchError as error:
        return Next(chosen, engine.book.expectation(chosen), problem=error.message)
    return Next(chosen, preview.need, preview.evicts, preview.waits, preview.problem)
