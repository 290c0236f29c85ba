"""From the composer's fields to options and requests."""

from __future__ import annotations

import pytest

from workbench.errors import ErrorCode, WorkbenchError
from workbench.types import Options, TimingMode
from workbench.ui import asking, composer
from workbench.ui.composer import OPTION_NAMES, Ask, read, read_options
from workbench.ui.conversation import Turn


def fields(**values: str) -> list[str]:
    return [values.get(name, "") for name in OPTION_NAMES]


def test_empty_fields_are_the_defaults() -> None:
    assert read_options("", *fields()) == Options()


def test_every_default_reads_back() -> None:
    shown = {name: composer._default(name) for name in OPTION_NAMES}
    assert read_options("", *fields(**shown)) == Options()


def test_values_are_read() -> None:
    options = read_options("END\n\\n\\n", *fields(max_tokens=" 64 ", temperature="0", seed="7"))
    assert (options.max_tokens, options.temperature, options.seed) == (64, 0, 7)
    assert options.stop == ("END", "\n\n")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("temperature", "nan"),
        ("temperature", "inf"),
        ("temperature", "hot"),
        ("max_tokens", "12.5"),
        ("max_tokens", "-1"),
        ("top_p", "0"),
        ("seed", "99999999999999999999"),
        ("num_ctx", "1e400"),
    ],
)
def test_bad_value_names_the_option(name: str, text: str) -> None:
    with pytest.raises(WorkbenchError) as caught:
        read_options("", *fields(**{name: text}))
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert name in caught.value.message


@pytest.mark.parametrize("prompt", ["", "  \n ", None])
def test_empty_prompt_is_refused(prompt: str | None) -> None:
    with pytest.raises(WorkbenchError, match="empty"):
        read(prompt, "", "concurrent", "", *fields())


def test_modes_are_all_explained() -> None:
    assert set(composer.MODES.values()) == set(TimingMode)
    assert composer.MODES.keys() == composer.MODE_WORDS.keys()


ASK = Ask("Why?", "Be brief.", TimingMode.CONCURRENT, Options())
MODELS = {1: "huggingface/a", 2: "ollama/b", 3: None, 4: "ollama/hidden"}


def test_each_pane_sends_its_own_history() -> None:
    turns = {
        1: (Turn("con_a", "huggingface/a", "1", "said a"),),
        2: (Turn("con_b", "ollama/b", "1", "said b"),),
        3: (),
        4: (),
    }
    plan = asking.plan(ASK, (1, 2), MODELS, turns)
    assert list(plan.requests) == [1, 2], "no request for a hidden pane"
    for pane, words, conversation in ((1, "said a", "con_a"), (2, "said b", "con_b")):
        request = plan.requests[pane]
        assert [message.content for message in request.messages] == [
            "Be brief.",
            "1",
            words,
            "Why?",
        ]
        assert request.conversation_id == conversation
    assert len({request.comparison_id for request in plan.requests.values()}) == 1


def test_without_any_model_nothing_is_planned() -> None:
    with pytest.raises(WorkbenchError, match="No model"):
        asking.plan(ASK, (3,), MODELS, dict.fromkeys(MODELS, ()))


def test_a_pane_without_a_model_is_named_and_nothing_is_planned() -> None:
    with pytest.raises(WorkbenchError, match="Pane C has no model"):
        asking.plan(ASK, (1, 2, 3), MODELS, dict.fromkeys(MODELS, ()))
    one = asking.plan(ASK, (1, 3), MODELS, dict.fromkeys(MODELS, ()), only=1)
    assert one.requests.keys() == {1}, "the others are not asked"


def test_rerun_takes_the_last_answer_back() -> None:
    earlier, last = Turn("c", "m", "1", "one"), Turn("c", "m", "Why?", "because")
    assert asking.without_last((earlier, last), "Why?") == (earlier,)
    assert asking.without_last((earlier,), "Why?") == (earlier,)


@pytest.mark.parametrize("line", ["warmth=1", "temperature=x", "max_tokens=0"])
def test_a_bad_line_of_a_pane_names_the_pane(line: str) -> None:
    with pytest.raises(WorkbenchError, match="Pane B: ") as caught:
        composer.with_own(ASK, {1: "seed=7", 2: line})
    assert caught.value.code is ErrorCode.INVALID_REQUEST
