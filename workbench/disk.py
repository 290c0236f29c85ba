"""Models on disk: download, verify and delete, as jobs where they take long, and in the log."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import Any, Literal

from workbench import logs
from workbench.errors import ErrorCode, WorkbenchError, invalid
from workbench.hf import deletion, hub, proving, verification
from workbench.hf.deletion import Deletion
from workbench.hf.found import model_id
from workbench.hf.listing import Wanted, check_online
from workbench.hf.options import split_name
from workbench.hosts import family
from workbench.jobs import Job, JobRegistry, Reporter
from workbench.providers import guard, ollama_disk
from workbench.providers.ollama_disk import OllamaDisk
from workbench.providers.ollama_errors import Server
from workbench.rotation import ModelRotationService
from workbench.router import ModelRouter, Route
from workbench.settings import Settings
from workbench.store import ModelEvent, Store
from workbench.ways import Ways

_log = logs.get(__name__)


class ModelDisk:
    """What changes or checks models on disk.

    Args:
        settings: folders, hub, bounds, addresses of Ollama servers.
        store: where downloads and deletions are logged.
        router: knows whose a model is.
        rotation: what is deleted leaves memory first.
    """

    def __init__(
        self, settings: Settings, store: Store, router: ModelRouter, rotation: ModelRotationService
    ) -> None:
        self._settings = settings
        self._store = store
        self._providers = router.providers
        self._ways = Ways(router)
        self._rotation = rotation
        self.jobs = JobRegistry(settings.workbench_max_downloads, settings.workbench_job_history)
        self._deleting = asyncio.Lock()

    def download(
        self, model: str, revision: str | None = None, gguf_file: str | None = None
    ) -> Job:
        """Begin a download from the hub, or a pull (``ollama/NAME``), or join the one under way.

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` for what is no model of the hub or of Ollama,
                ``HF_HUB_UNREACHABLE`` in offline mode. All else is the job's error.
        """
        provider, _, name = model.strip().partition("/")
        if family(provider) == "ollama" and name:
            return self._pull(self._ways.host(provider), name)
        wanted = Wanted.parse(model, revision, gguf_file)
        check_online(self._settings)

        def work(report: Reporter, cancelled: threading.Event) -> Mapping[str, Any]:
            return hub.download(self._settings, wanted, report, cancelled)

        return self.jobs.submit("download", wanted.id, work, self._downloaded)

    def _pull(self, provider: str, name: str) -> Job:
        wanted, server = ollama_disk.checked(name), self._server(provider)

        def work(report: Reporter, cancelled: threading.Event) -> Mapping[str, Any]:
            return server.pull(wanted, report, cancelled)

        return self.jobs.submit("download", f"{provider}/{wanted}", work, self._downloaded)

    async def verify(self, model: str | None = None) -> Job:
        """Begin the full check of one Hugging Face model, or of all.

        The job's result has ``ok`` and ``models``, each as
        :meth:`workbench.hf.verification.CheckedModel.to_dict`.
        """
        names = None
        if model is not None:
            provider, name = await self._ways.to_disk(model)
            if provider != "huggingface":
                raise invalid(
                    f"{model} does not lie in the workbench's own folders.",
                    fix="Ollama verifies its models when it pulls them: pull it again.",
                )
            names = [name]

        def work(report: Reporter, cancelled: threading.Event) -> Mapping[str, Any]:
            checked = verification.verify(self._settings, names, report, cancelled)
            proving.prove(self._settings, checked, report, cancelled)
            models = [one.to_dict() for one in checked]
            return {"ok": all(model["ok"] for model in models), "models": models}

        return self.jobs.submit("verify", model_id(names[0]) if names else "all models", work)

    async def plan_deletion(self, model: str) -> Deletion:
        """What deleting a model would remove."""
        return await self._plan(*await self._ways.to_disk(model))

    async def delete(self, model: str) -> Mapping[str, Any]:
        """Delete a model from disk, out of memory first, however it was loaded.

        Returns:
            As :meth:`workbench.hf.deletion.Deletion.to_dict`, and ``freed_bytes`` (measured; of
            Ollama by its own count).

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` while it, or an adapter that needs it, is answering,
                or it is being downloaded; of one that somebody else has just deleted, that it is
                not there.
        """
        provider, name = await self._ways.to_disk(model)
        async with self._deleting:
            await self._unload(await self._unused(provider, name), provider, name)
            # Anew: seconds may have gone by, and somebody may have brought more into its folder.
            plan = await self._unused(provider, name)
            started = time.monotonic_ns()
            try:
                freed = await self._remove(plan, provider, name)
            except WorkbenchError as error:
                self._record("delete", plan.id, started, error=error, before_bytes=plan.size_bytes)
                raise
        self._record("delete", plan.id, started, before_bytes=freed, after_bytes=0)
        return {**plan.to_dict(), "freed_bytes": freed}

    async def _unused(self, provider: str, name: str) -> Deletion:
        """What would go, if nobody is bringing or checking it."""
        plan = await self._plan(provider, name)
        if any(not job.ended and job.model == plan.id for job in self.jobs.list()):
            raise invalid(f"A job is at work on {plan.id}.", fix="Stop it first.")
        return plan

    async def _unload(self, plan: Deletion, provider: str, name: str) -> None:
        """Take what would go out of memory, in whatever way it was loaded."""
        gone = {plan.id, *plan.also, *plan.orphans}
        used = [one for one in self._rotation.running if split_name(one)[0] in gone]
        if used:
            raise invalid(
                f"{plan.id} is in use: {' and '.join(used)} answer{'s' * (len(used) == 1)} now.",
                fix="Stop the answer or wait for its end, then delete.",
                models=used,
            )
        owner = self._providers[provider]
        held = [one for one in guard.residents(owner) if f"{provider}/{split_name(one)[0]}" in gone]
        for one in dict.fromkeys((*held, name)):
            if owner.resident(one) is not None:
                await self._rotation.unload(Route(owner, one))

    async def _plan(self, provider: str, name: str) -> Deletion:
        if family(provider) != "ollama":
            return await asyncio.to_thread(deletion.plan, self._settings, name)
        server = self._server(provider)
        size_bytes, same = await server.occupied(name)
        stay = f" (its files stay for {', '.join(same)})" if same else ""
        return Deletion(f"{provider}/{name}", f"{server.place}{stay}", (), size_bytes)

    async def _remove(self, plan: Deletion, provider: str, name: str) -> int:
        if family(provider) == "ollama":
            return await self._server(provider).delete(name)
        return await asyncio.to_thread(deletion.carry_out, self._settings, plan)

    def _server(self, provider: str) -> OllamaDisk:
        return OllamaDisk(Server.of(self._settings, provider))

    def close(self) -> None:
        """Stop what runs; a download keeps what has come."""
        self.jobs.close(timeout_s=2.0)

    def _downloaded(self, job: Job, seconds: float) -> None:
        result = job.result or {}
        self._record(
            "download",
            job.model,
            time.monotonic_ns() - round(seconds * 1e9),
            error=job.error,
            reason=job.status,
            after_bytes=result.get("size_bytes"),
            details={k: result[k] for k in ("revision", "downloaded_bytes") if k in result},
        )

    def _record(
        self,
        event: Literal["download", "delete"],
        model: str,
        started_ns: int,
        *,
        error: WorkbenchError | None = None,
        reason: str | None = None,
        before_bytes: int | None = None,
        after_bytes: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            self._store.log_model_event(
                ModelEvent(
                    event=event,
                    provider=model.partition("/")[0],
                    model=model,
                    t_ns=started_ns,
                    ok=error is None and reason != "cancelled",
                    reason=str(error) if error is not None else reason,
                    before_bytes=before_bytes,
                    after_bytes=after_bytes,
                    duration_s=(time.monotonic_ns() - started_ns) / 1e9,
                    details=details or {},
                )
            )
            if error is not None and error.code is not ErrorCode.CANCELLED:
                self._store.log_error(error, model=model)
        except WorkbenchError as problem:  # the disk's work is done all the same
            _log.warning("event_not_logged", event_kind=event, model=model, error=str(problem))
