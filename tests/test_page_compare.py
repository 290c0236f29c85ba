"""The Compare tab in a real browser, with models that play known schedules."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests import warm
from tests.conftest import ROOT
from tests.live import measured
from tests.test_page import SOON, Pane, ask
from tests.test_page import browser as browser

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

PICTURE = b"\x89PNG\r\n\x1a\n and so on"

Log = Callable[[str], list[list[Any]]]
Open = Callable[..., Page]
ENDED = re.compile("done|error|cancelled")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Address and token."""
    folder = tmp_path_factory.mktemp("page")
    process = warm.popen(
        ["-m", "tests.page_server"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env={
            **measured(),
            "PATH": "/usr/bin:/bin",
            "WORKBENCH_DB": str(folder / "log.duckdb"),
            "HF_MODEL_PATH": str(folder / "models"),
            "HF_HUB_CACHE": str(folder / "hub"),
            "OLLAMA_HOST": "127.0.0.1:9",
            "WORKBENCH_OFFLINE": "true",
        },
    )
    assert process.stdout is not None
    yield process.stdout.readline().split()
    process.terminate()
    process.wait(30)
    process.stdout.close()


@pytest.fixture(scope="module")
def address(server: list[str]) -> str:
    return server[0]


@pytest.fixture
def log(server: list[str]) -> Log:
    """Rows of the server's log."""

    def query(sql: str) -> list[list[Any]]:
        address, token = server
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx.post(
            f"{address}/api/v1/query", json={"sql": sql}, headers=headers, trust_env=False
        )
        return list(answer.json()["rows"])

    return query


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[Open]:
    """Opens the page with models of ``scripted``; its own JavaScript must not fail."""
    complaints: list[str] = []
    contexts = []

    def opened(*models: str, query: str = "", **settings: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        listed = ",".join(f"scripted/{model}" for model in models)
        page.goto(f"{address}/?models={listed}{query}")
        for number, model in enumerate(models, start=1):
            expect(page.locator(f"#pane-{number}-model input")).to_have_value(
                re.compile(model), timeout=SOON
            )
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == [], "the page's own JavaScript failed"


def ended(page: Page, *panes: int) -> list[Pane]:
    found = [Pane(page, number) for number in panes]
    for pane in found:
        pane.expect_phase(ENDED)
    expect(page.locator("#run")).to_be_enabled(timeout=SOON)
    return found


def test_six_panes_by_keyboard_alone(open_page: Open) -> None:
    page = open_page("fox", "cat", "maths", "failing", "nothing")
    page.locator("#add-pane").press("Enter")
    expect(page.locator("#pane-6")).to_be_visible(timeout=SOON)
    expect(page.locator("#add-pane")).to_be_disabled(timeout=SOON)
    ask(page, "What is it?")
    expect(page.get_by_test_id("toast-body")).to_contain_text("Pane F has no model", timeout=SOON)
    # A name that no list has, typed and left with Tab: refused in its pane, never another asked.
    picker = page.locator("#pane-6-model input")
    picker.fill("scripted/focks")
    picker.press("Tab")
    expect(picker).to_have_value(re.compile("scripted/focks"))
    expect(page.locator(".wb-pane [role=listbox]")).to_have_count(0)
    page.keyboard.press("Control+Enter")
    expect(Pane(page, 6).notice).to_contain_text("MODEL_NOT_FOUND", timeout=SOON)
    panes = ended(page, 1, 2, 3, 4, 5)
    expect(panes[2].chat.locator(".katex").first).to_be_visible(timeout=SOON)
    expect(panes[2].chat).to_contain_text("costs $5 or $6")
    expect(panes[2].chat.get_by_role("button", name="thinking")).to_be_visible()
    expect(panes[3].notice).to_contain_text("HF_GENERATION_FAILED")
    expect(panes[4].notice).to_contain_text("ended without text")
    page.keyboard.press("Alt+3")
    assert page.evaluate("document.activeElement.id") == "pane-3"
    page.locator("#pane-3-expand").press("Enter")
    expect(page.locator("#pane-1")).to_be_hidden()
    page.keyboard.press("Alt+1")
    expect(page.locator("#pane-3")).to_be_hidden()
    page.locator("#pane-1-expand").press("Enter")
    expect(page.locator("#pane-3")).to_be_visible()
    page.locator("#pane-6-remove").press("Enter")
    expect(page.locator("#pane-6")).to_be_hidden(timeout=SOON)


def test_own_options_again_and_continue_in_all(open_page: Open) -> None:
    page = open_page("fox", "steady", query="&own2=max_tokens%3D7")
    expect(page.locator("#pane-2-own input, #pane-2-own textarea")).to_have_value("max_tokens=7")
    ask(page, "What is it?")
    fox, steady = ended(page, 1, 2)
    assert steady.figure("tokens") == 7
    page.locator("#pane-2-own input, #pane-2-own textarea").fill("max_tokens=9")
    page.locator("#pane-2-again").click()
    expect(steady.strip.locator("[data-metric=tokens]")).to_have_attribute(
        "data-value", "9", timeout=SOON
    )
    ended(page, 1, 2)
    assert fox.figure("tokens") == 10, "the other pane keeps its answer and figures"
    expect(steady.chat.get_by_text("What is it?")).to_have_count(1)
    page.locator("#pane-1-spread").click()
    expect(steady.chat).to_contain_text("written by scripted/fox", timeout=SOON)
    expect(steady.chat).to_contain_text("It is red.")


def test_differences_vote_and_scrolling_together(open_page: Open, log: Log) -> None:
    page = open_page("fox", "cat", "lines", "lines")
    page.keyboard.press("Alt+d")
    expect(page.locator("#diff")).to_contain_text("Two answers are needed", timeout=SOON)
    ask(page, "What is it?")
    expect(page.locator("#diff del").first).to_have_text("brown fox ", timeout=SOON)
    expect(page.locator("#diff ins").first).to_have_text("grey cat ")
    page.locator("#diff-pair").get_by_text("C and D").click()
    expect(page.locator("#diff")).to_contain_text("the same, word for word", timeout=SOON)
    page.keyboard.press("Alt+d")
    expect(page.locator("#diff-view")).to_have_count(0, timeout=SOON)
    ended(page, 1, 2, 3, 4)
    page.locator("#sync-scroll input").check()
    wraps = [page.locator(f"#pane-{n}-chat .panel-wrap") for n in (3, 4)]
    wraps[0].hover()
    page.mouse.wheel(0, -100_000)
    for wrap in wraps:
        expect(wrap).to_have_js_property("scrollTop", 0)
    page.locator("#vote").get_by_text("B is better").click()
    expect(page.locator("#vote input").first).to_be_disabled(timeout=SOON)
    assert log("SELECT model_a, model_b, winner FROM votes WHERE model_a LIKE '%fox'") == [
        ["scripted/fox", "scripted/cat", "b"]
    ]


def test_what_is_shared_opens_again_and_what_was_said_is_exported(open_page: Open) -> None:
    page = open_page("fox", "cat", query="&temperature=0&own2=seed%3D7")
    ask(page, "What is it?")
    ended(page, 1, 2)
    page.locator("#export summary").click()
    with page.expect_download() as saved:
        page.locator("#export").get_by_text("Markdown").click()
    assert "It is old." in saved.value.path().read_text()
    page.locator("#share").click()
    address = page.locator("#share-address").locator("input, textarea")
    expect(address).to_have_value(re.compile(r"prompt=What\+is\+it"), timeout=SOON)
    page.locator("#prompt textarea").fill("Is it & was it?")
    page.locator("#share").click()
    expect(address).to_have_value(re.compile(r"prompt=Is\+it"), timeout=SOON)
    page.goto(address.input_value())
    expect(page.locator("#prompt textarea")).to_have_value("Is it & was it?", timeout=SOON)
    expect(page.locator("#pane-2-model input")).to_have_value(re.compile("scripted/cat"))
    expect(page.locator("#pane-2-own input, #pane-2-own textarea")).to_have_value("seed=7")
    assert Pane(page, 1).strip.get_attribute("data-phase") == "idle"


def test_presets_and_prompts_are_kept_and_used_again(open_page: Open) -> None:
    page = open_page("fox", "cat", query="&temperature=0&own2=seed%3D7")

    def unfold() -> None:
        page.get_by_role("button", name="Presets and prompts").click()

    unfold()
    names, presets = page.locator("#prompt-library-name input"), page.locator("#preset-name input")
    names.fill("json")
    page.get_by_role("option", name="Strict JSON").click()
    page.locator("#prompt-library-use").click()
    message = page.locator("#prompt textarea")
    expect(message).to_have_value(re.compile("capital of Japan"), timeout=SOON)
    message.fill("Is it?")
    names.fill("Mine")
    page.locator("#prompt-library-save").click()
    presets.fill("Two animals")
    page.locator("#preset-save").click()
    presets.fill("Two")
    expect(page.get_by_role("option", name="Two animals")).to_be_visible(timeout=SOON)

    other = open_page("lines")  # another user, another comparison
    ask(other, "Go.")
    ended(other, 1)
    other.get_by_role("button", name="Presets and prompts").click()
    other.locator("#preset-name input").fill("Two")
    other.get_by_role("option", name="Two animals").click()
    other.locator("#preset-use").click()
    expect(other.locator("#pane-2-model input")).to_have_value(re.compile("cat"), timeout=SOON)
    expect(other.locator("#prompt textarea")).to_have_value("Is it?")
    expect(other.locator("#pane-2-own input, #pane-2-own textarea")).to_have_value("seed=7")
    expect(Pane(other, 1).chat).not_to_contain_text("Go.")
    other.locator("#preset-delete").click()
    expect(other.locator("#preset-name input")).to_have_value("", timeout=SOON)


def test_images_go_to_models_that_see(open_page: Open, log: Log) -> None:
    page = open_page("seer", "fox")
    files = page.locator("#image-files")
    files.set_input_files({"name": "a.gif", "mimeType": "image/png", "buffer": b"GIF89a"})
    expect(page.locator("body")).to_contain_text("no picture in PNG or JPEG", timeout=SOON)
    picture = {"name": "a.png", "mimeType": "image/png", "buffer": PICTURE}
    files.set_input_files([picture, picture])
    expect(page.locator("#drop-images")).to_contain_text("2 images", timeout=SOON)
    page.locator("#drop-images").click()
    expect(page.locator("#drop-images")).to_have_count(0, timeout=SOON)
    files.set_input_files(picture)
    expect(page.locator("#drop-images")).to_contain_text("1 image", timeout=SOON)
    ask(page, "What is it?")
    seer, fox = Pane(page, 1), Pane(page, 2)
    expect(seer.chat).to_contain_text("I see something.", timeout=SOON)
    expect(seer.chat).to_contain_text("with an image")
    expect(fox.notice).to_contain_text("scripted/fox takes no images", timeout=SOON)
    expect(page.locator("#drop-images")).to_have_count(0, timeout=SOON)
    expect(page.locator("#run")).to_be_enabled(timeout=SOON)
    page.locator("#pane-1-again").click()  # the same question, its image too
    expect(page.locator("#run")).to_be_enabled(timeout=SOON)
    seen = (
        "SELECT details->'images'->0->>'size_bytes' FROM stream_sessions WHERE model LIKE '%seer'"
    )
    for _ in range(100):
        if len(rows := log(seen)) == 2:
            break
        page.wait_for_timeout(100)
    assert rows == [[str(len(PICTURE))]] * 2


def test_narrow_window_shows_panes_as_tabs(open_page: Open) -> None:
    page = open_page("fox", "cat", viewport={"width": 900, "height": 900}, color_scheme="dark")
    ask(page, "What is it?")
    ended(page, 1)
    expect(page.locator("#pane-1-strip")).to_be_visible()
    expect(page.locator("#pane-2")).to_be_hidden()
    page.get_by_role("tab", name="B cat").click()
    expect(page.locator("#pane-2-strip")).to_be_visible()
    expect(page.locator("#pane-1")).to_be_hidden()
    page.keyboard.press("Alt+1")
    expect(page.locator("#pane-1")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_page_loaded_anew_finds_its_answers_and_can_stop_them(open_page: Open) -> None:
    page = open_page("long", "fox", query="&max_tokens=3000&system=Be+brief.")
    ask(page, "Tell me.")
    long, fox = Pane(page, 1), Pane(page, 2)
    long.expect_phase("answering")
    page.locator("#prompt textarea").press_sequentially("not sent yet")
    page.reload()
    long.expect_phase("answering")
    fox.expect_phase("done")
    expect(long.chat).to_contain_text("Tell me.")
    expect(page.locator("#prompt textarea")).to_have_value("not sent yet", timeout=SOON)
    expect(page.locator("#pane-1-model input")).to_have_value(re.compile("scripted/long"))
    before = long.figure("tokens")
    page.wait_for_function(
        "before => document.querySelector('#pane-1-strip [data-metric=tokens]')"
        ".dataset.value > before + 20",
        arg=before,
        timeout=SOON,
    )
    page.keyboard.press("Escape")
    long.expect_phase("cancelled")
    ended(page, 1, 2)
    page.reload()  # what has ended is found again too, and goes on
    long.expect_phase("cancelled")
    ask(page, "And then?")
    expect(fox.chat.get_by_text("It is red.")).to_have_count(2, timeout=SOON)
    page.keyboard.press("Escape")
    ended(page, 1, 2)


def test_network_cut_mid_stream(open_page: Open) -> None:
    page = open_page("long", query="&max_tokens=3000")
    ask(page, "Tell me.")
    long = Pane(page, 1)
    long.expect_phase("answering")
    page.context.set_offline(True)
    expect(page.locator("body")).to_contain_text("Connection", timeout=SOON)
    page.context.set_offline(False)
    page.wait_for_event("load", timeout=SOON)
    long.expect_phase("answering")
    expect(long.chat).to_contain_text("Tell me.")
    page.keyboard.press("Escape")
    long.expect_phase("cancelled")


def test_two_users_see_their_own_only(open_page: Open) -> None:
    first, second = open_page("fox"), open_page("cat")
    ask(first, "secret of the first")
    ended(first, 1)
    ask(second, "secret of the second")
    ended(second, 1)
    expect(Pane(second, 1).chat).not_to_contain_text("of the first")
    second.reload()
    expect(Pane(second, 1).chat).to_contain_text("of the second", timeout=SOON)
    expect(Pane(second, 1).chat).not_to_contain_text("of the first")


def test_a_hostile_address_is_harmless(open_page: Open) -> None:
    bad = "%3Cimg%20src%3Dx%20onerror%3D%22window.pwned%3D1%22%3E"
    page = open_page("fox", query=f"&prompt={bad}&system={bad}&mode=isolated")
    expect(page.locator("#prompt textarea")).to_have_value(
        '<img src=x onerror="window.pwned=1">', timeout=SOON
    )
    assert Pane(page, 1).strip.get_attribute("data-phase") == "idle", "an address starts nothing"
    page.goto(page.url.split("?")[0] + f"?models={bad}&temperature={bad}")
    expect(page.locator("#told")).to_contain_text("must be a number", timeout=SOON)
    assert page.evaluate("window.pwned") is None
