"""The Arena tab: which of two answers is better, asked of somebody who does not know the models.

A pair is a chain of events: ``_begin`` draws and asks it, ``_wait`` tells how long it takes,
``_ready`` opens the vote, ``_replay`` shows both answers at one rate; the vote says who they were.
A page that is loaded anew joins the chain at ``_wait``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import gradio as gr

from workbench import figures
from workbench.engine import Engine
from workbench.errors import WorkbenchError
from workbench.figures import escape
from workbench.metrics import NS
from workbench.router import Listing
from workbench.settings import Settings
from workbench.ui import catalogue, hints, notices, pane, strip
from workbench.ui.catalogue import Catalogue
from workbench.ui.conversation import Turn, to_show, turn_of
from workbench.ui.desk import LAST, QUIET, TICK_S, Updates, message, nothing
from workbench.ui.markup import html
from workbench.ui.pairs import FEWEST, SIDES, A, B, Pair, Pairs, drawable
from workbench.ui.pane import LETTERS
from workbench.ui.ranking import Ranking
from workbench.ui.timeline import mark
from workbench.ui.voting import cast
from workbench.votes import ALL_BAD, TIE

_EMPTY: Final = "An answer appears here, without the name of its model."
_WIRE: Final[dict[str, Any]] = {**QUIET, "postprocess": False}
# name in ids, words, key, what the log is told
_CHOICES: Final = (
    ("a", "A is better", "Alt+A", LETTERS[A - 1]),
    ("tie", "Tie", "Alt+T", TIE),
    ("bad", "Both bad", "Alt+N", ALL_BAD),
    ("b", "B is better", "Alt+B", LETTERS[B - 1]),
)


@dataclass(frozen=True)
class Side:
    """One of the two answers."""

    number: int
    head: gr.HTML
    strip: gr.HTML
    notice: gr.HTML
    chat: gr.Chatbot

    @property
    def told(self) -> list[Any]:
        """What says who it is."""
        return [self.head, self.strip, self.notice]


_FRESH_S: Final = 2.0
_SEEN: Final = (
    "The names stood in a tab that you opened before the vote: it is logged, but not as blind, and "
    "does not count below. "
)


class ArenaTab:
    """Builds the tab at the current place and wires it.

    Args:
        engine: the one road to all models.
        models: the shared listing.
        pairs: of all pages.
    """

    def __init__(self, engine: Engine, models: Catalogue, pairs: Pairs) -> None:
        self._engine = engine
        self._models = models
        self._pairs = pairs
        with gr.Column(elem_id="arena"):
            self._hint = html("", elem_id="arena-hint")
            with gr.Row(elem_id="arena-sides"):
                self._sides = [_side(number) for number in SIDES]
            with gr.Row(elem_classes=["wb-ballot"]):
                self._status = html(status(None, 0), elem_id="arena-status")
                self._votes = [
                    _button(f"{words}  {key}", f"arena-{name}") for name, words, key, _ in _CHOICES
                ]
                self._skip = _button("Skip  Alt+S", "arena-skip")
            with gr.Row(elem_classes=["wb-ask"]):
                self._prompt = gr.Textbox(
                    label="Message to two models",
                    show_label=False,
                    container=False,
                    placeholder="Message to two models whose names you learn after your vote",
                    lines=2,
                    max_lines=8,
                    elem_id="arena-prompt",
                    scale=1,
                )
                with gr.Column(scale=0, min_width=150, elem_classes=["wb-go"]):
                    self._ask = gr.Button(
                        "Ask a pair  Ctrl+Enter", variant="primary", elem_id="arena-ask", size="md"
                    )
                    self._stop = gr.Button(
                        "Stop  Esc", elem_id="arena-stop", interactive=False, size="sm"
                    )
            with gr.Row(elem_classes=["wb-tools"]):
                html("Drawn from", elem_classes=["wb-hint", "wb-drawnfrom"])
                self._drawn_from = gr.Dropdown(
                    choices=[],
                    value=[],
                    multiselect=True,
                    label="Models that pairs are drawn from",
                    show_label=False,
                    container=False,
                    elem_id="arena-models",
                    scale=1,
                )
                html("all local models if none is chosen", elem_classes=["wb-hint", "wb-drawnfrom"])
            self._ranking = Ranking(engine)
        self._chosen = gr.State(())
        """``tuple[str, ...]``: the models to draw from; no question carries their names."""
        self.resumed = gr.Textbox(visible=False)
        """Filled when a page opens whose tab has a pair."""
        self._wire()

    # -- wiring

    @property
    def _chats(self) -> list[Any]:
        return [side.chat for side in self._sides]

    @property
    def _buttons(self) -> list[Any]:
        return [self._ask, self._stop, self._skip, *self._votes]

    @property
    def _picture(self) -> list[Any]:
        """What :meth:`_drawn` speaks of."""
        told = [part for side in self._sides for part in side.told]
        return [self._status, *self._chats, *self._buttons, *told]

    def _wire(self) -> None:
        begun = gr.on(
            [self._ask.click, self._prompt.submit],
            self._begin,
            [self._prompt, self._chosen],
            [self._prompt, *self._picture],
            **_WIRE,
        )
        self._then_wait(begun.success)
        self._stop.click(self._halt, queue=False, show_progress="hidden", api_visibility="private")
        for button, (_, _, _, choice) in zip(self._votes, _CHOICES, strict=True):
            self._then_count(
                button.click(self._voter(choice), None, self._picture, **_WIRE).success
            )
        self._skip.click(self._pass_over, None, self._picture, **_WIRE)
        again = self.resumed.change(self._ready, None, self._picture, **_WIRE)
        self._then_wait(again.success)
        self._drawn_from.input(self._choose, self._drawn_from, [self._chosen, self._hint], **LAST)

    def _then_wait(self, after: Callable[..., Any]) -> None:
        waited = after(self._wait, None, self._status, **_WIRE)
        ready = waited.then(self._ready, None, self._picture, **_WIRE)
        ready.then(self._replay, None, self._chats, **_WIRE)

    def _then_count(self, after: Callable[..., Any]) -> None:
        after(self._ranking.refresh, None, self._ranking.outputs, **QUIET)

    def opening(self, pair: Pair | None) -> Updates:
        """Let a page that is loaded anew have the pair that its tab had."""
        return {} if pair is None else {self.resumed: "yes"}

    def on_select(self, tab: gr.Tab) -> None:
        """Fill the tab when it is chosen."""
        shown = tab.select(self._shown, self._chosen, [self._hint, self._drawn_from], **QUIET)
        self._then_count(shown.success)

    def on_names(self, tab: gr.Tab) -> None:
        """A tab that shows what was asked of whom: a vote after a look at it is not blind."""
        tab.select(self._told, None, self._status, **_WIRE)

    async def _told(self, request: gr.Request) -> str:
        pair = self._pair(request)
        if pair is not None and pair.blind:
            pair.told = True
        return status(pair, time.monotonic_ns())

    # -- a pair

    async def _begin(
        self, request: gr.Request, prompt: str | None, chosen: tuple[str, ...]
    ) -> Updates:
        """Draw a pair and ask it; without words, what was asked last."""
        pair = self._pairs.of(request.session_hash)
        if pair is not None and pair.running:
            raise nothing()
        words = prompt or ""
        if pair is not None and not words.strip():
            words = pair.plan.ask.prompt
        try:
            models = drawable(await self._models.listing(max_age_s=_FRESH_S), chosen)
            pair = self._pairs.begin(request.session_hash, words, models)
        except WorkbenchError as problem:
            raise message(problem) from None
        return {self._prompt: gr.update(value=""), **self._drawn(pair)}

    async def _wait(self, request: gr.Request) -> AsyncGenerator[str, None]:
        """Tells how long it takes; that it is over is told together with the buttons."""
        pair = self._pair(request)
        if pair is None:
            return
        async for _ in pair.watch(TICK_S):
            if pair.running:
                yield status(pair, time.monotonic_ns())

    async def _ready(self, request: gr.Request) -> Updates:
        return self._drawn(self._pair(request))

    async def _replay(self, request: gr.Request) -> AsyncGenerator[list[Any], None]:
        pair = self._pair(request)
        while True:
            now = time.monotonic_ns()
            yield [shown(pair, number, now) for number in SIDES]
            if pair is None or pair.replayed(now):
                return
            await asyncio.sleep(TICK_S)

    def _voter(self, choice: str) -> Callable[..., Any]:
        async def vote(request: gr.Request) -> Updates:
            pair = self._pair(request)
            if pair is None or not pair.votable:
                raise nothing()
            try:
                answers, blind = pair.plan.answers, not pair.told
                await cast(self._engine, pair, choice, answers, arena=True, blind=blind)
            except WorkbenchError as problem:
                raise message(problem) from None
            return self._drawn(pair)

        return vote

    async def _pass_over(self, request: gr.Request) -> Updates:
        """No vote: the pair is closed, and the user told who they were."""
        pair = self._pair(request)
        if pair is None or not pair.votable:
            raise nothing()
        pair.skipped = True
        return self._drawn(pair)

    async def _halt(self, request: gr.Request) -> None:
        if (pair := self._pair(request)) is not None:
            pair.stop()

    def _pair(self, request: gr.Request) -> Pair | None:
        return self._pairs.of(request.session_hash)

    def _drawn(self, pair: Pair | None) -> Updates:
        """The tab's picture of a pair."""
        now = time.monotonic_ns()
        running, votable = pair is not None and pair.running, pair is not None and pair.votable
        updates: Updates = {
            self._status: status(pair, now),
            self._ask: gr.update(interactive=not running),
            self._stop: gr.update(interactive=running),
            **{button: gr.update(interactive=votable) for button in (self._skip, *self._votes)},
        }
        for side in self._sides:
            updates |= zip(side.told, revealed(pair, side.number, now), strict=True)
            updates[side.chat] = shown(pair, side.number, now)
        return updates

    # -- the page

    def leave(self, request: gr.Request) -> None:
        """A page is gone."""
        self._pairs.runs.leave(request.session_hash)

    async def _choose(self, chosen: list[str]) -> tuple[tuple[str, ...], str]:
        return tuple(chosen), hint(self._models.known, self._engine.settings, chosen)

    async def _shown(self, request: gr.Request, chosen: tuple[str, ...]) -> list[Any]:
        """What there is to draw from."""
        listing = await self._models.listing(max_age_s=_FRESH_S)
        blind = self._pairs.blind(request.session_hash)
        entries = catalogue.choices(listing.models, chosen, residency=not blind)
        return [hint(listing, self._engine.settings, chosen), gr.update(choices=entries)]


