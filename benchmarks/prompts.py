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
    "What is the difference between weather and climate?",
    "Write a polite letter to a neighbor about a noisy dog.",
    "Tell me how a bicycle stays upright when it moves.",
    "Summarize what a computer's memory is for, in simple words.",
)
"""Everyday requests with long answers; the quality gate compares greedy answers to them."""
