"""Scorers that look at the text alone: exact, contains, regex, numeric."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from workbench.bench.items import Item
from workbench.bench.scorers import searching
from workbench.bench.scorers.base import Answer, Pure, Score, lacks, verdict

SHOWN: Final = 200
"""Characters of a wrong answer that the reason quotes."""

_EDGES: Final = " \t\r\n.,;:!?\"'`*_()[]{}<>“”‘’«»"
_NUMBER: Final = re.compile(
    r"(?<![\w.])[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|(?<![\w.])[-+−]?\.\d+"
)


def folded(text: str) -> str:
    """The text for comparison: case, runs of white space, and marks at both ends do not count."""
    return " ".join(text.casefold().split()).strip(_EDGES)


def shown(text: str) -> str:
    """The beginning of an answer, for a reason."""
    flat = " ".join(text.split())
    return flat if len(flat) <= SHOWN else f"{flat[:SHOWN]}…"


def exact(*, strict: bool = False) -> Pure:
    """Right if the answer is ``expected``.

    Args:
        strict: character by character; otherwise case, white space and marks at the ends do not
            count.
    """

    def of(item: Item, answer: Answer) -> Score:
        if item.expected is None:
            raise lacks(item, "exact", "expected")
        found, wanted = answer.text, item.expected
        if not strict:
            found, wanted = folded(found), folded(wanted)
        return verdict(found == wanted, f"not {item.expected!r}: {shown(answer.text)!r}")

    return Pure("exact", of)


def contains(*, strict: bool = False) -> Pure:
    """Right if ``expected`` is somewhere in the answer, as whole words.

    Args:
        strict: case and white space count.
    """

    def of(item: Item, answer: Answer) -> Score:
        if item.expected is None:
            raise lacks(item, "contains", "expected")
        found, wanted = answer.text, item.expected
        if not strict:
            found, wanted = folded(found), folded(wanted)
        inside = re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", found) is not None
        return verdict(inside, f"{item.expected!r} is not in {shown(answer.text)!r}")

    return Pure("contains", of)


def regex(time_s: float, *, pattern: str | None = None) -> Pure:
    """Right if the pattern is found in the answer.

    Args:
        time_s: the longest search; an answer that takes longer has no score.
        pattern: for all items; an item's own ``pattern`` wins.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, it is no regular expression.
    """
    if pattern is not None:
        searching.check(pattern, "the scorer")

    def of(item: Item, answer: Answer) -> Score:
        own = item.meta.get("pattern")
        if own is None and pattern is None:
            raise lacks(item, "regex", "pattern")
        sought, whose = (pattern, "the scorer") if own is None else (own, f"item {item.id!r}")
        found = searching.found(str(sought), answer.text, time_s, whose)
        return verdict(found, f"no match in {shown(answer.text)!r}")

    return Pure("regex", of)


def numeric(*, tolerance: float = 0.0, relative: float = 1e-9) -> Pure:
    """Right if the last number of the answer is ``expected``.

    Args:
        tolerance: how far off it may be; an item's own ``tolerance`` wins.
        relative: the same as a share of ``expected``; the wider of the two holds.
    """

    def of(item: Item, answer: Answer) -> Score:
        wanted = _last_number(item.expected or "")
        if wanted is None:
            raise lacks(item, "numeric", "number as expected")
        found = _last_number(answer.text)
        if found is None:
            return verdict(False, f"no number in {shown(answer.text)!r}")
        allowed = max(float(item.meta.get("tolerance", tolerance)), relative * abs(wanted))
        return verdict(abs(found - wanted) <= allowed, f"{found:g} is not {wanted:g}", found=found)

    return Pure("numeric", of)


def numbers(text: str) -> Sequence[float]:
    """The numbers of a text in order: ``1,234.5``, ``-3``, ``6e23``."""
    return [float(match[0].replace(",", "").replace("−", "-")) for match in _NUMBER.finditer(text)]


def _last_number(text: str) -> float | None:
    found = numbers(text)
    return found[-1] if found else None
