"""What a model writes attacks the page in a real browser: nothing runs, nothing is fetched."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests import warm
from tests.conftest import ROOT
from tests.evil_server import ATTACKS
from tests.test_page import ARGUMENTS, SOON

pytestmark = [pytest.mark.browser, pytest.mark.timeout(150)]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    process = warm.popen(
        ["-m", "tests.evil_server"], env=os.environ, cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    yield process.stdout.readline().split()[0]
    process.terminate()
    process.wait(30)
    process.stdout.close()


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    complaints: list[str] = []
    asked: set[str] = set()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        opened = chromium.new_page(viewport={"width": 1440, "height": 900})
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on(
            "console", lambda said: (said.type == "error" and complaints.append(said.text)) or None
        )
        opened.on("request", lambda request: asked.add(request.url))
        opened.goto(address)
        yield opened
        chromium.close()
    foreign = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert foreign == [], "the page asked another host"
    assert complaints == [], "the console is clean"


def test_nothing_that_a_model_writes_runs_or_is_fetched(page: Page) -> None:
    model = page.locator("#pane-1-model input")
    expect(model).to_be_visible(timeout=SOON)
    model.click()
    page.get_by_role("option", name="scripted/evil").first.click()
    page.locator("#pane-2-remove").click()
    expect(page.locator("#pane-2")).to_have_count(0, timeout=SOON)
    page.locator("#prompt textarea").fill("\n".join(ATTACKS[:4]))
    page.locator("#run").click()
    chat = page.locator("#pane-1-chat")
    expect(chat).to_contain_text("the end", timeout=SOON)
    for link in chat.locator("a").all():
        assert not (link.get_attribute("href") or "").startswith("javascript:")
    for tag in (
        "script",
        "iframe",
        "form",
        "style:not(svg style)",
        "link",
        "meta",
        "base",
        "video",
        "object",
    ):
        assert chat.locator(tag).count() == 0, tag
    for picture in chat.locator("img").all():
        assert "evil" not in (picture.get_attribute("src") or "")
    assert chat.locator("[onerror], [onload], [ontoggle]").count() == 0
    assert page.evaluate("window.pwned") is None
    assert "window.pwned=1" in chat.inner_text(), "it is shown as the text that it is"


def test_the_policy_holds_even_if_markup_came_through(address: str) -> None:
    """The second lock: elements put straight into the page do not run and reach nobody."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        page = chromium.new_page()
        page.goto(address)
        expect(page.locator("#prompt textarea")).to_be_visible(timeout=SOON)
        refused = page.evaluate(
            """async () => {
              const seen = [];
              document.addEventListener("securitypolicyviolation",
                (event) => seen.push(event.effectiveDirective));
              const box = document.body.appendChild(document.createElement("div"));
              box.innerHTML = `<img src=x onerror="window.pwned=1"><a id=evil
                href="javascript:window.pwned=2">x</a><iframe src="http://evil.invalid"></iframe>
                <img src="http://evil.invalid/a.png"><form id=out action="http://evil.invalid">
                </form><object data="http://evil.invalid"></object>`;
              const script = document.createElement("script");
              script.textContent = "window.pwned=3";
              box.append(script);
              document.getElementById("evil").click();
              document.getElementById("out").submit();
              let reached = true;
              await fetch("http://evil.invalid/").catch(() => { reached = false; });
              await new Promise((done) => setTimeout(done, 500));
              return [window.pwned ?? null, reached, [...new Set(seen)]];
            }"""
        )
        chromium.close()
    pwned, reached, directives = refused
    assert pwned is None
    assert not reached
    assert {"script-src-elem", "script-src-attr", "img-src", "connect-src"} <= set(directives)
