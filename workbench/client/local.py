"""An engine in this process."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from workbench import logs
from workbench.errors import WorkbenchError
from workbench.jobs import Job
from workbench.settings import Settings
from workbench.types import (
    ChatRequest,
    Message,
    ModelInfo,
    StreamEvent,
    StreamSession,
    new_id,
)

if TYPE_CHECKING:
    import pandas as pd

    from workbench.client.roads import Work
    from workbench.insight import Divergence, ParitySheet
    from workbench.rotation import Overview
    from workbench.store import MemorySample
    from workbench.store.rows import Mode

T = TypeVar("T")


class Local:
    """An engine in this process, on an event loop of its own in a background thread."""

    def __init__(self, settings: Settings, source: str) -> None:
        from workbench import environment
        from workbench.engine import build
        from workbench.store import Store
        from workbench.store.database import durability

        # In a notebook or script only what goes wrong is worth a line, unless it asked for more.
        chosen = "workbench_log_level" in settings.model_fields_set
        logs.configure_default(settings.workbench_log_level if chosen else "WARNING")
        self._source = source
        store = Store.open(settings.workbench_db, durability=durability(settings))
        store.set_environment(environment.capture(settings))
        self._engine = build(settings, store)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine", daemon=True)
        self._thread.start()

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        with logs.correlation(new_id("cor"), source=self._source):
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        # Not future.result(): an interrupt that comes while it holds its lock would leave it held,
        # and the loop would wait for it for ever. This queue has no lock in Python.
        ended: queue.SimpleQueue[object] = queue.SimpleQueue()
        future.add_done_callback(ended.put)
        try:
            ended.get()
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl+C, or an interrupted cell: the work must not go on
            raise

    def models(self) -> tuple[list[ModelInfo], Mapping[str, WorkbenchError]]:
        listing = self._await(self._engine.list_models())
        return list(listing.models), listing.problems

    def show(self, model: str) -> ModelInfo:
        return self._await(self._engine.show(model))

    def load(self, model: str) -> Mapping[str, Any]:
        return self._await(self._engine.load(model))

    def unload(self, model: str) -> Mapping[str, Any]:
        return self._await(self._engine.unload(model))

    def pin(self, model: str) -> Mapping[str, Any]:
        return self._await(self._engine.pin(model))

    def unpin(self, model: str) -> Mapping[str, Any]:
        return self._await(self._engine.unpin(model))

    def queue(self) -> Overview:
        async def look() -> Overview:
            return self._engine.overview()

        return self._await(look())

    def download(self, model: str, revision: str | None, gguf_file: str | None) -> Job:
        with logs.correlation(new_id("cor"), source=self._source):
            return self._engine.disk.download(model, revision, gguf_file)

    def verify(self, model: str | None) -> Job:
        return self._await(self._engine.disk.verify(model))

    def delete(self, model: str, dry_run: bool) -> Mapping[str, Any]:
        if not dry_run:
            return self._await(self._engine.disk.delete(model))
        return self._await(self._engine.disk.plan_deletion(model)).to_dict()

    def job(self, job_id: str) -> Job:
        return self._engine.disk.jobs.get(job_id)

    def wait_for_job(self, job_id: str, timeout_s: float) -> Job:
        return self._engine.disk.jobs.wait(job_id, timeout_s)

    def cancel_job(self, job_id: str) -> Job:
        return self._engine.disk.jobs.cancel(job_id)

    def stream(
        self, requests: Sequence[ChatRequest]
    ) -> Generator[tuple[int, StreamEvent], None, None]:
        events = self._engine.compare(requests)

        async def following() -> tuple[int, StreamEvent] | None:
            return await anext(events, None)

        try:
            while (item := self._await(following())) is not None:
                yield item
        finally:
            self._await(events.aclose())

    def parity(self, request: ChatRequest, other: str) -> ParitySheet:
        from workbench.insight import logged

        return self._await(logged.parity(self._engine, request, other))

    def diverge(self, request: ChatRequest, other: str, repeats: int) -> Divergence:
        from workbench.insight import logged

        return self._await(logged.diverge(self._engine, request, other, repeats=repeats))

    def cancel(self, session_id: str) -> bool:
        async def stop() -> bool:
            return self._engine.cancel(session_id)

        return self._await(stop())

    def sql(self, query: str, params: Mapping[str, Any] | None, limit: int | None) -> pd.DataFrame:
        return self._engine.store.query(query, params, limit=limit)

    def tables(self) -> list[dict[str, Any]]:
        return self._engine.store.tables()

    def verify_log(self) -> Mapping[str, Any]:
        from workbench.store.verify import verdict

        return verdict(self._engine.store.verify())

    def keep(self, kind: str, arguments: Mapping[str, Any]) -> Job:
        return self._engine.log.begin(kind, arguments)

    def log_rows(self, table: str, rows: Sequence[Mapping[str, Any]], mode: Mode) -> None:
        from workbench.store.outside import check_rows

        self._engine.store.submit(check_rows(table, rows, mode)).result()

    def log_session(
        self,
        session: StreamSession,
        messages: Sequence[Message],
        samples: Sequence[MemorySample],
    ) -> None:
        self._engine.store.log_session(session, messages, samples).stored.result()

    def drive(self, work: Work[T], watch: Callable[[], None]) -> T:
        from workbench.client.roads import LocalRoad, drive

        return drive(self._loop, work(LocalRoad(self._engine, self._source)), watch)

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self._await(self._engine.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()
