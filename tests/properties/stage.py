"""Runtimes that do what they are told, a book that knows every size, and time that stands still."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from workbench.budget import DeviceBytes, Prediction
from workbench.errors import ErrorCode, WorkbenchError
from workbench.memory import MemoryReading
from workbench.providers.base import CancellationToken, Footprint, Provider, ResidentModel
from workbench.providers.scripted import Schedule, ScriptedProvider
from workbench.router import Route
from workbench.types import (
    Channel,
    ChatRequest,
    ProviderEvent,
    ProviderFinish,
    ProviderToken,
    TimingMode,
)


class Clock:
    """The monotonic clock of one thread: it moves a microsecond when looked at, else by hand.

    Other threads keep the real one, for they wait for it.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ns = time.monotonic_ns()
        self._patch = patch
        self._owner = threading.get_ident()
        real, real_ns = time.monotonic, time.monotonic_ns
        patch.setattr(time, "monotonic", lambda: self._look() / 1e9 if self._ours() else real())
        patch.setattr(time, "monotonic_ns", lambda: self._look() if self._ours() else real_ns())

    def _ours(self) -> bool:
        return threading.get_ident() == self._owner

    def _look(self) -> int:
        self.ns += 1000
        return self.ns

    def goes_on(self) -> None:
        """From now on it is the real one again."""
        self._patch.undo()

    def pass_by(self, seconds: float) -> None:
        """So much later it is."""
        self.ns += int(seconds * 1e9)


