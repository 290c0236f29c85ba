"""A spec is checked whole before anything runs, and errors name the line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from workbench.bench import spec
from workbench.bench.faults import placed
from workbench.bench.judging import Judges
from workbench.bench.patterns import Closed
from workbench.bench.scoring import build
from workbench.bench.spec import Spec
from workbench.bench.workload import workloads
from workbench.errors import WorkbenchError
from workbench.settings import Settings
from workbench.types import TimingMode

if TYPE_CHECKING:
    from workbench.bench.road import Road

PACKAGE = Path(spec.__file__).parent


def test_the_template_is_a_spec() -> None:
    found = spec.read(PACKAGE / "template.toml")
    assert found.mode is TimingMode.ISOLATED
    assert found.prefixed


def test_what_the_template_comments_out_is_valid_too() -> None:
    text = (PACKAGE / "template.toml").read_text()
    text = re.sub(r"^# (?=\[|\w+ = )", "", text, flags=re.MULTILINE)
    # Two ways to say one thing stand there, of which a spec has one.
    text = text.replace("\ntemperature = 0\n", "\n")
    text = re.sub(r"\[prompts\][^#]*", "", text)
    found = spec.parse(text, "template")
    assert found.datasets[0].limit == 20
    assert found.grid["load_options"] == {"quantization": ["none", "int8"]}
    assert found.slo is not None
    assert found.slo.limits == {"ttft_s": 1.0, "tpot_s": 0.1}
    assert found.stop.within == 0.05


def test_the_specs_that_are_shipped_are_valid() -> None:
    folder = PACKAGE.parent.parent / "benchmarks" / "specs"
    for path in folder.glob("*.toml"):
        spec.read(path)


GOOD = 'name = "x"\nmodels = ["scripted/steady"]\n'
OWN = 'name = "x"\nmodels = ["scripted/steady", {{ model = "scripted/{}", options = {{ {} }} }}]\n'


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("repaets = 3", 3, "repaets: there is no such key; did you mean repeats?"),
        ("repeats = 0", 3, "repeats: must be at least 1, not 0"),
        ("[options]\n\ntemperature = 9", 5, "temperature is 9"),
        ("[options]\nwarmth = 1", 4, "Unknown option 'warmth'"),
        ('[load]\npattern = "flood"', 4, "load.pattern: 'flood' is none of isolated, closed"),
        ('[load]\npattern = "clsoed"', 4, "storm; did you mean closed?"),
        ('[load]\npattern = "closed"\nusers = []', 5, "load.users: must not be empty"),
        ("[slo]\nttft = 1", 4, "slo.ttft: there is no such key; did you mean ttft_s?"),
        ('[load]\npattern = "closed"\nusers = [1, 0]', 5, "load.users.1"),
        ('[load]\npattern = "open"\nrate_per_s = 1', 3, "give either requests or duration_s"),
        ('timing_mode = "isolated"\n[load]\npattern = "closed"\nusers = 2', 3, "leave it out"),
        ('[load]\npattern = "sweep"', 3, "add [slo]"),
        ("[slo]\nshare = 0.5", 3, "bound at least one of"),
        ("[grid]\ntemperature = 0.5", 4, "must be a list"),
        ("[options]\ntop_k = 1\n[grid]\ntop_k = [1]", 6, "top_k: is in options too"),
        ('[[datasets]]\nsource = "a"\n[[datasets]]\nsource = 3', 6, "datasets.1.source"),
        ("seed =\nrepeats = 2", 3, "Invalid value"),
    ],
)
def test_an_error_names_file_line_and_key(text: str, line: int, said: str) -> None:
    with pytest.raises(WorkbenchError) as caught:
        spec.parse(GOOD + text, "my.toml")
    message = caught.value.message
    assert said in message
    assert message.startswith("my.toml")
    assert f"line {line}" in message
    assert caught.value.fix


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("slow", "warmth = 1", "line 2: models.1.options.*Unknown option 'warmth'"),
        ("slow", "temperature = 9", "line 2: models.1.options.*temperature is 9"),
        ("steady", "", "'scripted/steady' is there twice with the same options"),
        ("steady", "top_k = 3", "grid.top_k: is an option of scripted/steady's own"),
    ],
)
def test_options_of_a_models_own_are_checked_too(model: str, options: str, said: str) -> None:
    with pytest.raises(WorkbenchError, match=said):
        spec.parse(OWN.format(model, options) + "[grid]\ntop_k = [1]", "my.toml")


def test_a_model_with_options_of_its_own_may_be_there_twice() -> None:
    found = spec.parse(OWN.format("steady", "temperature = 1.5"), "my.toml")
    assert [(use.model, use.options) for use in found.uses] == [
        ("scripted/steady", {}),
        ("scripted/steady", {"temperature": 1.5}),
    ]
    assert Spec.of(found.to_dict()) == found


def test_a_missing_key_is_named() -> None:
    with pytest.raises(WorkbenchError, match=r"my.toml: models: is missing"):
        spec.parse('name = "x"', "my.toml")
    with pytest.raises(WorkbenchError, match="bench init"):
        spec.read("nowhere.toml")


def test_every_fault_is_told_with_its_line_in_their_order() -> None:
    text = """name = "x"
repeats = "five"
modles = ["scripted/steady"]
options = { temperature = -1, warmth = 1 }
[load]
pattern = "closed"
rate_per_s = 2
"""
    with pytest.raises(WorkbenchError) as caught:
        spec.parse(text, "my.toml")
    head, *told = caught.value.message.splitlines()
    assert head == "my.toml has 6 faults:"
    assert [line.split("; ")[0].strip() for line in told] == [
        "line 2: repeats: must be a whole number, not 'five'.",
        "line 3: modles: there is no such key",
        "line 4: options.temperature: temperature is -1, which is not between 0.0 and 5.0",
        "line 4: options.warmth: Unknown option 'warmth'",
        "line 5: load.users: is missing.",
        "line 7: load.rate_per_s: there is no such key",
    ]
    assert caught.value.details["line"] == 2  # which the page shows beside it


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ('source = "builtin:maths"', "my.toml, line 4: datasets.0.source: There is no dataset"),
        (
            'source = "builtin:reasoning"\nscorers = ["exactt"]',
            "my.toml, line 5: datasets.0.scorers.0: There is no scorer 'exactt'",
        ),
        (
            'source = "builtin:reasoning"\nscorers = [{ scorer = "judge" }]',
            "my.toml, line 5: datasets.0.scorers.0: A judge needs a model",
        ),
    ],
)
def test_datasets_and_scorers_that_are_not_there_are_told_with_their_line(
    settings: Settings, dataset: str, said: str
) -> None:
    text = f"{GOOD}[[datasets]]\n{dataset}"
    chosen = spec.parse(text, "my.toml")

    def check() -> None:
        with placed("my.toml", text):
            for one in workloads(chosen, settings):
                build(one, settings, Judges(cast("Road", None), 1))  # nobody is asked

    with pytest.raises(WorkbenchError) as caught:
        check()
    assert caught.value.message.startswith(said)


def test_one_value_stands_for_a_list_and_json_builds_the_same_spec() -> None:
    found = spec.parse(GOOD + '[load]\npattern = "closed"\nusers = 4', "my.toml")
    assert isinstance(found.load, Closed)
    assert found.load.users == (4,)
    assert found.mode is TimingMode.CONCURRENT
    assert Spec.of(found.to_dict()) == found
