"""From ids to text in examples; ``tests/properties/test_text.py`` has what holds for any text."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

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


def test_a_byte_run_that_breaks_later_loses_nothing_that_was_shown() -> None:
    tokenizer = tokenizer_of("byte_fallback")
    good = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "語".encode()]
    bad = tokenizer.convert_tokens_to_ids("<0xE4>")
    letter = tokenizer.convert_tokens_to_ids("x")
    pieces = pieces_of(tokenizer, [letter, *good, bad, letter])
    assert "".join(pieces) == "x語\ufffdx"


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


def test_text_that_cannot_become_a_stop_string_is_not_held_back() -> None:
    stream = StopFilter(["\n\nUser:"])
    assert stream.push("Hello") == "Hello"
    assert stream.push(" you\n") == " you"
    assert stream.push("x") == "\nx"


@pytest.mark.parametrize("parts", [["abcd"], ["ab", "cd"], ["a", "b", "c", "d"]])
def test_the_first_stop_string_is_the_same_however_the_text_comes(parts: list[str]) -> None:
    stream = StopFilter(["abcd", "c", "bc"])
    assert "".join(stream.push(part) for part in parts) == "a"
    assert stream.hit == "bc", "complete before abcd, and longer than c"


@pytest.mark.parametrize("finish", [StopFilter(["x"]).finish, CleanUp(None).finish])
def test_an_empty_stream_ends_empty(finish: Callable[[], str]) -> None:
    assert finish() == ""


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


@pytest.mark.parametrize(
    ("kind", "text"), [("byte_level", "日本 👩‍🚀é"), ("byte_fallback", "日é👩")]
)
def test_parts_of_characters_are_read_as_they_were_said(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    for said in (ids, ids[:-1], [*ids, ids[-1], ids[-1]]):  # whole, cut, garbage
        pieces = []
        for one in said:
            alone = tokenizer.decode([one])
            found = token_bytes(alone, tokenizer.convert_ids_to_tokens(one))
            spelt = bytes(found) if found is not None else alone.encode()
            pieces.append(spelt.decode("utf-8", "surrogateescape"))
        read = forced_ids(tokenizer, pieces)
        # A first space of the tokenizer's own is no part of the text.
        own = tokenizer.convert_tokens_to_ids("▁") if kind == "byte_fallback" else None
        assert [one for one in read if one != own] == [one for one in said if one != own]


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
