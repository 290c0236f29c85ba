"""What the page costs, and whether it keeps up, in a real Chromium.

    python -m benchmarks.page_load [--minutes 5] [--users 20] [--only open,stream,users]

open: from the moment the server listens to a first page that can be used, and again with the
browser's cache. stream: six panes, each of a scripted model of 50 tokens/s, against the same six
requests over HTTP without a page; how long a key pressed meanwhile takes until it is on the screen;
memory of browser and server. users: so many browser sessions at once, each with a question of its
own, and whether any of them shows another's. Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
from playwright.sync_api import Browser, Page, sync_playwright

from tests.live import ROOT, LiveServer
from tests.page_server import serve
from workbench.metrics import quantile
from workbench.providers.scripted import Schedule, steady

PANES: Final = 6
RATE_PER_S: Final = 50
OPENINGS: Final = 5
PATIENCE_MS: Final = 240_000
KEY_EVERY_S: Final = 0.7
MEMORY_EVERY_S: Final = 10.0
USABLE: Final = (
    "() => !!document.querySelector('#run:not([disabled])') && "
    "!!document.querySelector('#pane-1-model input')?.value"
)
ENDED: Final = (
    "() => [...document.querySelectorAll('.wb-pane .wb-strip')].every("
    "strip => ['done', 'error', 'cancelled', 'timeout'].includes(strip.dataset.phase))"
)
# From the event's own stamp to after the frame that shows what was typed.
KEYS: Final = """() => {
  window.keysMs = [];
  document.addEventListener("keydown", (event) => requestAnimationFrame(
    () => setTimeout(() => window.keysMs.push(performance.now() - event.timeStamp))), true);
}"""
ARGUMENTS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Scripted:
    """A server of scripted models in a process of its own; ``url``, ``token``, ``pid``.

    Args:
        folder: for its log.
        tokens: of each answer.
    """

    def __init__(self, folder: Path, tokens: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.page_load", "--serve", str(tokens)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "WORKBENCH_DB": str(folder / "log.duckdb"),
                "HF_MODEL_PATH": str(folder / "models"),
                "HF_HUB_CACHE": str(folder / "hub"),
                "OLLAMA_HOST": "127.0.0.1:9",
                "WORKBENCH_OFFLINE": "true",
            },
        )
        assert self._process.stdout is not None
        self.url, self.token = self._process.stdout.readline().split()
        self.pid = self._process.pid

    def query(self, sql: str) -> list[list[Any]]:
        """Rows of its log."""
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = httpx.post(
            f"{self.url}/api/v1/query", json={"sql": sql}, headers=headers, trust_env=False
        )
        return list(answer.json()["rows"])

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def scripted(tokens: int) -> Iterator[Scripted]:
    """A server for a while."""
    with tempfile.TemporaryDirectory() as folder:
        server = Scripted(Path(folder), tokens)
        try:
            yield server
        finally:
            server.close()


# -- parts


def opened(browser: Browser) -> dict[str, Any]:
    """Seconds until a page can be used: the first of a fresh server, and one more with a cache."""
    first: list[float] = []
    again: list[float] = []
    for _ in range(OPENINGS):
        with tempfile.TemporaryDirectory() as folder, LiveServer(Path(folder)) as server:
            up = time.perf_counter()
            page = browser.new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.goto(f"{server.url}/?models=scripted/steady", wait_until="commit")
            page.wait_for_function(USABLE)
            first.append(time.perf_counter() - up)
            began = time.perf_counter()
            page.reload(wait_until="commit")
            page.wait_for_function(USABLE)
            again.append(time.perf_counter() - began)
            page.context.close()
    return {
        "first_page_s": statistics.median(first),
        "first_page_most_s": max(first),
        "again_s": statistics.median(again),
    }


def streamed(browser: Browser, minutes: float) -> dict[str, Any]:
    """Six panes against the same six requests without a page."""
    tokens = int(minutes * 60 * RATE_PER_S)
    models = [f"scripted/talk{number}" for number in range(1, PANES + 1)]
    with scripted(tokens) as server:
        without(server, models, tokens)
        headless = rates(server)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"{server.url}/?models={','.join(models)}&max_tokens={tokens}&prompt=Talk")
        page.wait_for_function(USABLE)
        page.evaluate(KEYS)
        page.locator("#run").click()
        page.wait_for_selector('.wb-strip[data-phase="answering"]')
        page.locator("#prompt textarea").focus()
        memory = watched(page, server.pid, minutes)
        page.wait_for_function(ENDED, timeout=60_000 + minutes * 60_000)
        keys = [float(ms) for ms in page.evaluate("() => window.keysMs")]
        shown = rates(server)
        page.context.close()
    ratio = statistics.median(shown) / statistics.median(headless)
    return {
        "minutes": minutes,
        "headless_tps": statistics.median(headless),
        "page_tps": statistics.median(shown),
        "rate_kept": ratio,
        "slowest_rate_kept": min(shown) / statistics.median(headless),
        "keys": len(keys),
        "key_p50_ms": quantile(keys, 0.5),
        "key_p90_ms": quantile(keys, 0.9),
        "key_most_ms": max(keys, default=None),
        **memory,
    }


def without(server: Scripted, models: list[str], tokens: int) -> None:
    """The same comparison over HTTP, read to its end."""
    body = {"models": models, "message": "Talk", "options": {"max_tokens": tokens}}
    headers = {"Authorization": f"Bearer {server.token}"}
    url = f"{server.url}/api/v1/compare"
    with (
        httpx.Client(timeout=None, trust_env=False, headers=headers) as http,
        http.stream("POST", url, json=body) as answer,
    ):
        for _ in answer.iter_bytes():
            pass


def rates(server: Scripted) -> list[float]:
    """Tokens a second of the six newest answers, from their own stamps."""
    sql = f"SELECT decode_tps, status FROM latencies ORDER BY created_at DESC LIMIT {PANES}"
    deadline = time.monotonic() + 30
    while True:
        rows = server.query(sql)
        if len(rows) == PANES and {status for _, status in rows} == {"ok"}:
            return [float(tps) for tps, _ in rows]
        if time.monotonic() > deadline:
            raise RuntimeError(f"answers did not end well: {rows}")
        time.sleep(0.2)


def watched(page: Page, pid: int, minutes: float) -> dict[str, Any]:
    """Press keys while answers come, and look at memory, in MB."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    samples: list[tuple[float, float, float]] = []
    began, looked = time.monotonic(), float("-inf")
    seconds = minutes * 60 - 2
    while (now := time.monotonic() - began) < seconds:
        page.keyboard.press("a")
        time.sleep(KEY_EVERY_S)
        if now - looked >= min(MEMORY_EVERY_S, seconds / 8):
            looked = now
            session.send("HeapProfiler.collectGarbage")
            told = session.send("Performance.getMetrics")["metrics"]
            heap = next(item["value"] for item in told if item["name"] == "JSHeapUsedSize")
            server = psutil.Process(pid).memory_info().rss
            samples.append((now, heap / 1e6, server / 1e6))
    places = [samples[int(share * (len(samples) - 1))] for share in (0.25, 0.5, 1.0)]
    return {
        "browser_heap_mb": [round(heap, 1) for _, heap, _ in places],
        "server_rss_mb": [round(rss, 1) for _, _, rss in places],
    }


