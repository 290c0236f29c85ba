"""Requests of ``Workbench.parity`` and ``Workbench.diverge``, for both kinds of transport."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.types import ChatRequest, Message, Options, new_id

if TYPE_CHECKING:
    from workbench.bench.road import Road
    from workbench.insight.ladder import Ladder


def request_of(
    model: str, prompt: str, system: str | None, source: str, options: Mapping[str, Any]
) -> ChatRequest:
    """The request to the first model; greedy unless the options say otherwise."""
    messages = (Message("system", system),) if system else ()
    chosen = {"temperature": 0.0, "max_tokens": 64, **options}
    return ChatRequest(
        model=model,
        messages=(*messages, Message("user", prompt)),
        options=Options.from_mapping(chosen),
        source=source,
    )


async def climb(
    road: Road,
    models: Sequence[str],
    passages: Path | None,
    sizes: Mapping[str, int | None],
    tell: Callable[[str], None],
    climbed: Callable[[Ladder], None],
) -> Ladder:
    """Measure a ladder over the road and log it."""
    from workbench.insight.ladder import ladder
    from workbench.insight.passages import read

    found = await ladder(road, models, read(passages), sizes=sizes, tell=tell, climbed=climbed)
    row = {
        "insight_id": new_id("ins"),
        "created_at": dt.datetime.now(dt.UTC),
        "kind": "ladder",
        "model_a": models[0],
        "model_b": models[-1],
        "details": found.to_dict(),
    }
    await road.log("insights", [row], "add")
    return found


def body_of(request: ChatRequest, other: str) -> dict[str, Any]:
    """The same as the JSON body of the API."""
    *earlier, last = request.messages
    return {
        "models": [request.model, other],
        "message": last.content,
        "history": [{"role": one.role, "content": one.content} for one in earlier],
        "options": request.options.to_dict(),
    }
