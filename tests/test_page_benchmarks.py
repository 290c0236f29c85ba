"""The Benchmarks tab in a real browser: a run from its spec to its finding, whoever looks on."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.test_page import SOON
from tests.test_page import browser as browser
from tests.test_page_compare import Log, Open
from tests.test_page_compare import address as address
from tests.test_page_compare import log as log
from tests.test_page_compare import open_page as open_page
from tests.test_page_compare import server as server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(150)]

SPEC = """name = "{name}"
models = ["scripted/{a}", "scripted/{b}"]
repeats = {repeats}
prompts = {{ count = {count}, output_tokens = 2000 }}
"""


def benchmarks(page: Page) -> Page:
    page.get_by_role("tab", name="Benchmarks").click()
    expect(page.locator("#bench-text textarea")).to_be_visible(timeout=SOON)
    return page


def write(page: Page, **keys: object) -> None:
    given = {"name": "x", "a": "fox", "b": "cat", "repeats": 2, "count": 6, **keys}
    page.locator("#bench-text textarea").fill(SPEC.format(**given))


def done(page: Page) -> int:
    found = page.locator("#bench-live [data-metric=trials]").get_attribute("data-value")
    return int(found or 0)


def test_from_a_spec_to_its_finding_and_two_runs_compared(open_page: Open) -> None:
    page = benchmarks(open_page("fox", "cat"))
    told = page.locator("#bench-outline")
    write(page, repeats='"often"')
    expect(told).to_contain_text("line 3: repeats", timeout=SOON)
    expect(told.locator(".wb-line")).to_contain_text("often")
    for name in ("first", "second"):
        write(page, name=name)
        expect(told).to_contain_text("2 cells, 24 trials", timeout=SOON)
        expect(page.locator("#bench-start")).to_be_enabled(timeout=SOON)
        page.locator("#bench-start").click()
        # It opens by itself when it has ended, with a sentence; then come chart and figures.
        expect(page.locator("#bench-findings h2")).to_have_text(name, timeout=60_000)
    sentence = page.locator("#bench-findings .findings li").first
    expect(sentence).to_contain_text(re.compile(r"6 prompts"))
    expect(page.locator("#bench-chart-1 .js-plotly-plot")).to_be_visible(timeout=SOON)
    expect(page.locator("#bench-figures")).to_contain_text("Comparisons, 95 % intervals")
    expect(page.locator("#bench-figures summary")).to_have_text("Answers (24 of 24)")
    page.locator("#bench-against input").click()
    page.get_by_role("option", name=re.compile("first")).first.click()
    expect(page.locator("#bench-diff h2")).to_contain_text(
        re.compile("first .* → second"), timeout=SOON
    )
    expect(page.locator("#bench-diff table").first).to_contain_text("ttft_s")
    with page.expect_popup() as opened:
        page.locator("#bench-findings .wb-links a", has_text="report").click()
    report = opened.value
    expect(report.locator("h1")).to_have_text("second", timeout=SOON)
    expect(report.locator(".js-plotly-plot").first).to_be_visible(timeout=SOON)
    with page.expect_download() as file:
        page.locator("#bench-findings .wb-links a", has_text="all rows").click()
    assert file.value.suggested_filename.endswith("-trials.csv")


def test_a_run_is_found_again_stopped_and_resumed(open_page: Open, log: Log) -> None:
    page = benchmarks(open_page("fox", "cat"))
    write(page, name="long one", a="steady", b="chunks", count=40)
    expect(page.locator("#bench-outline")).to_contain_text("160 trials", timeout=SOON)
    page.locator("#bench-start").click()
    live = page.locator("#bench-live .wb-run")
    expect(live).to_contain_text("long one", timeout=SOON)
    page.reload()
    expect(benchmarks(page).locator("#bench-live .wb-run")).to_contain_text(
        "long one", timeout=SOON
    )
    seen = done(page)
    page.wait_for_function(
        "seen => +document.querySelector('#bench-live [data-metric=trials]').dataset.value > seen",
        arg=seen,
        timeout=60_000,
    )

    # Another user finds it, cannot start a second one, and may stop it.
    other = benchmarks(open_page("fox", "cat"))
    expect(other.locator("#bench-live .wb-run")).to_contain_text("long one", timeout=SOON)
    expect(other.locator("#bench-start")).to_be_disabled(timeout=SOON)
    other.locator("#bench-stop").click()
    for one in (page, other):
        expect(one.locator("#bench-live .wb-run")).to_have_count(0, timeout=SOON)
        expect(one.locator("#bench-start")).to_be_enabled(timeout=SOON)
    ((run_id, before),) = log(
        "SELECT run_id, count(*) FROM benchmark_trials JOIN benchmark_runs r USING (run_id) "
        "WHERE r.name = 'long one' AND r.status = 'cancelled' GROUP BY run_id"
    )
    expect(page.locator("#bench-findings h2")).to_have_text("long one", timeout=SOON)
    page.locator("#bench-resume").click()
    expect(live).to_have_attribute("data-run", run_id, timeout=SOON)
    assert done(page) >= before
    page.locator("#bench-stop").click()
    expect(live).to_have_count(0, timeout=SOON)


def test_a_form_writes_the_spec(open_page: Open) -> None:
    page = benchmarks(open_page("fox", "cat"))
    page.get_by_role("button", name=re.compile("Build one")).click()
    page.locator("#bench-form-models input").click()
    page.get_by_role("option", name=re.compile("scripted.fox")).first.click()
    text = page.locator("#bench-text textarea")
    expect(text).to_have_value(re.compile(r'models = \["scripted/fox"\]'), timeout=SOON)
    page.locator("#bench-form-repeats input").fill("7")
    expect(text).to_have_value(re.compile("repeats = 7"), timeout=SOON)
    expect(page.locator("#bench-outline")).to_contain_text("7 repeats", timeout=SOON)
