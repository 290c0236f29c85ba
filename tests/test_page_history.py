"""History and Health in a real browser: found, opened again, deleted, asked in SQL."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.test_page import SOON, ask
from tests.test_page import browser as browser
from tests.test_page_compare import Open, ended
from tests.test_page_compare import address as address
from tests.test_page_compare import open_page as open_page
from tests.test_page_compare import server as server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]


def test_a_comparison_is_found_and_opened_again_by_keyboard(open_page: Open) -> None:
    page = open_page("fox", "failing")
    ask(page, "Which animal <b>jumps</b>?")
    ended(page, 1, 2)

    # Another page, which has asked nothing: what it shows can only come from the log.
    page = open_page("cat", viewport={"width": 900, "height": 900}, color_scheme="dark")
    expect(page.locator("#timeline .wb-timeline")).to_have_attribute("data-state", "idle")
    page.get_by_role("tab", name="History").click()
    rows = page.locator("#history-list tr[data-session]")
    expect(rows).to_have_count(2, timeout=SOON)
    words = page.locator("#history-words").get_by_role("textbox")
    words.fill("zebra")
    words.press("Enter")
    expect(page.locator("#history-notice")).to_contain_text("Nothing matches", timeout=SOON)
    words.fill('"quick brown fox" ANIMAL')
    words.press("Enter")
    expect(rows).to_have_count(1, timeout=SOON)
    expect(rows).to_contain_text("Which animal <b>jumps</b>?")
    rows.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#history-chosen")).to_contain_text("The quick brown fox", timeout=SOON)
    expect(page.locator("#history-gaps .js-plotly-plot")).to_be_visible(timeout=SOON)
    rows.focus()
    page.keyboard.press("o")
    expect(page.locator("#timeline .wb-timeline")).to_have_attribute(
        "data-state", "drawn", timeout=SOON
    )
    first, second = ended(page, 1, 2)
    first.expect_phase("done")
    second.expect_phase("error")
    expect(first.model).to_have_value(re.compile("scripted/fox"))
    expect(second.notice).to_contain_text("HF_GENERATION_FAILED", timeout=SOON)


def test_marked_sessions_are_deleted_and_sql_sees_it(open_page: Open) -> None:
    page = open_page("maths")
    for place, question in enumerate(("One?", "Two?"), start=1):
        ask(page, question)
        expect(page.locator("#pane-1-chat .message.user")).to_have_count(place, timeout=SOON)
        ended(page, 1)
    page.get_by_role("tab", name="History").click()
    rows = page.locator("#history-list tr[data-session]", has_text="scripted/maths")
    expect(rows).to_have_count(2, timeout=SOON)
    rows.nth(1).locator("input").check()
    expect(page.locator("#history-delete")).to_have_text("Delete 1", timeout=SOON)
    page.locator("#history-delete").click()
    expect(page.locator("#history-question")).to_contain_text("1 session", timeout=SOON)
    page.locator("#history-really").click()
    expect(page.locator("#history-notice")).to_contain_text("1 session is deleted", timeout=SOON)
    expect(rows).to_have_count(1, timeout=SOON)
    expect(rows).to_contain_text("Two?")

    page.get_by_role("tab", name="SQL").click()
    page.locator("#sql-text .cm-content").click()
    page.keyboard.press("Control+A")
    page.keyboard.type("SELECT model, ttft_s FROM latencies WHERE model = 'scripted/maths'")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#sql-said")).to_contain_text("1 row, 2 columns", timeout=SOON)
    expect(page.locator("#sql-plot .js-plotly-plot")).to_be_visible(timeout=SOON)

    page.get_by_role("tab", name="Health").click()
    expect(page.locator('#health-parts tr[data-part="ollama"]')).to_contain_text(
        "ollama serve", timeout=SOON
    )
    expect(page.locator("#health-memory .js-plotly-plot")).to_be_visible(timeout=SOON)
    expect(page.locator("#health-doctor")).to_contain_text("held by this server", timeout=SOON)
