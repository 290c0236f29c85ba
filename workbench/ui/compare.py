"""The Compare tab: one prompt to several models, their answers streaming side by side.

One generator feeds all panes. It reads the engine's events as they come and brings the page up to
date ten times a second, never once per token: drawing must not slow what it shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import gradio as gr

from workbench import logs
from workbench.engine import Engine, rejected
from workbench.errors import ErrorCode, WorkbenchError
from workbench.types import Status, TimingMode
from workbench.ui import asking, catalogue, composer, hints, notices, pane, strip, timeline
from workbench.ui.asking import Plan
from workbench.ui.catalogue import Catalogue
from workbench.ui.composer import Ask
from workbench.ui.conversation import Turn, to_show
from workbench.ui.figures import escape
from workbench.ui.markup import html
from workbench.ui.pane import LETTERS, Pane
from workbench.ui.runs import Run, Runs
from workbench.ui.timeline import Row

_log = logs.get("ui")

TICK_S: Final = 0.1
_LONG_TEXT: Final = 20_000
"""Beyond this many characters in a pane its text is redrawn once a second: a browser lays out the
whole answer each time."""
_WATCH_S: Final = 5.0
"""How often an idle page looks whether models or runtimes have appeared."""

_SILENT: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private"}

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
        self._rows = gr.State(())
        self._last = gr.State(None)
        self._watch = gr.Timer(_WATCH_S)
        self._wire()

    # -- wiring

    def _wire(self) -> None:
        composer_, panes = self._composer, self._panes
        models = [p.model for p in panes]
        turns = [p.turns for p in panes]
        context = [self._shown, *models, *turns]
        outputs = self._run_outputs()
        gr.on(
            [composer_.run.click, composer_.prompt.submit],
            self._run,
            [*composer_.inputs, *context],
            outputs,
            concurrency_limit=None,
            **_SILENT,
        )
        self._isolate.click(
            self._run_isolated,
            [self._last, *context],
            outputs,
            concurrency_limit=None,
            **_SILENT,
        )
        # Not queued: a stop must not wait behind the run that it stops.
        composer_.stop.click(self._stop, queue=False, **_SILENT)
        for one in panes:
            one.stop.click(self._stopper(one.number), queue=False, **_SILENT)
            one.model.input(
                self._chooser(one.number),
                [one.model, one.turns],
                [one.badge, one.chat],
                queue=False,
                **_SILENT,
            )
            one.remove.click(
                self._remover(one.number),
                [self._shown, self._rows],
                self._layout_outputs(),
                queue=False,
                **_SILENT,
            )
        composer_.add_pane.click(
            self._add_pane,
            [self._shown, self._rows, *models],
            self._layout_outputs(),
            queue=False,
            **_SILENT,
        )
        composer_.clear.click(
            self._clear, [self._shown], self._clear_outputs(), queue=False, **_SILENT
        )
        self._watch.tick(
            self._look,
            models,
            self._choice_outputs(),
            concurrency_limit=None,
            **_SILENT,
        )
        self._get_demo.click(
            self._fetch_demo,
            models,
            self._choice_outputs(),
            concurrency_limit=None,
            **_SILENT,
        )

    def on_load(self, page: gr.Blocks) -> None:
        """Fill the dropdowns when the page opens."""
        page.load(
            self._open,
            None,
            self._choice_outputs(),
            concurrency_limit=None,
            **_SILENT,
        )

    def _run_outputs(self) -> list[Any]:
        composer_ = self._composer
        outputs: list[Any] = [
            composer_.prompt,
            composer_.run,
            composer_.stop,
            composer_.add_pane,
            composer_.clear,
            self._isolate,
            self._timeline,
            self._rows,
            self._last,
        ]
        for one in self._panes:
            outputs += [
                one.strip,
                one.notice,
                one.chat,
                one.turns,
                one.stop,
                one.remove,
                one.model,
            ]
        return outputs

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

    def _clear_outputs(self) -> list[Any]:
        outputs: list[Any] = [self._timeline, self._rows, self._last, self._isolate]
        for one in self._panes:
            outputs += [one.strip, one.notice, one.chat, one.turns]
        return outputs

    # -- running

    async def _run(self, request: gr.Request, *values: Any) -> AsyncGenerator[Any, None]:
        cut = len(self._composer.inputs)
        try:
            ask = composer.read(*values[:cut])
            plan = asking.plan(ask, *self._split(*values[cut:]))
        except WorkbenchError as problem:
            _toast(problem)
            yield gr.skip()
            return
        async with contextlib.aclosing(self._stream(plan, request)) as updates:
            async for update in updates:
                yield update

    async def _run_isolated(
        self, request: gr.Request, last: Ask | None, *values: Any
    ) -> AsyncGenerator[Any, None]:
        """The last question again, one pane at a time, in place of the contended answers."""
        if last is None:
            yield gr.skip()
            return
        models, turns = self._split(*values)
        earlier = {n: asking.without_last(one, last.prompt) for n, one in turns.items()}
        try:
            plan = asking.plan(replace(last, mode=TimingMode.ISOLATED), models, earlier)
        except WorkbenchError as problem:
            _toast(problem)
            yield gr.skip()
            return
        async with contextlib.aclosing(self._stream(plan, request)) as updates:
            async for update in updates:
                yield update

    def _split(
        self, shown: Sequence[int], *values: Any
    ) -> tuple[dict[int, str | None], dict[int, tuple[Turn, ...]]]:
        """Models and histories by pane, for the panes on the page."""
        models, turns = values[: pane.COUNT], values[pane.COUNT :]
        return (
            {number: models[number - 1] for number in shown},
            {number: turns[number - 1] for number in shown},
        )

    async def _stream(self, plan: Plan, request: gr.Request) -> AsyncGenerator[Any, None]:
        """Follow the answers until all have ended; closing this stops what still runs."""
        tab = request.session_hash or ""
        run = self._runs.begin(tab, plan.answers)
        following = asyncio.create_task(self._follow(plan, run))
        try:
            yield self._begun(plan)
            drawing = _Drawing(self._panes, plan)
            while not following.done():
                await asyncio.wait({following}, timeout=TICK_S)
                now = time.monotonic_ns()
                yield {**drawing.updates(now), self._timeline: _chart(plan, now)}
            yield self._ended(plan)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            self._runs.end(tab, run)

    async def _follow(self, plan: Plan, run: Run) -> None:
        requests = list(plan.requests.values())
        try:
            async with contextlib.aclosing(self._engine.compare(requests)) as events:
                async for index, event in events:
                    run.take(index, event)
        except Exception as failure:  # a bug of ours: the panes must still come to an end
            _log.exception("compare_failed")
            problem = WorkbenchError(
                ErrorCode.INTERNAL,
                f"{type(failure).__name__}: {failure}",
                fix="This is a defect of the workbench; the log has the traceback.",
                operation="compare",
            )
            for index, (number, one) in enumerate(plan.requests.items()):
                if plan.answers[number].running:
                    run.take(index, rejected(one, problem))

    def _begun(self, plan: Plan) -> Updates:
        composer_ = self._composer
        updates: Updates = {
            composer_.prompt: "",
            self._last: plan.ask,
            **self._busy(plan, True),
        }
        for one in self._panes:
            if one.number in plan.answers:
                updates[one.stop] = gr.update(interactive=True)
                updates[one.notice] = ""
        return updates

    def _ended(self, plan: Plan) -> Updates:
        updates: Updates = self._busy(plan, False)
        refused = [answer.phase == "rejected" for answer in plan.answers.values()]
        if all(refused):
            updates[self._composer.prompt] = plan.ask.prompt  # nothing typed is lost
        contended = any(strip.contended_percent(a.session) for a in plan.answers.values())
        updates[self._isolate] = gr.update(
            interactive=contended, variant="primary" if contended else "secondary"
        )
        updates[self._rows] = tuple(_rows(plan))
        # Drawn once more: of two updates in one animation frame a browser may show the first only.
        now = time.monotonic_ns()
        updates |= _Drawing(self._panes, plan).updates(now)
        updates[self._timeline] = _chart(plan, now)
        for one in self._panes:
            answer = plan.answers.get(one.number)
            if answer is None:
                continue
            kept = answer.session is not None and answer.session.status is not Status.REJECTED
            updates[one.turns] = plan.turns(one.number) if kept else plan.earlier[one.number]
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
        }
        if busy:
            updates[self._isolate] = gr.update(interactive=False, variant="secondary")
        for one in self._panes:
            updates[one.model] = idle
            updates[one.remove] = gr.update(interactive=not busy and len(plan.shown) > 1)
            if not busy:
                updates[one.stop] = gr.update(interactive=False)
        return updates

    # -- stopping

    async def _stop(self, request: gr.Request) -> None:
        self._runs.stop(request.session_hash or "")

    def _stopper(self, number: int) -> Callable[..., Any]:
        async def stop_one(request: gr.Request) -> None:
            self._runs.stop(request.session_hash or "", number)

        return stop_one

    # -- panes

    def _chooser(self, number: int) -> Callable[..., Any]:
        async def chosen(model: str | None, turns: tuple[Turn, ...]) -> tuple[Any, Any]:
            return pane.badge(number, model), to_show(turns, model)

        return chosen

    async def _add_pane(
        self, shown: tuple[int, ...], rows: Sequence[Row], *models: str | None
    ) -> Updates:
        hidden = [p.number for p in self._panes if p.number not in shown]
        if not hidden:
            return {self._shown: shown}
        added = hidden[0]
        updates = self._layout(tuple(sorted((*shown, added))), rows)
        if models[added - 1] is None:
            # The next model of the list that no pane has: most often the one that is wanted.
            listing = self._models.known.models
            free = [m for m in catalogue.preselect(listing, 99) if m and m not in models]
            chosen = free[0] if free else None
            updates[self._panes[added - 1].model] = gr.update(value=chosen)
            updates[self._panes[added - 1].badge] = pane.badge(added, chosen)
        return updates

    def _remover(self, number: int) -> Callable[..., Any]:
        async def remove(shown: tuple[int, ...], rows: Sequence[Row]) -> Updates:
            return self._layout(tuple(n for n in shown if n != number) or shown, rows)

        return remove

    def _layout(self, shown: tuple[int, ...], rows: Sequence[Row]) -> Updates:
        drawn = {row.letter: row for row in rows}
        lines = [drawn.get(LETTERS[n - 1], Row(LETTERS[n - 1])) for n in shown]
        updates: Updates = {
            self._shown: shown,
            self._timeline: timeline.render(lines, time.monotonic_ns()),
            self._composer.add_pane: gr.update(interactive=len(shown) < pane.COUNT),
        }
        for one in self._panes:
            updates[one.column] = gr.update(visible=one.number in shown)
            updates[one.remove] = gr.update(interactive=len(shown) > 1)
        return updates

    async def _clear(self, shown: tuple[int, ...]) -> Updates:
        updates: Updates = {
            self._timeline: timeline.render([Row(LETTERS[n - 1]) for n in shown], 0),
            self._rows: (),
            self._last: None,
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
        return self._choices(wanted, set_values=True)

    async def _look(self, *models: str | None) -> Any:
        """Show what has appeared or gone, without touching what was chosen.

        Nothing is asked while answers come: listing makes work for the runtimes.
        """
        if self._engine.active_sessions:
            return gr.skip()
        await self._models.listing(max_age_s=_WATCH_S / 2)
        if any(models) or not catalogue.has_models(self._models.known.models):
            return self._choices(models)
        return self._choices(catalogue.preselect(self._models.known.models, 4), set_values=True)

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


class _Drawing:
    """Which parts of the panes have to be drawn at a tick."""

    def __init__(self, panes: Sequence[Pane], plan: Plan) -> None:
        self._plan = plan
        self._left = [one for one in panes if one.number in plan.answers]
        self._chat_due: dict[int, int] = {}

    def updates(self, now: int) -> Updates:
        """The updates of the panes that changed; a finished pane is drawn once more, then not."""
        updates: Updates = {}
        for one in list(self._left):
            answer = self._plan.answers[one.number]
            running = answer.running
            updates[one.strip] = strip.render(answer, now)
            updates[one.notice] = notices.render(answer)
            if not running or self._chat_due.get(one.number, 0) <= now:
                refused = answer.phase == "rejected"
                turns = self._plan.earlier[one.number] if refused else self._plan.turns(one.number)
                updates[one.chat] = to_show(turns, answer.model, live=running)
                pause_s = 1.0 if len(answer.answer) > _LONG_TEXT else 0.0
                self._chat_due[one.number] = now + round(pause_s * 1e9)
            if not running:
                updates[one.stop] = gr.update(interactive=False)
                self._left.remove(one)
        return updates


def _rows(plan: Plan) -> list[Row]:
    return [Row.of(LETTERS[number - 1], answer) for number, answer in plan.answers.items()]


def _chart(plan: Plan, now: int) -> str:
    return timeline.render(_rows(plan), now)


def _toast(problem: WorkbenchError) -> None:
    gr.Warning(escape(problem))
