"""The form of the Benchmarks tab writes specs that run; what is wrong in it is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from workbench.bench import spec
from workbench.errors import WorkbenchError
from workbench.ui.benchmarks.form import LOADS, MADE, Form, write

FORM = Form(
    "my benchmark", ["ollama/a", "huggingface/b"], MADE, 8, "32, 512", "64", 5, 0,
    "as the load asks", "isolated", "1, 4", 1.5, None,
)  # fmt: skip


@pytest.mark.parametrize("pattern", [name for _, name in LOADS])
def test_every_load_makes_a_spec(pattern: str) -> None:
    form = replace(FORM, pattern=pattern, points="2, 4")
    read = spec.parse(write(form), "spec")
    assert read.load.pattern == pattern
    assert read.models == ("ollama/a", "huggingface/b")
    assert read.slo is not None
    assert read.slo.ttft_s == 1.5


def test_a_dataset_in_place_of_made_prompts() -> None:
    read = spec.parse(write(replace(FORM, source="builtin:reasoning", count=None)), "spec")
    assert [use.source for use in read.datasets] == ["builtin:reasoning"]
    assert read.options["max_tokens"] == 64


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": []}, "models"),
        ({"input_tokens": "many"}, "input_tokens"),
        ({"repeats": 1.5}, "repeats"),
        ({"pattern": "closed", "points": "0"}, "users"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(WorkbenchError, match=said):
        spec.parse(write(replace(FORM, **change)), "spec")  # type: ignore[arg-type]
