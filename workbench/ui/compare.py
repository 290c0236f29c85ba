"""The Compare tab: one prompt to several models, their answers streaming side by side.

A run is a chain of three events. One of the beginnings checks the input and plans the requests;
``_stream`` is one generator that feeds all panes ten times a second, never once per token; ``_end``
gives the page back to the user. Stopping goes past the chain, straight to the engine. A page that
is loaded anew joins the chain at ``_stream``, as the run goes on without it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

import gradio as gr

from workbench.discovery import database
from workbench.engine import Engine
from workbench.errors import WorkbenchError, invalid
from workbench.library import Library
from workbench.setups import Setup, line
from workbench.types import TimingMode
from workbench.ui import asking, composer, drawing, kept, notices, pane, strip, tabs, timeline
from workbench.ui.arranging import Arranging
from workbench.ui.asking import Plan
from workbench.ui.catalogue import Catalogue
from workbench.ui.choosing import Choosing
from workbench.ui.composer import Ask
from workbench.ui.desk import (
    AT_ONCE,
    LAST,
    QUIET,
    TICK_S,
    Desk,
    Updates,
    by_pane,
    merged,
    message,
    nothing,
    split,
)
from workbench.ui.differences import Differences
from workbench.ui.markup import html
from workbench.ui.pairs import Pairs
from workbench.ui.picturing import Picturing
from workbench.ui.runs import Run, Runs
from workbench.ui.sharing import Sharing
from workbench.ui.shelf import Shelf
from workbench.ui.timeline import Row
from workbench.ui.voting import Voting, choice_of


class CompareTab:
    """Builds the tab at the current place and wires it.

    Args:
        engine: the one road to all models.
        models: the shared listing.
        pairs: of the arena.
    """

    def __init__(self, engine: Engine, models: Catalogue, pairs: Pairs) -> None:
        self._desk, self._differences, self._voting, self._sharing, self._shelf = _lay_out(engine)
        self._pairs = pairs
        self._choosing = Choosing(self._desk, models, pairs)
        Picturing(self._desk)
        self._arranging = Arranging(self._desk, self._choosing, self._voting)
        self._resumed = gr.Textbox(visible=False)
        """Filled when a page opens whose tab has answers."""
        self._kept = html("", elem_id="kept", elem_classes=["wb-unseen"])
        self._wire()

    # -- wiring

    def _wire(self) -> None:
        desk = self._desk
        box = desk.composer
        words = [*box.inputs, box.per_pane, box.pictures.kept, *desk.own]
        context = [desk.shown, *desk.models, *desk.turns]
        outputs = [*self._after, *desk.busy_outputs, self._kept]
        # Not the prompt: what is being typed is kept by the browser itself. And what a user does,
        # not what an answer does: a page that opens would say a dozen times what it was told.
        said = [*box.inputs[1:], box.per_pane, *desk.own, *desk.models]
        remembering = (self._remember, [*words, *context], self._kept)
        gr.on([*(one.input for one in said), desk.shown.change], *remembering, **LAST)
        begun = [
            gr.on(
                [desk.composer.run.click, desk.composer.prompt.submit],
                self._begin,
                [*words, *context],
                outputs,
                **QUIET,
            ),
            desk.isolate.click(self._begin_isolated, context, outputs, **QUIET),
            *(
                one.again.click(self._again(one.number), [*words, *context], outputs, **QUIET)
                for one in desk.panes
            ),
        ]
        for event in begun:
            self.then_stream(event.success)
        self._sharing.button.click(self._share, [*words, *context], self._sharing.address, **QUIET)
        self._shelf.wire(desk.composer.prompt)
        presets = self._shelf.presets
        loaded = [*self._opened_outputs, *self._arranging.cleared_outputs, *self._after]
        presets.save.click(
            self._keep, [presets.name, *words, *context], self._shelf.outputs, **QUIET
        )
        used = presets.use.click(self._load, presets.name, [*dict.fromkeys(loaded)], **QUIET)
        used.success(*remembering, **LAST)
        desk.composer.stop.click(self._stopper(None), **AT_ONCE)
        desk.composer.per_pane.input(
            lambda wanted: [gr.update(visible=wanted) for _ in desk.own],
            desk.composer.per_pane,
            desk.own,
            **AT_ONCE,
        )
        for one in desk.panes:
            one.stop.click(self._stopper(one.number), **AT_ONCE)
        self.then_stream(self._resumed.change)

    def then_stream(self, after: Callable[..., Any]) -> None:
        """Let an event that began a run, or put one here, go on with its picture."""
        desk = self._desk
        streamed = after(self._stream, None, desk.picture, postprocess=False, **QUIET)
        ended = streamed.then(
            self._end,
            None,
            [*self._after, *desk.busy_outputs, *desk.turns],
            **QUIET,
        )
        different = self._differences
        ended.then(different.refresh, different.inputs, different.outputs, **QUIET)

    @property
    def desk(self) -> Desk:
        """Its components."""
        return self._desk

    @property
    def outputs(self) -> list[Any]:
        """All of the tab but the answers: what :meth:`put` speaks of."""
        desk = self._desk
        opened = [*self._opened_outputs, *desk.busy_outputs, *desk.turns, self._kept]
        return [*dict.fromkeys([desk.told, *opened, self._choosing.listed])]

    @property
    def opening_outputs(self) -> list[Any]:
        """What :meth:`opening` speaks of."""
        return [*self.outputs, self._resumed]

    # -- running

    async def _begin(self, request: gr.Request, *values: Any) -> Updates:
        """Check what was asked and plan it; an error ends the chain with its message."""
        self._refuse_second(request)
        try:
            ask, rest = self._asked(*values)
            return {
                **self._start(request, asking.plan(ask, *split(*rest)), prompt=""),
                **self._desk.composer.pictures.show(()),
            }
        except WorkbenchError as problem:
            raise message(problem) from None

    async def _begin_isolated(self, request: gr.Request, *values: Any) -> Updates:
        """The last question again, one pane at a time, in place of the contended answers."""
        self._refuse_second(request)
        run = self._desk.run_of(request)
        if run is None:
            raise nothing()
        ask = replace(run.plan.ask, mode=TimingMode.ISOLATED)
        shown, models, turns = split(*values)
        earlier = {n: asking.without_last(one, ask.prompt) for n, one in turns.items()}
        try:
            return self._start(request, asking.plan(ask, shown, models, earlier))
        except WorkbenchError as problem:
            raise message(problem) from None

    def _again(self, number: int) -> Callable[..., Any]:
        async def again(request: gr.Request, prompt: str, *values: Any) -> Updates:
            """One pane's last question again, under the options as they are now."""
            self._refuse_second(request)
            history = values[len(values) - pane.COUNT + number - 1]
            if not history:
                raise nothing()
            try:
                ask, rest = self._asked(history[-1].prompt, *values)
                ask = replace(ask, images=history[-1].images)
                shown, models, turns = split(*rest)
                run = self._desk.run_of(request)
                return self._start(
                    request,
                    asking.plan(
                        ask,
                        shown,
                        models,
                        {**turns, number: turns[number][:-1]},
                        only=number,
                        kept=run.plan.figures if run else None,
                    ),
                )
            except WorkbenchError as problem:
                raise message(problem) from None

        return again

    def _asked(self, *values: Any) -> tuple[Ask, tuple[Any, ...]]:
        """The composer's question, and the values that follow it."""
        cut = len(self._desk.composer.inputs)
        ask = composer.read(*values[:cut])
        per_pane, images, *others = values[cut:]
        own, rest = others, tuple(others[pane.COUNT :])
        lines = by_pane(own[: pane.COUNT]) if per_pane else {}
        shown = rest[0]
        ask = composer.with_own(ask, {n: text for n, text in lines.items() if n in shown})
        return replace(ask, images=images), rest

    def _start(self, request: gr.Request, plan: Plan, prompt: str | None = None) -> Updates:
        self._desk.runs.begin(request.session_hash, plan)
        run = self._desk.run_of(request)
        updates = {**self._desk.busy(plan, True), **self._offers(run)}
        updates[self._kept] = kept.of_plan(plan)
        return updates if prompt is None else {self._desk.composer.prompt: prompt, **updates}

    def _refuse_second(self, request: gr.Request) -> None:
        """A key pressed while answers come starts nothing; the button is disabled anyway."""
        run = self._desk.run_of(request)
        if run is not None and run.running:
            raise nothing()

    async def _stream(self, request: gr.Request) -> AsyncGenerator[list[Any], None]:
        run = self._desk.run_of(request)
        if run is None:
            return
        picture = drawing.Drawing(run.plan)
        yield picture.values(time.monotonic_ns())
        async with contextlib.aclosing(run.watch(TICK_S)) as ticks:
            async for _ in ticks:
                yield picture.values(time.monotonic_ns())

    async def _end(self, request: gr.Request) -> Updates:
        desk = self._desk
        run = desk.run_of(request)
        # A page that has just opened ends its look at a past that it has not, when a quick hand may
        # have begun a run already: that one is busy until its own end.
        if run is None or run.running:
            return self._offers(run)
        updates = {**desk.busy(run.plan, False), **self._offers(run)}
        if run.refused():  # what was typed is not lost
            updates[desk.composer.prompt] = run.plan.ask.prompt
            updates |= desk.composer.pictures.show(run.plan.ask.images)
        contended = any(strip.contended_percent(a.session) for a in run.plan.answers.values())
        updates[desk.isolate] = gr.update(
            interactive=contended, variant="primary" if contended else "secondary"
        )
        return {**updates, **desk.histories(run.plan)}

    @property
    def _after(self) -> list[Any]:
        """What :meth:`_offers` speaks of, and the message box."""
        composer = self._desk.composer
        return [
            composer.prompt,
            *composer.pictures.outputs,
            self._voting.ballot,
            self._sharing.menu,
        ]

    def _offers(self, run: Run | None) -> Updates:
        return {**self._voting.offer(run), **self._sharing.offer(run)}

    async def _share(self, request: gr.Request, prompt: str, *values: Any) -> Updates:
        """The address of what stands on the page now, asked or not.

        After a run the message box is empty: what was asked is what is compared.
        """
        try:
            words = self._asked_last(request, prompt)
            return self._sharing.shared(request, self._setup(words, *values))
        except WorkbenchError as problem:
            raise message(problem) from None

    def _asked_last(self, request: gr.Request, prompt: str) -> str:
        run = self._desk.run_of(request)
        return run.plan.ask.prompt if run is not None and not prompt.strip() else prompt

    async def _remember(self, request: gr.Request, _: str, *values: Any) -> Any:
        """What the browser keeps of what stands on the page now."""
        run = self._desk.run_of(request)
        try:
            return kept.of_page(self._setup("-", *values), run)
        except WorkbenchError:  # an option that is still being typed
            return gr.skip()

    async def _keep(self, name: str | None, prompt: str, *values: Any) -> Updates:
        """What stands on the page now, as a preset."""
        try:
            setup = self._setup(prompt, *values)
        except WorkbenchError as problem:
            raise message(problem) from None
        name = (name or "").strip()
        return await self._shelf.kept(
            lambda: self._shelf.library.save_preset(name, setup), presets=name
        )

    async def _load(self, request: gr.Request, name: str | None) -> Updates:
        """A new conversation under a preset."""
        self._refuse_second(request)
        setup = await self._shelf.preset(name)
        usual = await self._choosing.fresh()
        blind = self._pairs.blind(request.session_hash)
        return merged(
            await self._arranging.cleared(request, ()),
            self._opened(setup, usual, blind),
            self._offers(None),
        )

    def _setup(self, prompt: str, *values: Any) -> Setup:
        """What stands on the page, with the panes in view counted from 1."""
        ask, rest = self._asked(prompt if prompt.strip() else "-", *values)
        shown, models, _ = split(*rest)
        placed = {n: place for place, n in enumerate(shown, start=1)}
        return replace(
            ask.setup(tuple(models[n] for n in shown)),
            prompt=prompt,
            own={placed[n]: own for n, own in ask.own.items()},
        )

    def _stopper(self, number: int | None) -> Callable[..., Any]:
        async def stop(request: gr.Request) -> None:
            if (run := self._desk.run_of(request)) is not None:
                run.stop(number)

        return stop

    # -- opening

    async def opening(
        self, request: gr.Request, tab: str | None, draft: str | None, written: str | None
    ) -> Updates:
        """A fresh page: what its tab had, what its address says, or two models.

        A server that was started anew knows no tabs: then it is what the browser kept. Answers are
        drawn afterwards, and only where there are any.
        """
        desk, choosing = self._desk, self._choosing
        usual = await choosing.fresh()
        blind = self._pairs.blind(request.session_hash)
        run = desk.runs.join(request.session_hash, tab or request.session_hash or "")
        known = kept.read(written)
        if run is None and known and (again := await kept.found(desk.engine, known)):
            run = desk.runs.begin(request.session_hash, again[0])
            run.voted = choice_of(*again)
        if run is not None:
            updates = {**self._restored(run, blind), self._resumed: "yes"}
        elif known and any(known.setup.models):
            updates = self._opened(known.setup, usual, blind)
            updates |= {desk.composer.run: gr.update(interactive=True), desk.told: known.told()}
        else:
            updates = {desk.composer.run: gr.update(interactive=True)}
            try:
                setup = Setup.from_query(dict(request.query_params))
                updates |= self._opened(setup, usual, blind)
            except WorkbenchError as problem:
                updates |= self._opened(Setup(), usual, blind)
                updates[desk.told] = notices.error_card(problem)
        if draft:
            updates[desk.composer.prompt] = draft
        return {**updates, choosing.listed: "" if blind else choosing.fingerprint()}

    def _restored(self, run: Run, blind: bool) -> Updates:
        plan, everywhere = run.plan, range(1, pane.COUNT + 1)
        models = [plan.models[number] for number in everywhere]
        setup = replace(plan.ask.setup(()), prompt="")
        return merged(
            self._filled(setup, models, plan.ask.own, blind),
            self._desk.layout(run, plan.shown, models),
            self._desk.busy(plan, run.running),
            # Run is there to be pressed before the answers have been drawn.
            {} if run.running else self._desk.histories(plan),
            {self._kept: kept.of_plan(plan)},
        )

    def put(self, request: gr.Request, plan: Plan, vote: str | None = None) -> Updates:
        """A plan from elsewhere takes the place of what the tab has; :meth:`then_stream` follows.

        Args:
            request: of the page.
            plan: to show, or to carry out.
            vote: what was said of it, as ``votes.given`` tells it.

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` while answers come.
        """
        run = self._desk.run_of(request)
        if run is not None and run.running:
            raise invalid(
                "Answers are still coming in Compare.", fix="Wait for their end, or stop them."
            )
        began = self._desk.runs.begin(request.session_hash, plan)
        began.voted = choice_of(plan, vote)
        return self._restored(began, self._pairs.blind(request.session_hash))

    def _opened(self, setup: Setup, usual: Any, blind: bool) -> Updates:
        # One model alone begins with one pane: Run sends nothing while a pane has none.
        usual = [model for model in usual if model] or usual
        wanted: list[str | None] = [*(setup.models if any(setup.models) else usual)]
        count = max(len(wanted), 1)
        wanted += [None] * (pane.COUNT - count)
        shown = tuple(range(1, count + 1))
        return merged(
            self._filled(setup, wanted, setup.own, blind), self._desk.layout(None, shown, wanted)
        )

    @property
    def _opened_outputs(self) -> list[Any]:
        """What :meth:`_opened` speaks of."""
        desk = self._desk
        composer = desk.composer
        return [*self._choosing.outputs, *desk.layout_outputs, *composer.fields, *desk.own]

    def _filled(self, setup: Setup, models: list[str | None], own: Any, blind: bool) -> Updates:
        desk = self._desk
        fields = zip(desk.composer.fields, composer.fill(setup), strict=True)
        return {
            **self._choosing.choices(models, set_values=True, residency=not blind),
            **dict(fields),
            **{
                one.own: gr.update(value=line(own.get(one.number, {})), visible=bool(own))
                for one in desk.panes
            },
        }

    def leave(self, request: gr.Request) -> None:
        """A page is gone."""
        self._desk.runs.leave(request.session_hash)