def crowded(browser: Browser, users: int) -> dict[str, Any]:
    """Many sessions, each asking its own, all at the same time."""
    opening: list[float] = []
    foreign = 0
    with scripted(5 * RATE_PER_S) as server:
        pages: list[Page] = []
        for number in range(users):
            page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
            page.set_default_timeout(PATIENCE_MS)
            began = time.perf_counter()
            page.goto(
                f"{server.url}/?models=scripted/talk1,scripted/talk2&prompt=secret{number:03}"
            )
            page.wait_for_function(USABLE)
            opening.append(time.perf_counter() - began)
            pages.append(page)
        began = time.perf_counter()
        for page in pages:
            page.locator("#run").click()
        for page in pages:
            page.wait_for_function(ENDED, timeout=120_000)
        took = time.perf_counter() - began
        for number, page in enumerate(pages):
            words = page.locator("#compare").inner_text() + page.locator("#panes").inner_html()
            assert f"secret{number:03}" in words
            foreign += sum(f"secret{n:03}" in words for n in range(users) if n != number)
        ((answers, tps),) = server.query(
            "SELECT count(*), median(decode_tps) FROM latencies WHERE status = 'ok'"
        )
        rss = psutil.Process(server.pid).memory_info().rss / 1e6
        for page in pages:
            page.context.close()
    return {
        "users": users,
        "answers": answers,
        "seen_of_others": foreign,
        "opening_p50_s": statistics.median(opening),
        "opening_most_s": max(opening),
        "all_answered_s": took,
        "decode_tps": tps,
        "server_rss_mb": round(rss, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="of streaming")
    parser.add_argument("--users", type=int, default=20, help="browser sessions at once")
    parser.add_argument("--only", default="open,stream,users", help="parts, with commas")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        steps = steady(given.serve, first_s=0.05, gap_s=1 / RATE_PER_S)
        serve({f"talk{number}": Schedule(steps) for number in range(1, PANES + 1)})
        return
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    found: dict[str, Any] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        for part in given.only.split(","):
            if part == "open":
                found[part] = opened(browser)
            elif part == "stream":
                found[part] = streamed(browser, given.minutes)
            elif part == "users":
                found[part] = crowded(browser, given.users)
        browser.close()
    print("| part | figure | value |\n|---|---|---|")
    for part, figures in found.items():
        for name, value in figures.items():
            shown = f"{value:.3f}" if isinstance(value, float) else value
            print(f"| {part} | {name} | {shown} |")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