class AtOnce(ThreadPoolExecutor):
    """Does in the calling thread what others do in theirs, so that nothing is left to chance."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


@dataclass(repr=False, eq=False)
class Playing:
    """A generation under way, and what it is told to do next."""

    request: ChatRequest
    model: str
    orders: asyncio.Queue[ProviderEvent | WorkbenchError]
    texts: list[str] = field(default_factory=list)
    over: bool = False
    """It was told its end."""

    def __repr__(self) -> str:
        return f"<{self.model} {self.request.timing_mode} {self.texts}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))

    @property
    def alone(self) -> bool:
        return self.request.timing_mode is not TimingMode.CONCURRENT

    def say(self, text: str, n_tokens: int, channel: Channel) -> None:
        self.texts.append(text if channel == "content" else "")
        self.orders.put_nowait(ProviderToken(text, time.monotonic_ns(), n_tokens, channel))

    def end(self, how: ProviderFinish | WorkbenchError) -> None:
        self.over = True
        self.orders.put_nowait(how)


class Stage(ScriptedProvider):
    """A runtime whose loads, unloads, tokens and failures happen when they are told to.

    Args:
        name: of the provider.
        sizes: bytes of each model, by name.
        counted: whether its models take places, and are ours to unload when their time is over.
    """

    def __init__(self, name: str, sizes: Mapping[str, int], *, counted: bool) -> None:
        super().__init__({model: Schedule(()) for model in sizes}, name=name, concurrency=2)
        self.counts_against_cache = counted
        self.sizes = sizes
        self.slow_loads: set[str] = set()
        """Models that are in memory when told, and not at once."""
        self.slow_unloads: set[str] = set()
        self.loading: dict[str, asyncio.Future[None]] = {}
        self._waiting: Counter[asyncio.Future[None]] = Counter()
        self.unloading: dict[str, asyncio.Future[None]] = {}
        self.playing: dict[str, Playing] = {}
        """By session id."""
        self.played: list[Playing] = []
        """All that ever were."""
        self.broken: set[str] = set()
        """Models that cannot be loaded."""
        self.down = False
        self.wrongs: list[str] = []
        """What must never be asked of a runtime."""

    def occupied(self) -> int:
        """Bytes that its models take, those on their way in or out included."""
        names = {*self._resident, *self.loading, *self.unloading}
        return sum(self.sizes[name] for name in names)

    def placed(self) -> int:
        """Models that take a place."""
        return len({*self._resident, *self.loading} - self.unloading.keys())

    def alive(self) -> list[str]:
        """Models in memory, and not on their way out."""
        return [name for name in self._resident if name not in self.unloading]

    def using(self, model: str) -> list[Playing]:
        return [one for one in self.playing.values() if one.model == model]

    # -- what the engine asks

    def _up(self) -> None:
        if self.down:
            raise WorkbenchError(
                ErrorCode.OLLAMA_UNREACHABLE, f"{self.name} does not answer.", provider=self.name
            )

    async def check(self, model: str) -> None:
        self._up()
        await super().check(model)

    async def refresh(self) -> None:
        self._up()

    async def load(
        self, model: str, *, keep_alive_s: float, num_ctx: int | None = None
    ) -> ResidentModel:
        self._up()
        if (there := self._resident.get(model)) is not None:
            return there
        if model in self.unloading:
            self.wrongs.append(f"{model} is loaded while it is unloaded")
        if model not in self.loading:
            self.loading[model] = asyncio.get_running_loop().create_future()
            if model in self.broken:
                raise self._failed(self.loading.pop(model), model, ErrorCode.HF_MODEL_LOAD_FAILED)
            if model not in self.slow_loads:
                self.loaded(model)
        if (gate := self.loading.get(model)) is not None:
            self._waiting[gate] += 1
            try:
                await asyncio.shield(gate)
            finally:
                self._waiting[gate] -= 1
                if not self._waiting[gate]:
                    del self._waiting[gate]
                    # Ollama ends a load that nobody waits for; ours goes on until it is unloaded.
                    if self.loading.get(model) is gate and not self.counts_against_cache:
                        del self.loading[model]
        return ResidentModel(model, digest=model, device="none", fresh=True)

    async def unload(self, model: str) -> None:
        if self.using(model):
            self.wrongs.append(f"{model} is unloaded while it answers")
        if model in self.loading and self.counts_against_cache:
            self.loading.pop(model).cancel()
        if self.down or model not in self._resident:
            self._resident.pop(model, None)
            return
        gate = self.unloading[model] = asyncio.get_running_loop().create_future()
        if model not in self.slow_unloads:
            gate.set_result(None)
        try:
            await gate
        finally:
            del self.unloading[model]
            self._resident.pop(model, None)

    def resident(self, model: str) -> ResidentModel | None:
        return self._resident.get(model)

    async def footprint(self, model: str, num_ctx: int | None = None) -> Footprint | None:
        return Footprint({"host": self.sizes[model]}, {"host": self.sizes[model]})

    async def close(self) -> None:
        if self.counts_against_cache and self._resident:
            self.wrongs.append(f"closed with {', '.join(self._resident)} in memory")
        await super().close()

    async def stream(
        self, request: ChatRequest, model: str, seed: int, cancel: CancellationToken
    ) -> AsyncGenerator[ProviderEvent, None]:
        self._up()
        if model not in self._resident:
            # A runtime of its own may lose a model between the slot and the request.
            raise WorkbenchError(ErrorCode.HF_PIPELINE_ERROR, f"{model} is not in memory.")
        me = self.playing[request.session_id] = Playing(request, model, asyncio.Queue())
        self.played.append(me)
        stop = asyncio.ensure_future(cancel.wait())
        order: asyncio.Future[ProviderEvent | WorkbenchError] | None = None
        try:
            while True:
                order = asyncio.ensure_future(me.orders.get())
                await asyncio.wait({order, stop}, return_when=asyncio.FIRST_COMPLETED)
                if not order.done():
                    return
                event = order.result()
                if isinstance(event, WorkbenchError):
                    raise event
                yield event
                if isinstance(event, ProviderFinish):
                    return
        finally:
            stop.cancel()
            if order is not None:
                order.cancel()
            del self.playing[request.session_id]

    # -- what happens to it

    def loaded(self, model: str) -> None:
        """The load under way ends well."""
        self._resident[model] = ResidentModel(model, digest=model, device="none")
        self.loading.pop(model).set_result(None)

    def load_fails(self, model: str, code: ErrorCode) -> None:
        self._failed(self.loading.pop(model), model, code)

    def _failed(self, gate: asyncio.Future[None], model: str, code: ErrorCode) -> WorkbenchError:
        error = WorkbenchError(code, f"{model} does not load.", operation="load")
        gate.set_exception(error)
        gate.exception()  # seen, also if nobody waits any more
        return error

    def unloaded(self, model: str) -> None:
        """The unload under way ends."""
        self.unloading[model].set_result(None)

    def dies(self, model: str, code: ErrorCode) -> None:
        """The process that holds a model ends."""
        error = WorkbenchError(code, f"The process of {model} ended.", provider=self.name)
        self._resident.pop(model, None)
        for one in self.using(model):
            one.end(error)
        assert self.on_death is not None
        self.on_death(model, error)

    def vanishes(self, model: str) -> None:
        """Its time was over, or another program unloaded it; nobody is told."""
        self._resident.pop(model, None)

    def falls(self) -> None:
        """All of it is killed."""
        self.down = True
        for model in list(self.loading):
            self.load_fails(model, ErrorCode.OLLAMA_UNREACHABLE)
        for model in list(self._resident):
            if model not in self.unloading:
                self._resident.pop(model)
        for gate in self.unloading.values():
            if not gate.done():
                gate.set_result(None)
        for one in self.playing.values():
            one.end(WorkbenchError(ErrorCode.OLLAMA_STREAM_BROKEN, "The stream broke."))

    def obeys_at_once(self) -> None:
        """From now on nothing takes time."""
        self.slow_loads.clear()
        self.slow_unloads.clear()
        for model in list(self.loading):
            self.loaded(model)
        for gate in self.unloading.values():
            if not gate.done():
                gate.set_result(None)


class Book:
    """Knows what each model holds without looking; :class:`workbench.budget.MemoryBook`."""

    LIMIT = 12 * 10**6

    def __init__(self, settings: object, providers: Mapping[str, Provider], **_: object) -> None:
        self.providers = providers

    def limits(self) -> DeviceBytes:
        return {"host": self.LIMIT}

    def held(self) -> Mapping[str, DeviceBytes]:
        return {
            f"{name}/{model}": {"host": self._stage(name).sizes[model]}
            for name in self.providers
            for model in self._stage(name).residents()
        }

    def _stage(self, name: str) -> Stage:
        stage = self.providers[name]
        assert isinstance(stage, Stage)
        return stage

    def shared(self, model: str) -> frozenset[str]:
        return frozenset({model})

    def strangers(self) -> Mapping[str, Route]:
        return {}

    async def prepare(self, route: Route, num_ctx: int | None = None) -> None:
        pass

    def predict(self, route: Route, num_ctx: int | None = None) -> Prediction:
        size = {"host": self._stage(route.provider.name).sizes.get(route.name, 0)}
        return Prediction(size, size, "files")

    def expectation(self, model: str) -> Prediction:
        provider, _, name = model.partition("/")
        return self.predict(Route(self.providers[provider], name))

    def loading(self, route: Route, num_ctx: int | None = None) -> None:
        pass

    def loaded(self, route: Route, resident: ResidentModel | None) -> None:
        pass

    def answered(self, model: str, tokens: int) -> None:
        pass

    def gone(self, model: str) -> None:
        pass

    async def look(self) -> None:
        pass

    def account(self, model: str, read: MemoryReading | None = None) -> Mapping[str, Any]:
        return {}

    def close(self) -> None:
        pass
