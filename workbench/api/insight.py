"""Why two models differ, over REST: parity sheets and divergences."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

from workbench.api.calls import Call
from workbench.api.streaming import while_connected
from workbench.engine import Engine
from workbench.insight import logged
from workbench.insight.asking import MAX_REPEATS, REPEATS

router = APIRouter(prefix="/api/v1", tags=["insight"])


class Pair(Call):
    """One request to two models."""

    models: list[str] = Field(min_length=2, max_length=2)


class Diverge(Pair):
    """The same; ``repeats`` is how many further answers of each show whether it is steady."""

    repeats: int = Field(REPEATS, ge=0, le=MAX_REPEATS)


def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


@router.post("/parity")
async def parity(request: Request, body: Pair) -> dict[str, Any]:
    """What both runtimes make of the request before they answer, and named causes of difference."""
    first, second = body.models
    call = body.request(first, request.state.correlation_id)
    sheet = await while_connected(request, logged.parity(_engine(request), call, second))
    return sheet.to_dict()


@router.post("/diverge")
async def diverge(request: Request, body: Diverge) -> dict[str, Any]:
    """Where the two answers part, how sure both were, and the first one through the second."""
    first, second = body.models
    call = body.request(first, request.state.correlation_id)
    found = await while_connected(
        request, logged.diverge(_engine(request), call, second, repeats=body.repeats)
    )
    return found.to_dict()
