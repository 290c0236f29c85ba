"""The page: header, tabs, and what they share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import gradio as gr

from workbench.bench.service import Benchmarks
from workbench.engine import Engine
from workbench.observe.health import HealthMonitor
from workbench.observe.timeline import MemoryTimeline
from workbench.ui.arena import ArenaTab
from workbench.ui.benchmarks import BenchmarksTab
from workbench.ui.catalogue import Catalogue
from workbench.ui.compare import CompareTab
from workbench.ui.desk import KEPT, Updates, news
from workbench.ui.header import Header
from workbench.ui.health import HealthTab
from workbench.ui.history import HistoryTab
from workbench.ui.insight import InsightTab
from workbench.ui.models import ModelsTab
from workbench.ui.pairs import Pairs

_LOOK_S: Final = 0.01
_SCHEMAS: Final = ("api_info", "api_info_as_input", "api_info_as_output", "example_inputs")


class Page(gr.Blocks):  # type: ignore[misc]  # gradio has no types that mypy could follow
    """Blocks that tell the browser no more than it needs.

    The schemas of an API that the page has not are half of what gradio would send. And gradio's
    script goes through every component that could show that it waits, with each event of any
    handler, ten times a second while answers come; those that show nothing of the kind name none.
    The queue of its events looks for one a thousand times a second, for as long as the server runs,
    on the loop that stamps Ollama's tokens and beside the threads that compute: here a hundred
    times.
    """

    def queue(self, *args: Any, **options: Any) -> Any:
        """See ``gradio.Blocks``."""
        made = super().queue(*args, **options)
        self._queue.sleep_when_free = _LOOK_S
        return made

    def get_config_file(self) -> Any:
        """See ``gradio.Blocks``."""
        config: Any = super().get_config_file()
        for component in config["components"]:
            for name in _SCHEMAS:
                component.pop(name, None)
        for handler in config["dependencies"]:
            if handler["show_progress"] == "hidden":
                handler["show_progress_on"] = []
        return config


def _clocks(tab: gr.Tab, ticking: Mapping[gr.Tab, gr.Timer]) -> None:
    """Let the timer of this tab run and the others stand still once it is in sight.

    In the browser, as an answer of the server may come after that of the tab chosen next.
    """
    each = ", ".join(
        f"{{ __type__: 'update', active: {'true' if its is tab else 'false'} }}" for its in ticking
    )
    tab.select(None, None, list(ticking.values()), js=f"() => [{each}]")


def build_page(
    engine: Engine, benchmarks: Benchmarks, health: HealthMonitor, timeline: MemoryTimeline
) -> gr.Blocks:
    """The whole page over an engine; mount it with :func:`workbench.ui.theme.mount_options`.

    Its handlers are coroutines and must run in the engine's event loop, which they do in the
    server that mounts it.
    """
    models, pairs = Catalogue(engine), Pairs(engine)
    # gradio's own telemetry is off: the page talks to nobody but its server.
    with Page(title="Workbench", analytics_enabled=False, fill_width=True) as page:
        header = Header(engine, pairs)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Compare", id="compare-tab") as compare_tab:
                compare = CompareTab(engine, models, pairs)
            with gr.Tab("Arena", id="arena-tab") as arena_tab:
                arena = ArenaTab(engine, models, pairs)
            with gr.Tab("Models", id="models-tab") as models_tab:
                table = ModelsTab(engine, models)
            with gr.Tab("Benchmarks", id="benchmarks-tab") as benchmarks_tab:
                bench = BenchmarksTab(engine, benchmarks, models)
            with gr.Tab("History", id="history-tab") as history_tab:
                history = HistoryTab(engine, models)
            with gr.Tab("Insight", id="insight-tab") as insight_tab:
                insight = InsightTab(engine, models)
            with gr.Tab("Health", id="health-tab") as health_tab:
                state = HealthTab(engine, health, timeline)
        insight_tab.select(insight.refresh, insight.pickers, insight.pickers, **insight.SILENT)
        models_tab.select(table.refresh, table.inputs, table.outputs, **table.SILENT)
        memory = table.memory
        models_tab.select(memory.look, None, memory.outputs, **table.SILENT)
        bench.on_select(benchmarks_tab)
        every = (
            compare_tab,
            arena_tab,
            models_tab,
            benchmarks_tab,
            history_tab,
            insight_tab,
            health_tab,
        )
        ticking = {models_tab: memory.timer, benchmarks_tab: bench.timer, health_tab: state.timer}
        for tab in every:
            _clocks(tab, ticking)
        history_tab.select(history.refresh, history.inputs, history.outputs, **history.SILENT)
        history_tab.select(history.models, None, history.others, **history.SILENT)
        history.wire(compare, tabs)
        state.wire(health_tab)
        insight.wire(compare.desk, tabs)
        arena.on_select(arena_tab)
        for tab in (models_tab, history_tab, health_tab):
            arena.on_names(tab)

        async def opening(request: gr.Request, tab: str | None, *told: str | None) -> Updates:
            pair = pairs.join(request.session_hash, tab)
            filled = await compare.opening(request, tab, *told)
            return news({**filled, **arena.opening(pair), **header.opening(request)})

        # One event for all, and its answer in that of its own request: a page is waiting for it.
        page.load(
            opening,
            [gr.Textbox(visible=False) for _ in range(3)],
            [*compare.opening_outputs, arena.resumed, *header.outputs],
            js=KEPT,
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
        page.unload(compare.leave)
        page.unload(arena.leave)
    return page
