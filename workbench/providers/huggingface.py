"""The provider for models that transformers runs in worker processes of this machine."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import asdict, replace
from typing import Final, cast

from workbench import procfs
from workbench.errors import ErrorCode, WorkbenchError
from workbench.hf.client import GenerationMessage
from workbench.hf.found import model_id
from workbench.hf.manager import HuggingFaceModelManager, LoadedWorker, check_context
from workbench.hf.options import canonical, split_name
from workbench.hf.protocol import Called, Finished, Token, Warned
from workbench.inspection import Inspection
from workbench.providers.base import CancellationToken, Footprint, ResidentModel
from workbench.settings import Settings
from workbench.types import (
    ChatRequest,
    FinishReason,
    ModelInfo,
    ProviderEvent,
    ProviderFinish,
    ProviderToken,
    ProviderToolCall,
    ProviderWarning,
    ToolCall,
)


class HuggingFaceProvider:
    """Implements :class:`workbench.providers.base.Provider`. Cheap to make: starts no process.

    Args:
        settings: of the process.
        threads: compute threads for a request, None for :func:`default_threads`.
    """

    name: str = "huggingface"
    counts_against_cache: bool = True
    shares_cores: bool = True
    stamps_apart: bool = True
    loads: bool = True

    def __init__(
        self, settings: Settings, threads: Callable[[ChatRequest], int] | None = None
    ) -> None:
        self.manager = HuggingFaceModelManager(settings)
        self.concurrency: int = settings.hf_max_batch
        self._settings = settings
        self._threads = threads

    def canonical(self, model: str) -> str:
        """Load options in a fixed order, those at their default left out."""
        return canonical(model)

    def prewarm(self) -> None:
        """Start importing torch in the background, so that the first load is quick."""
        self.manager.prewarm()

    async def list_models(self) -> list[ModelInfo]:
        """All models on disk, and each way of loading one that is in memory now.

        Those in memory come with their measured memory.
        """
        infos = await self.manager.scan()
        known = {info.name: info for info in infos}
        for name in self.manager.names:
            base, options = split_name(name)
            if options and base in known:
                infos.append(_variant(known[base], name))
        return [await self._with_residency(info) for info in infos]

    async def show(self, model: str) -> ModelInfo:
        """One model, or ``HF_MODEL_NOT_FOUND``; an unusable one is described, not raised."""
        base, options = split_name(model)
        self.manager.load_options(model)  # refused here rather than at the first request
        for info in await self.manager.scan():
            if info.name == base:
                check_context(model, info)
                return await self._with_residency(_variant(info, model) if options else info)
        return (await self.manager.resolve(model)).info

    async def check(self, model: str) -> None:
        """Raise for a model that is not there or not whole, and for load options that cannot be."""
        self.manager.load_options(model)
        await self.manager.resolve(model)

    async def load(
        self, model: str, *, keep_alive_s: float, num_ctx: int | None = None
    ) -> ResidentModel:
        """Bring the model into memory. How long it stays is the rotation service's business.

        The context length is a matter of each request here, not of the load.
        """
        fresh = self.manager.get(model) is None
        return replace(_resident(await self.manager.load(model)), fresh=fresh)

    async def unload(self, model: str) -> None:
        """End the model's worker; its memory is free when this returns."""
        await self.manager.unload(model)

    def kill(self, model: str, pids: Sequence[int]) -> bool:
        """End by force what is left of the model's worker."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return True

    @property
    def on_death(self) -> Callable[[str, WorkbenchError], None] | None:
        """Told the model and the reason when a worker ended by itself."""
        return self.manager.on_death

    @on_death.setter
    def on_death(self, callback: Callable[[str, WorkbenchError], None] | None) -> None:
        self.manager.on_death = callback

    def resident(self, model: str) -> ResidentModel | None:
        """The model if it is in memory."""
        worker = self.manager.get(model)
        return _resident(worker) if worker is not None else None

    def pids(self, model: str) -> Sequence[int]:
        """The worker's process id, if there is one; while it loads too."""
        pid = self.manager.pid(model)
        return (pid,) if pid is not None else ()

    def residents(self) -> Sequence[str]:
        """Those in workers, with their load options."""
        return self.manager.names

    def sharing(self, model: str) -> Sequence[str]:
        """Each has a worker of its own."""
        return ()

    async def footprint(self, model: str, num_ctx: int | None = None) -> Footprint | None:
        """From the files' headers and the form that it will be loaded in."""
        return await self.manager.footprint(model, num_ctx)

    async def trim(self) -> None:
        """Idle workers let go of their caches and of freed memory that they keep."""
        await self.manager.trim()

    async def refresh(self) -> None:
        """Nobody else has a hand in it."""

    async def close(self) -> None:
        """End all workers."""
        await self.manager.close()

    async def stream(
        self, request: ChatRequest, model: str, seed: int, cancel: CancellationToken
    ) -> AsyncGenerator[ProviderEvent, None]:
        """Generate; loads the model first if it is not in memory.

        Raises:
            WorkbenchError: as the manager's ``load``; ``INVALID_REQUEST`` for options that this
                runtime or model cannot serve; ``HF_GENERATION_FAILED``, ``HF_MEMORY_EXCEEDED``;
                ``HF_PIPELINE_ERROR`` if the worker died.
        """
        worker = await self.manager.load(model)
        metadata = self.manager.counters(model)
        metadata.record_request()
        started = time.monotonic()
        for warning in worker.warnings:
            yield warning
        messages = worker.client.generate(
            [asdict(message) for message in request.messages],
            request.options.to_dict(),
            seed=seed,
            threads=self._threads_for(request, model),
            cancel=cancel,
            tools=request.tools,
            forced=request.forced,
            raw=request.raw,
        )
        try:
            async with aclosing(messages):
                async for message in messages:
                    yield _event(message)
        except WorkbenchError as error:
            metadata.error_count += error.code is not ErrorCode.INVALID_REQUEST
            raise
        metadata.record_answer(time.monotonic() - started)

    async def inspect(self, request: ChatRequest, model: str) -> Inspection:
        """From the tokenizer and the files of the loaded model."""
        worker = await self.manager.load(model)
        told = await worker.client.inspect(
            [asdict(message) for message in request.messages],
            request.options.to_dict(),
            request.tools,
        )
        return Inspection.from_dict(
            {"model": f"{self.name}/{model}", "digest": worker.model.info.digest, **told}
        )

    def _threads_for(self, request: ChatRequest, model: str) -> int:
        if self._threads is not None:
            return self._threads(request)
        others = self.manager.generating_besides(model)
        threads = self.manager.load_options(model).threads or self._settings.threads
        return default_threads(request, threads, others)

    async def _with_residency(self, info: ModelInfo) -> ModelInfo:
        worker = self.manager.get(info.name)
        if worker is None:
            loading = self.manager.is_loading(info.name)
            return replace(info, status="loading") if loading else info
        metadata = self.manager.counters(info.name)
        loaded = worker.client.loaded
        assert loaded is not None
        own = worker.model.info.digest
        changed = own != info.digest
        return replace(
            info,
            status="resident",
            digest=own,
            problem=_CHANGED if changed else info.problem,
            dtype=loaded.dtype,
            context_length=loaded.context_length,
            details={**info.details, **loaded.details}
            | ({"digest_on_disk": info.digest} if changed else {}),
            memory_bytes=await asyncio.to_thread(procfs.held_bytes, worker.client.pid),
            loaded_at=metadata.loaded_at,
            last_used_at=metadata.last_used_at,
        )


