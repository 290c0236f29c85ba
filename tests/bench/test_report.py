"""A run as a page that needs nothing else, as Markdown, as a table; over the command line too."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import duckdb
import pytest
from playwright.sync_api import sync_playwright
from typer.testing import CliRunner

from tests.bench.logged import Model, log_run
from workbench.analysis.drawing import places
from workbench.bench.diff import diff
from workbench.bench.evidence import Evidence, gather
from workbench.bench.findings import compared, findings
from workbench.bench.report import charts, diff_markdown, markdown, page, summary, write_table
from workbench.cli import app
from workbench.store import Store

MODELS = [
    Model("ollama/fast:latest", ttft_s=0.02, right=0.4, memory=200_000_000),
    Model("huggingface/org/good", ttft_s=0.06, right=0.9, memory=650_000_000),
]
HOSTILE = "ollama/<script>alert(1)|`x`"


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evidence]:
    with Store.open(tmp_path_factory.mktemp("report") / "log.duckdb") as store:
        run_id = log_run(store, [*MODELS, Model(HOSTILE)], scorer="exact", prompts=14)
        yield gather(store.query, run_id)


@pytest.fixture(scope="module")
def html(evidence: Evidence) -> str:
    return page(evidence)


def test_the_table_has_what_can_be_told_and_nothing_else(evidence: Evidence) -> None:
    table = summary(evidence).set_index("model")
    fast = table.loc["ollama/fast:latest"]
    assert fast["ttft_p50_s"] == pytest.approx(0.02, rel=0.1)
    assert fast["ttft_p90_s"] > fast["ttft_p50_s"]
    assert str(fast["ttft_p99_s"]) == "nan", "70 answers have no p99"
    assert fast["mem_peak_bytes"] == 200_000_000
    assert fast["score_exact_low"] < fast["score_exact"] < fast["score_exact_high"]
    assert str(fast["gpu_peak_bytes"]) == "<NA>"


def test_the_table_as_files(evidence: Evidence, tmp_path: Path) -> None:
    table = summary(evidence)
    for name in ("t.csv", "t.parquet"):
        write_table(table, tmp_path / name)
        back = duckdb.sql(f"SELECT * FROM '{tmp_path / name}'").df()
        assert list(back["model"]) == list(table["model"])
        assert back["ttft_p50_s"].tolist() == pytest.approx(table["ttft_p50_s"].tolist())


def test_cells_whose_long_names_begin_alike_are_drawn_apart(tmp_path: Path) -> None:
    name = "huggingface/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct.Q4_1.gguf"
    models = [
        Model(model, load={"pattern": "closed", "users": users})
        for model in (name, "ollama/smollm2:135m")
        for users in (1, 16)
    ]
    with Store.open(tmp_path / "log.duckdb") as store:
        evidence = gather(store.query, log_run(store, models, prompts=8, repeats=2))
    boxes = charts.distribution(evidence, "ttft_s", "TTFT")
    assert boxes is not None
    assert len({box.name for box in boxes.data}) == 4
    ratios = charts.ratios(evidence, compared(findings(evidence)))
    assert ratios is not None
    assert len({point.y[0] for point in ratios.data}) == len(ratios.data) == 6
    assert len(ratios.layout.annotations) == 6, "each has its figures beside it"


def test_names_of_points_lie_over_nothing_and_inside() -> None:
    points = [(0.5 + i / 100, 0.5, 20.0) for i in range(5)] + [(0.98, 0.5, 20.0)]
    words = ["a name of some length"] * 6
    found = places(points, words, (740.0, 280.0))
    boxes = []
    for (x, y, _), (anchor, right, up) in zip(points, found, strict=True):
        left = x * 740 + right - (126 if anchor == "right" else 0)
        boxes.append((left, y * 280 + up - 7, left + 126, y * 280 + up + 7))
    assert all(left >= 0 and end <= 740 for left, _, end, _ in boxes)
    for a, b in combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_markdown_opens_with_the_finding(evidence: Evidence) -> None:
    text = markdown(evidence)
    places = [text.index(f"## {part}") for part in ("Findings", "Before you compare", "Figures")]
    assert places == sorted(places)
    assert re.search(
        r"exact: huggingface/good is right more often than ollama/fast:latest, \d+%", text
    )
    assert "A CPU, 2 cores" in text
    assert "<script>" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ollama/")]
    assert all(row.count(" | ") == rows[0].count(" | ") for row in rows), "no cell breaks its row"


def test_the_page_names_no_other_place_and_runs_nothing_of_a_name(html: str) -> None:
    ours = html.replace(html[html.index("<script>") : html.index("</script>")], "", 1)
    assert not re.search(r"""(src|href)\s*=|url\(|@import""", ours)
    assert "<script>alert" not in ours
    assert "&lt;script&gt;alert(1)" in ours
    assert ours.index("What was found") < ours.index("Charts") < ours.index("Figures")


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1440, "dark"), (900, "light")])
def test_the_page_fits_its_window_and_draws(
    html: str, tmp_path: Path, width: int, scheme: str
) -> None:
    file = tmp_path / "report.html"
    file.write_text(html)
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    troubles: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        shown = browser.new_page(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,  # type: ignore[arg-type]
        )
        shown.on("pageerror", lambda error: troubles.append(str(error)))
        shown.on("dialog", lambda dialog: troubles.append(dialog.message))
        shown.on("request", lambda r: None if r.url.startswith("file:") else troubles.append(r.url))
        shown.goto(file.as_uri())
        shown.wait_for_function("document.querySelectorAll('.charts .main-svg').length >= 4")
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        back = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(17, 17, 19)") is (scheme == "dark")
        browser.close()
    assert not troubles


def test_a_diff_in_words(tmp_path: Path) -> None:
    with Store.open(tmp_path / "log.duckdb") as store:
        runs = [
            log_run(store, [Model("ollama/m:latest", ttft_s=ttft)], seed=seed)
            for seed, ttft in ((1, 0.1), (2, 0.2))
        ]
        old, new = (gather(store.query, run) for run in runs)
    text = diff_markdown(diff(old, new))
    assert re.search(
        r"\| ollama/m:latest \| ttft_s \| \d+ ms \| \d+ ms \| [12]\.\d+× \[.*\] \| worse \|", text
    )
    assert "Nothing but the time." in text


SPEC = """
name = "{name}"
models = ["scripted/{model}", "scripted/steady"]
repeats = 1
warm_ups = 0
[options]
max_tokens = 2
[[datasets]]
source = "builtin:reasoning"
limit = 7
scorers = ["item"]
"""


def test_from_a_spec_to_a_report_and_a_diff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole road: a run of the runner, its report in every form, the exit codes of a diff."""
    monkeypatch.chdir(tmp_path)
    cli = CliRunner()
    for name, model in (("first", "chunks"), ("second", "chunks"), ("third", "reasoning")):
        Path(f"{name}.toml").write_text(SPEC.format(name=name, model=model))
        done = cli.invoke(app, ["bench", "run", f"{name}.toml", "--json"])
        assert done.exit_code == 0, done.output

    told = json.loads(cli.invoke(app, ["bench", "report", "first", "--json"]).stdout)
    assert [cell["answered"] for cell in told["cells"]] == [7, 7]
    assert all(cell["score_item"] == 0 for cell in told["cells"]), "no schedule can count"
    assert any("Repeats: 1" in caveat["text"] for caveat in told["caveats"])
    assert "## Findings" in cli.invoke(app, ["bench", "report", "last"]).stdout
    made = cli.invoke(app, ["bench", "report", "first", "--html"])
    assert made.exit_code == 0
    assert Path(f"{told['run_id']}.html").stat().st_size > 1_000_000
    assert cli.invoke(app, ["bench", "report", "first", "--out", "t.parquet"]).exit_code == 0
    assert Path("t.parquet").stat().st_size

    same = cli.invoke(app, ["bench", "diff", "first", "second", "--tolerance", "0.9", "--json"])
    assert same.exit_code == 0, same.output
    assert json.loads(same.stdout)["comparable"] is True
    other = cli.invoke(app, ["bench", "diff", "first", "third"])
    assert "cells: scripted/chunks: there → –" in other.stdout
