"""Engine.stream: the only way to a model, for a pane, a notebook, a benchmark or an API call.

    request -> route -> slot (queue, evict, load) -> provider -> events -> record -> store

The work runs in a task of its own and hands its events over through a mailbox: a slow reader never
slows a model, and the record is written whatever becomes of the reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from workbench import admission, logs
from workbench.contention import Generations
from workbench.disk import ModelDisk
from workbench.errors import WorkbenchError, invalid
from workbench.inspection import Inspection
from workbench.keeping import LogKeeper
from workbench.lag import LagSampler
from workbench.ledger import Ledger
from workbench.memory import MemoryMonitor
from workbench.model_log import ModelLog
from workbench.observer import Observer
from workbench.providers import guard
from workbench.providers.base import CancellationToken, Provider, TellsFigures
from workbench.record import recover, recover_runs
from workbench.registration import build_router
from workbench.rescue import Rescue
from workbench.rotation import ModelRotationService, Overview, Preview
from workbench.rotation.context import Context, prompt_bytes
from workbench.rotation.speeds import HISTORY, REMEMBERED
from workbench.router import Listing, ModelRouter, Route
from workbench.runtimes import RuntimeWatch
from workbench.session import LiveSession, Parts, limit_s
from workbench.settings import Settings
from workbench.side_by_side import side_by_side
from workbench.store import Store
from workbench.store.journal import Journal
from workbench.types import (
    ChatRequest,
    ErrorEvent,
    ModelInfo,
    Priority,
    StreamEvent,
    new_id,
)
from workbench.upkeep import Upkeep, left_behind, past_loads
from workbench.ways import Ways

_log = logs.get(__name__)


class Engine:
    """The one road to all models.

    Args:
        settings: bounds and waits.
        router: with its providers registered.
        store: where every session is written.
    """

    def __init__(self, settings: Settings, router: ModelRouter, store: Store) -> None:
        self.settings = settings
        self.router = router
        self.store = store
        self.monitor = MemoryMonitor(settings.workbench_memory_interval_ms)
        self.lag = LagSampler(busy=lambda: bool(self._live))
        """Of the engine's event loop, from its first stream or the server's start on."""
        self.upkeep = Upkeep(store, router.providers)
        self.book = Ledger(
            settings,
            router.providers,
            past=partial(past_loads, store),
            left=partial(left_behind, store),
            on_change=lambda: self.rotation.memory_changed(),
            on_alert=self.upkeep.alerted,
        )
        self._model_log = ModelLog(store, self.book, partial(self._tell, "model_event"))
        self._ways = Ways(router)
        self._rescue = Rescue(settings, router, self._ways.to_answer)
        generations = Generations()
        self.rotation = ModelRotationService(
            max_resident=settings.hf_max_cached_models,
            max_queue=settings.workbench_max_queue,
            max_queue_per_model=settings.workbench_max_queue_per_model,
            patience_s={
                Priority.INTERACTIVE: settings.workbench_patience_s,
                Priority.BENCHMARK: settings.workbench_benchmark_patience_s,
            },
            unload_grace_s=settings.workbench_cancel_grace_s,
            failed_load_s=settings.workbench_failed_load_s,
            book=self.book,
            generations=generations,
            on_change=self._model_log.change,
        )
        self.disk = ModelDisk(settings, store, router, self.rotation)
        self.log = LogKeeper(store, self.disk.jobs, settings)
        self.runtimes = RuntimeWatch(
            router.providers,
            settings.workbench_runtime_watch_s,
            busy=lambda: bool(self._live),
            on_change=self._look,
        )
        self.observers: list[Observer] = []
        """Told of everything that ends; add to it before the first request."""
        recover(store)
        recover_runs(store)
        self._journal = Journal(store.path, settings.workbench_journal_ms / 1e3)
        self._parts = Parts(
            settings,
            self.rotation,
            self.monitor,
            store,
            generations,
            self.lag,
            self._journal,
            partial(self._tell, "session_ended"),
            self._generating_besides,
        )
        self._remembering: asyncio.Task[None] | None = None
        self._live: dict[str, LiveSession] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        router.busy = self._busy
        for provider in router.providers.values():
            provider.on_death = partial(self._died, provider)
            if isinstance(provider, TellsFigures):
                provider.on_figures = partial(self._model_log.figures, provider)

    def _generating_besides(self, model: str) -> int:
        others = (other for other in self.rotation.running if other != model)
        return sum(self.router.providers[o.partition("/")[0]].shares_cores for o in others)

    def _busy(self, provider: str) -> int:
        """Requests that a provider has, running and waiting."""
        return sum(session.route.provider.name == provider for session in self._live.values())

    # -- streams

    async def stream(self, request: ChatRequest) -> AsyncGenerator[StreamEvent, None]:
        """Run one model call and yield its events.

        The last event is a ``DoneEvent`` or an ``ErrorEvent`` with the finished record, which is
        in the store by then. Closing the iterator cancels the work.

        Raises:
            WorkbenchError: for a request that is wrong in itself, before anything is started:
                ``INVALID_REQUEST``, ``MODEL_NOT_FOUND``, ``MODEL_AMBIGUOUS``. Everything later
                arrives as an ``ErrorEvent``.
        """
        self._check(request)
        try:
            route = await self._ways.to_answer(request, request.model)
        except WorkbenchError as error:
            self.store.log_error(error, model=request.model, correlation_id=request.correlation_id)
            self._tell("request_refused", request, error)
            raise
        came_from: str | None = None
        failed_hosts: list[str] = []
        while True:
            failed: ErrorEvent | None = None
            # Closed with this one, or the work would go on until the garbage collector comes by.
            events = self._stream_once(request, route, came_from)
            async with contextlib.aclosing(events):
                async for event in events:
                    if isinstance(event, ErrorEvent) and self._rescue.possible(
                        request, route, event
                    ):
                        failed = event
                    else:
                        yield event
            if failed is None:
                return
            failed_hosts.append(route.provider.name)
            other, warning = await self._rescue.find(request, route, failed, failed_hosts)
            if warning is not None:
                yield warning
            if other is None:
                yield failed
                return
            came_from, route = came_from or route.model, other
            request = replace(request, session_id=new_id("ses"))

    async def compare(
        self, requests: Sequence[ChatRequest]
    ) -> AsyncGenerator[tuple[int, StreamEvent], None]:
        """Run several calls side by side; yields (index of the request, event).

        In isolated mode the order in which they run is drawn at random, so that no model always
        profits from being second. A request that is wrong in itself ends with an ``ErrorEvent``
        here too: the others go on.
        """
        events = side_by_side(self.stream, requests)
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    def cancel(self, session_id: str, reason: str = "user") -> bool:
        """Stop a running stream; False when there is none of that id."""
        session = self._live.get(session_id)
        if session is None:
            return False
        session.cancel.cancel(reason)
        return True

    def cancel_all(self, reason: str) -> None:
        """Stop every running or waiting stream; each still gets its row and its last event."""
        for session in self._live.values():
            session.cancel.cancel(reason)

    def active(self) -> list[dict[str, Any]]:
        """The streams that run or wait, the oldest first, each with its ``phase``."""
        return [session.draft.describe() for session in self._live.values()]

    @property
    def active_sessions(self) -> list[str]:
        """Ids of the streams that run or wait."""
        return list(self._live)

    # -- models

    def prewarm(self) -> None:
        """Begin what first loads would have to wait for; returns at once. Needs an event loop."""
        for provider in self.router.providers.values():
            provider.prewarm()
        self._begin()

    async def list_models(self) -> Listing:
        """All models of all providers."""
        listing = await self.router.list_models()
        return replace(listing, models=await self._with_memory(listing.models))

    async def show(self, model: str) -> ModelInfo:
        """One model."""
        route = await self.router.resolve(model)
        with guard.blamed(route.provider.name, "show"):
            shown = await route.provider.show(route.name)
        (info,) = await self._with_memory([shown])
        return info

    async def load(self, model: str) -> Mapping[str, Any]:
        """Bring a model into memory.

        Returns:
            ``id``, ``duration_s`` (of this call), ``was_resident``, ``memory_bytes`` (as held now,
            None if unknown) and ``evicted`` (ids of the models that left for it).
        """
        begun = time.monotonic()
        self._begin()
        route = await self.router.resolve(model)
        slot = await self.rotation.load(route, keep_alive_s=self.settings.workbench_keep_alive_s)
        duration_s = time.monotonic() - begun
        if not slot.resident.fresh:  # a load has looked itself, for its row in the log
            await self.book.look()
        info = await self.show(route.model)
        return {
            "id": route.model,
            "duration_s": duration_s,
            "was_resident": not slot.resident.fresh,
            "memory_bytes": info.memory_bytes,
            "evicted": list(slot.evicted),
        }

    async def unload(self, model: str) -> Mapping[str, Any]:
        """Take a model out of memory.

        Returns:
            ``id``, ``duration_s`` (of this call), ``was_resident``, and from the receipt
            ``expected_bytes`` (what its processes held for themselves) and ``recovered_bytes``
            (what of it is given back): 0 if it was not in memory, None if unknown.
        """
        begun = time.monotonic()
        route = await self._ways.to_memory(model)
        there = route.provider.resident(route.name) is not None
        await self.rotation.unload(route)
        told = self._model_log.receipts.pop(route.model, None)
        receipt, nothing = (told, None) if there else (None, 0)
        return {
            "id": route.model,
            "duration_s": time.monotonic() - begun,
            "was_resident": there,
            "expected_bytes": receipt.expected_bytes if receipt else nothing,
            "recovered_bytes": receipt.recovered_bytes if receipt else nothing,
        }

    async def pin(self, model: str) -> Mapping[str, Any]:
        """Bring a model into memory and keep it there: it is neither evicted nor does it expire.

        Returns:
            ``id`` and ``evicted`` (ids of the models that left for it).
        """
        self._begin()
        route = await self._ways.to_memory(model)
        return {"id": route.model, "evicted": list(await self.rotation.pin(route))}

    async def unpin(self, model: str) -> Mapping[str, Any]:
        """Let a model be evicted again.

        Returns:
            ``id`` and ``was_pinned``.
        """
        route = await self._ways.to_memory(model)
        stay_s = self.settings.workbench_keep_alive_s
        pinned = await self.rotation.unpin(route, keep_alive_s=stay_s)
        return {"id": route.model, "was_pinned": pinned}

    async def inspect(self, request: ChatRequest) -> Inspection:
        """What the model's runtime would make of a request; loads the model, answers nothing.

        Raises:
            WorkbenchError: as :meth:`stream`, and what the runtime says.
        """
        self._check(request)
        route = await self.router.resolve(request.model)
        settings = self.settings
        async with self.rotation.slot(
            route,
            mode=request.timing_mode,
            keep_alive_s=self.rotation.stay_s(route.model, settings.workbench_keep_alive_s),
            num_ctx=request.options.num_ctx,
            context=Context(prompt_bytes(request), 1),
            load_timeout_s=request.timeouts.load_s,
            priority=request.priority,
            cancel=CancellationToken(),
            queue_timeout_s=limit_s(request, settings, "queue_s"),
        ):
            with guard.blamed(route.provider.name, "inspect"):
                return await route.provider.inspect(request, route.name)

    def overview(self) -> Overview:
        """Who is in memory, who waits, and who would leave next."""
        return self.rotation.overview()

    async def preview(self, model: str) -> Preview:
        """What loading a model now would do; nothing is done.

        Raises:
            WorkbenchError: for a model that is not there, and load options that cannot be.
        """
        route = await self.router.resolve(model)
        preview = await self.rotation.preview(route)
        if not preview.need.bytes:
            with guard.blamed(route.provider.name, "load"):
                await route.provider.check(route.name)
        return preview

    async def close(self) -> None:
        """Cancel what runs, wait for the records to be written, stop the runtimes we started."""
        self.cancel_all("shutdown")
        await self.runtimes.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=10)
        if self._remembering is not None:
            await asyncio.wait([self._remembering])
        self.lag.close()
        await self.rotation.close(max(self.settings.workbench_keep_alive_s, 0.0))
        for provider in self.router.providers.values():
            await provider.close()
        self.monitor.close()
        await asyncio.to_thread(self.book.close)
        await asyncio.to_thread(self.disk.close)
        await asyncio.to_thread(self.store.close)
        await asyncio.to_thread(self._journal.close)

    # -- inside

    async def _with_memory(self, models: Sequence[ModelInfo]) -> list[ModelInfo]:
        """With what the book measured of them, the same that the queue and the page show."""

        def unseen(info: ModelInfo) -> bool:
            provider = self.router.providers[info.provider]
            there = info.status == "resident" and info.id not in self.book.held()
            return there and bool(guard.pids(provider, info.name))

        if any(unseen(info) for info in models):
            await self.book.look()
        held = self.book.held()
        return [
            replace(info, memory_bytes=sum(held[info.id].values()) or None)
            if info.id in held
            else info
            for info in models
        ]

    def _check(self, request: ChatRequest) -> None:
        admission.check(request, self.settings)
        if request.session_id in self._live:
            raise invalid(
                f"Session {request.session_id} is running already.",
                fix="Give each request a session_id of its own.",
            )

    async def _stream_once(
        self, request: ChatRequest, route: Route, fallback_from: str | None
    ) -> AsyncGenerator[StreamEvent, None]:
        session = LiveSession(self._parts, request, route, fallback_from)
        self._live[request.session_id] = session
        self._begin()
        task = asyncio.create_task(session.execute(), name=f"stream {request.session_id}")
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(request.session_id, done))
        try:
            async for event in session.mailbox:
                yield event
        finally:
            session.cancel.cancel("disconnect")

    def _begin(self) -> None:
        """Start what goes on until the end; without effect the second time."""
        if self._remembering is None:
            self._remembering = asyncio.create_task(self._remember_speeds())
        self.runtimes.start()
        self.lag.start()

    async def _look(self) -> None:
        """Other models are in memory than before: measure them, then decide again."""
        await self.book.look()
        self.rotation.memory_changed()

    async def _remember_speeds(self) -> None:
        """What loads and answers took before this start, for the estimates of the queue."""
        remembered = {"remembered": REMEMBERED}
        try:
            rows = await asyncio.to_thread(self.store.rows, HISTORY, remembered)
        except WorkbenchError as error:
            _log.warning("no_history", error=str(error))
            return
        self.rotation.speeds.restore(rows)

    def _ended(self, session_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._live.pop(session_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("stream_task_failed", session_id=session_id, exc_info=error)

    def _tell(self, what: str, *about: Any) -> None:
        """Tell the observers; one that fails must not fail a request."""
        for observer in self.observers:
            try:
                getattr(observer, what)(*about)
            except Exception:
                _log.exception("observer_failed", observer=type(observer).__name__, about=what)

    def _died(self, provider: Provider, name: str, error: WorkbenchError) -> None:
        """A process that held a model ended by itself: its place is free."""
        self.rotation.forget(Route(provider, name).model)
        self._model_log.death(provider, name, error)


def build(settings: Settings, store: Store, **providers: Provider) -> Engine:
    """An engine over :func:`build_router`; it closes the store when it is closed."""
    return Engine(settings, build_router(settings, **providers), store)
