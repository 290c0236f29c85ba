"""Health over HTTP: is the server alive, can it serve, and what of it works."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from workbench.observe.health import HealthMonitor

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live")
async def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("", response_model=dict[str, Any])
@router.get("/ready", response_model=dict[str, Any])
async def health(request: Request) -> JSONResponse:
    """Every part with its status, reason and last good time; 503 if no model can be served.

    ``degraded`` means that something is missing (Ollama, say) and the rest works.
    """
    monitor: HealthMonitor = request.app.state.health
    found = await monitor.check()
    return JSONResponse(found.to_dict(), 200 if found.ready else 503)
