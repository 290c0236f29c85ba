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
from workbench.jobs import Job, JobRegistry, Reporter
from workbench.providers import ollama_disk
from workbench.settings import Settings
from workbench.store import ModelEvent, Store

_log = logs.get(__name__)


class ModelDisk:
    """What changes or checks models on disk.

    Args:
        settings: folders, hub, bounds.
        store: where downloads and deletions are logged.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self.jobs = JobRegistry(settings.workbench_max_downloads, settings.workbench_job_history)

    def download(self, model: str, revision: str | None, gguf_file: str | None) -> Job:
        """Begin a download from the hub, or join the one of this model that is under way.

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` for what is no model of the hub,
                ``HF_HUB_UNREACHABLE`` in offline mode. All else is the job's error.
        """
        wanted = Wanted.parse(model, revision, gguf_file)
        check_online(self._settings)

        def work(report: Reporter, cancelled: threading.Event) -> Mapping[str, Any]:
            return hub.download(self._settings, wanted, report, cancelled)

        return self.jobs.submit("download", wanted.id, work, self._downloaded)

    def pull(self, provider: str, name: str) -> Job:
        """Let an Ollama server pull a model, or join the pull of it that is under way.

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` for what is no name. All else is the job's error.
        """
        wanted = ollama_disk.checked(name)

        def work(report: Reporter, cancelled: threading.Event) -> Mapping[str, Any]:
            told = ollama_disk.pull(self._ollama(provider), wanted, report, cancelled)
            return {**told, "id": f"{provider}/{wanted}"}

        return self.jobs.submit("download", f"{provider}/{wanted}", work, self._downloaded)

    def verify(self, name: str | None) -> Job:
        """Begin the full check of one model, or of all.

        The job's result has ``ok`` and ``models``, each as
        :meth:`workbench.hf.verification.Verdict.to_dict`.
        """

        def work(report: Reporter, cancelled: threading.Event) -> Mapping[str, Any]:
            names = None if name is None else [name]
            verdicts = verification.verify(self._settings, names, report, cancelled)
            proving.prove(self._settings, verdicts, report, cancelled)
            models = [verdict.to_dict() for verdict in verdicts]
            return {"ok": all(model["ok"] for model in models), "models": models}

        return self.jobs.submit("verify", model_id(name) if name else "all models", work)

    async def plan_deletion(self, name: str) -> Deletion:
        """What deleting would remove; as :func:`workbench.hf.deletion.plan`."""
        return await asyncio.to_thread(deletion.plan, self._settings, name)

    async def delete(self, name: str) -> Mapping[str, Any]:
        """Delete a model that is not in memory.

        Returns:
            As :meth:`workbench.hf.deletion.Deletion.to_dict`, and ``freed_bytes`` (measured).
        """
        self._check_free(model_id(name))
        started = time.monotonic_ns()
        plan = await self.plan_deletion(name)
        try:
            freed = await asyncio.to_thread(deletion.carry_out, self._settings, plan)
        except WorkbenchError as error:
            self._record("delete", plan.id, started, error=error, before_bytes=plan.size_bytes)
            raise
        self._record("delete", plan.id, started, before_bytes=freed, after_bytes=0)
        return {**plan.to_dict(), "freed_bytes": freed}

    async def plan_deletion_of_ollama(self, provider: str, name: str) -> Deletion:
        """What deleting a name from an Ollama server would remove."""
        url = self._ollama(provider)
        size_bytes, same = await ollama_disk.occupied(url, name)
        where = f"Ollama server at {url}"
        if same:
            where += f" (its files stay for {', '.join(same)})"
        return Deletion(f"{provider}/{name}", where, (), size_bytes)

    async def delete_from_ollama(self, provider: str, name: str) -> Mapping[str, Any]:
        """Delete a model that is not in memory; as :meth:`delete`, by Ollama's count.

        Raises:
            WorkbenchError: ``INVALID_REQUEST`` while it is pulled, ``OLLAMA_MODEL_NOT_FOUND``.
        """
        plan = await self.plan_deletion_of_ollama(provider, name)
        self._check_free(plan.id)
        started = time.monotonic_ns()
        try:
            freed = await ollama_disk.delete(self._ollama(provider), name)
        except WorkbenchError as error:
            self._record("delete", plan.id, started, error=error, before_bytes=plan.size_bytes)
            raise
        self._record("delete", plan.id, started, before_bytes=freed, after_bytes=0)
        return {**plan.to_dict(), "freed_bytes": freed}

    def _ollama(self, provider: str) -> str:
        """The address of a provider's server."""
        return self._settings.ollama_servers[provider]

    def _check_free(self, model: str) -> None:
        if any(not job.ended and job.model == model for job in self.jobs.list()):
            raise invalid(f"A job is at work on {model}.", fix="Stop it first.")

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
