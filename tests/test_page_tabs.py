"""All tabs in a real browser: usable by everybody (axe), and by keyboard alone."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.test_page import SOON, ask
from tests.test_page import browser as browser
from tests.test_page_compare import Open, ended
from tests.test_page_compare import address as address
from tests.test_page_compare import open_page as open_page
from tests.test_page_compare import server as server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(150)]


def tabs(page: Page) -> list[str]:
    """The names of all tabs, whatever there are."""
    found = page.locator("#tabs > .tab-wrapper [role=tab]").all_inner_texts()
    return list(dict.fromkeys(name.strip() for name in found if name.strip()))


def serious(page: Page) -> list[str]:
    """What axe finds that keeps people from using the page."""
    return [
        f"{found['id']}: {node['target']} {node['failureSummary']}"
        for found in Axe().run(page).response["violations"]
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_every_tab(open_page: Open, scheme: str) -> None:
    page = open_page("fox", "maths", color_scheme=scheme)
    ask(page, "What is it?")
    ended(page, 1, 2)
    for name in tabs(page):
        page.get_by_role("tab", name=name, exact=True).click()
        expect(page.get_by_role("tab", name=name, exact=True)).to_have_attribute(
            "aria-selected", "true", timeout=SOON
        )
        # What fades in has, for a moment, the colours of neither.
        page.wait_for_function(
            "() => document.getAnimations().every(a => a.playState !== 'running')"
        )
        assert serious(page) == [], name


def test_the_main_job_by_keyboard_alone(open_page: Open) -> None:
    page = open_page("fox", "long")
    page.locator("#prompt textarea").focus()
    page.keyboard.type("What is it?")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#pane-2-strip .wb-strip")).to_have_attribute(
        "data-phase", "answering", timeout=SOON
    )
    page.keyboard.press("Escape")
    ended(page, 1, 2)
    # Backwards from the message through panes to the tabs, and forward into the one that opens.
    for _ in range(80):
        if page.evaluate("document.activeElement.role") == "tab":
            break
        page.keyboard.press("Shift+Tab")
    for _ in range(12):
        if page.evaluate("document.activeElement.textContent").strip() == "Models":
            break
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#models-table")).to_contain_text("scripted/fox", timeout=SOON)