def status(pair: Pair | None, now: int) -> str:
    """What the tab waits for, as HTML; ``data-state`` names it."""
    again = "<kbd>Ctrl</kbd><kbd>Enter</kbd> asks the next pair, without a new message the same."
    if pair is None:
        state, words = "idle", "Two models answer without their names; your vote reveals them."
    elif pair.running:
        asked = min(answer.asked for answer in pair.plan.answers.values())
        state, words = (
            "asking",
            (
                "Two models are asked, one after the other; both answers then appear at one speed. "
                f'<span class="wb-clock">{figures.clock(max(now - asked, 0) / NS)}</span>'
            ),
        )
    elif pair.void:
        state, words = "void", f"No vote on this pair: it has not two whole answers. {again}"
    elif pair.voted:
        said = next(words for _, words, _, choice in _CHOICES if choice == pair.voted)
        seen = _SEEN if pair.told else ""
        state, words = "voted", f"<strong>You said: {escape(said)}.</strong> {seen}{again}"
    elif pair.skipped:
        state, words = "skipped", f"<strong>No vote.</strong> {again}"
    else:
        seen = f" {_SEEN}" if pair.told else ""
        state, words = "vote", f"<strong>Which answer is better?</strong>{seen}"
    return f'<div class="wb-arena" data-state="{state}" aria-live="polite">{words}</div>'


