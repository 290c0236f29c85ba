"""Health: is the server alive, and what of it works."""

from __future__ import annotations

import shutil
from typing import Any

import psutil
from fastapi import APIRouter, Request

from workbench.engine import Engine

router = APIRouter(prefix="/health")


@router.get("/live")
async def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("")
@router.get("/ready")
async def health(request: Request) -> dict[str, Any]:
    """Every part with its status and, where it is not well, the reason.

    ``degraded`` means that something is missing (Ollama, say) and the rest works.
    """
    engine: Engine = request.app.state.engine
    listing = await engine.list_models()
    parts: dict[str, dict[str, Any]] = {}
    for name in engine.router.providers:
        problem = listing.problems.get(name)
        usable = [
            model
            for model in listing.models
            if model.provider == name and model.status != "unusable"
        ]
        parts[name] = {
            "status": "degraded" if problem else "ok",
            "models": len(usable),
            **({"reason": str(problem)} if problem else {}),
        }
    store_problem = engine.store.last_error
    parts["store"] = {
        "status": "degraded" if store_problem else "ok",
        "queue_depth": engine.store.queue_depth,
        **({"reason": str(store_problem)} if store_problem else {}),
    }
    memory = psutil.virtual_memory()
    parts["memory"] = {
        "status": "ok",
        "available_bytes": memory.available,
        "total_bytes": memory.total,
    }
    disk = shutil.disk_usage(engine.store.path.parent)
    parts["disk"] = {"status": "ok", "free_bytes": disk.free, "total_bytes": disk.total}
    well = all(part["status"] == "ok" for part in parts.values())
    return {"status": "ok" if well else "degraded", "parts": parts}
