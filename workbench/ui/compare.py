"""The Compare tab: one prompt to several models, their answers streaming side by side.

A run is a chain of three events. ``_begin`` checks the input and plans the requests; ``_stream`` is
one generator that feeds all panes ten times a second, never once per token; ``_end`` gives the page
back to the user. Stopping goes past the chain, straight to the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import gradio as gr

from workbench.engine import Engine
from workbench.errors import WorkbenchError
from workbench.figures import escape
from workbench.types import TimingMode
from workbench.ui import (
    asking,
    catalogue,
    composer,
    drawing,
    hints,
    notices,
    pane,
    strip,
    timeline,
)
from workbench.ui.asking import Plan
from workbench.ui.catalogue import Catalogue
from workbench.ui.conversation import Turn, to_show
from workbench.ui.markup import html
from workbench.ui.runs import Runs
from workbench.ui.timeline import Row

TICK_S: Final = 0.1
"""The page's rhythm while answers come: what the eye can follow, and cheap."""
_WATCH_S: Final = 5.0
"""How often an idle page looks whether models or runtimes have appeared."""

_QUIET: Final[dict[str, Any]] = {
    "show_progress": "hidden",
    "api_visibility": "private",
    "concurrency_limit": None,
}
# Not queued: a stop must not wait behind the run that it stops, and a small change of the page is
# there at once. Not processed: the values are in their wire form.
_AT_ONCE: Final[dict[str, Any]] = {
    "show_progress": "hidden",
    "api_visibility": "private",
    "queue": False,
    "postprocess": False,
}

Updates = dict[Any, Any]


