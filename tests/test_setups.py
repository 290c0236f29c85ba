"""A setup survives its ways out and back in, and takes nothing hostile in."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import ErrorCode, WorkbenchError
from workbench.setups import MAX_ADDRESS_CHARS, Setup, line, over, read_line
from workbench.types import Options, TimingMode

FULL = Setup(
    models=("huggingface/a, b?dtype=float32&threads=1", None, "ollama/b:1"),
    prompt="Wie spät ist es? 😀\n& so = on #1 + 100 %",
    system="Be brief.",
    mode=TimingMode.ISOLATED,
    options=Options(max_tokens=64, temperature=0.0, seed=7, stop=("END", "\n\n", "a b")),
    own={2: {"temperature": 1.5, "stop": ["it's", "\n"]}},
)


def opened(query: str) -> Setup:
    return Setup.from_query(dict(parse_qsl(query, keep_blank_values=True)))


def test_round_trip() -> None:
    assert opened(FULL.to_query()) == FULL
    assert Setup.from_dict(FULL.to_dict()) == FULL
    assert Setup().to_query() == ""
    assert Setup().to_dict() == {}


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=200)


@given(
    prompt=texts,
    system=texts,
    stop=st.lists(texts.filter(lambda t: t and "\\" not in t and "\r" not in t), max_size=3),
)
def test_any_text_survives(prompt: str, system: str, stop: list[str]) -> None:
    setup = Setup(("ollama/x",), prompt, system, options=Options(stop=tuple(stop)))
    assert opened(setup.to_query()) == setup


def test_what_is_not_ours_in_an_address_is_left_alone() -> None:
    assert Setup.from_query({"__theme": "dark", "utm": "x"}) == Setup()


@pytest.mark.parametrize(
    "query",
    [
        {"models": "<img src=x onerror=alert(1)>"},
        {"models": "a`b"},
        {"models": ",".join("x" * 7)},
        {"temperature": "hot"},
        {"temperature": "99"},
        {"seed": "1e400"},
        {"mode": "turbo"},
        {"own1": "temperature=0 rm -rf"},
        {"own1": "'open"},
        {"own2": "top_p=0"},
        {"prompt": "x" * (MAX_ADDRESS_CHARS + 1)},
    ],
)
def test_a_bad_address_is_refused_in_words(query: dict[str, str]) -> None:
    with pytest.raises(WorkbenchError) as caught:
        Setup.from_query(query)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "values",
    [
        [],
        {"token": "secret"},
        {"options": {"logprobs": 5}},
        {"options": []},
        {"models": ["a"] * 7},
        {"models": [7]},
        {"prompt": 7},
        {"own": {"7": {}}},
        {"own": {"1": []}},
    ],
)
def test_bad_values_are_refused(values: object) -> None:
    with pytest.raises(WorkbenchError):
        Setup.from_dict(values)  # type: ignore[arg-type]


def test_too_long_for_an_address_says_what_to_do() -> None:
    with pytest.raises(WorkbenchError, match="preset"):
        Setup(prompt="x" * MAX_ADDRESS_CHARS).to_query()


def test_own_options_go_over_the_shared_ones() -> None:
    own = read_line("temperature=0 stop='a b'")
    assert own == {"temperature": 0, "stop": ["a b"]}
    assert read_line(line(own)) == own
    options = over(Options(temperature=0.9, seed=7), own)
    assert (options.temperature, options.seed, options.stop) == (0, 7, ("a b",))
