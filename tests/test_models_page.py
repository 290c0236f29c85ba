"""The Models tab in a real browser: download from a hub, watch, cancel, delete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.hf import tiny
from tests.hf.downloads import REPO, model_files
from tests.hub_standin import Hub
from tests.live import LiveServer
from tests.test_page import ARGUMENTS, LOADED, SOON

pytestmark = [pytest.mark.browser, pytest.mark.timeout(200)]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with Hub() as running:
        running.repo(REPO, model_files(tmp_path))
        yield running


@pytest.fixture
def page(hub: Hub, tmp_path: Path) -> Iterator[Page]:
    tiny.save_model(tmp_path / "models" / "mine")
    tiny.write_folder(tmp_path / "models" / "other")
    path = next(found for name in ("chromium", "google-chrome") if (found := shutil.which(name)))
    with (
        LiveServer(
            tmp_path,
            HF_ENDPOINT=hub.url,
            WORKBENCH_OFFLINE="false",
            WORKBENCH_DISK_RESERVE="0",
            WORKBENCH_HUB_TIMEOUT_S="2",
            HF_MODEL_PATH=str(tmp_path / "models"),
        ) as server,
        sync_playwright() as playwright,
    ):
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        opened = chromium.new_page(viewport={"width": 1440, "height": 900})
        opened.goto(server.url)
        opened.get_by_role("tab", name="Models").click()
        expect(opened.locator("#models-table")).to_contain_text("mine", timeout=SOON)
        yield opened
        chromium.close()


def pull(page: Page, name: str) -> None:
    page.locator("#models-hub-name").get_by_role("textbox").fill(name)
    page.locator("#models-download").click()


def test_download_cancel_and_again(hub: Hub, page: Page) -> None:
    notice, table = page.locator("#models-notice"), page.locator("#models-table")
    hub.faults.hold_after = 40_960
    pull(page, REPO)
    expect(page.locator("#models-progress .wb-job")).to_contain_text("kB of", timeout=SOON)
    page.locator("#models-progress button").click()
    expect(notice).to_contain_text("stopped", timeout=SOON)  # though the hub stays silent
    hub.faults.hold_after = None
    hub.faults.go_on.set()
    expect(page.locator("#models-progress button")).to_have_count(0, timeout=SOON)
    pull(page, REPO)
    expect(table).to_contain_text("huggingface/org/name", timeout=SOON)
    expect(notice).to_contain_text("is here, checked")
    pull(page, "org/none")
    expect(notice).to_contain_text("HF_MODEL_NOT_FOUND", timeout=SOON)


def test_delete_asks_and_deletes_what_it_asked_about(page: Page, tmp_path: Path) -> None:
    def choose(name: str) -> None:
        page.locator("#models-chosen input").click()
        page.get_by_role("option", name=f"huggingface/{name}", exact=True).click()

    choose("mine")
    page.locator("#models-delete").click()
    expect(page.locator("#models-question")).to_contain_text("will be free", timeout=SOON)
    page.locator("#models-keep").click()
    expect(page.locator("#models-confirm")).to_be_hidden()
    page.locator("#models-delete").click()
    expect(page.locator("#models-question")).to_contain_text("huggingface/mine", timeout=SOON)
    choose("other")
    page.locator("#models-really").click()
    expect(page.locator("#models-notice")).to_contain_text("mine is deleted", timeout=SOON)
    left = {path.name for path in (tmp_path / "models").iterdir()}
    assert left == {"other"}


def test_a_model_typed_with_load_options_outlives_its_own_unloading(
    page: Page, tmp_path: Path
) -> None:
    variant = "huggingface/mine?dtype=float32"
    field, notice = page.locator("#models-chosen input"), page.locator("#models-notice")
    field.fill(variant)
    field.press("Enter")
    expect(page.locator("#models-memory .wb-next")).to_contain_text(variant, timeout=SOON)
    page.locator("#models-load").click()
    expect(notice).to_contain_text(f"{variant} is resident", timeout=LOADED)
    held = page.locator(f'#models-memory tr[data-model="{variant}"]')
    expect(held).to_be_visible(timeout=SOON)
    expect(page.locator("#models-table")).to_contain_text(variant)
    page.locator("#models-load").click()
    expect(notice).to_contain_text(f"{variant} was in memory already", timeout=SOON)
    page.locator("#models-pin").click()
    expect(page.locator("#models-pin")).to_have_text("Unpin", timeout=SOON)
    page.locator("#models-unload").click()
    expect(notice).to_contain_text("is unloaded, and no longer pinned", timeout=SOON)

    # It has left the list and is still chosen: the panel goes on, and says what a load would do.
    expect(held).to_have_count(0, timeout=SOON)
    expect(page.locator("#models-memory .wb-next")).to_contain_text(variant, timeout=SOON)
    expect(field).to_have_value(variant)
    field.fill("huggingface/nothing-of-this-name")
    field.press("Tab")
    expect(page.locator("#models-memory .wb-next")).to_contain_text("nothing-of", timeout=SOON)
    expect(page.locator('#models-memory .wb-next[data-verdict="no"]')).to_be_visible()
    expect(page.get_by_test_id("toast-body")).to_have_count(0)
    assert "Traceback" not in (tmp_path / "server.log").read_text()
