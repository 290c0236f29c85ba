"""Two models answer one request alone, and the log says where each second went."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from workbench.analysis.frames import rows_of
from workbench.analysis.timing import PARTS, time_ledger
from workbench.engine import Engine
from workbench.insight.asking import Tell
from workbench.insight.limits import Share, measure, share_of
from workbench.types import ChatRequest, DoneEvent, ErrorEvent, TimingMode, new_id

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Seconds:
    """The time ledger of a comparison and what limits each model's decoding.

    Attributes:
        comparison_id: under which the answers are in the log.
        ledger: columns of ``analysis.TIME_LEDGER``.
        shares: by model, where weights and speed are known.
    """

    comparison_id: str
    ledger: pd.DataFrame
    shares: tuple[Share, ...]

    def sentences(self) -> list[str]:
        """For each answer, what took longest; then what limits decoding."""
        said = []
        for row in rows_of(self.ledger):
            parts = {word: getattr(row, column) for column, word in PARTS.items()}
            known = {word: value for word, value in parts.items() if value == value and value > 0}
            if known and row.wall_s > 0:
                word, longest = max(known.items(), key=lambda item: item[1])
                said.append(
                    f"{row.model}: {longest / row.wall_s:.0%} of {row.wall_s:.2f} s is {word}"
                )
        return [*said, *(f"{share.model}: {share.says}" for share in self.shares)]


async def seconds(
    engine: Engine, request: ChatRequest, other: str, *, tell: Tell = lambda stage: None
) -> Seconds:
    """Let both models answer alone, one after the other, and account for their time.

    Args:
        engine: the one road.
        request: to the first model.
        other: id of the second model.
        tell: told in a few words what is being done.

    Raises:
        WorkbenchError: of either model.
    """
    together = new_id("cmp")
    ours = replace(request, timing_mode=TimingMode.ISOLATED, comparison_id=together)
    speeds: dict[str, float] = {}
    # Loaded before: a load beside the first answer would be told as the second one's waiting.
    for model in (request.model, other):
        tell(f"{model} is loaded")
        await engine.load(model)
        tell(f"{model} answers")
        asked = replace(ours, model=model, session_id=new_id("ses"), conversation_id=new_id("con"))
        async with aclosing(engine.stream(asked)) as events:
            async for event in events:
                if isinstance(event, ErrorEvent):
                    raise event.error
                if isinstance(event, DoneEvent):
                    speed = event.session.metrics.get("decode_tps")
                    speeds[event.session.model] = float(speed or 0)
    tell("memory and arithmetic of this machine are measured")
    limits = await asyncio.to_thread(measure)
    shares = [
        share_of(limits, await engine.show(model), speed)
        for model, speed in speeds.items()
        if speed
    ]
    found = await asyncio.to_thread(time_ledger, engine.store.query, together)
    return Seconds(together, found, tuple(share for share in shares if share is not None))
