"""Prompts made here, of a wanted length, and what is put before prompts.

The words are short and common: nearly every tokenizer has one token for each.
"""

from __future__ import annotations

from random import Random
from typing import Final

from workbench.bench.items import Item

_LIST: Final = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work number night "
    "point home water room mother area money story fact month lot right study book eye job word "
    "business issue side kind head house service friend father power hour game line end member law "
    "car city community name president team minute idea body information back parent face others "
    "level office door health person art war history party result change morning reason research "
    "girl guy moment air teacher force education river stone tree field road winter summer garden "
    "music color paper table window letter market bridge island forest mountain ocean bird horse"
)
_WORDS: Final = _LIST.split()

_ASKED: Final = "Write a long story in which all of these words occur:"
_ASKED_TOKENS: Final = 14
"""About as many tokens as the instruction has."""
_OPENING_WORDS: Final = 6

FOLLOW_UPS: Final = (
    "What happens next?",
    "Tell the same from the view of somebody else.",
    "Say it again in simpler words.",
    "Which part of it matters most, and why?",
    "Go on.",
)
"""What is said in later turns of a conversation."""


def synthetic(count: int, input_tokens: int, seed: int) -> tuple[Item, ...]:
    """Prompts of roughly ``input_tokens`` tokens each, the same for the same arguments."""
    rng = Random(f"prompts/{seed}/{input_tokens}")
    return tuple(
        Item.of(f"{input_tokens}-{number}", story(input_tokens, rng)) for number in range(count)
    )


def story(input_tokens: int, rng: Random) -> str:
    """One prompt of roughly so many tokens."""
    return f"{_ASKED} {words(max(1, input_tokens - _ASKED_TOKENS), rng)}."


def words(count: int, rng: Random) -> str:
    """So many words at random."""
    return " ".join(rng.choices(_WORDS, k=count))


def opening(key: str) -> str:
    """Words that stand before a prompt so that no cache knows its beginning.

    Six of 120 words: two keys share all of them once in three million million. In brackets, which
    the view ``session_prompts`` takes off again.
    """
    return f"[{words(_OPENING_WORDS, Random(key))}] "
