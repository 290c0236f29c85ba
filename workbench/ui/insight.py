"""The Insight tab: why two models answer differently, before and after they answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Final, TypeVar

import gradio as gr

from workbench import logs
from workbench.analysis import plot_time_ledger
from workbench.engine import Engine
from workbench.errors import WorkbenchError, invalid
from workbench.figures import escape
from workbench.insight import logged, markup
from workbench.insight.asking import MAX_REPEATS, REPEATS
from workbench.insight.plots import plot_parting
from workbench.insight.seconds import seconds
from workbench.types import ChatRequest, Message, Options, new_id
from workbench.ui import catalogue, notices
from workbench.ui.catalogue import Catalogue
from workbench.ui.desk import Desk, named
from workbench.ui.markup import html

T = TypeVar("T")

_LOOK_S: Final = 0.2
_TOKENS: Final = 64
EMPTY: Final = (
    '<div class="wb-empty"><strong>The same weights, two answers?</strong>'
    "<span>The parity sheet compares what both runtimes make of a prompt before they answer: "
    "template, tokens, context, weights, sampling. The divergence lets both answer greedily, finds "
    "the token where they part, and tells a coin toss from another model. The time ledger says "
    "where each second of their answers went.</span></div>"
)


class InsightTab:
    """Builds the tab at the current place."""

    SILENT: Final[dict[str, Any]] = {
        "show_progress": "hidden",
        "api_visibility": "private",
        "concurrency_limit": None,
    }

    def __init__(self, engine: Engine, models: Catalogue) -> None:
        self._engine = engine
        self._models = models
        with gr.Column(elem_id="insight"):
            with gr.Row(elem_classes=["wb-tools"]):
                self.pickers = [
                    gr.Dropdown(
                        [],
                        label=f"Model {letter}",
                        filterable=True,
                        allow_custom_value=True,  # a form, as NAME?quantization=int8
                        elem_id=f"insight-{letter.lower()}",
                        min_width=220,
                        scale=4,
                    )
                    for letter in "AB"
                ]
                self._tokens = gr.Number(
                    _TOKENS, label="Answer, tokens", precision=0, min_width=110, scale=1
                )
                self._repeats = gr.Number(
                    REPEATS,
                    label=f"Repeats, 0 to {MAX_REPEATS}",
                    precision=0,
                    min_width=110,
                    scale=1,
                )
            with gr.Row(elem_classes=["wb-tools"]):
                self.prompt = gr.Textbox(
                    label="Message", lines=2, max_lines=8, elem_id="insight-prompt", scale=3
                )
                self.system = gr.Textbox(
                    label="System prompt",
                    placeholder="none: then a template may add its own",
                    lines=2,
                    max_lines=8,
                    elem_id="insight-system",
                    scale=2,
                )
            with gr.Row(elem_classes=["wb-tools"]):
                button = {"size": "sm", "min_width": 130, "scale": 0}
                part = gr.Button(
                    "Where they part", variant="primary", elem_id="insight-diverge", **button
                )
                sheet = gr.Button("Parity sheet", elem_id="insight-parity", **button)
                clock = gr.Button("Time ledger", elem_id="insight-time", **button)
                stop = gr.Button("Stop", elem_id="insight-stop", **button)
            self._notice = html("", elem_id="insight-notice", elem_classes=["wb-notices"])
            self._found = html(EMPTY, elem_id="insight-found")
            self._plot = gr.Plot(show_label=False, visible=False, elem_id="insight-plot")
        asked = [*self.pickers, self.prompt, self.system]
        outputs = [self._notice, self._found, self._plot]
        running = [
            clock.click(self._time, [*asked, self._tokens], outputs, **self.SILENT),
            sheet.click(self._parity, asked, outputs, **self.SILENT),
            part.click(
                self._diverge, [*asked, self._tokens, self._repeats], outputs, **self.SILENT
            ),
        ]
        stop.click(
            lambda: notices.note("Stopped."), None, self._notice, cancels=running, **self.SILENT
        )

    def wire(self, desk: Desk, tabs: gr.Tabs) -> None:
        """Let the Compare tab's button bring its first two models and its question here."""

        async def bring(
            request: gr.Request,
            shown: tuple[int, ...],
            prompt: str | None,
            system: str | None,
            *models: str | None,
        ) -> list[Any]:
            chosen = [models[number - 1] for number in shown][:2]
            first, second = (*chosen, None, None)[:2]
            run = desk.run_of(request)
            asked = run.plan.ask if run is not None else None
            return [
                gr.Tabs(selected="insight-tab"),
                *await self.refresh(first, second),
                prompt or (asked.prompt if asked else ""),
                system or (asked.system if asked else ""),
            ]

        desk.why.click(
            bring,
            [desk.shown, desk.composer.prompt, desk.composer.system, *desk.models],
            [tabs, *self.pickers, self.prompt, self.system],
            **self.SILENT,
        )

    async def refresh(self, first: str | None, second: str | None) -> list[Any]:
        """Fill the pickers; what was chosen stays."""
        listing = await self._models.listing(max_age_s=2.0)
        entries = catalogue.choices(listing.models, [first, second])
        begin = catalogue.preselect(listing.models)
        return [
            gr.update(choices=entries, value=chosen or wanted)
            for chosen, wanted in zip((first, second), begin, strict=True)
        ]

    async def _parity(self, *asked: str | None) -> AsyncGenerator[list[Any], None]:
        try:
            request, other = _request(*asked)
            work = logged.parity(self._engine, request, other)
            why = self._why_wait(request.model, other)
            async for stage, sheet in _told(work, why, "both runtimes are asked"):
                if sheet is None:
                    yield [_busy(stage), *_cleared()]
                else:
                    yield ["", markup.sheet(sheet), gr.update(visible=False)]
        except WorkbenchError as problem:
            yield [notices.error_card(problem), *_cleared()]

    async def _time(self, *asked: Any) -> AsyncGenerator[list[Any], None]:
        *what, tokens = asked
        stages: list[str] = []
        try:
            request, other = _request(*what, max_tokens=tokens)
            work = seconds(self._engine, request, other, tell=stages.append)
            why = self._why_wait(request.model, other)
            async for stage, found in _told(work, why, "begins", stages):
                if found is None:
                    yield [_busy(stage), *_cleared()]
                else:
                    figure = await asyncio.to_thread(plot_time_ledger, found.ledger)
                    yield ["", markup.seconds(found), gr.update(value=figure, visible=True)]
        except WorkbenchError as problem:
            yield [notices.error_card(problem), *_cleared()]

    async def _diverge(self, *asked: Any) -> AsyncGenerator[list[Any], None]:
        *what, tokens, repeats = asked
        stages: list[str] = []
        try:
            request, other = _request(*what, max_tokens=tokens)
            if repeats is None:
                raise invalid("How many repeats?", fix=f"Give a number from 0 to {MAX_REPEATS}.")
            work = logged.diverge(
                self._engine, request, other, repeats=int(repeats), tell=stages.append
            )
            why = self._why_wait(request.model, other)
            async for stage, found in _told(work, why, "begins", stages):
                if found is None:
                    yield [_busy(stage), *_cleared()]
                else:
                    figure = await asyncio.to_thread(plot_parting, found)
                    shown = gr.update(value=figure, visible=found.parting is not None)
                    yield ["", markup.divergence(found), shown]
        except WorkbenchError as problem:
            yield [notices.error_card(problem), *_cleared()]

    def _why_wait(self, *models: str) -> Callable[[], str]:
        """What the queue says of requests for these models; empty while none waits."""

        def why() -> str:
            waiting = (one for one in self._engine.overview().waiting if one.model in models)
            return next((f" (waits: {one.reason})" for one in waiting), "")

        return why


