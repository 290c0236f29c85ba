"""The Arena in a real browser: who looks into DOM and network before the vote learns nothing."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.test_page import SOON
from tests.test_page import browser as browser
from tests.test_page_compare import Log, Open
from tests.test_page_compare import address as address
from tests.test_page_compare import log as log
from tests.test_page_compare import open_page as open_page
from tests.test_page_compare import server as server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def enter(page: Page, *models: str) -> None:
    """Open the tab and choose whom to draw from."""
    page.get_by_role("tab", name="Arena").click()
    missing = page.locator("#arena-hint .wb-empty")
    expect(missing).to_be_visible(timeout=SOON)
    for model in models:
        page.locator("#arena-models input").fill(model)
        page.get_by_role("option", name=f"scripted/{model}").click()
        expect(page.locator("#arena-models")).to_contain_text(f"scripted/{model}", timeout=SOON)
    expect(missing).to_have_count(0, timeout=SOON)  # the server knows them too
    page.locator("#arena-prompt textarea").fill("Tell me of an animal.")


def expect_state(page: Page, state: str) -> None:
    expect(page.locator(".wb-arena")).to_have_attribute("data-state", state, timeout=SOON)


# Keeps what the page sends and hears, piece by piece as it comes: streams last longer than a pair.
LISTEN = """
window.heard = [];
const ask = window.fetch;
window.fetch = async (target, settings) => {
  const place = heard.push(`${target.url ?? target} ${settings?.body ?? ""}`) - 1;
  const answer = await ask(target, settings);
  const reader = answer.clone().body?.getReader(), words = new TextDecoder();
  const pass = ({ value, done }) => {
    if (value) heard[place] = (heard[place] ?? "") + words.decode(value, { stream: true });
    if (!done) reader.read().then(pass, () => {});
  };
  reader?.read().then(pass, () => {});
  return answer;
};
"""


def so_far(votes: int) -> str:
    return f"{votes} vote{'' if votes == 1 else 's'} so far"


def heard(page: Page) -> str:
    """All that went over the network since the page was loaded, or ``heard`` was emptied."""
    return str(page.evaluate("heard.join('\\n')"))


def test_nobody_learns_who_answers_before_the_vote(open_page: Open, log: Log) -> None:
    ((before,),) = log("SELECT count(*) FROM votes")  # by a try that did not come to its end
    page = open_page("maths", "lines")
    page.add_init_script(LISTEN)
    page.reload()
    enter(page, "fox", "cat")
    dom = page.content()
    page.evaluate("heard.fill('')")
    page.keyboard.press("Control+Enter")
    expect_state(page, "vote")
    both = page.locator("#arena-sides")
    for words in ("It is red.", "It is old."):
        expect(both).to_contain_text(words, timeout=SOON)
    # The header and the lists of models look every 2 and 5 s; they too keep it to themselves.
    expect(page.locator("[data-metric=hidden]")).to_be_visible(timeout=SOON)
    for _ in range(3):
        page.wait_for_event("response", lambda one: "queue/join" in one.url, timeout=SOON)
    told, now = heard(page), page.content()
    assert "It is red." in told, "the listener hears what is said"
    for secret in ("scripted/fox", "scripted/cat", "data-phase=", "ses_", "cmp_", "schedule"):
        assert secret not in told
    for name in ("scripted/fox", "scripted/cat"):
        assert now.count(name) <= dom.count(name), f"{name} has come into the page"
    expect(page.locator("#arena [data-model]")).to_have_count(0)

    page.keyboard.press("Alt+t")
    expect_state(page, "voted")
    names = page.locator("#arena-sides [data-model]").all_text_contents()
    assert sorted(names) == ["scripted/cat", "scripted/fox"]
    expect(page.locator("#arena-sides [data-metric=ttft]").first).to_contain_text("ms")
    expect(page.locator("#arena-finding")).to_contain_text(so_far(before + 1), timeout=SOON)
    expect(page.locator("#arena-table tbody tr")).to_have_count(2)
    expect(page.locator("[data-metric=resident]")).to_be_visible(timeout=SOON)
    ((winner, blind, mode, asked),) = log(
        "SELECT winner, blind, v.details->>'mode', count(*) FROM votes v "
        "JOIN stream_sessions s ON s.session_id IN (v.session_a, v.session_b) "
        "WHERE s.comparison_id = v.comparison_id AND v.comparison_id = "
        "(SELECT comparison_id FROM votes ORDER BY created_at DESC LIMIT 1) GROUP BY ALL"
    )
    assert (winner, blind, mode, asked) == ("tie", True, "arena", 2)

    # The next pair, the same question; loaded anew it is still there, and still blind.
    page.keyboard.press("Control+Enter")
    expect_state(page, "vote")
    page.reload()
    page.get_by_role("tab", name="Arena").click()
    expect_state(page, "vote")
    expect(both).to_contain_text("It is red.", timeout=SOON)
    told = heard(page)
    assert "It is red." in told
    assert "schedule, resident" not in told
    page.keyboard.press("Alt+a")
    expect(page.locator("#arena-finding")).to_contain_text(so_far(before + 2), timeout=SOON)


def test_a_model_that_fails_is_not_named(open_page: Open, log: Log) -> None:
    page = open_page("maths", "lines")
    enter(page, "failing", "fox")
    votes = log("SELECT count(*) FROM votes")
    page.keyboard.press("Control+Enter")
    expect_state(page, "void")
    expect(page.locator("#arena-a")).to_be_disabled()
    sides = page.locator("#arena-sides").inner_html()
    for word in ("scripted", "FAILED", "quick"):
        assert word not in sides
    # The same question to another pair, then one that is passed over.
    page.locator("#arena-models input").fill("cat")
    page.get_by_role("option", name="scripted/cat").click()
    page.locator("#arena-ask").click()
    expect_state(page, "vote")
    page.keyboard.press("Alt+s")
    expect_state(page, "skipped")
    expect(page.locator("#arena-sides [data-model]")).to_have_count(2)
    assert log("SELECT count(*) FROM votes") == votes
