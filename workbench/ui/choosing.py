"""The pickers of the Compare tab: filled, kept up to date, helped to a first model."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

import gradio as gr

from workbench.errors import WorkbenchError
from workbench.ui import catalogue, hints, notices, pane, tabs
from workbench.ui.catalogue import Catalogue
from workbench.ui.desk import QUIET, Desk, Updates
from workbench.ui.pairs import Pairs

WATCH_S: Final = 5.0
"""How often an idle page looks whether models or runtimes have appeared."""


class Choosing:
    """Wires the pickers.

    Args:
        desk: the tab's components.
        models: the shared listing.
        pairs: while a page's pair is open, its lists do not say who has come into memory.
    """

    def __init__(self, desk: Desk, models: Catalogue, pairs: Pairs) -> None:
        self._desk = desk
        self._models = models
        self._pairs = pairs
        self.listed = gr.State("")
        """What the dropdowns hold, so that they are filled anew only when that has changed."""
        gr.Timer(WATCH_S).tick(self._look, self.listed, self.listed, **QUIET)
        self.listed.change(self._relist, desk.models, self.outputs, **QUIET)
        desk.get_demo.click(self._fetch_demo, desk.models, self.outputs, **QUIET)

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`choices` speaks of."""
        desk = self._desk
        return [*desk.models, *(p.badge for p in desk.panes), desk.hint, desk.get_demo, desk.tabs]

    async def fresh(self) -> Sequence[str | None]:
        """The listing asked for anew; the models that a page without wishes begins with."""
        listing = await self._models.listing(max_age_s=1.0)
        return catalogue.preselect(listing.models)

    def free(self, taken: Sequence[str | None]) -> str | None:
        """The next model of the list that no pane has: most often the one that is wanted."""
        listing = self._models.known.models
        return next((m for m in catalogue.preselect(listing, 99) if m and m not in taken), None)

    def fingerprint(self) -> str:
        """Changes when the dropdowns must be filled anew."""
        known = self._models.known
        return repr((catalogue.choices(known.models), [*known.problems]))

    def choices(
        self,
        models: Sequence[str | None],
        *,
        set_values: bool = False,
        residency: bool = True,
    ) -> Updates:
        """The pickers' lists and the hints; their values too if wanted."""
        desk, listing = self._desk, self._models.known
        entries = catalogue.choices(listing.models, models, residency=residency)
        updates: Updates = {
            desk.hint: hints.render(listing, desk.engine.settings),
            desk.get_demo: gr.update(visible=not catalogue.has_models(listing.models)),
        }
        for one, model in zip(desk.panes, models, strict=True):
            chosen = {"value": model} if set_values else {}
            updates[one.model] = gr.update(choices=entries, **chosen)
            if set_values:
                updates[one.badge] = pane.badge(one.number, model)
        return updates

    async def _look(self, request: gr.Request, listed: str) -> str:
        """Whether something has appeared or gone.

        Nothing is asked while answers come: listing makes work for the runtimes.
        """
        if self._desk.engine.active_sessions or self._pairs.blind(request.session_hash):
            return listed
        await self._models.listing(max_age_s=WATCH_S / 2)
        return self.fingerprint()

    async def _relist(self, *models: str | None) -> Updates:
        """Show what has changed without touching what was chosen; a first model is preselected."""
        known = self._models.known.models
        if any(models) or not catalogue.has_models(known):
            return self.choices(models)
        wanted = catalogue.preselect(known, pane.FIRST_SHOWN)
        return self._preselected([*wanted, *models[len(wanted) :]])

    def _preselected(self, wanted: Sequence[str | None]) -> Updates:
        shown = range(1, pane.FIRST_SHOWN + 1)
        return {
            **self.choices(wanted, set_values=True),
            self._desk.tabs: tabs.render(shown, wanted),
        }

    async def _fetch_demo(self, *models: str | None) -> AsyncGenerator[Any, None]:
        """Bring the demo model to disk, saying at each step what is done."""
        from workbench.hf.demo import ensure_demo

        desk = self._desk
        loop = asyncio.get_running_loop()
        lines: asyncio.Queue[str] = asyncio.Queue()

        def say(line: str) -> None:
            loop.call_soon_threadsafe(lines.put_nowait, line)

        fetching = asyncio.create_task(asyncio.to_thread(ensure_demo, desk.engine.settings, say))
        yield {desk.get_demo: gr.update(interactive=False)}
        line, started = "Starting", time.monotonic()
        while not fetching.done():
            with contextlib.suppress(TimeoutError):
                line = await asyncio.wait_for(lines.get(), 1.0)
            yield {desk.hint: hints.progress(line, time.monotonic() - started)}
        button = {desk.get_demo: gr.update(interactive=True)}
        if isinstance(problem := fetching.exception(), WorkbenchError):
            yield {**button, desk.hint: notices.error_card(problem)}
            return
        fetching.result()
        await self._models.listing()
        wanted = catalogue.preselect(self._models.known.models)
        yield {**button, **self._preselected([*wanted, *models[len(wanted) :]])}
