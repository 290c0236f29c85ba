"""The difference of two answers holds all of both and marks what only one of them says."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from workbench.worddiff import MAX_WORDS, Difference, compare


def side(difference: Difference, name: str, *, shared: bool | None = None) -> str:
    pieces = [piece for line in difference.lines for piece in getattr(line, name)]
    return "".join(p.text for p in pieces if shared is None or p.shared is shared)


def test_words_that_differ_are_marked_on_their_side() -> None:
    found = compare(
        "The quick brown fox jumps.\n\nIt is red.", "The quick grey cat jumps.\n\nIt is old."
    )
    assert side(found, "left", shared=False).split() == ["brown", "fox", "red"]
    assert side(found, "right", shared=False).split() == ["grey", "cat", "old"]
    assert len(found.lines) == 2, "paragraphs stand side by side"
    assert (found.left_words, found.right_words, found.shared_words) == (10, 10, 7)
    assert not found.same


def test_white_space_alone_is_no_difference() -> None:
    assert compare("one two\nthree", "one  two three").same
    assert compare("", "").same
    assert not compare("", "x").same


texts = st.text(st.sampled_from("ab c.\n\té😀"), max_size=60)


@given(texts, texts)
def test_nothing_is_lost_or_made_up(left: str, right: str) -> None:
    found = compare(left, right)
    assert side(found, "left") == left.lstrip()
    assert side(found, "right") == right.lstrip()
    shared = [side(found, name, shared=True).split() for name in ("left", "right")]
    assert "".join(shared[0]) == "".join(shared[1])


def test_endless_answers_are_cut_and_take_bounded_time() -> None:
    started = time.monotonic()
    found = compare("yes " * 200_000, "yes no " * 200_000)
    assert found.cut
    assert not found.same
    assert found.left_words == MAX_WORDS
    compare("a b " * 3_000, "b c a " * 3_000)
    compare("a b " * 150, "b c a " * 100)
    assert time.monotonic() - started < 60  # minutes, if every pair of words were looked at
