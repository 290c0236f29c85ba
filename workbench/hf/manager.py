"""The Hugging Face models of this process: what is on disk, what is in memory, and their workers.

Which model is loaded when, and which has to go, is the rotation service's decision; here is how.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import psutil
import tenacity

from workbench import logs, procfs
from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf import completeness, converted, files, footprint
from workbench.hf.client import WorkerClient
from workbench.hf.digest import state_of
from workbench.hf.files import ModelFile
from workbench.hf.found import Unusable
from workbench.hf.metadata import CacheStatus, ModelMetadata
from workbench.hf.options import LoadOptions, split_name
from workbench.hf.protocol import Load
from workbench.hf.spawner import Lease, waiting
from workbench.hf.verdicts import Verdicts
from workbench.memory import devices
from workbench.providers.base import Footprint
from workbench.settings import Settings
from workbench.types import ModelInfo, ProviderWarning

_log = logs.get(__name__)

LOAD_ATTEMPTS: Final = 3
_START_S: Final = 120.0
"""The longest wait for a worker process to exist; the zygote's imports may be part of it."""


@dataclass(slots=True)
class LoadedWorker:
    """A resident model: its files, its worker, and warnings that every answer must carry."""

    model: ModelFile
    client: WorkerClient
    warnings: tuple[ProviderWarning, ...] = ()


