"""The Health tab over a real engine: parts, alerts, log lines by id, the doctor's findings."""

from __future__ import annotations

import datetime as dt

import gradio as gr
import structlog

from tests.conftest import EngineFactory
from tests.ui.test_runs import SHORT
from workbench import logs
from workbench.doctor.findings import Finding
from workbench.observe.health import Health, HealthMonitor, Part
from workbench.observe.timeline import MemoryTimeline
from workbench.pressure import Alert
from workbench.store import ModelEvent
from workbench.types import ChatRequest, Message
from workbench.ui.health import HealthTab, parts
from workbench.ui.health import tab as tab_module

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


async def test_a_look_shows_parts_alerts_and_the_doctor(make_engine: EngineFactory) -> None:
    engine = make_engine({"a": SHORT})
    timeline = MemoryTimeline(engine)
    timeline.note()
    timeline.note()
    with gr.Blocks():
        tab = HealthTab(engine, HealthMonitor(engine), timeline)
    shown, alerts, plot, looks = await tab._look(0)
    assert 'data-part="store" data-status="ok"' in shown
    assert "No alert stands" in alerts
    assert plot.layout.yaxis.title.text == "host, GB"
    died = ModelEvent(event="died", provider="ollama", t_ns=1, ok=False, reason="killed <9>")
    engine.store.log_model_event(died).result()
    for code in ("MODEL_NOT_FOUND", "HF_MODEL_NOT_FOUND", "HF_MEMORY_EXCEEDED"):
        details, reason = {"code": code}, f"{code}: no"
        refused = ModelEvent("refuse", "huggingface", 2, ok=False, reason=reason, details=details)
        engine.store.log_model_event(refused).result()
    _, alerts, plot, _ = await tab._look(looks)
    assert "killed &lt;9&gt;" in alerts
    assert "HF_MEMORY_EXCEEDED: no" in alerts
    assert "NOT_FOUND" not in alerts, "a wrong name is nothing that went wrong here"
    marked = engine.store.rows(tab_module._EVENTS, {"since": LONG_AGO})
    assert [row["event"] for row in marked] == ["died"]
    assert not hasattr(plot, "layout"), "a browser draws a plot anew: not at every look"
    said = await tab.first_opinion()
    assert "held by this server" in said
    assert await tab.first_opinion() == said, "asked once, until it is asked again"


async def test_lines_of_a_request_are_found_by_its_id(make_engine: EngineFactory) -> None:
    before = structlog.get_config()
    try:
        logs.configure("INFO")
        logs.keep(100)
        logs.hide("s3cret-of-mine")
        engine = make_engine({"a": SHORT})
        with gr.Blocks():
            tab = HealthTab(engine, HealthMonitor(engine), MemoryTimeline(engine))
        question = Message("user", "WORDS-OF-A-PROMPT")
        request = ChatRequest("scripted/a", (question,), correlation_id="cor_mine")
        async for _ in engine.stream(request):
            pass
        logs.get("test").info("told", token="s3cret-of-mine", correlation_id="cor_mine")
        found = tab._find(" cor_mine ")
        assert "model_operation" in found
        assert "told" in found
        assert "cor_other" not in found
        for secret in ("s3cret-of-mine", "WORDS-OF-A-PROMPT"):
            assert secret not in tab._find("")
        assert "None of the last" in tab._find("cor_other")
        for n in range(200):
            logs.get("test").info("filling", n=n)
        assert len(logs.kept(most=1000)) == 100, "as many as are kept"
    finally:
        logs.keep(0)
        structlog.configure(**before)


def test_what_is_wrong_stands_with_its_fix() -> None:
    down = Part("down", "No answer. Start it.", "Start it.", last_good_at=NOW, last_good_age_s=75)
    shown = parts.render(Health("degraded", {"ollama": down, "disk": Part("ok")}))
    assert shown.count("Start it.") == 1
    assert "75.0 s ago" in shown
    assert "not since the start" in shown
    alert = Alert("host", "critical", 15 * 10**9, 16 * 10**9, 0)
    assert "nearly used up" in parts.alerts([alert], [])
    told = parts.findings(
        [Finding("a", "ok", "fine"), Finding("b", "bad", "<broken>", "Mend it.")], NOW
    )
    assert told.index("&lt;broken&gt;") < told.index("fine")
    assert "1 bad, 0 to note, 1 well" in told
    assert "WORKBENCH_LOG_LINES is 0" in parts.lines([], "", 0)
