"""The table of models: units, what the log knows, and what is on its way to disk."""

from __future__ import annotations

import datetime as dt
import re

from tests.conftest import EngineFactory
from tests.ui.test_runs import BROKEN, SHORT
from workbench.jobs import Job
from workbench.store import Store
from workbench.types import ChatRequest, Message, ModelInfo
from workbench.ui import stock

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


def cells(shown: str, model: str) -> list[str]:
    row = re.search(rf'<tr data-row="{re.escape(model)}".*?</tr>', shown)
    assert row
    return [re.sub("<.*?>", "", cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row[0])]


def test_rows_have_units_and_dashes() -> None:
    info = ModelInfo(
        id="ollama/x",
        name="x",
        provider="ollama",
        size_bytes=92_000_000,
        context_length=8192,
        quantization="Q4_1",
        problem="<broken>",
    )
    shown = stock.render([info], use={"ollama/x": stock.Use(1200, 3, NOW)})
    assert cells(shown, "ollama/x") == [
        *("ollama/x&lt;broken&gt;", "available", "92 MB", "–", "–", "Q4_1", "–", "8,192"),
        *("1,200", "3", "03-01 12:00"),
    ]
    assert "No model yet" in stock.render([])


async def test_the_log_tells_requests_errors_and_last_use(
    make_engine: EngineFactory, store: Store
) -> None:
    engine = make_engine({"a": SHORT, "b": BROKEN})
    for name in "aab":
        request = ChatRequest(f"scripted/{name}", (Message("user", "hi"),))
        async for _ in engine.stream(request):
            pass
    use = stock.used(store, 5)
    assert {model: (one.requests, one.errors) for model, one in use.items()} == {
        "scripted/a": (2, 0),
        "scripted/b": (1, 1),
    }
    listing = await engine.list_models()
    shown = stock.render(listing.models, use=use, chosen="scripted/b")
    assert cells(shown, "scripted/b")[8:10] == ["1", "1"]
    assert shown.count('aria-selected="true"') == 1


def test_every_job_has_its_bar_and_its_button() -> None:
    jobs = [
        Job("job_1", "download", "ollama/<x>", NOW, "running", 25_000_000, 100_000_000, "pulling"),
        Job("job_2", "download", "huggingface/org/name", NOW, "queued"),
    ]
    shown = stock.coming(jobs)
    assert 'value="25"' in shown
    assert "25 MB of 100 MB" in shown
    assert "ollama/&lt;x&gt;" in shown
    assert [*re.findall(r'data-stop="(\w+)"', shown)] == ["job_1", "job_2"]
