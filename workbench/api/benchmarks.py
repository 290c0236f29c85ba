"""Benchmark runs of the log over REST: the list, and one of them as a report or as rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from workbench.bench import library, listing
from workbench.bench.evidence import Evidence, gather

if TYPE_CHECKING:
    from workbench.store import Store

router = APIRouter(prefix="/api/v1", tags=["benchmarks"])

_MEDIA = {
    "html": ("html", "text/html; charset=utf-8"),
    "markdown": ("md", "text/markdown; charset=utf-8"),
    "json": ("json", "application/json"),
    "csv": ("csv", "text/csv; charset=utf-8"),
    "trials": ("csv", "text/csv; charset=utf-8"),
    "spec": ("toml", "application/toml"),
}
"""Form -> file ending, media type."""


@router.get("/benchmarks")
def list_runs(request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> dict[str, Any]:
    """Benchmark runs, the newest first."""
    store: Store = request.app.state.engine.store
    return {"runs": listing.runs(store.query, limit)}


@router.get("/benchmarks/{run}/{form}")
def export_run(
    request: Request,
    run: str,
    form: Literal["html", "markdown", "json", "csv", "trials", "spec"],
) -> Response:
    """A run as a report (HTML, Markdown, JSON), its figures or its trials as CSV, or its spec.

    ``run`` is its id or the beginning of it, the name of its spec, or ``last``.
    """
    store: Store = request.app.state.engine.store
    ending, media_type = _MEDIA[form]
    evidence = gather(store.query, run)
    name = f"{evidence.run_id}.{ending}" if form != "trials" else f"{evidence.run_id}-trials.csv"
    place = "inline" if form == "html" else "attachment"
    headers = {"Content-Disposition": f"{place}; filename*=UTF-8''{quote(name, safe='')}"}
    return Response(_written(evidence, form), media_type=media_type, headers=headers)


def _written(evidence: Evidence, form: str) -> str:
    from workbench.bench import report

    if form == "html":
        return report.page(evidence)
    if form == "markdown":
        return report.markdown(evidence)
    if form == "json":
        return json.dumps(report.as_values(evidence), ensure_ascii=False, default=str)
    if form == "spec":
        return library.to_toml(dict(evidence.spec))
    if form == "csv":
        return report.csv(report.summary(evidence))
    import pandas as pd

    labelled = [
        cell.trials.assign(cell=evidence.label(cell), model=cell.model) for cell in evidence.cells
    ]
    return str(pd.concat(labelled).to_csv(index=False))
