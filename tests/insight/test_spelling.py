"""Tokens that are parts of characters: what they are called, where they stand, how they compare."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.insight.asking import add_tokens, settled
from workbench.insight.divergence import Answer, Divergence
from workbench.insight.probabilities import NOT_TOLD, Step, divergence_nats, shares
from workbench.insight.spelling import bytes_of, name_of, pieces, places, says
from workbench.types import TokenEvent

TEXT = "Я 🦊é日."


def entry(spelt: bytes, *, told: bool = True, logprob: float = -0.5) -> dict[str, Any]:
    own = {"token": spelt.decode("utf-8", "replace")} | ({"bytes": list(spelt)} if told else {})
    if not told and b"\xef\xbf\xbd" not in spelt:
        own["bytes"] = list(own["token"].encode())  # as a server that passes text on has it
    others = [{**own, "logprob": logprob}, {"token": "x", "logprob": -3.0}]
    others += [{"token": "\ufffd", "logprob": -4.0}] * (0 if told else 2)
    return {**own, "logprob": logprob, "top_logprobs": others}


def cut(text: str, ends: Sequence[int]) -> list[bytes]:
    spelt = text.encode()
    marks = sorted({0, len(spelt), *(end % (len(spelt) + 1) for end in ends)})
    return [spelt[a:b] for a, b in itertools.pairwise(marks)]


def said(tokens: Sequence[bytes], *, told: bool = True, joined: bool = False) -> tuple[Step, ...]:
    """As a runtime says them: a character with its last token; ``joined``, all tokens with it."""
    steps: list[Step] = []
    held, entries = b"", []
    for number, token in enumerate(tokens):
        held += token
        whole = held.decode("utf-8", "ignore").encode() == held
        last = number + 1 == len(tokens)
        entries.append(entry(token, told=told))
        text = held.decode("utf-8", "replace") if whole or last else ""
        if text or not joined:
            add_tokens(steps, TokenEvent("s", number, text, 1, "content", 0, tuple(entries)))
            entries = []
        held = b"" if whole else held
    return settled(steps)


@given(st.text(min_size=1, max_size=12), st.lists(st.integers(0, 60), max_size=20), st.booleans())
def test_however_a_text_is_cut_it_stands_where_it_stands(
    text: str, ends: list[int], joined: bool
) -> None:
    if "\ufffd" in text:
        return
    tokens = cut(text, ends)
    steps = said(tokens, joined=joined)
    assert "".join(step.text for step in steps) == text
    assert b"".join(step.spelt or b"" for step in steps) == text.encode()
    assert places(steps) == [sum(map(len, tokens[:n])) for n in range(len(tokens))]
    assert [one.encode("utf-8", "surrogateescape") for one in pieces(steps)] == tokens
    same = Divergence(Answer("a", steps), Answer("b", (*steps, Step("!", -1.0, ()))), steps)
    assert same.agreement == 1
    assert same.left_out == 0
    assert same.mean_divergence_nats == pytest.approx(0, abs=1e-6)
    assert same.perplexities == (pytest.approx(math.exp(0.5)),) * 2


@given(st.binary(min_size=1, max_size=6))
def test_a_name_tells_the_bytes(spelt: bytes) -> None:
    name = name_of({"token": spelt.decode("utf-8", "replace"), "bytes": list(spelt)})
    assert bytes_of(name) == (spelt if b"\xef\xbf\xbd" not in spelt else None)
    assert says(spelt, spelt.decode("utf-8", "replace"))


def test_tokens_that_are_not_told_apart_are_left_out_on_both_sides_and_said_so() -> None:
    tokens = [b"caf", b"\xc3", b"\xa9", b" ok", b" yes"]
    untold = said(tokens, told=False, joined=True)
    assert [step.text for step in untold] == ["caf", "", "é", " ok", " yes"]
    assert pieces(untold) == ("caf", "é", " ok", " yes")
    # The second model sees the same text; of the character it is sure to have said another half.
    read = list(said(tokens))
    read[1] = Step("", math.log(0.001), (("<0xC4>", -0.01),), "<0xC3>")
    found = Divergence(
        Answer("a", untold), Answer("b", (*untold[:-1], Step(" no", -1.0, ()))), tuple(read)
    )
    assert found.left_out == 2
    assert found.agreement == 1
    assert found.perplexities == (pytest.approx(math.exp(0.5)),) * 2
    assert ("left out of these: tokens that a runtime does not tell apart", "2 of 5") in (
        found.figures()
    )
    assert divergence_nats((("\ufffd", -0.1), ("a", -3.0)), (("\ufffd", -0.1),)) is None
    assert shares((("a", -0.5), ("\ufffd", -2.0), ("\ufffd", -2.0)))[NOT_TOLD] == pytest.approx(
        2 * math.exp(-2)
    )


def test_with_most_of_the_text_left_out_nothing_is_claimed() -> None:
    tokens = [b"\xe6", b"\x97\xa5", b"\xe6", b"\x9c\xac", b"."]
    untold = said(tokens, told=False, joined=True)
    other = (*untold[:-1], Step("!", -1.0, (("!", -1.0),)))
    assert Divergence(Answer("a", untold), Answer("b", other), untold).verdict == "unknown"


def test_of_several_tokens_a_server_may_tell_the_last_alone() -> None:
    """As llama.cpp's server does, which sends a character when it is whole."""
    steps: list[Step] = []
    for text, spelt in (("a", b"a"), ("日", b"\xa5"), (".", b".")):
        add_tokens(steps, TokenEvent("s", 0, text, 1, "content", 0, (entry(spelt),)))
    assert [step.text for step in steps] == ["a", "", "日", "."]
    # Or calls the last one like the whole character, beside the likeliest, which it names.
    likeliest = entry(b"\xa5")["top_logprobs"]
    whole = {"token": "日", "logprob": -0.5, "top_logprobs": likeliest}
    merged: list[Step] = []
    add_tokens(merged, TokenEvent("s", 0, "日", 1, "content", 0, (whole,)))
    assert merged == steps[1:3]
    assert places(steps) == [0, 1, 3, 4]
    assert pieces(steps) == ("a", "日", ".")
    read = said([b"a", b"\xe6", b"\x97", b"\xa5", b"."])
    found = Divergence(Answer("a", tuple(steps)), Answer("b", (*read, Step("!", -1, ()))), read)
    assert found.left_out == 1
    assert found.agreement == 1


