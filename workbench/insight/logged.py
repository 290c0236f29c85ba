"""Sheets and divergences over the engine, each with its row in the log."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping
from typing import Any

from workbench.engine import Engine
from workbench.insight import asking
from workbench.insight.asking import Tell
from workbench.insight.divergence import Divergence
from workbench.insight.sheet import ParitySheet
from workbench.types import ChatRequest, new_id


async def parity(engine: Engine, request: ChatRequest, other: str) -> ParitySheet:
    """As :func:`asking.parity`; the sheet is in the log when this returns."""
    sheet = await asking.parity(engine, request, other)
    first = sheet.causes[0].code if sheet.causes else "NONE"
    await _log(engine, _row("parity", request, sheet.a.model, sheet.b.model, first, sheet))
    return sheet


async def diverge(
    engine: Engine,
    request: ChatRequest,
    other: str,
    *,
    repeats: int = asking.REPEATS,
    tell: Tell = lambda stage: None,
) -> Divergence:
    """As :func:`asking.diverge`; it is in the log when this returns."""
    found = await asking.diverge(engine, request, other, repeats=repeats, tell=tell)
    row = _row("divergence", request, found.a.model, found.b.model, found.verdict, found)
    figures = {
        "agreement": found.agreement,
        "mean_divergence_nats": found.mean_divergence_nats,
    }
    await _log(engine, {**row, **figures})
    return found


def _row(
    kind: str, request: ChatRequest, a: str, b: str, verdict: str, found: ParitySheet | Divergence
) -> dict[str, Any]:
    return {
        "insight_id": new_id("ins"),
        "created_at": dt.datetime.now(dt.UTC),
        "kind": kind,
        "model_a": a,
        "model_b": b,
        "correlation_id": request.correlation_id,
        "prompt": request.messages[-1].content,
        "verdict": verdict,
        "details": found.to_dict(),
    }


async def _log(engine: Engine, row: Mapping[str, Any]) -> None:
    await asyncio.wrap_future(engine.store.insert("insights", row).stored)
