"""Which models are in memory, for how long, and who waits for them.

The rules follow the real scheduler: one request at a time is being given its model, the others
queue (up to a limit) behind it; a runner is shared by all names of one blob; a request with other
load parameters waits until the runner is idle and then replaces it; a model that is loading is not
listed; the time to live starts anew when the last request on the runner ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .catalog import Model
from .errors import BUSY, ApiError
from .gotime import FOREVER, NANOS, local_time
from .options import LoadParameters
from .runner import Runner

_FIVE_MINUTES = 300 * NANOS
_COMPUTE_BASE = 12_576_907
_COMPUTE_PER_TOKEN = 1024
"""Bytes of llama.cpp's compute buffers, fitted to recorded sizes at num_ctx 512 and 4096."""


@dataclass
class Resident:
    """A loaded model with its time to live."""

    runner: Runner
    model: Model
    parameters: LoadParameters
    keep_alive: int
    users: int = 0
    expires_ns: int | None = None
    timer: asyncio.TimerHandle | None = None
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def size(self) -> int:
        """Bytes of weights, KV cache (f16) and compute buffers."""
        header = self.model.blob.header
        heads = header.of_architecture("attention.head_count")
        head_size = header.of_architecture("embedding_length") // heads
        per_token = 2 * 2 * head_size * header.of_architecture("attention.head_count_kv")
        cache = per_token * header.of_architecture("block_count") * self.parameters.num_ctx
        compute = _COMPUTE_BASE + _COMPUTE_PER_TOKEN * self.parameters.num_ctx
        return self.model.blob.size + cache + compute

    def entry(self) -> dict[str, Any]:
        """One entry of ``/api/ps``; the name is the one it was loaded under."""
        expires = self.expires_ns or time.time_ns() + self.keep_alive
        return {
            "name": self.model.name,
            "model": self.model.name,
            "size": self.size(),
            "digest": self.model.digest,
            "details": {**self.model.details(), "parent_model": ""},
            "expires_at": local_time(expires),
            "size_vram": 0,
            "context_length": self.parameters.num_ctx,
        }


class Residency:
    """The scheduler."""

    def __init__(self, *, max_queue: int, slow_load: float, verbose: bool) -> None:
        self._max_queue = max_queue
        self._slow_load = slow_load
        self._verbose = verbose
        self._loaded: dict[Path, Resident] = {}
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._stopping: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def lease(
        self, model: Model, parameters: LoadParameters, keep_alive: int | None
    ) -> AsyncIterator[Resident]:
        """A loaded model for the time of one request; loads it first where needed."""
        resident = await self._acquire(model, parameters, keep_alive)
        try:
            yield resident
        finally:
            self._release(resident)

    async def _acquire(
        self, model: Model, parameters: LoadParameters, keep_alive: int | None
    ) -> Resident:
        if self._turn.locked() and self._waiting >= self._max_queue:
            raise ApiError(503, BUSY)
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            resident = await self._usable(model, parameters)
            if resident is None:
                resident = await self._load(model, parameters, keep_alive)
            elif keep_alive is not None:
                resident.keep_alive = keep_alive
            return resident
        finally:
            self._turn.release()

    async def _usable(self, model: Model, parameters: LoadParameters) -> Resident | None:
        """The loaded runner if it fits and lives; otherwise it is removed once it is idle."""
        resident = self._loaded.get(model.blob.path)
        if resident is None:
            return None
        self._enter(resident)
        try:
            fits = resident.parameters == parameters and await resident.runner.alive()
        except BaseException:
            self._release(resident)
            raise
        if fits:
            return resident
        resident.keep_alive = 0  # the last user's release unloads it
        self._release(resident)
        await resident.idle.wait()
        return None

    async def _load(
        self, model: Model, parameters: LoadParameters, keep_alive: int | None
    ) -> Resident:
        if self._stopping:
            await asyncio.wait(self._stopping)
        runner = await Runner.start(
            model.blob.path, parameters, slow_load=self._slow_load, verbose=self._verbose
        )
        keep_alive = _FIVE_MINUTES if keep_alive is None else keep_alive
        resident = Resident(runner, model, parameters, keep_alive)
        self._loaded[model.blob.path] = resident
        self._enter(resident)
        return resident

    @staticmethod
    def _enter(resident: Resident) -> None:
        resident.users += 1
        resident.idle.clear()
        if resident.timer is not None:
            resident.timer.cancel()
            resident.timer = None

    def _release(self, resident: Resident) -> None:
        resident.users -= 1
        if resident.users:
            return
        resident.idle.set()
        resident.expires_ns = time.time_ns() + resident.keep_alive
        if resident.keep_alive == 0:
            self._unload(resident)
        elif resident.keep_alive < FOREVER:
            resident.timer = asyncio.get_running_loop().call_later(
                resident.keep_alive / NANOS, self._unload, resident
            )

    def expire(self, model: Model) -> None:
        """Unload a model now, or as soon as the requests that use it are done."""
        resident = self._loaded.get(model.blob.path)
        if resident is None:
            return
        resident.keep_alive = 0
        if not resident.users:
            if resident.timer is not None:
                resident.timer.cancel()
            self._unload(resident)

    def _unload(self, resident: Resident) -> None:
        if self._loaded.get(resident.model.blob.path) is resident:
            del self._loaded[resident.model.blob.path]
        task = asyncio.create_task(resident.runner.stop())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    def listing(self) -> list[dict[str, Any]]:
        """``/api/ps``: what stays longest comes first."""
        longest = sorted(self._loaded.values(), key=lambda r: r.expires_ns or 0, reverse=True)
        return [resident.entry() for resident in longest]
