"""The user story in a real browser: open the page, run, watch both stream, stop, follow up."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.conftest import DEMO_GGUF
from tests.live import LiveServer
from tests.ollama_standin.fixture import StandIn

pytestmark = [pytest.mark.model, pytest.mark.browser, pytest.mark.timeout(400)]

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SOON, LOADED = 20_000, 120_000  # milliseconds: what the page does itself, and what needs a model
FINAL = re.compile("done|cancelled|error|timeout")


@pytest.fixture(scope="module")
def server(
    demo_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LiveServer, StandIn]]:
    with (
        StandIn(DEMO_GGUF, "--models", "smollm2:135m") as ollama,
        LiveServer(
            tmp_path_factory.mktemp("page"),
            OLLAMA_HOST=ollama.url,
            WORKBENCH_THREADS="1",
            HF_MODEL_PATH=str(demo_folder),
            HF_MODEL_TIMEOUT_MS="120000",
        ) as running,
    ):
        yield running, ollama


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, server: tuple[LiveServer, StandIn]) -> Iterator[Page]:  # type: ignore[no-untyped-def]
    opened = browser.new_page(viewport={"width": 1440, "height": 900})
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(server[0].url)
    yield opened
    opened.close()
    assert complaints == [], "the page's own JavaScript failed"


class Pane:
    """What a user sees of one pane."""

    def __init__(self, page: Page, number: int) -> None:
        self.model = page.locator(f"#pane-{number}-model input")
        self.strip = page.locator(f"#pane-{number}-strip .wb-strip")
        self.chat = page.locator(f"#pane-{number}-chat")
        self.notice = page.locator(f"#pane-{number}-notice")

    def figure(self, name: str) -> float:
        """A figure of the strip in its base unit."""
        value = self.strip.locator(f"[data-metric={name}]").get_attribute("data-value")
        assert value, f"{name} is unknown"
        return float(value)

    def expect_phase(self, phase: str | re.Pattern[str], timeout: int = SOON) -> None:
        expect(self.strip).to_have_attribute("data-phase", phase, timeout=timeout)


def both(page: Page) -> tuple[Pane, Pane]:
    return Pane(page, 1), Pane(page, 2)


def ask(page: Page, prompt: str) -> None:
    expect(page.locator("#run")).to_be_enabled(timeout=SOON)
    page.locator("#prompt textarea").fill(prompt)
    page.keyboard.press("Control+Enter")


def test_main_job(page: Page, server: tuple[LiveServer, StandIn]) -> None:
    """Run with the defaults, follow up, stop, and find it all in the log."""
    first, second = both(page)
    expect(first.model).to_have_value(re.compile("SmolLM2-135M-Instruct"), timeout=SOON)
    expect(second.model).to_have_value(re.compile("smollm2:135m"), timeout=SOON)

    # One keystroke from opening to two answers that stream at the same time.
    ask(page, "Write a long story about a lighthouse.")
    first.expect_phase("answering", LOADED)
    second.expect_phase(re.compile("answering|done"), LOADED)
    page.keyboard.press("Escape")
    for pane in (first, second):
        pane.expect_phase(re.compile("cancelled|done"))
        assert pane.figure("ttft") > 0
        assert pane.figure("tps") > 0
        assert pane.figure("tokens") >= 1
        assert pane.figure("memory") > 50e6
    assert "lighthouse" in first.chat.inner_text()

    # The follow-up carries each pane's own history.
    ask(page, "And one sentence about the sea.")
    for pane in (first, second):
        # A second answer first: until it begins, the strip still shows how the first one ended.
        expect(pane.chat.locator(".message.bot")).to_have_count(2, timeout=LOADED)
        pane.expect_phase(re.compile("answering|done"), LOADED)
    page.keyboard.press("Escape")
    for pane in (first, second):
        pane.expect_phase(re.compile("cancelled|done"))

    log = server[0]
    turns = log.query(
        "SELECT provider, source, count(*), count(DISTINCT conversation_id) "
        "FROM stream_sessions GROUP BY ALL ORDER BY provider"
    )
    assert turns == [["huggingface", "ui", 2, 1], ["ollama", "ui", 2, 1]]
    roles = log.query("SELECT list(role ORDER BY position) FROM messages GROUP BY conversation_id")
    assert roles == [[["user", "assistant", "user", "assistant"]]] * 2


def test_memory_is_shown_and_models_come_and_go_by_hand(
    page: Page, server: tuple[LiveServer, StandIn], demo_safetensors: str
) -> None:
    memory = page.locator("#models-memory")
    line = memory.locator(f'tr[data-model="{demo_safetensors}"]')

    def press(name: str) -> None:
        page.locator(f"#models-{name}").click()

    page.get_by_role("tab", name="Models").click()
    expect(page.locator("#models-table")).to_contain_text("smollm2:135m", timeout=SOON)
    page.locator("#models-chosen input").click()
    page.get_by_role("option", name=demo_safetensors, exact=True).click()
    press("load")
    expect(line).to_contain_text("idle", timeout=LOADED)
    expect(line).to_have_attribute("data-held", re.compile(r"\d{8,}"), timeout=SOON)
    expect(memory.locator(".wb-part[data-kind=model]").first).to_be_visible()
    press("pin")
    expect(line).to_contain_text("pinned", timeout=SOON)
    expect(page.locator("#models-pin")).to_have_text("Unpin", timeout=SOON)
    press("pin")
    expect(page.locator("#models-pin")).to_have_text("Pin", timeout=SOON)
    press("unload")
    expect(line).to_have_count(0, timeout=SOON)
    expect(memory.locator(".wb-next")).to_contain_text("it fits", timeout=SOON)
    expect(page.locator("#models-queue")).to_contain_text("Nobody waits")
    expect(page.locator("#machine [data-metric=memory]")).to_contain_text("GB")


def test_error_of_one_pane_leaves_the_other(page: Page, server: tuple[LiveServer, StandIn]) -> None:
    _, ollama = server
    first, second = both(page)
    expect(second.model).to_have_value(re.compile("smollm2:135m"), timeout=SOON)
    ollama.kill()
    try:
        ask(page, "Name three colors.")
        second.expect_phase("error", LOADED)
        expect(second.notice).to_contain_text("OLLAMA_UNREACHABLE")
        expect(second.notice).to_contain_text("ollama serve")
        first.expect_phase("done", LOADED)
        assert first.figure("tokens") >= 1
    finally:
        ollama.start()


def test_bad_input_is_explained(page: Page) -> None:
    first, _ = both(page)
    expect(first.model).to_have_value(re.compile("SmolLM2"), timeout=SOON)
    ask(page, "   ")
    expect(page.locator("body")).to_contain_text("The prompt is empty", timeout=SOON)
    page.locator("#prompt textarea").evaluate(
        "(box, text) => { box.value = text; box.dispatchEvent(new Event('input')) }",
        "x" * 1_000_000,
    )
    page.locator("#prompt textarea").press("Control+Enter")
    expect(page.locator("body")).to_contain_text("WORKBENCH_MAX_PROMPT_BYTES", timeout=SOON)


def test_history_shows_what_was_asked_and_opens_it_again(page: Page) -> None:
    first, second = both(page)
    expect(first.model).to_have_value(re.compile("SmolLM2"), timeout=SOON)
    page.get_by_role("tab", name="History").click()
    rows = page.locator("#history-list tr[data-session]")
    expect(rows.filter(has_text="lighthouse")).to_have_count(2, timeout=SOON)
    rows.filter(has_text="lighthouse").first.click()
    expect(page.locator("#history-chosen")).to_contain_text("ttft_s", timeout=SOON)
    for plot in ("gaps", "memory"):
        drawn = page.locator(f"#history-{plot} .js-plotly-plot")
        expect(drawn).to_be_visible(timeout=SOON)
    expect(page.locator("#history-memory")).to_contain_text(
        re.compile("answering|loading"),
        timeout=SOON,  # a phase too short for its name has none
    )
    page.locator("#history-open").click()
    for pane in (first, second):
        expect(pane.chat).to_contain_text("lighthouse", timeout=SOON)
        pane.expect_phase(re.compile("cancelled|done"))
        assert pane.figure("ttft") > 0
    page.get_by_role("tab", name="Models").click()
    expect(page.locator("#models-table")).to_contain_text("smollm2:135m", timeout=SOON)


def test_insight_names_causes_and_shows_where_answers_part(page: Page) -> None:
    expect(page.locator("#pane-1-model input")).to_have_value(re.compile("SmolLM2"), timeout=SOON)
    page.locator("#why").click()  # the Compare tab's models come along
    expect(page.locator("#insight-a input")).to_have_value(re.compile("SmolLM2"), timeout=SOON)
    expect(page.locator("#insight-b input")).to_have_value(re.compile("smollm2:135m"))
    found = page.locator("#insight-found")
    page.locator("#insight-parity").click()
    expect(page.locator("#insight-notice")).to_contain_text("prompt is empty", timeout=SOON)
    page.locator("#insight-prompt textarea").fill("Name <b>three</b> colors.")
    page.locator("#insight-parity").click()
    expect(found).to_contain_text("adds a system prompt of its own", timeout=LOADED)
    expect(found.locator("del")).to_contain_text("You are a helpful AI assistant")
    expect(found).to_contain_text("Name <b>three</b> colors.")
    page.locator("#insight-system textarea").fill("Be brief.")
    page.locator("#insight-diverge").click()
    expect(found).to_contain_text("as ollama/smollm2:135m reads it", timeout=LOADED)
    expect(found).to_contain_text("mean divergence")
    assert found.locator("span[title]").count() > 5, "tokens tell what else was likely"
