"""All tabs in a real browser: benchmarks, usable by everybody (axe), over a restart.

With ``SCREENSHOTS=data/screenshots`` the tests make the README's pictures as they go.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, expect

from tests import warm
from tests.conftest import ROOT
from tests.live import free_port, measured
from tests.test_page import LOADED, SOON, Pane, ask
from tests.test_page import browser as browser
from tests.test_page_compare import Log, Open, ended
from tests.test_page_compare import address as address
from tests.test_page_compare import log as log
from tests.test_page_compare import open_page as open_page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

SPEC = """name = "{name}"
models = ["scripted/{a}", "scripted/{b}"]
repeats = {repeats}
prompts = {{ count = {count}, output_tokens = 2000 }}
"""


class Served:
    """A server of scripted models on a port of its own, which can be ended and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.start()

    def start(self) -> None:
        """It listens when this returns."""
        self._process = warm.popen(
            ["-m", "tests.page_server", str(self._port)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            env={
                **measured(),
                "PATH": "/usr/bin:/bin",
                "WORKBENCH_DB": str(self._folder / "log.duckdb"),
                "WORKBENCH_BENCHMARKS": str(self._folder / "benchmarks"),
                "WORKBENCH_DISK_RESERVE": "0",
                "WORKBENCH_MAX_UPLOAD": "20kB",
                "HF_MODEL_PATH": str(self._folder / "models"),
                "HF_HUB_CACHE": str(self._folder / "hub"),
                "OLLAMA_HOST": "127.0.0.1:9",
                "WORKBENCH_OFFLINE": "true",
            },
        )
        assert self._process.stdout is not None
        self.address, self.token = self._process.stdout.readline().split()

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(120)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    running = Served(tmp_path_factory.mktemp("page"))
    yield running
    running.end()


@pytest.fixture(scope="module")
def server(served: Served) -> list[str]:
    """Address and token."""
    return [served.address, served.token]


def tabs(page: Page) -> list[str]:
    """The names of all tabs, whatever there are."""
    found = page.locator("#tabs > .tab-wrapper [role=tab]").all_inner_texts()
    return list(dict.fromkeys(name.strip() for name in found if name.strip()))


def serious(page: Page, scheme: str) -> list[str]:
    """What axe finds that keeps people from using the page; in the dark only colours differ."""
    rules = {"runOnly": ["color-contrast"]} if scheme == "dark" else None
    return [
        f"{found['id']}: {node['target']} {node['failureSummary']}"
        for found in Axe().run(page, options=rules).response["violations"]
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]


def picture(page: Page, name: str) -> None:
    """The page as a small file for the README, if this run is to make them."""
    if folder := os.environ.get("SCREENSHOTS"):
        shot = Image.open(BytesIO(page.screenshot())).convert("RGB")
        shot.quantize(96, dither=Image.Dither.NONE).save(
            ROOT / folder / f"{name}.png", optimize=True
        )


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
        assert serious(page, scheme) == [], name
        if scheme == "light" and name not in ("Compare", "Benchmarks"):
            picture(page, name.lower())


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


def benchmarks(page: Page) -> Page:
    page.get_by_role("tab", name="Benchmarks").click()
    expect(page.locator("#bench-text textarea")).to_be_visible(timeout=SOON)
    return page


def write(page: Page, **keys: object) -> None:
    given = {"name": "x", "a": "prompt", "b": "late", "repeats": 1, "count": 8, **keys}
    page.locator("#bench-text textarea").fill(SPEC.format(**given))


def done(page: Page) -> int:
    found = page.locator("#bench-live [data-metric=trials]").get_attribute("data-value")
    return int(found or 0)


def upload(page: Page, name: str, text: str) -> None:
    file = {"name": name, "mimeType": "text/plain", "buffer": text.encode()}
    page.locator("#bench-upload-files").set_input_files(file)


def test_own_files_are_kept_listed_and_deleted(open_page: Open) -> None:
    page = benchmarks(open_page("fox", "cat"))
    said, told = page.locator("#bench-upload-notice"), page.locator("#bench-outline")
    text, own = page.locator("#bench-text textarea"), page.locator("#bench-own")
    upload(page, "x.exe", "MZ")
    expect(said).to_contain_text("neither a spec nor a dataset", timeout=SOON)
    spec = 'name = "own"\nmodels = ["scripted/fox"]\n[[datasets]]\nsource = "own.jsonl"\n'
    upload(page, "own.toml", spec)
    expect(said).to_contain_text("own.toml is kept", timeout=SOON)
    expect(text).to_have_value(spec)
    expect(told).to_contain_text("cannot be read", timeout=SOON)
    upload(page, "own.jsonl", '{"prompt": "Why?"}')
    expect(said).to_contain_text("own.jsonl is kept", timeout=SOON)
    expect(told).to_contain_text("1 model, 1 cell, 5 trials", timeout=SOON)
    upload(page, "own.jsonl", '{"prompt": "Why?"}')
    expect(said).to_contain_text("own.jsonl is already here", timeout=SOON)
    upload(page, "own.jsonl", '{"prompt": "How?"}')
    expect(said).to_contain_text("not written over", timeout=SOON)
    upload(page, "large.jsonl", " " * 20_001)
    expect(said).to_contain_text("larger than 20 kB", timeout=SOON)
    expect(said).to_contain_text("raise WORKBENCH_MAX_UPLOAD")
    # A spec with a fault is not kept, and can be corrected where it is seen.
    upload(page, "bad.toml", 'name = "bad"')
    expect(said).to_contain_text("bad.toml is not kept", timeout=SOON)
    expect(text).to_have_value('name = "bad"')
    expect(told).to_contain_text("models", timeout=SOON)

    page.get_by_role("button", name="Your files").click()
    expect(own.locator("tbody tr")).to_have_count(2, timeout=SOON)
    expect(own.locator("[data-row='own.toml']")).to_contain_text("spec")
    for answer, left in (("keep", 2), ("really", 1)):
        own.locator("[data-row='own.jsonl']").click()
        page.locator("#bench-delete").click()
        expect(page.locator("#bench-question")).to_contain_text("own.jsonl", timeout=SOON)
        page.locator(f"#bench-{answer}").click()
        expect(page.locator("#bench-confirm")).to_have_count(0, timeout=SOON)
        expect(own.locator("tbody tr")).to_have_count(left)


def test_start_names_what_it_starts_and_is_off_where_that_is_nothing(
    open_page: Open, log: Log
) -> None:
    page = benchmarks(open_page("fox", "cat"))
    start, told = page.locator("#bench-start"), page.locator("#bench-outline")
    expect(start).to_have_text("Start")
    expect(start).to_be_disabled()
    write(page, name="one")
    expect(start).to_have_text("Start one", timeout=SOON)
    expect(start).to_be_enabled()
    # What was chosen last is not the spec that is still there.
    for name in ("other.zip", "other.toml"):
        upload(page, name, 'name = "other"')
        expect(start).to_have_text("Start", timeout=SOON)
        expect(start).to_be_disabled()
        write(page, name="one", repeats=2 if name == "other.zip" else 1)
        expect(start).to_have_text("Start one", timeout=SOON)
    upload(page, "bad.jsonl", "{")  # a dataset: the spec is the same
    expect(page.locator("#bench-upload-notice")).to_contain_text("bad.jsonl, line 1", timeout=SOON)
    expect(start).to_be_enabled()

    # A model that is not there is said before the start, which begins nothing either.
    write(page, name="two", b="nobody")
    expect(told).to_contain_text("line 2: models.1: ", timeout=SOON)
    expect(told).to_contain_text("MODEL_NOT_FOUND")
    expect(told).to_contain_text('absent_models = "skip"')
    page.get_by_role("button", name="Start two", exact=True).click()
    expect(told.locator("[data-code=MODEL_NOT_FOUND]")).to_be_visible(timeout=SOON)
    spec = SPEC.format(name="three", a="fox", b="nobody", repeats=1, count=8)
    page.locator("#bench-text textarea").fill(f'absent_models = "skip"\n{spec}')
    expect(told.locator("[data-kind=warning]")).to_contain_text("scripted/nobody", timeout=SOON)
    expect(told).to_contain_text("2 models, 2 cells")
    assert log("SELECT count(*) FROM benchmark_runs WHERE name IN ('one', 'two', 'three')") == [[0]]


def test_from_a_spec_to_its_finding_and_two_runs_compared(open_page: Open) -> None:
    page = benchmarks(open_page("fox", "cat"))
    told = page.locator("#bench-outline")
    write(page, repeats='"often"')
    expect(told).to_contain_text("line 3: repeats", timeout=SOON)
    expect(told.locator(".wb-line")).to_contain_text("often")
    for name in ("first", "second"):
        write(page, name=name)
        expect(told).to_contain_text("2 cells, 16 trials", timeout=SOON)
        page.get_by_role("button", name=f"Start {name}", exact=True).click()
        # It opens by itself when it has ended, with a sentence; then come chart and figures.
        expect(page.locator("#bench-findings h2")).to_have_text(name, timeout=60_000)
    sentence = page.locator("#bench-findings .findings li").first
    expect(sentence).to_contain_text(re.compile(r"8 prompts"))
    expect(page.locator("#bench-chart-1 .js-plotly-plot")).to_be_visible(timeout=SOON)
    expect(page.locator("#bench-figures")).to_contain_text("Comparisons, 95 % intervals")
    expect(page.locator("#bench-figures summary")).to_have_text("Answers (16 of 16)")
    picture(page, "benchmarks")
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
    write(page, name="long one", a="steady", b="chunks", count=80)
    expect(page.locator("#bench-outline")).to_contain_text("160 trials", timeout=SOON)
    page.locator("#bench-start").click()
    live = page.locator("#bench-live .wb-run")
    expect(live).to_contain_text("long one", timeout=SOON)
    # At one moment: the figures move the columns as they come.
    run_id = str(live.get_attribute("data-run"))
    head, first = live.evaluate(
        "run => [...run.querySelectorAll('tr')].slice(0, 2).map(row => [...row.cells].map("
        "cell => Math.round(cell.getBoundingClientRect().left)))"
    )
    assert head == first  # a column's head stands over it
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
    expect(other.locator("#bench-busy")).to_be_visible(timeout=SOON)
    expect(other.locator("#bench-start")).to_have_count(0)
    other.locator("#bench-stop").click()
    for one in (page, other):
        expect(one.locator("#bench-live .wb-run")).to_have_count(0, timeout=SOON)
        expect(one.locator("#bench-start")).to_be_visible(timeout=SOON)
    ((status, before),) = log(
        "SELECT r.status, count(*) FROM benchmark_trials JOIN benchmark_runs r USING (run_id) "
        f"WHERE run_id = '{run_id}' GROUP BY ALL"
    )
    assert status == "cancelled"
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


def test_a_server_that_restarts_gets_its_page_back(open_page: Open, served: Served) -> None:
    """The last test of this file: tokens of the first server are worth nothing afterwards."""
    page = open_page("long", "fox")
    page.get_by_role("button", name="Options and system prompt").click()
    page.locator("#option-max_tokens input, #option-max_tokens textarea").fill("2900")
    ask(page, "What is it?")
    Pane(page, 1).expect_phase("answering", timeout=LOADED)
    Pane(page, 2).expect_phase("done", timeout=LOADED)
    page.locator("#prompt textarea").fill("a draft")
    served.end()
    lost = page.get_by_text("Connection to the server was lost")
    expect(lost).to_be_visible(timeout=LOADED)
    # What it looked like before is gone when it has loaded itself anew, not sooner.
    with page.expect_event("load", timeout=LOADED):
        served.start()
    # Its answers are those of the log, its options those of its tab and not of its address, what
    # was being typed is there, and nothing is under way.
    expect(Pane(page, 2).chat).to_contain_text("It is red.", timeout=LOADED)
    Pane(page, 1).expect_phase(re.compile("cancelled|error"), timeout=LOADED)
    page.get_by_role("button", name="Options and system prompt").click()
    expect(page.locator("#option-max_tokens input, #option-max_tokens textarea")).to_have_value(
        "2900", timeout=LOADED
    )
    expect(Pane(page, 1).model).to_have_value(re.compile("scripted/long"), timeout=LOADED)
    expect(page.locator("#prompt textarea")).to_have_value("a draft", timeout=LOADED)
    ask(page, "And again?")
    expect(Pane(page, 2).chat).to_contain_text("And again?", timeout=LOADED)
    expect(Pane(page, 2).chat.get_by_text("It is red.")).to_have_count(2, timeout=LOADED)
