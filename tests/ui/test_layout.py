"""The page builds, has the ids that others rely on, and gives nothing away."""

from __future__ import annotations

import re
from typing import Any

import gradio as gr
import pytest

from tests.conftest import EngineFactory
from workbench.bench.service import Benchmarks
from workbench.client.roads import LocalRoad
from workbench.observe.health import HealthMonitor
from workbench.observe.timeline import MemoryTimeline
from workbench.ui import frontend
from workbench.ui.desk import news
from workbench.ui.page import build_page
from workbench.ui.theme import mount_options

IDS = [
    *("prompt", "run", "stop", "run-isolated", "add-pane", "new-conversation", "timing-mode"),
    *("options", "system", "timeline", "hint", "get-demo", "brand", "machine", "tabs"),
    *("models-table", "models-load", "models-unload", "history-list", "history-words"),
    *("health-parts", "health-memory", "health-alerts", "health-lines", "health-doctor"),
    *("models-memory", "models-queue", "models-pin"),
    *("bench-spec", "bench-text", "bench-start", "bench-stop", "bench-run", "bench-against"),
    *(
        f"pane-{n}-{part}"
        for n in range(1, 7)
        for part in ("model", "strip", "chat", "stop", "again")
    ),
]


@pytest.fixture
async def config(make_engine: EngineFactory) -> dict[str, Any]:
    """What the browser is told of the page; built in a running loop, as in the server."""
    engine = make_engine()
    benchmarks = Benchmarks(LocalRoad(engine, "ui"), engine.settings)
    health, timeline = HealthMonitor(engine), MemoryTimeline(engine)
    return dict(build_page(engine, benchmarks, health, timeline).get_config_file())


def test_ids_are_there_once(config: dict[str, Any]) -> None:
    found = [component["props"].get("elem_id") for component in config["components"]]
    assert {name: found.count(name) for name in IDS} == dict.fromkeys(IDS, 1)


def test_no_handler_is_an_open_endpoint(config: dict[str, Any]) -> None:
    """The page's events are not an API: that has its own checks."""
    public = [d["api_name"] for d in config["dependencies"] if d["api_visibility"] == "public"]
    assert public == []


def test_page_is_told_to_fetch_nothing_from_elsewhere() -> None:
    options = mount_options()
    assert "://" not in options["head"]  # and the policy in the server's headers sees to it
    assert options["footer_links"] == []
    assert options["run_history"] is False
    assert "fonts.googleapis" not in str(options["theme"]._get_theme_css())


def test_what_a_page_needs_first_is_told_in_its_head(config: dict[str, Any]) -> None:
    """No file that these import is missing, and nothing is there that only a later tab needs."""
    built = frontend.folder()
    shown = frontend.kinds(config)
    assert {"tabs", "chatbot", "dropdown", "html"} <= shown
    assert shown.isdisjoint({"plot", "dataframe", "code", "number"})
    files = frontend.needed(built, shown)
    assert files[0] in (built / "index.html").read_text()
    assert {"Blocks", "core", "Index", "HTML"} <= {name.partition("-")[0] for name in files}
    scripts = [name for name in files if name.endswith(".js")]
    assert len(set(files)) == len(files) > len(scripts) > 30
    for name in scripts:
        text = (built / "assets" / name).read_text()
        assert set(re.findall(r'(?:from|import)"\./([\w.-]+)"', text)) <= {*scripts}, name
    head = frontend.head(files, "hash")
    assert all(f"./assets/{name}" in head for name in files)


async def test_a_fresh_page_is_sent_what_it_does_not_show_yet() -> None:
    with gr.Blocks():
        button, words, state = gr.Button("Go", interactive=False), gr.HTML("a"), gr.State(1)
    known = {button: gr.update(interactive=False, visible=True), words: "a", state: 1}
    assert news(known) == {state: 1}
    assert news({button: gr.update(interactive=True, visible=True), words: "b"}) == {
        button: gr.update(interactive=True),
        words: "b",
    }
