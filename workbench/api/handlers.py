"""What the framework raises, as problems like any other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from workbench.api.problems import Problem, wrong_field
from workbench.errors import ErrorCode, WorkbenchError

_FIXES: Final = {
    400: "Send one JSON object in UTF-8, with few brackets open at once.",
    404: "GET /api/docs lists what there is.",
}
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


def install(app: FastAPI) -> None:
    """Have every error of the application answered as a problem."""
    app.add_exception_handler(WorkbenchError, _told)
    app.add_exception_handler(RequestValidationError, _bad_request)
    app.add_exception_handler(HTTPException, _refused)


def fence(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    """Answer what no route of ours serves below their paths, before the page is asked for it.

    Args:
        app: which has the routers already.
        routers: of the faces.
    """

    async def nothing(request: Request) -> None:
        served: set[str] = set()
        for route in (route for router in routers for route in router.routes):
            if route.matches(request.scope)[0] is Match.PARTIAL:
                served |= getattr(route, "methods", None) or set()
        if served:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(served))})
        raise HTTPException(404)

    for prefix in sorted(
        {f"/{router.prefix.split('/')[1]}" for router in routers if router.prefix}
    ):
        for path in (prefix, f"{prefix}/{{rest:path}}"):
            app.add_api_route(path, nothing, methods=list(_METHODS), include_in_schema=False)


def _answer(request: Request, error: WorkbenchError, status: int | None = None) -> Problem:
    correlation_id = getattr(request.state, "correlation_id", None)
    return Problem(error, correlation_id, request.url.path, status)


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, WorkbenchError)
    return _answer(request, error)


async def _bad_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _answer(request, wrong_field(error.errors()[0]))


async def _refused(request: Request, error: Exception) -> Response:
    """Unknown paths, methods, bodies that are no text."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        message = f"{request.method} is not allowed here."
        fix = f"Use {headers.get('Allow', 'another method')}."
    else:
        message = f"{request.method} {request.url.path}: {error.detail.rstrip('.')}."
        fix = _FIXES.get(error.status_code, "")
    told = WorkbenchError(ErrorCode.INVALID_REQUEST, message, fix=fix, operation="http")
    response = _answer(request, told, error.status_code)
    response.headers.update(headers)
    return response