def shown(pair: Pair | None, number: int, now: int) -> list[dict[str, Any]]:
    """The messages of a side; before the vote no more of it than of the other one."""
    if pair is None:
        return []
    answer = pair.plan.answers[number]
    if pair.void or pair.running:
        return to_show([Turn("", "", answer.prompt)], "")
    if not pair.blind:
        return to_show([turn_of(answer)], answer.model)
    text = answer.answer[: pair.shown_chars(now)]
    if not answer.answer.strip():
        text = "`no text`"
    return to_show([Turn("", "", answer.prompt, text)], "")


def revealed(pair: Pair | None, number: int, now: int) -> tuple[str, str, str]:
    """A side's head, figures and notices; before the vote they say nothing."""
    letter = LETTERS[number - 1]
    if pair is None or pair.blind or pair.void:
        return f"{mark(letter, '')}<span>Answer {letter}</span>", "", ""
    answer = pair.plan.answers[number]
    return (
        f'{mark(letter, answer.model)}<span data-model="{escape(answer.model)}">'
        f"{escape(answer.model)}</span>",
        strip.render(answer, now),
        notices.render(answer),
    )


def hint(listing: Listing, settings: Settings, chosen: Sequence[str]) -> str:
    """What is missing for a pair, and the way out; empty when all is there."""
    if not catalogue.has_models(listing.models) and not chosen:
        return hints.render(listing, settings)
    if (count := len(drawable(listing, chosen))) >= FEWEST:
        return ""
    there = "There is one" if count == 1 else "There is none"
    return (
        '<div class="wb-empty" data-hint="few-models"><strong>The arena needs two models</strong>'
        f"<span>{there} to draw from. Choose more below, or bring another in the Models tab.</span>"
        "</div>"
    )


def _side(number: int) -> Side:
    letter = LETTERS[number - 1]
    name = f"arena-side-{letter.lower()}"
    with gr.Column(elem_id=name, elem_classes=["wb-side"], min_width=200):
        head, figures_of, told = revealed(None, number, 0)
        return Side(
            number,
            html(head, elem_id=f"{name}-head", elem_classes=["wb-sidehead"]),
            html(figures_of, elem_id=f"{name}-strip"),
            html(told, elem_id=f"{name}-notice", elem_classes=["wb-notices"]),
            pane.chat_of(name, _EMPTY),
        )


def _button(words: str, name: str) -> gr.Button:
    return gr.Button(
        words,
        size="sm",
        interactive=False,
        elem_id=name,
        elem_classes=["wb-small"],
        scale=0,
        min_width=40,
    )