@pytest.mark.parametrize("end", [b"\xe6", b"\xe6\x97"])
@pytest.mark.parametrize("other", ["a 日", "a ", "a 日本"])
def test_half_a_character_at_the_end_is_no_parting(end: bytes, other: str) -> None:
    short = Answer("a", said([b"a", b" ", end]))
    whole = Answer("b", said([b"a", b" ", *([other[2:].encode()] if other[2:] else [])]))
    assert Divergence(short, whole).verdict == "same"
    assert Divergence(whole, short).verdict == "same"
    assert Divergence(short, Answer("b", said([b"a", b"x"]))).parting == (1, 1)


def test_an_answer_that_was_cut_does_not_part_from_a_longer_one() -> None:
    short, longer = said([b"a", b" "]), said([b"a", b" ", b"b"])
    assert Divergence(Answer("a", short, is_cut=True), Answer("b", longer)).parting is None
    assert Divergence(Answer("a", short), Answer("b", longer)).parting == (2, 2)


def test_characters_part_at_the_byte_that_differs() -> None:
    one, two = said([b"a", b"\xe6\x97", b"\xa5"]), said([b"a", b"\xe6\x97", b"\xa6"])
    found = Divergence(Answer("a", one), Answer("b", two))
    assert found.parting == (2, 2)
    assert found.aligned
    assert found.shared_text == "a"


def test_an_end_token_and_marks_are_no_part_of_the_answer() -> None:
    steps: list[Step] = []
    for text, token in (("", "<mark>"), ("a", "a"), ("", "\n"), ("\n", "<|im_end|>")):
        add_tokens(steps, TokenEvent("s", 0, text, 1, "content", 0, (entry(token.encode()),)))
    found = settled(steps)
    assert [(step.text, step.name) for step in found] == [("a", "a"), ("\n", "\n")]