class CompareTab:
    """Builds the tab at the current place and wires it.

    Args:
        engine: the one road to all models.
        models: the shared listing.
    """

    def __init__(self, engine: Engine, models: Catalogue) -> None:
        self._engine = engine
        self._models = models
        self._runs = Runs(engine)
        with gr.Column(elem_id="compare"):
            with gr.Row(elem_id="timeline-row"):
                self._timeline = html(timeline.render([Row("A"), Row("B")], 0), elem_id="timeline")
                self._isolate = gr.Button(
                    "Run isolated",
                    size="sm",
                    elem_id="run-isolated",
                    elem_classes=["wb-small"],
                    scale=0,
                    min_width=110,
                    interactive=False,
                )
            self._hint = html("", elem_id="hint")
            self._get_demo = gr.Button(
                "Get the demo model",
                variant="primary",
                size="sm",
                visible=False,
                elem_id="get-demo",
            )
            with gr.Row(elem_id="panes"):
                self._panes = [pane.build(number) for number in range(1, pane.COUNT + 1)]
            self._composer = composer.build()
        self._shown = gr.State(tuple(range(1, pane.FIRST_SHOWN + 1)))
        self._listed = gr.State("")
        """What the dropdowns hold, so that they are filled anew only when that has changed."""
        self._watch = gr.Timer(_WATCH_S)
        self._wire()

    # -- wiring

    def _wire(self) -> None:
        composer_, panes = self._composer, self._panes
        context = [self._shown, *(p.model for p in panes), *(p.turns for p in panes)]
        picture = drawing.outputs(self._timeline, panes)
        begun = [
            gr.on(
                [composer_.run.click, composer_.prompt.submit],
                self._begin,
                [*composer_.inputs, *context],
                self._busy_outputs(),
                **_QUIET,
            ),
            self._isolate.click(self._begin_isolated, context, self._busy_outputs(), **_QUIET),
        ]
        for event in begun:
            streamed = event.success(self._stream, None, picture, postprocess=False, **_QUIET)
            streamed.then(self._end, None, self._end_outputs(), **_QUIET)
        composer_.stop.click(self._stopper(None), **_AT_ONCE)
        for one in panes:
            one.stop.click(self._stopper(one.number), **_AT_ONCE)
            one.model.input(
                self._chooser(one.number),
                [one.model, one.turns],
                [one.badge, one.strip, one.notice, one.chat],
                **_AT_ONCE,
            )
            one.remove.click(
                self._remover(one.number), self._shown, self._layout_outputs(), **_AT_ONCE
            )
        composer_.add_pane.click(
            self._add_pane,
            [self._shown, *(p.model for p in panes)],
            self._layout_outputs(),
            **_AT_ONCE,
        )
        composer_.clear.click(
            self._clear,
            self._shown,
            [self._isolate, *picture, *(p.turns for p in panes)],
            **_AT_ONCE,
        )
        models, choices = [p.model for p in panes], self._choice_outputs()
        self._watch.tick(self._look, self._listed, self._listed, **_QUIET)
        self._listed.change(self._relist, models, choices, **_QUIET)
        self._get_demo.click(self._fetch_demo, models, choices, **_QUIET)

    def on_load(self, page: gr.Blocks) -> None:
        """Fill the dropdowns when the page opens; forget the tab when it closes."""
        page.load(self._open, None, [*self._choice_outputs(), self._listed], **_QUIET)
        page.unload(self._forget)

    def _busy_outputs(self) -> list[Any]:
        composer_ = self._composer
        return [
            composer_.prompt,
            composer_.run,
            composer_.stop,
            composer_.add_pane,
            composer_.clear,
            self._isolate,
            *(p.model for p in self._panes),
            *(p.stop for p in self._panes),
            *(p.remove for p in self._panes),
        ]

    def _end_outputs(self) -> list[Any]:
        return [*self._busy_outputs(), *(p.turns for p in self._panes)]

    def _layout_outputs(self) -> list[Any]:
        panes = self._panes
        return [
            self._shown,
            self._timeline,
            self._composer.add_pane,
            *(p.column for p in panes),
            *(p.model for p in panes),
            *(p.badge for p in panes),
            *(p.remove for p in panes),
        ]

    def _choice_outputs(self) -> list[Any]:
        panes = self._panes
        return [*(p.model for p in panes), *(p.badge for p in panes), self._hint, self._get_demo]

    # -- running

    async def _begin(self, request: gr.Request, *values: Any) -> Updates:
        """Check what was asked and plan it; an error ends the chain with its message."""
        cut = len(self._composer.inputs)
        self._refuse_second(request)
        try:
            ask = composer.read(*values[:cut])
            plan = asking.plan(ask, *_by_pane(*values[cut:]))
        except WorkbenchError as problem:
            raise _message(problem) from None
        self._runs.begin(request.session_hash, plan)
        return {self._composer.prompt: "", **self._busy(plan, True)}

    async def _begin_isolated(self, request: gr.Request, *values: Any) -> Updates:
        """The last question again, one pane at a time, in place of the contended answers."""
        self._refuse_second(request)
        run = self._runs.of(request.session_hash)
        if run is None:
            raise gr.Error(visible=False, print_exception=False)
        ask = replace(run.plan.ask, mode=TimingMode.ISOLATED)
        shown, models, turns = _by_pane(*values)
        earlier = {n: asking.without_last(one, ask.prompt) for n, one in turns.items()}
        try:
            plan = asking.plan(ask, shown, models, earlier)
        except WorkbenchError as problem:
            raise _message(problem) from None
        self._runs.begin(request.session_hash, plan)
        return self._busy(plan, True)

    def _refuse_second(self, request: gr.Request) -> None:
        """A key pressed while answers come starts nothing; the button is disabled anyway."""
        run = self._runs.of(request.session_hash)
        if run is not None and run.running:
            raise gr.Error(visible=False, print_exception=False)

    async def _stream(self, request: gr.Request) -> AsyncGenerator[list[Any], None]:
        run = self._runs.of(request.session_hash)
        assert run is not None, "planned by the event before"
        picture = drawing.Drawing(run.plan)
        yield picture.values(time.monotonic_ns())
        async with contextlib.aclosing(run.follow(TICK_S)) as ticks:
            async for _ in ticks:
                yield picture.values(time.monotonic_ns())

    async def _end(self, request: gr.Request) -> Updates:
        run = self._runs.of(request.session_hash)
        assert run is not None, "it was streamed just now"
        updates = self._busy(run.plan, False)
        updates[self._composer.prompt] = (
            run.plan.ask.prompt if run.refused() else gr.skip()  # what was typed is not lost
        )
        contended = any(strip.contended_percent(a.session) for a in run.plan.answers.values())
        updates[self._isolate] = gr.update(
            interactive=contended, variant="primary" if contended else "secondary"
        )
        for one in self._panes:
            updates[one.turns] = run.plan.turns(one.number)
        return updates

    def _busy(self, plan: Plan, busy: bool) -> Updates:
        """What may be pressed while answers come, and what only then."""
        composer_ = self._composer
        idle = gr.update(interactive=not busy)
        updates: Updates = {
            composer_.run: idle,
            composer_.stop: gr.update(interactive=busy),
            composer_.add_pane: gr.update(interactive=not busy and len(plan.shown) < pane.COUNT),
            composer_.clear: idle,
            self._isolate: gr.update(interactive=False, variant="secondary"),
        }
        for one in self._panes:
            updates[one.model] = idle
            updates[one.stop] = gr.update(interactive=busy and one.number in plan.answers)
            updates[one.remove] = gr.update(interactive=not busy and len(plan.shown) > 1)
        return updates

    def _stopper(self, number: int | None) -> Callable[..., Any]:
        async def stop(request: gr.Request) -> None:
            if (run := self._runs.of(request.session_hash)) is not None:
                run.stop(number)

        return stop

    def _forget(self, request: gr.Request) -> None:
        self._runs.forget(request.session_hash)

    # -- panes

    def _chooser(self, number: int) -> Callable[..., Any]:
        async def chosen(model: str | None, turns: tuple[Turn, ...]) -> tuple[Any, ...]:
            # The figures were another model's: they go, its words stay.
            return pane.badge(number, model), strip.render(None, 0), "", to_show(turns, model)

        return chosen

    async def _add_pane(
        self, request: gr.Request, shown: tuple[int, ...], *models: str | None
    ) -> Updates:
        hidden = [p.number for p in self._panes if p.number not in shown]
        if not hidden:
            return {self._shown: shown}
        added = hidden[0]
        updates = self._layout(request, tuple(sorted((*shown, added))))
        if models[added - 1] is None:
            # The next model of the list that no pane has: most often the one that is wanted.
            listing = self._models.known.models
            free = [m for m in catalogue.preselect(listing, 99) if m and m not in models]
            chosen = free[0] if free else None
            updates[self._panes[added - 1].model] = gr.update(value=chosen)
            updates[self._panes[added - 1].badge] = pane.badge(added, chosen)
        return updates

    def _remover(self, number: int) -> Callable[..., Any]:
        async def remove(request: gr.Request, shown: tuple[int, ...]) -> Updates:
            return self._layout(request, tuple(n for n in shown if n != number) or shown)

        return remove

    def _layout(self, request: gr.Request, shown: tuple[int, ...]) -> Updates:
        run = self._runs.of(request.session_hash)
        lines = drawing.rows(run.plan, shown) if run else _idle_rows(shown)
        updates: Updates = {
            self._shown: shown,
            self._timeline: timeline.render(lines, time.monotonic_ns()),
            self._composer.add_pane: gr.update(interactive=len(shown) < pane.COUNT),
        }
        for one in self._panes:
            updates[one.column] = gr.update(visible=one.number in shown)
            updates[one.remove] = gr.update(interactive=len(shown) > 1)
        return updates

    async def _clear(self, request: gr.Request, shown: tuple[int, ...]) -> Updates:
        self._runs.forget(request.session_hash)
        updates: Updates = {
            self._timeline: timeline.render(_idle_rows(shown), 0),
            self._isolate: gr.update(interactive=False, variant="secondary"),
        }
        for one in self._panes:
            updates[one.strip] = strip.render(None, 0)
            updates[one.notice] = ""
            updates[one.chat] = []
            updates[one.turns] = ()
        return updates

    # -- models

    async def _open(self, request: gr.Request) -> Updates:
        """A fresh page: list the models and preselect two, or those that the address names."""
        listing = await self._models.listing(max_age_s=1.0)
        named = [part for part in request.query_params.get("models", "").split(",") if part]
        wanted: list[str | None] = [*named[: pane.COUNT]] or catalogue.preselect(listing.models)
        wanted += [None] * (pane.COUNT - len(wanted))
        return {**self._choices(wanted, set_values=True), self._listed: self._fingerprint()}

    async def _look(self, listed: str) -> str:
        """Whether something has appeared or gone.

        Nothing is asked while answers come: listing makes work for the runtimes.
        """
        if self._engine.active_sessions:
            return listed
        await self._models.listing(max_age_s=_WATCH_S / 2)
        return self._fingerprint()

    def _fingerprint(self) -> str:
        known = self._models.known
        return repr((catalogue.choices(known.models), [*known.problems]))

    async def _relist(self, *models: str | None) -> Updates:
        """Show what has changed without touching what was chosen; a first model is preselected."""
        known = self._models.known.models
        if any(models) or not catalogue.has_models(known):
            return self._choices(models)
        return self._choices(catalogue.preselect(known, pane.COUNT), set_values=True)

    def _choices(self, models: Sequence[str | None], *, set_values: bool = False) -> Updates:
        listing = self._models.known
        entries = catalogue.choices(listing.models, models)
        updates: Updates = {
            self._hint: hints.render(listing, self._engine.settings),
            self._get_demo: gr.update(visible=not catalogue.has_models(listing.models)),
        }
        for one, model in zip(self._panes, models, strict=True):
            chosen = {"value": model} if set_values else {}
            updates[one.model] = gr.update(choices=entries, **chosen)
            if set_values:
                updates[one.badge] = pane.badge(one.number, model)
        return updates

    async def _fetch_demo(self, *models: str | None) -> AsyncGenerator[Any, None]:
        """Bring the demo model to disk, saying at each step what is done."""
        from workbench.hf.demo import ensure_demo

        loop = asyncio.get_running_loop()
        lines: asyncio.Queue[str] = asyncio.Queue()

        def say(line: str) -> None:
            loop.call_soon_threadsafe(lines.put_nowait, line)

        fetching = asyncio.create_task(asyncio.to_thread(ensure_demo, self._engine.settings, say))
        yield {self._get_demo: gr.update(interactive=False)}
        line, started = "Starting", time.monotonic()
        while not fetching.done():
            with contextlib.suppress(TimeoutError):
                line = await asyncio.wait_for(lines.get(), 1.0)
            yield {self._hint: hints.progress(line, time.monotonic() - started)}
        button = {self._get_demo: gr.update(interactive=True)}
        if isinstance(problem := fetching.exception(), WorkbenchError):
            yield {**button, self._hint: notices.error_card(problem)}
            return
        fetching.result()
        await self._models.listing()
        wanted = catalogue.preselect(self._models.known.models)
        yield {**button, **self._choices([*wanted, *models[len(wanted) :]], set_values=True)}


def _by_pane(
    shown: tuple[int, ...], *values: Any
) -> tuple[tuple[int, ...], dict[int, str | None], dict[int, tuple[Turn, ...]]]:
    """The panes on the page; models and histories by pane."""
    models, turns = values[: pane.COUNT], values[pane.COUNT :]
    return shown, dict(enumerate(models, start=1)), dict(enumerate(turns, start=1))


def _idle_rows(shown: Sequence[int]) -> list[Row]:
    return [Row(pane.LETTERS[number - 1]) for number in shown]


def _message(problem: WorkbenchError) -> gr.Error:
    """What the page shows when input is wrong: it is the user's to mend, so no traceback."""
    return gr.Error(escape(problem), title=problem.code.value, print_exception=False)
