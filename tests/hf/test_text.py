"""From ids to text: the deltas joined are the whole text, and no delta splits a character."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hf import tiny
from workbench.hf.text import (
    AnswerText,
    CleanUp,
    IncrementalDecoder,
    StopFilter,
    ThinkFilter,
    cleans_up,
    forced_ids,
    token_bytes,
)

WORDS = st.sampled_from(
    [
        "the",
        " Paris",
        "日本語",
        "👩‍🚀",
        "🇫🇷",
        "é",
        "ß",
        "\n",
        "  ",
        " .",
        "don't",
        " '",
        "\u200d",
        "ע",
    ]
)
TEXTS = st.lists(st.one_of(WORDS, st.text(max_size=4)), max_size=24).map("".join)
BYTE_LEVEL = ["byte_level", "byte_fallback"]


@cache
def tokenizer_of(kind: str) -> Any:
    return tiny.wrapped(getattr(tiny, kind)())


def pieces_of(tokenizer: Any, ids: list[int]) -> list[str]:
    text = AnswerText(
        lambda some: tokenizer.decode(
            some, skip_special_tokens=True, clean_up_tokenization_spaces=False
        ),
        tokenizer.clean_up_tokenization if cleans_up(tokenizer) else None,
        (),
    )
    pieces = [*(text.push(token_id) for token_id in ids), text.finish()]
    return ["".join(part for _, part in piece) for piece in pieces]


@pytest.mark.parametrize("kind", BYTE_LEVEL)
@given(text=TEXTS)
@settings(max_examples=150, deadline=None)
def test_deltas_joined_are_the_decoded_text(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@given(ids=st.lists(st.integers(0, 399), max_size=60))
@settings(max_examples=150, deadline=None)
def test_bytes_that_form_no_character_come_out_as_decode_has_them(ids: list[int]) -> None:
    tokenizer = tokenizer_of("byte_level")
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_byte_run_that_breaks_later_loses_nothing_that_was_shown() -> None:
    tokenizer = tokenizer_of("byte_fallback")
    good = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "語".encode()]
    bad = tokenizer.convert_tokens_to_ids("<0xE4>")
    letter = tokenizer.convert_tokens_to_ids("x")
    pieces = pieces_of(tokenizer, [letter, *good, bad, letter])
    assert "".join(pieces) == "x語\ufffdx"


@pytest.mark.model
@given(text=TEXTS)
@settings(max_examples=100, deadline=None)
def test_the_demo_model_s_tokenizer_too(demo_folder: Path, text: str) -> None:
    tokenizer = demo_tokenizer(str(demo_folder / "SmolLM2-135M-Instruct-GGUF"))
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)


@cache
def demo_tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def test_a_long_answer_costs_the_same_per_token_as_a_short_one() -> None:
    tokenizer = tokenizer_of("byte_level")
    longest = 0

    def decode(ids: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return str(tokenizer.decode(ids))

    decoder = IncrementalDecoder(decode)
    for token_id in tokenizer.encode(" ".join(tiny.CORPUS)):
        decoder.push(token_id)
    assert longest < 12  # a window of the last tokens, not the answer so far


# -- clean-up ------------------------------------------------------------------------------------

SPACED = st.lists(
    st.sampled_from([" ", ".", ",", "?", "!", "'", "n", "t", "n't", "m", "s", "ve", "re", "ab"]),
    max_size=30,
).map("".join)


@given(text=SPACED, cuts=st.lists(st.integers(0, 30), max_size=10))
@settings(max_examples=400, deadline=None)
def test_cleaning_in_parts_equals_cleaning_the_whole(text: str, cuts: list[int]) -> None:
    clean = tokenizer_of("cleaned_up").clean_up_tokenization
    stream = CleanUp(clean)
    shown = "".join(stream.push(part) for part in parts_of(text, cuts)) + stream.finish()
    assert shown == clean(text)


def parts_of(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


def test_a_tokenizer_that_cleans_up_streams_the_same_text() -> None:
    tokenizer = tiny.wrapped(tiny.cleaned_up(), clean_up_tokenization_spaces=True)
    assert cleans_up(tokenizer)
    ids = tokenizer.encode("the cat . do n't , the end ?", add_special_tokens=False)
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    assert whole == "the cat. don't, the end?"
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == whole
    assert sum(bool(piece) for piece in pieces) > 3  # it does stream


# -- stop strings --------------------------------------------------------------------------------

LETTERS = st.text(alphabet="ab", max_size=14)


@given(
    text=LETTERS,
    cuts=st.lists(st.integers(0, 14), max_size=8),
    stops=st.lists(st.text(alphabet="ab", min_size=1, max_size=4), min_size=1, max_size=3),
)
@settings(max_examples=500, deadline=None)
def test_nothing_of_a_stop_string_gets_through(
    text: str, cuts: list[int], stops: list[str]
) -> None:
    stream = StopFilter(stops)
    shown = "".join(stream.push(part) for part in parts_of(text, cuts))
    hit = stream.hit
    shown += stream.finish()
    if hit is None:
        assert shown == text
        assert not any(stop in text for stop in stops)
    else:
        assert text.startswith(shown + hit)
        assert not any(stop in shown for stop in stops)


def test_text_that_cannot_become_a_stop_string_is_not_held_back() -> None:
    stream = StopFilter(["\n\nUser:"])
    assert stream.push("Hello") == "Hello"
    assert stream.push(" you\n") == " you"
    assert stream.push("x") == "\nx"


@pytest.mark.parametrize("finish", [StopFilter(["x"]).finish, CleanUp(None).finish])
def test_an_empty_stream_ends_empty(finish: Callable[[], str]) -> None:
    assert finish() == ""


THOUGHT = "<think>\nLet me see.\n</think>\n\nParis. A tag like <think> here is text."


@given(cuts=st.lists(st.integers(0, len(THOUGHT)), max_size=20))
def test_thinking_and_answer_part_however_the_text_is_cut(cuts: list[int]) -> None:
    think = ThinkFilter(thinking=False)
    pieces = [piece for part in parts_of(THOUGHT, cuts) for piece in think.push(part)]
    pieces += think.finish()
    joined = {
        channel: "".join(text for other, text in pieces if other == channel)
        for channel in ("reasoning", "content")
    }
    assert joined == {
        "reasoning": "Let me see.",
        "content": "Paris. A tag like <think> here is text.",
    }


@pytest.mark.parametrize(
    ("thinking", "text", "reasoning", "content"),
    [
        (True, "Hm.</think>Yes", "Hm.", "Yes"),
        (True, "Hm, and never an end </thi", "Hm, and never an end </thi", ""),
        (False, "  Hello", "", "  Hello"),
        (False, "<thin ice", "", "<thin ice"),
        (False, "<think></think>Yes", "", "Yes"),
        (False, "", "", ""),
    ],
)
def test_thinking_is_told_from_what_only_looks_like_it(
    thinking: bool, text: str, reasoning: str, content: str
) -> None:
    think = ThinkFilter(thinking)
    pieces = [piece for letter in text for piece in think.push(letter)] + think.finish()
    assert "".join(part for channel, part in pieces if channel == "reasoning") == reasoning
    assert "".join(part for channel, part in pieces if channel == "content") == content


@pytest.mark.parametrize(
    ("kind", "text"), [("byte_level", "日本 👩‍🚀é"), ("byte_fallback", "日👩é")]
)
def test_tokens_that_are_no_whole_text_tell_their_bytes(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    spelt, halves = b"", 0
    for one in tokenizer(text)["input_ids"]:
        alone = tokenizer.decode([one])
        found = token_bytes(alone, tokenizer.convert_ids_to_tokens(one))
        halves += found is not None
        spelt += bytes(found) if found is not None else alone.encode()
    assert spelt.decode() == text
    assert halves > 4


class Splitting:
    """Reads an empty line before a digit as two tokens, as GPT-2's rule does; otherwise words."""

    WORDS = ("\n\n", "\n", "1", ".", "ab", "a", "b", "🙂")

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        ids = []
        while text:
            split = text.startswith("\n\n") and text[2:3].isdigit()
            word = next(w for w in self.WORDS[split:] if text.startswith(w))
            ids.append(self.WORDS.index(word))
            text = text[len(word) :]
        return {"input_ids": ids}

    def decode(self, ids: list[int], *, clean_up_tokenization_spaces: bool) -> str:
        return "".join(self.WORDS[i] for i in ids)


@pytest.mark.parametrize(
    ("pieces", "tokens"),
    [
        (["a", "\n\n", "1", "."], ["a", "\n\n", "1", "."]),  # as the model said it
        (["a", "", "\n\n", "1"], ["a", "\n\n", "1"]),
        (["a", "b", "\n"], ["ab", "\n"]),  # the pieces of a tokenizer that cuts finer
        (["ab\n\n1"], ["ab", "\n", "\n", "1"]),
    ],
)
def test_an_answer_is_read_in_the_tokens_it_was_said_in(
    pieces: list[str], tokens: list[str]
) -> None:
    assert [Splitting.WORDS[i] for i in forced_ids(Splitting(), pieces)] == tokens
