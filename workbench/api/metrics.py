"""Metrics over HTTP, for Prometheus to scrape."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from workbench.observe import prometheus

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """All series in Prometheus' text form."""
    measured: prometheus.Metrics = request.app.state.metrics
    return Response(await measured.expose(), headers={"Content-Type": prometheus.CONTENT_TYPE})
