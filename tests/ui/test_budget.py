"""The panel of the budget: what is drawn of whom."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.ui.test_stock import cells
from workbench.budget import Prediction
from workbench.memory import DeviceMemory
from workbench.pressure import Alert
from workbench.types import ModelInfo
from workbench.ui import header
from workbench.ui.budget import Holder, Next, Picture, expected, render
from workbench.ui.stock import render as table

GB = 10**9


def needs(size: float, source: str = "loads", error: float | None = 0.041) -> Prediction:
    total = {"host": int(size * GB)}
    return Prediction(total, total, source, 3, error)  # type: ignore[arg-type]


SMALL = Holder("huggingface/small", "idle", {"host": GB}, needs(1.2), pinned=True)
LARGE = Holder("ollama/<large>", "leased", {"host": 5 * GB}, needs(6), expires_in_s=125.2)
TWIN = Holder("ollama/twin", "idle", {}, needs(6), shares_with="ollama/<large>")
THEIRS = Holder("ollama/theirs", "idle", {"host": 2 * GB}, needs(2, "files", None), ours=False)


def picture(*holders: Holder, limit: int = 20, **more: object) -> Picture:
    return Picture({"host": limit * GB}, {"host": 20 * GB}, holders, **more)  # type: ignore[arg-type]


def parts(html: str) -> dict[str, list[float]]:
    """Widths in percent by kind of part."""
    found: dict[str, list[float]] = {}
    for kind, width in re.findall(r'data-kind="(\w+)".*?width:([\d.]+)%', html):
        found.setdefault(kind, []).append(float(width))
    return found


def test_every_model_has_its_part_and_its_line() -> None:
    html = render(picture(SMALL, LARGE, TWIN, THEIRS))
    assert parts(html) == {"model": [5.0, 25.0, 10.0]}
    assert "8.00 GB of 20.0 GB for models" in html
    assert "&lt;large&gt;" in html
    assert "<large>" not in html
    assert 'title="in the runner of ollama/&lt;large&gt;">shared with 2<' in html, (
        "a shared runner's bytes are shown once"
    )
    for words in ("pinned", "unloads in 2 min 05 s", "loaded by another program", "answering"):
        assert words in html


def test_a_runtime_that_keeps_a_model_past_its_time_is_told_as_such() -> None:
    html = render(picture(replace(THEIRS, expires_in_s=0.2)))
    assert "its keep_alive has passed" in html
    assert "unloads in" not in html


def test_memory_of_other_programs_is_part_of_the_bar() -> None:
    html = render(picture(SMALL, limit=12))
    assert parts(html) == {"model": [5.0], "taken": [40.0]}
    assert "1.00 GB of 12.0 GB for models (of 20.0 GB; other programs hold the rest)" in html


@pytest.mark.parametrize(
    ("coming", "verdict", "words"),
    [
        (Next("m", needs(4)), "fits", "it fits beside what is in memory"),
        (Next("m", needs(4), ("ollama/theirs",)), "evicts", "take the place of ollama/theirs"),
        (Next("m", needs(4), (), "the queue is long"), "waits", "wait: the queue is long"),
        (Next("m", needs(40), problem="It is too large."), "no", "It is too large."),
    ],
)
def test_what_loading_the_chosen_model_would_do(coming: Next, verdict: str, words: str) -> None:
    html = render(picture(SMALL, THEIRS, next=coming))
    assert f'data-verdict="{verdict}"' in html
    assert words in html
    assert parts(html)["next"]
    leaves = re.findall(r'<tr data-model="([^"]+)"[^>]*data-leaves="true"', html)
    assert leaves == list(coming.evicts)
    assert ('data-fits="false"' in html) == (coming.problem is not None)


def test_empty_memory_says_what_to_do() -> None:
    html = render(picture())
    assert "nothing of 20.0 GB for models" in html
    assert "No model is in memory" in html
    assert "press Load" in html


def test_each_device_has_a_bar_and_alerts_are_said() -> None:
    holder = Holder("huggingface/big", "idle", {"host": GB, "cuda:0": 30 * GB}, needs(31))
    made = Picture(
        {"host": 10 * GB, "cuda:0": 70 * GB},
        {"host": 10 * GB, "cuda:0": 70 * GB},
        (holder,),
        (Alert("cuda:0", "critical", 78 * GB, 80 * GB, 0),),
    )
    html = render(made)
    assert re.findall(r'data-device="([\w:]+)"', html) == ["host", "cuda:0"]
    assert 'data-level="critical"' in html
    assert "Memory of cuda:0 is nearly used up" in html
    assert "31.0 GB" in html


def test_a_prediction_is_shown_with_its_error_or_as_a_guess() -> None:
    assert expected(needs(1.02)) == "1.02 GB ± 4.1 %"
    assert expected(needs(1.02, error=0.23)) == "1.02 GB ± 23 %"
    assert expected(needs(1.02, "files", 0.5)) == "~1.02 GB"
    assert expected(Prediction({}, {}, "files")) == "–"


def test_header_shows_budget_residents_queue_and_alerts() -> None:
    machine = DeviceMemory(2 * GB, 24 * GB)
    residents = [
        replace(SMALL, model="a/<x>", held={"host": 655_000_000}),
        replace(SMALL, model="b/y", held={}),
        replace(TWIN, model="c/twin", shares_with="b/y"),
    ]
    quiet = header.render(residents, 655_000_000, 20 * GB, machine, 0, [])
    assert "0.7 / 20.0 GB" in quiet
    assert "3 resident" in quiet
    assert "a/&lt;x&gt; 655 MB, b/y, c/twin (in the runner of b/y)" in quiet
    assert "22.0 of 24 GB are in use" in quiet
    assert "waiting" not in quiet
    alert = Alert("host", "high", 22 * GB, 24 * GB, 0)
    busy = header.render([], 0, 20 * GB, machine, 3, [alert])
    assert "3 waiting" in busy
    assert "memory short" in busy
    assert "no model is in memory" in busy


def test_table_shows_measured_bytes_once_and_what_a_model_needs() -> None:
    models = [
        ModelInfo("ollama/a", "a", "ollama", "resident", memory_bytes=5),
        ModelInfo(
            "ollama/b", "b", "ollama", "resident", memory_bytes=5, details={"resident_as": "a"}
        ),
        ModelInfo("ollama/c", "c", "ollama"),
    ]

    def shown(held: dict[str, dict[str, int]]) -> list[str]:
        made = table(models, lambda model: needs(2), held)
        assert {cells(made, model.id)[4] for model in models} == {"2.00 GB ± 4.1 %"}
        return [cells(made, model.id)[3] for model in models]

    assert shown({"ollama/a": {"host": 3 * GB}}) == ["3.00 GB", "shared", "–"]
    # Another program loaded it by one name, the workbench asks it by the other.
    assert shown({"ollama/a": {}, "ollama/b": {"host": 3 * GB}}) == ["shared", "3.00 GB", "–"]
