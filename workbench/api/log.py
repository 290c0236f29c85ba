"""The log over HTTP, for the server's own user: query it, write into it, keep it in order."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response

from workbench.api.calls import Body
from workbench.api.security import require_owner, require_writer
from workbench.engine import Engine
from workbench.settings import Settings
from workbench.store.outside import MAX_ITEMS, decode_items
from workbench.store.sharing import MAX_SESSIONS, known, shared_items

router = APIRouter(prefix="/api/v1", dependencies=[Depends(require_owner)])
shared = APIRouter(prefix="/api/v1", dependencies=[Depends(require_writer)], tags=["log"])
"""For the workbenches of a team, which have this server's key."""

_LOOK_S = 0.25


class Query(Body):
    """One statement that only reads.

    ``park`` leaves a large result in a table that is fetched over Quack.
    """

    sql: str
    params: dict[str, Any] | None = None
    limit: int | None = Field(None, ge=1)
    park: bool = False


class Items(Body):
    """What to log, as :mod:`workbench.store.outside` writes it."""

    items: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_ITEMS)


def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


@router.post("/query")
async def query(request: Request, body: Query) -> Response:
    """Rows of one statement; dtypes are pandas'. It stops when the client goes away."""
    store = _engine(request).store
    settings: Settings = request.app.state.settings
    from workbench.store.reading import Limits

    stop = threading.Event()
    limits = Limits(
        limit=body.limit,
        timeout_s=settings.workbench_query_timeout_s,
        max_rows=settings.workbench_query_max_rows,
        max_bytes=settings.workbench_query_memory,
        stop=stop,
    )

    def run() -> str:
        frame, table, rows = store.query_within(body.sql, body.params, limits, park=body.park)
        if frame is None:
            return json.dumps({"parked": table, "rows": rows})
        columns = [{"name": name, "dtype": str(dtype)} for name, dtype in frame.dtypes.items()]
        values = frame.astype(object).where(frame.notna(), None).values.tolist()
        return json.dumps({"columns": columns, "rows": values}, default=_plain)

    task = asyncio.create_task(asyncio.to_thread(run))
    while not (await asyncio.wait([task], timeout=_LOOK_S))[0]:
        if await request.is_disconnected():
            stop.set()
    return Response(task.result(), media_type="application/json")


@router.delete("/query/{table}", status_code=204)
def release(request: Request, table: str) -> None:
    """A parked result is not needed any more."""
    _engine(request).store.release(table)


@router.get("/tables")
def tables(request: Request) -> dict[str, Any]:
    """Tables and views of the log."""
    return {"tables": _engine(request).store.tables()}


@router.get("/log/verify")
def verify(request: Request) -> dict[str, Any]:
    """Whether the log is whole, check by check."""
    from workbench.store.verify import verdict

    return verdict(_engine(request).store.verify())


@router.post("/log")
async def log(request: Request, body: Items) -> dict[str, int]:
    """Log rows and sessions; the answer means that all are on disk.

    An item that is refused fails the request; the others are logged all the same.
    """
    store = _engine(request).store
    items = decode_items(body.items, store.environment_id)
    futures = [asyncio.wrap_future(store.submit(item).stored) for item in items]
    for outcome in await asyncio.gather(*futures, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
    return {"logged": len(items)}


class Shared(Body):
    """Sessions of another workbench, of each the rows by table."""

    writer_id: str = Field(max_length=64)
    sessions: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_SESSIONS)


@shared.post("/log/shared", include_in_schema=False)
async def share(request: Request, body: Shared) -> dict[str, int]:
    """Take in what another workbench measured; the answer means that all of it is on disk.

    What is in the log already is not stored again, so that a writer may send anew what it is not
    sure of.
    """
    store = _engine(request).store
    items = shared_items(body.writer_id, body.sessions)
    have = await asyncio.to_thread(known, store, items)
    new = [item for item in items if item.session_id not in have]
    futures = [asyncio.wrap_future(store.submit(item).stored) for item in new]
    for outcome in await asyncio.gather(*futures, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
    return {"logged": len(new), "known": len(items) - len(new)}


@router.post("/log/jobs/{kind}", status_code=202)
def keep(request: Request, kind: str, body: dict[str, Any]) -> dict[str, Any]:
    """Begin a snapshot, an export, an import or a pruning; paths are of the server's machine."""
    return _engine(request).log.begin(kind, body).to_dict()


def _plain(value: Any) -> Any:
    """JSON for what a query may hold: arrays as lists, times and the rest as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