def _lay_out(engine: Engine) -> tuple[Desk, Differences, Voting, Sharing, Shelf]:
    """Lay the tab out at the current place."""
    first = tuple(range(1, pane.FIRST_SHOWN + 1))
    with gr.Column(elem_id="compare"):
        with gr.Row(elem_id="timeline-row"):
            chart = html(timeline.render([Row("A"), Row("B")], 0), elem_id="timeline")
            isolate = gr.Button(
                "Run isolated",
                size="sm",
                elem_id="run-isolated",
                elem_classes=["wb-small"],
                scale=0,
                min_width=110,
                interactive=False,
            )
        hint = html("", elem_id="hint")
        told = html("", elem_id="told", elem_classes=["wb-notices"])
        get_demo = gr.Button(
            "Get the demo model", variant="primary", size="sm", visible=False, elem_id="get-demo"
        )
        tab_list = html(tabs.render(first, [None] * pane.COUNT), elem_id="pane-tabs")
        with gr.Row(elem_id="panes"):
            panes = [pane.build(number) for number in range(1, pane.COUNT + 1)]
        differences = Differences()
        with gr.Row(elem_id="after"):
            voting = Voting()
            gr.Checkbox(
                label="scroll together",
                container=False,
                elem_id="sync-scroll",
                scale=0,
                min_width=120,
            )
            sharing = Sharing()
            diff = gr.Button(
                "Diff  Alt+D", size="sm", elem_id="diff-toggle", elem_classes=["wb-small"], scale=0
            )
            why = gr.Button("Why?", size="sm", elem_id="why", elem_classes=["wb-small"], scale=0)
        asked = composer.build(engine.settings)
        shelf = Shelf(Library(database(engine.settings).with_name("library.json")))
    shown = gr.State(first)
    desk = Desk(
        engine=engine,
        runs=Runs(engine, Run),
        timeline=chart,
        isolate=isolate,
        tabs=tab_list,
        hint=hint,
        told=told,
        get_demo=get_demo,
        why=why,
        panes=panes,
        composer=asked,
        shown=shown,
    )
    differences.wire(desk, diff)
    voting.wire(desk)
    return desk, differences, voting, sharing, shelf
