"""Instructions that a program can check: lengths, words that must be there, forms."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from workbench.bench.items import Item
from workbench.bench.scorers import searching
from workbench.bench.scorers.base import Answer, Pure, Score, lacks
from workbench.errors import invalid

_BULLET: Final = re.compile(r"^[^\S\n]*(?:[-*•]|\d+[.)])[^\S\n]+\S", re.MULTILINE)
_WORD: Final = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_MARKS: Final = re.compile(r"[.!?]+")


def words(text: str) -> list[str]:
    """The words of a text; ``don't`` and ``well-kept`` are one each."""
    return _WORD.findall(text)


def sentences(text: str) -> int:
    """How many sentences: parts with a word in them that end in a mark, or at the end."""
    return sum(_WORD.search(part) is not None for part in _MARKS.split(text))


def _is_json(text: str, _: Any) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _same_case(text: str, wanted: Callable[[str], str]) -> bool:
    return any(c.isalpha() for c in text) and text == wanted(text)


RULES: Final[Mapping[str, Callable[[str, Any], bool]]] = {
    "min_words": lambda text, n: len(words(text)) >= n,
    "max_words": lambda text, n: len(words(text)) <= n,
    "words": lambda text, n: len(words(text)) == n,
    "sentences": lambda text, n: sentences(text) == n,
    "lines": lambda text, n: len([line for line in text.splitlines() if line.strip()]) == n,
    "paragraphs": lambda text, n: len([p for p in re.split(r"\n\s*\n", text) if p.strip()]) == n,
    "bullets": lambda text, n: len(_BULLET.findall(text)) == n,
    "starts_with": lambda text, start: text.strip().startswith(start),
    "ends_with": lambda text, end: text.strip().endswith(end),
    "contains": lambda text, part: part.casefold() in text.casefold(),
    "contains_times": lambda text, rule: (
        len(re.findall(rf"(?<!\w){re.escape(rule['word'].casefold())}(?!\w)", text.casefold()))
        >= rule["times"]
    ),
    "lacks": lambda text, part: part.casefold() not in text.casefold(),
    "lacks_letter": lambda text, letter: bool(words(text)) and letter not in text.casefold(),
    "lower_case": lambda text, _: _same_case(text, str.lower),
    "upper_case": lambda text, _: _same_case(text, str.upper),
    "no_commas": lambda text, _: "," not in text,
    "no_digits": lambda text, _: not any(c.isdigit() for c in text),
    "json": _is_json,
}
"""Rules by name: a function of the answer and of the rule's value. There is ``matches`` too."""


def rules(time_s: float) -> Pure:
    """The share of an item's ``rules`` that the answer keeps; right if it keeps all.

    ``rules`` is an object: ``{"max_words": 30, "contains": "river"}``. An empty answer keeps none.

    Args:
        time_s: the longest search of ``matches``; an answer that takes longer has no score.
    """

    def of(item: Item, answer: Answer) -> Score:
        wanted = item.meta.get("rules")
        if not isinstance(wanted, Mapping) or not wanted:
            raise lacks(item, "rules", "rules")
        broken = [
            name for name, value in wanted.items() if not _keeps(item, name, value, answer, time_s)
        ]
        share = 1 - len(broken) / len(wanted)
        return Score(share, {"reason": f"breaks {', '.join(broken)}"} if broken else {})

    return Pure("rules", of)


def _keeps(item: Item, name: str, value: Any, answer: Answer, time_s: float) -> bool:
    if name != "matches" and name not in RULES:
        raise invalid(
            f"Item {item.id!r} has an unknown rule {name!r}.",
            fix=f"The rules are {', '.join(RULES)}, matches.",
        )
    if not answer.text.strip():
        return False
    if name == "matches":
        return searching.found(str(value), answer.text, time_s, f"item {item.id!r}")
    try:
        return RULES[name](answer.text, value)
    except (TypeError, KeyError, AttributeError) as error:
        raise invalid(
            f"The rule {name!r} of item {item.id!r} has an impossible value {value!r}: {error}.",
            fix="Compare it with the rules in the datasets that come with the workbench.",
        ) from None
