"""Both runtimes at once: what each keeps of the speed that it has alone."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from benchmarks.figures import Trace, median
from benchmarks.peers import Peer
from benchmarks.prompts import prompts
from benchmarks.watch import Surroundings

LIMIT_S: Final = 120.0
ANSWERS: Final = 3


async def beside(ours: Peer, other: Peer, turn: int, tokens: int) -> dict[str, Any]:
    """Let both answer alone, then at the same time.

    Args:
        ours: warmed up, as is the other.
        other: faster or slower; while one side answers, the other answers again and again.
        turn: of the run.
        tokens: of each answer.

    Returns:
        Tokens per second of one stream after its first token: ``alone`` and ``together``, each with
        ``ours`` and ``other``; ``shares`` is the latter over the former. ``surroundings`` are those
        of both parts together.
    """
    with Surroundings(ours.pid) as around:
        found = await _alone_and_together({"ours": ours, "other": other}, turn, tokens)
    return {"turn": turn, **found, "surroundings": around.figures}


async def _alone_and_together(sides: dict[str, Peer], turn: int, tokens: int) -> dict[str, Any]:
    alone = {}
    for name, peer in sides.items():
        alone[name] = _speed(await _answers(peer, turn, f"alone-{name}", tokens, ANSWERS))
    done = {name: asyncio.Event() for name in sides}

    async def until_both(name: str) -> list[Trace]:
        """Enough answers, and as many more as the other side needs to have company."""
        mine: list[Trace] = []
        while not all(event.is_set() for event in done.values()):
            label = f"beside-{name}-{len(mine)}"
            found = await _answers(sides[name], turn, label, tokens, 1)
            if not all(event.is_set() for event in done.values()):
                mine += found  # the last one was alone for a part
            if len(mine) >= ANSWERS:
                done[name].set()
        return mine

    both = await asyncio.gather(*(until_both(name) for name in sides))
    together = {name: _speed(traces) for name, traces in zip(sides, both, strict=True)}
    return {
        "alone": alone,
        "together": together,
        "shares": {
            name: together[name] / alone[name] if together[name] and alone[name] else None  # type: ignore[operator]
            for name in sides
        },
    }


async def _answers(peer: Peer, turn: int, label: str, tokens: int, count: int) -> list[Trace]:
    traces = []
    for number in range(count):
        found, stopped = await peer.ask(prompts(1, turn, f"{label}-{number}"), tokens, LIMIT_S)
        if stopped or found[0].error:
            raise peer.failed(f"an answer failed: {found[0].error or 'it took too long'}")
        traces += found
    return traces


def _speed(traces: list[Trace]) -> float | None:
    return median([trace.decode_tps for trace in traces])