async def _told(
    work: Coroutine[Any, Any, T],
    why_wait: Callable[[], str],
    begin: str,
    stages: list[str] | None = None,
) -> AsyncGenerator[tuple[str, T | None], None]:
    """The stages of some work as they come, then its result; leaving it stops the work."""
    with logs.correlation(new_id("cor"), source="ui"):
        task = asyncio.ensure_future(work)
    said = ""
    try:
        while not task.done():
            stage = (stages[-1] if stages else begin) + why_wait()
            if stage != said:
                said = stage
                yield stage, None
            await asyncio.wait({task}, timeout=_LOOK_S)
        yield "", task.result()
    finally:
        task.cancel()
        await asyncio.wait({task})


def _request(
    first: str | None,
    second: str | None,
    prompt: str | None,
    system: str | None,
    *,
    max_tokens: float | None = _TOKENS,
) -> tuple[ChatRequest, str]:
    first, second = named(first), named(second)
    if first is None or second is None:
        raise invalid("Two models are needed.", fix="Choose model A and model B.")
    if max_tokens is None:
        raise invalid("How long may an answer be?", fix="Give a number of tokens.")
    messages = [Message("system", system)] if system and system.strip() else []
    options = Options(max_tokens=int(max_tokens), temperature=0.0)
    asked = (*messages, Message("user", prompt or ""))
    return ChatRequest(first, asked, options, source="ui"), second


def _cleared() -> tuple[Any, Any]:
    """What was found before would look like the finding of what is asked now."""
    return "", gr.update(visible=False)


def _busy(stage: str) -> str:
    return notices.note(f"{escape(stage)} ...")
