"""Two answers word by word: what they share, what only one of them says, side by side."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import chain, islice
from typing import Final

MAX_WORDS: Final = 4_000
"""Words of each text that are compared; matching takes time with the square of it at worst."""

_MAX_MEETINGS: Final = 200_000
"""Pairs of equal words; English has about as many between two texts of the longest size."""

_WORD: Final = re.compile(r"(\w+|[^\w\s])(\s*)")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text that is in both answers, or in this one only."""

    text: str
    shared: bool


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the comparison: lines begin together where both answers do."""

    left: tuple[Piece, ...]
    right: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """The comparison. Shares are of each side's words that the other has too, 0 to 1."""

    lines: tuple[Line, ...]
    left_words: int
    right_words: int
    shared_words: int
    cut: bool
    """Whether a text was longer than :data:`MAX_WORDS`; the rest is left out."""
    coarse: bool = False
    """Whether the texts repeat themselves so much that frequent words were not all matched."""

    @property
    def same(self) -> bool:
        """Whether nothing differs but white space."""
        return self.left_words == self.right_words == self.shared_words and not self.cut


def compare(left: str, right: str) -> Difference:
    """Compare two texts by words and signs; white space does not count.

    The words shared are those of a common subsequence: they stand in the same order in both.
    """
    a, b = _words(left), _words(right)
    cut = len(a) > MAX_WORDS or len(b) > MAX_WORDS
    a, b = a[:MAX_WORDS], b[:MAX_WORDS]
    first, second = [word for word, _ in a], [word for word, _ in b]
    coarse = _monotonous(first, second)
    matcher = SequenceMatcher(None, first, second, autojunk=coarse)
    lines: list[Line] = []
    sides: tuple[list[Piece], list[Piece]] = ([], [])
    shared = 0
    for kind, a_from, a_to, b_from, b_to in matcher.get_opcodes():
        if kind != "equal":
            for side, words in zip(sides, (a[a_from:a_to], b[b_from:b_to]), strict=True):
                _add(side, "".join(chain.from_iterable(words)), shared=False)
            continue
        for (word, a_space), (_, b_space) in zip(a[a_from:a_to], b[b_from:b_to], strict=True):
            shared += 1
            _add(sides[0], word + a_space, shared=True)
            _add(sides[1], word + b_space, shared=True)
            if "\n" in a_space and "\n" in b_space:
                lines.append(Line(tuple(sides[0]), tuple(sides[1])))
                sides = ([], [])
    if sides[0] or sides[1]:
        lines.append(Line(tuple(sides[0]), tuple(sides[1])))
    return Difference(tuple(lines), len(a), len(b), shared, cut, coarse)


def _monotonous(first: list[str], second: list[str]) -> bool:
    """Whether equal words meet so often that matching them all would take minutes.

    Words of more than a hundredth of such a text then match only beside rarer ones.
    """
    counts = Counter(second)
    return sum(counts[word] for word in first) > _MAX_MEETINGS


def _words(text: str) -> list[tuple[str, str]]:
    """Words and signs, each with the white space after it; of an endless text only what counts."""
    found = islice(_WORD.finditer(text), MAX_WORDS + 1)
    return [(match[1], match[2]) for match in found]


def _add(side: list[Piece], text: str, *, shared: bool) -> None:
    if side and side[-1].shared == shared:
        text = side.pop().text + text
    if text:
        side.append(Piece(text, shared))
