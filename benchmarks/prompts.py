"""The fixed prompts: different ones for each stream, the same for every peer in a turn."""

from __future__ import annotations

import hashlib
from typing import Final

TOPICS: Final = (
    "a lighthouse keeper and a storm",
    "two brothers who build a boat",
    "a baker in a town without flour",
    "a train that never stops",
    "the last library on an island",
    "a painter who loses all colors",
    "a doctor on a ship in winter",
    "a garden behind a closed gate",
    "a letter that arrives too late",
    "a clockmaker and his daughter",
    "a village below a glacier",
    "an old teacher and a new bridge",
    "a river that changes its way",
    "a girl who counts the stars",
    "a miner who finds a door",
    "a singer who lost her voice",
    "a map with a wrong mountain",
    "a farmer and a flock of cranes",
    "a night watchman in a museum",
    "a captain who fears the sea",
    "a tailor who sews for a king",
    "a bridge between two quarrels",
    "a tree that shades a market",
    "a dog that waits at a station",
    "an orchestra without a leader",
    "a well in the middle of a desert",
    "a glass maker and a thunderstorm",
    "a pilot above a burning forest",
    "a cook in a house of silence",
    "a shepherd who reads the clouds",
    "a carpenter and a broken chair",
    "a fisherman who speaks to whales",
)


def prompts(streams: int, turn: int, kind: str) -> list[str]:
    """One prompt a stream, about 50 tokens each.

    Each begins with characters of its own, so that no runtime can serve it from the cache of an
    earlier prompt; all ask for an answer far longer than any limit here.

    Args:
        streams: how many.
        turn: of the benchmark; every peer gets the same prompts in it.
        kind: keeps cells of one turn apart (``load8-0``, ``warm-up8``).
    """
    found = []
    for index in range(streams):
        seed = f"{kind}/{turn}/{index}"
        mark = hashlib.sha256(seed.encode()).hexdigest()[:8]
        topic = TOPICS[(index + turn) % len(TOPICS)]
        found.append(
            f"{mark}: Write a long story of at least ten paragraphs about {topic}. Describe the "
            "place, the weather and the people, what they say to each other and how it ends."
        )
    return found


QUALITY: Final = (
    "Explain in a few sentences why the sky is blue during the day.",
    "Write a short story about a cat that learns to swim.",
    "List five useful habits for a student and say why each one helps.",
    "Describe how bread is made, from the field to the table.",
    "I moved into a small flat above a bakery last month. The ovens start at three in the morning, "
    "and the floor of my bedroom is warm before the sun is up, which is pleasant in winter. What "
    "is less pleasant is the noise of the mixer, which stands right under my bed. The baker is a "
    "kind man of nearly seventy years who gives bread to half of the street when somebody is ill. "
    "Write him a polite letter in which I ask whether the mixer could stand somewhere else.",
    "A class of ten-year-olds has asked me what the difference between weather and climate is. "
    "They know what rain, wind and snow are, they have kept a diary of the temperature in front of "
    "the school for six weeks, and one of them said that a cold week in May proves that nothing is "
    "getting warmer. Tell them the difference in simple words, with their own diary as an example.",
    "My grandfather repaired bicycles for forty years and always said that a bicycle wants to go "
    "straight. I never understood what he meant: when I let go of it, it falls over at once, but "
    "when it rolls down the hill without anybody on it, it stays upright for a long way. I have "
    "read about spinning wheels, about the angle of the fork and about a rider who steers without "
    "noticing it. Tell me how a bicycle stays upright when it moves, and which of the three counts "
    "most.",
    'The following text is from a guide for new colleagues. "The memory of a computer keeps what '
    "is being worked on. It is fast and forgets everything when the power goes. The disk is slow "
    "and forgets nothing. A program that needs more memory than there is has to move a part of its "
    "work to the disk and fetch it again later, and then everything takes a hundred times as long. "
    "If your machine becomes slow in the afternoon, close what you do not need before you ask for "
    'a larger one." Summarize it in three short sentences for somebody who has never thought about '
    "what is inside of a computer.",
)
"""Everyday requests with long answers; the quality gate compares greedy answers to them.

The last four are long enough to be read in bfloat16 where short ones are not (``prompts_from`` in
:mod:`workbench.hf.quality`).
"""