_CHANGED: Final = (
    "Its files changed since it was loaded, and the weights of then answer. "
    "Unload it to use what is on disk now."
)


def _variant(info: ModelInfo, name: str) -> ModelInfo:
    """The model of that name loaded another way."""
    return replace(info, id=model_id(name), name=name)


def default_threads(request: ChatRequest, threads: int, others_generating: int) -> int:
    """How many compute threads a request may use.

    Two runtimes whose thread pools together outnumber the cores slow each other down by a factor
    of ten (they spin while they wait). So a request shares the cores with the workers that
    generate already, and with the requests that were started together with it, which may be
    another runtime's.
    """
    return max(1, threads // max(request.parallel, others_generating + 1))


def _resident(worker: LoadedWorker) -> ResidentModel:
    loaded = worker.client.loaded
    assert loaded is not None
    info = worker.model.info
    return ResidentModel(
        name=worker.model.name,
        digest=info.digest,
        dtype=loaded.dtype,
        quantization=loaded.details.get("quantization") or info.quantization,
        device=loaded.device,
        threads=loaded.threads,
        context_length=loaded.context_length,
        pids=(worker.client.pid,),
        details={
            **loaded.details,
            "parameters": loaded.parameters,
            "packed": loaded.packed,
            "worker_load_ns": loaded.load_ns,
            "source": info.details.get("source"),
        },
    )


def _event(message: GenerationMessage) -> ProviderEvent:
    if isinstance(message, Token):
        return ProviderToken(
            text=message.text,
            t_ns=message.t_ns,
            n_tokens=message.n_tokens,
            channel=message.channel,
            logprobs=tuple(message.logprobs),
        )
    if isinstance(message, Called):
        call = ToolCall(message.call_id, message.name, message.arguments)
        return ProviderToolCall(call, message.t_ns)
    if isinstance(message, Warned):
        return ProviderWarning(message.code, message.message, message.details)
    return _finish(message)


def _finish(message: Finished) -> ProviderFinish:
    return ProviderFinish(
        finish_reason=cast(FinishReason, message.finish_reason),
        prompt_tokens=message.prompt_tokens,
        output_tokens=message.output_tokens,
        runtime_ns=message.runtime_ns,
        details=message.details,
    )