class HuggingFaceModelManager:
    """Loads models into workers and out again. Belongs to one event loop.

    Args:
        settings: folder, GPU use, load timeout, threads.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lease = Lease(waiting(settings.workbench_wait_policy))
        self._workers: dict[str, LoadedWorker] = {}
        self._loading: dict[str, asyncio.Task[LoadedWorker]] = {}
        self._metadata: dict[str, ModelMetadata] = {}
        self._starting: dict[str, int] = {}
        """Process ids of the workers that load."""
        self._closing: set[asyncio.Task[None]] = set()
        self.on_death: Callable[[str, WorkbenchError], None] | None = None

    @property
    def root(self) -> Path:
        """The model folder."""
        return self._settings.hf_model_path

    def prewarm(self) -> None:
        """Start the zygote now, so that the first load does not wait for its imports.

        Not where there is no model: it takes seconds of a core and hundreds of megabytes.
        """
        if files.any_there(self.root, self._settings.hub_cache):
            self._lease.zygote()

    async def scan(self) -> list[ModelInfo]:
        """All models on disk."""
        return await asyncio.to_thread(files.scan, self.root, self._settings.hub_cache)

    async def resolve(self, name: str) -> ModelFile:
        """Where the model lies, load options left aside.

        Raises like :func:`workbench.hf.files.resolve`.
        """
        base, _ = split_name(name)
        model = await asyncio.to_thread(files.resolve, self.root, base, self._settings.hub_cache)
        check_context(name, model.info)
        return model

    def load_options(self, name: str) -> LoadOptions:
        """How a model of this name is loaded: what its name says, else ``HF_LOAD_OPTIONS``.

        Raises:
            WorkbenchError: ``HF_INVALID_CONFIG`` for options that there are not.
        """
        defaults = LoadOptions.parse(self._settings.hf_load_options)
        options = LoadOptions.parse(split_name(name)[1], defaults)
        cores = os.cpu_count() or 1
        if options.threads > cores:
            raise WorkbenchError(
                ErrorCode.HF_INVALID_CONFIG,
                f"threads is {options.threads}, but this machine has {cores} cores.",
                fix=f"Choose at most {cores}: more would only wait for each other.",
                operation="load",
                provider="huggingface",
            )
        options.check_installed()
        return options

    def get(self, name: str) -> LoadedWorker | None:
        """The resident model, or None."""
        worker = self._workers.get(name)
        return worker if worker is not None and worker.client.alive else None

    @property
    def names(self) -> list[str]:
        """Names of the models in memory or on their way, load options included."""
        return [*(name for name in self._workers if self.get(name)), *self._loading]

    def pid(self, name: str) -> int | None:
        """The process that holds the model, or is about to."""
        worker = self.get(name)
        return worker.client.pid if worker is not None else self._starting.get(name)

    async def footprint(self, name: str, num_ctx: int | None = None) -> Footprint | None:
        """What the model will hold at its peak, from its files; None if they do not say."""
        try:
            options = self.load_options(name)
            model = await self.resolve(name)
        except WorkbenchError:
            return None  # the load will say what is wrong
        return await asyncio.to_thread(self._footprint, model, options, num_ctx)

    def _footprint(
        self, model: ModelFile, options: LoadOptions, num_ctx: int | None
    ) -> Footprint | None:
        prompts = self._keeps_for_prompts(model, options)
        return footprint.footprint(
            model,
            options,
            device=_device(self._settings.hf_enable_gpu, options.device),
            known_verdict=self._verdict(model, options, prompts=prompts),
            prompts=prompts,
            num_ctx=num_ctx,
            copy_there=footprint.copy_is_there(self.root, model, options),
        )

    async def trim(self) -> None:
        """Have idle workers give back what they hold without need."""
        idle = [worker.client for worker in self._workers.values() if not worker.client.busy]
        await asyncio.gather(*(client.trim() for client in idle if client.alive))

    def is_loading(self, name: str) -> bool:
        """Whether a load of the model is under way."""
        return name in self._loading

    def generating_besides(self, name: str) -> int:
        """How many other models generate now."""
        return sum(other != name and worker.client.busy for other, worker in self._workers.items())

    def counters(self, name: str) -> ModelMetadata:
        """The model's record, to be written to; its memory is as last measured."""
        return self._metadata.setdefault(name, ModelMetadata(name))

    def metadata(self, name: str) -> ModelMetadata:
        """The model's figures, its memory measured now (milliseconds of blocking)."""
        data = self.counters(name)
        worker = self.get(name)
        data.is_loaded = worker is not None
        data.memory_usage = procfs.held_bytes(worker.client.pid) if worker is not None else None
        return data

    def cache_status(self) -> CacheStatus:
        """What is in memory, measured now (milliseconds of blocking), and what is on its way."""
        loaded = {
            name: worker.client.pid
            for name, worker in self._workers.items()
            if self.get(name) is not None
        }
        return CacheStatus(
            loaded=tuple(loaded),
            loading=tuple(self._loading),
            max_cached_models=self._settings.hf_max_cached_models,
            memory_usage=sum(procfs.held_bytes(pid) or 0 for pid in loaded.values()),
        )

    async def load(self, name: str) -> LoadedWorker:
        """Bring a model into memory; callers that come while it loads share the load.

        Raises:
            WorkbenchError: as :func:`workbench.hf.files.resolve`, ``HF_TIMEOUT`` after
                ``HF_MODEL_TIMEOUT_MS``, ``HF_MEMORY_EXCEEDED``, ``HF_INVALID_CONFIG``,
                ``HF_MODEL_LOAD_FAILED`` or ``HF_PIPELINE_ERROR`` when the retries are used up.
        """
        worker = self.get(name)
        if worker is not None:
            return worker
        task = self._loading.get(name)
        if task is None:
            task = asyncio.create_task(self._load(name), name=f"hf-load-{name}")
            self._loading[name] = task
            task.add_done_callback(lambda done: self._load_done(name, done))
        # Shielded: one caller that gives up must not take the load from the others.
        return await asyncio.shield(task)

    async def unload(self, name: str) -> None:
        """Take a model out of memory; returns when its process is gone. No error if it is not in.

        A load under way is given up.
        """
        task = self._loading.get(name)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        worker = self._workers.pop(name, None)
        if worker is not None:
            await worker.client.close()
            _log.info("model unloaded", model=name)

    async def clear_cache(self) -> None:
        """Unload everything."""
        names = [*self._workers, *self._loading]
        await asyncio.gather(*(self.unload(name) for name in names))

    async def close(self) -> None:
        """Unload everything and give the zygote back."""
        await self.clear_cache()
        if self._closing:
            await asyncio.wait(self._closing)
        await asyncio.to_thread(self._lease.release)

    # -- loading -----------------------------------------------------------------------------------

    def _load_done(self, name: str, task: asyncio.Task[LoadedWorker]) -> None:
        self._loading.pop(name, None)
        if not task.cancelled():
            task.exception()  # seen, even if every caller has gone

    async def _load(self, name: str) -> LoadedWorker:
        options = self.load_options(name)
        model = await self.resolve(name)
        started = asyncio.get_running_loop().time()
        gpu = self._settings.hf_enable_gpu
        try:
            worker = await self._load_with_retries(name, model, options, gpu)
        except WorkbenchError as error:
            on_gpu = str(error.details.get("device")).startswith("cuda")
            if gpu != "auto" or options.device != "auto" or not on_gpu:
                raise
            _log.warning("GPU load failed, using the CPU", model=name, error=str(error))
            worker = await self._load_with_retries(
                name, model, replace(options, device="cpu"), "false"
            )
            worker.warnings = (
                *worker.warnings,
                ProviderWarning(
                    "GPU_FALLBACK",
                    f"The model runs on the CPU, because loading it on the GPU failed: "
                    f"{error.message}",
                    {"error": error.to_dict()},
                ),
            )
        self._workers[name] = worker
        worker.client.on_death = lambda error: self._forget(name, worker, error)
        data = self.counters(name)
        data.loaded_at = dt.datetime.now(dt.UTC)
        data.load_count += 1
        data.last_load_s = asyncio.get_running_loop().time() - started
        _log.info("model loaded", model=name, pid=worker.client.pid, seconds=data.last_load_s)
        for warning in worker.warnings:
            _log.warning("model loaded with a warning", model=name, warning=warning.message)
        return worker

    async def _load_with_retries(
        self, name: str, model: ModelFile, options: LoadOptions, gpu: str
    ) -> LoadedWorker:
        """Try again after failures that may pass: a worker that crashed, a disk that stuttered."""
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(LOAD_ATTEMPTS),
            wait=tenacity.wait_exponential_jitter(multiplier=0.2, max=5.0, jitter=0.2),
            retry=tenacity.retry_if_exception(_is_transient),
            reraise=True,
        )
        return await retrying(self._load_once, name, model, options, gpu)

    async def _load_once(
        self, name: str, model: ModelFile, options: LoadOptions, gpu: str
    ) -> LoadedWorker:
        state = await asyncio.to_thread(state_of, model)
        wanted = await self._wanted(model, options, gpu)
        limit_s = self._limit_s(options, checked=wanted.verdict is None)
        client = await self._start_worker()
        # Nothing is waited for before the next block: whoever gives up a load ends its worker.
        self._starting[name] = client.pid
        try:
            loaded = await asyncio.wait_for(client.load(wanted), limit_s)
            verdict = loaded.details.get("quality")
            if verdict is not None and verdict != wanted.verdict:
                await asyncio.to_thread(Verdicts(self.root).put, state, verdict)
        except BaseException as error:
            # Loading cannot be interrupted from inside; nobody wants this worker any more.
            client.kill()
            await asyncio.shield(self._close_later(client))
            if isinstance(error, WorkbenchError) and "signal" in error.details and self.on_death:
                self.on_death(name, error)
            if isinstance(error, WorkbenchError) and "misfit" in error.details:
                await asyncio.to_thread(self._keep_misfit, model, state, error)
            if isinstance(error, TimeoutError):
                raise WorkbenchError(
                    ErrorCode.HF_TIMEOUT,
                    f"Loading huggingface/{name} took longer than {limit_s:g} s.",
                    fix="Raise HF_MODEL_TIMEOUT_MS, or choose a smaller model.",
                    operation="load",
                    provider="huggingface",
                    details={"timeout_s": limit_s},
                ) from None
            raise
        finally:
            del self._starting[name]
        warnings = tuple(ProviderWarning(**warning) for warning in loaded.warnings)
        return LoadedWorker(model, client, warnings)

    async def _wanted(self, model: ModelFile, options: LoadOptions, gpu: str) -> Load:
        """What a worker is asked for."""
        prompts = self._keeps_for_prompts(model, options)
        return Load(
            folder=str(model.folder.resolve()),
            gguf_file=model.gguf_file,
            gpu=gpu,
            threads=options.threads or self._settings.threads,
            parameters=model.info.parameters,
            options=asdict(options),
            adapter=str(model.adapter.resolve()) if model.adapter is not None else None,
            verdict=await asyncio.to_thread(self._verdict, model, options, prompts=prompts),
            prompts=prompts,
            max_batch=self._settings.hf_max_batch,
            cache_bytes=self._cache_bytes(),
            converted=await asyncio.to_thread(self._copy_of, model, options),
            log_level=self._settings.workbench_log_level,
        )

    def _keeps_for_prompts(self, model: ModelFile, options: LoadOptions) -> bool:
        limit = self._settings.hf_prompt_weights_limit
        return footprint.keeps_for_prompts(model, options, limit)

    def _verdict(
        self, model: ModelFile, options: LoadOptions, *, prompts: bool
    ) -> dict[str, Any] | None:
        """What is known of the form that will be asked for, None if it is to be checked."""
        form = "packed" if options.quantization == "none" else options.quantization
        known = Verdicts(self.root).get(state_of(model), form)
        unasked = known is not None and known.get("passed") and known.get("prompts_from") is None
        return None if prompts and unasked else known

    def _keep_misfit(self, model: ModelFile, state: str | None, error: WorkbenchError) -> None:
        """Let the list name what this load has found out."""
        if completeness.can_be_asked(model):
            misfit = Unusable(str(error.details["misfit"]), error.fix or "")
            completeness.keep(self.root, state, misfit)

    def _limit_s(self, options: LoadOptions, *, checked: bool) -> float:
        """The longest load: with the quality check where the form has no verdict here yet."""
        automatic = options.dtype == "auto" and options.engine == "auto"
        check = checked and (automatic or options.quantization != "none")
        settings = self._settings
        return (settings.hf_model_timeout_ms + check * settings.hf_quality_timeout_ms) / 1000

    def _copy_of(self, model: ModelFile, options: LoadOptions) -> str | None:
        """Where the unpacked copy of a GGUF is, or may be put."""
        if model.gguf_file is None or options.dtype != "auto":
            return None
        folder = converted.folder_of(self.root, model.info.digest, model.path)
        if folder is None:
            return None
        if not converted.is_there(folder):
            reserve = self._settings.workbench_disk_reserve
            if not converted.has_room(self.root, model.info.parameters, reserve):
                return None
            with contextlib.suppress(OSError):  # then the worker cannot write there, and says so
                folder.parent.mkdir(mode=0o700, exist_ok=True)
        return str(folder.resolve())

    def _cache_bytes(self) -> int:
        """The most that a model's keys and values may take.

        As set; else a quarter of what is free or, if that is less, of the budget.
        """
        if self._settings.hf_kv_cache_budget:
            return self._settings.hf_kv_cache_budget
        free = int(psutil.virtual_memory().available)
        return min(free, self._settings.workbench_memory_budget or free) // 4

    async def _start_worker(self) -> WorkerClient:
        try:
            # A thread: starting the zygote is quick, but ending a dead one may take a moment.
            zygote = await asyncio.to_thread(self._lease.zygote)
            client = await asyncio.wait_for(WorkerClient.start(zygote), _START_S)
        except TimeoutError:
            raise WorkbenchError(
                ErrorCode.HF_TIMEOUT,
                f"No worker process could be started within {_START_S:g} s.",
                fix="Check the machine's load and memory.",
                operation="load",
                provider="huggingface",
            ) from None
        except OSError as error:
            raise WorkbenchError(
                ErrorCode.HF_PIPELINE_ERROR,
                f"No worker process could be started ({error.strerror or error}).",
                fix="Raise the limits of open files and processes (`ulimit -n`, `ulimit -u`), or "
                "end what uses them; `workbench doctor` tells more.",
                operation="load",
                provider="huggingface",
                details={"transient": True, "errno": error.errno},
            ) from error
        client.cancel_grace_s = self._settings.workbench_cancel_grace_s
        return client

    def _forget(self, name: str, worker: LoadedWorker, error: WorkbenchError) -> None:
        """A worker died: the next load starts a new one."""
        if self._workers.get(name) is worker:
            del self._workers[name]
        _log.warning("worker died", model=name, pid=worker.client.pid, error=error.message)
        if self.on_death is not None:
            self.on_death(name, error)
        self._close_later(worker.client)

    def _close_later(self, client: WorkerClient) -> asyncio.Task[None]:
        task = asyncio.create_task(client.close(), name=f"hf-close-{client.pid}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task


def check_context(name: str, info: ModelInfo) -> None:
    """Refuse a context that the model does not have: it would be the same model a second time.

    Raises:
        WorkbenchError: ``HF_INVALID_CONFIG``.
    """
    wanted, most = LoadOptions.parse(split_name(name)[1]).num_ctx, info.context_length
    if most and wanted > most:
        raise WorkbenchError(
            ErrorCode.HF_INVALID_CONFIG,
            f"num_ctx is {wanted}, but the context of huggingface/{info.name} is {most} tokens.",
            fix=f"Choose at most {most}, or leave num_ctx out.",
            operation="load",
            provider="huggingface",
            details={"num_ctx": wanted, "context_length": most},
        )


def _device(gpu: str, wanted: str) -> str:
    """Where the loader will put a model: as asked, else the GPU with the most free memory."""
    gpus = {name: memory for name, memory in devices().items() if name != "host"}
    if wanted == "cpu" or (gpu == "false" and wanted == "auto") or not gpus or not _cuda_build():
        return "cpu"
    if wanted in gpus:
        return wanted
    return max(gpus, key=lambda name: gpus[name].available_bytes)


def _cuda_build() -> bool:
    """Whether torch can use a GPU at all, without importing it."""
    return "+cpu" not in metadata.version("torch")


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, WorkbenchError) and bool(error.details.get("transient"))
