"""REST: models and jobs; what generates is in :mod:`workbench.api.streams`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from workbench.api.calls import Body
from workbench.api.streaming import while_connected
from workbench.engine import Engine

router = APIRouter(prefix="/api/v1")


class ModelName(Body):
    """A model id."""

    model: str


class Download(ModelName):
    """A model on the hub: ``org/name`` or ``org/name/file.gguf``."""

    revision: str | None = None
    gguf_file: str | None = None


class Verify(Body):
    """One model, or all."""

    model: str | None = None


def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


@router.get("/models")
async def models(request: Request) -> dict[str, Any]:
    """All models of all providers; ``problems`` says which provider could not be asked and why."""
    listing = await _engine(request).list_models()
    return {
        "models": [model.to_dict() for model in listing.models],
        "problems": {name: error.to_dict() for name, error in listing.problems.items()},
    }


@router.get("/models/{model:path}")
async def show(request: Request, model: str) -> dict[str, Any]:
    """All that is known of one model."""
    return (await _engine(request).show(model)).to_dict()


@router.post("/models/load")
async def load(request: Request, body: ModelName) -> dict[str, Any]:
    """Bring a model into memory; given up if the client leaves, in the queue too."""
    engine = _engine(request)
    done = await while_connected(request, engine.load(body.model))
    return {**(await engine.show(body.model)).to_dict(), **done}


@router.post("/models/unload")
async def unload(request: Request, body: ModelName) -> dict[str, Any]:
    """Take a model out of memory."""
    engine = _engine(request)
    done = await engine.unload(body.model)
    return {**(await engine.show(body.model)).to_dict(), **done}


@router.post("/models/pin")
async def pin(request: Request, body: ModelName) -> dict[str, Any]:
    """Bring a model into memory and keep it there."""
    engine = _engine(request)
    done = await while_connected(request, engine.pin(body.model))
    return {**(await engine.show(body.model)).to_dict(), **done}


@router.post("/models/unpin")
async def unpin(request: Request, body: ModelName) -> dict[str, Any]:
    """Let a model be evicted again."""
    engine = _engine(request)
    done = await while_connected(request, engine.unpin(body.model))
    return {**(await engine.show(body.model)).to_dict(), **done}


@router.get("/queue")
async def queue(request: Request) -> dict[str, Any]:
    """Who is in memory with how many bytes, who waits and how long, who would leave next."""
    return _engine(request).overview().to_dict()


@router.post("/models/download", status_code=202)
async def download(request: Request, body: Download) -> dict[str, Any]:
    """Begin a download from the hub; the job that is under way for this model if there is one."""
    return _engine(request).disk.download(body.model, body.revision, body.gguf_file).to_dict()


@router.post("/models/verify", status_code=202)
async def verify(request: Request, body: Verify) -> dict[str, Any]:
    """Begin the full check of what is on disk; the job's result says what is broken."""
    return (await _engine(request).disk.verify(body.model)).to_dict()


@router.delete("/models/{model:path}")
async def delete(request: Request, model: str, dry_run: bool = False) -> dict[str, Any]:
    """Delete a model from disk; ``dry_run`` only says what would go and how much that frees."""
    engine = _engine(request)
    if not dry_run:
        return dict(await engine.disk.delete(model))
    return (await engine.disk.plan_deletion(model)).to_dict()


@router.get("/jobs")
async def jobs(request: Request) -> dict[str, Any]:
    """Jobs of this server, the newest first."""
    return {"jobs": [job.to_dict() for job in _engine(request).disk.jobs.list()]}


@router.get("/jobs/{job_id}")
async def job(request: Request, job_id: str) -> dict[str, Any]:
    """One job with its progress in bytes."""
    return _engine(request).disk.jobs.get(job_id).to_dict()


@router.delete("/jobs/{job_id}")
async def cancel_job(request: Request, job_id: str) -> dict[str, Any]:
    """Stop a job; it is ``cancelled`` once its work has stopped."""
    return _engine(request).disk.jobs.cancel(job_id).to_dict()
