"""A provider that loads when told, a book that knows each model's size, a service over both."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from workbench.budget import DeviceBytes, Prediction
from workbench.errors import ErrorCode, WorkbenchError
from workbench.memory import MemoryReading
from workbench.providers.base import CancellationToken, ResidentModel
from workbench.rotation import ModelRotationService, ResidencyChange
from workbench.rotation.context import ORDINARY
from workbench.router import Route
from workbench.types import Priority, TimingMode


class FakeProvider:
    """Remembers what it was asked; loads when told."""

    name = "fake"
    counts_against_cache = True
    loads = True
    concurrency = 1

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.keeps: dict[str, float] = {}
        """The last keep_alive that each model was loaded with."""
        self.calls: list[str] = []
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.fail = False
        self.missing: set[str] = set()
        self.twins: frozenset[str] = frozenset()
        """Names that share one process."""
        self.too_big: dict[str, int] = {}
        """Models whose next so many loads run out of memory."""

    async def check(self, model: str) -> None:
        if model in self.missing:
            raise WorkbenchError(ErrorCode.HF_MODEL_NOT_FOUND, f"There is no {model}.")

    async def load(
        self, model: str, *, keep_alive_s: float, num_ctx: int | None = None
    ) -> ResidentModel:
        fresh = self.resident(model) is None
        self.keeps[model] = keep_alive_s
        if fresh:
            self.calls.append(f"load {model}")
            if self.too_big.get(model):
                self.too_big[model] -= 1
                raise WorkbenchError(ErrorCode.HF_MEMORY_EXCEEDED, "It does not fit.")
            await self.may_load.wait()
            if self.fail:
                raise WorkbenchError(ErrorCode.HF_MODEL_LOAD_FAILED, "broken")
            self.loaded.append(model)
        return ResidentModel(model, fresh=fresh)

    async def unload(self, model: str) -> None:
        self.calls.append(f"unload {model}")
        self.loaded = [one for one in self.loaded if one not in self.runner(model)]

    def runner(self, model: str) -> frozenset[str]:
        return self.twins if model in self.twins else frozenset({model})

    def resident(self, model: str) -> ResidentModel | None:
        return None if self.runner(model).isdisjoint(self.loaded) else ResidentModel(model)

    def pids(self, model: str) -> tuple[int, ...]:
        return ()


class FakeBook:
    """A name that ends in digits needs so many bytes, held exactly."""

    def __init__(self, provider: FakeProvider, limit: int) -> None:
        self.provider = provider
        self.limit = limit
        self.told: list[str] = []
        self.looks = 0
        self.token_bytes: DeviceBytes = {}
        self.context: int | None = None

    def size(self, name: str) -> int:
        return int("".join(filter(str.isdigit, name)) or 0)

    def limits(self) -> DeviceBytes:
        return {"host": self.limit}

    def held(self) -> Mapping[str, DeviceBytes]:
        return {f"fake/{name}": {"host": self.size(name)} for name in self.provider.loaded}

    def shared(self, model: str) -> frozenset[str]:
        names = self.provider.runner(model.removeprefix("fake/"))
        return frozenset(f"fake/{name}" for name in names)

    def expectation(self, model: str) -> Prediction:
        return self.predict(Route(self.provider, model.removeprefix("fake/")))

    def strangers(self) -> Mapping[str, Route]:
        return {}

    async def prepare(self, route: Route, num_ctx: int | None = None) -> None:
        pass

    def predict(self, route: Route, num_ctx: int | None = None) -> Prediction:
        size = {"host": self.size(route.name)}
        return Prediction(size, size, "files", token_bytes=self.token_bytes, context=self.context)

    def loading(self, route: Route, num_ctx: int | None = None) -> None:
        self.told.append(f"loading {route.name}")

    def loaded(self, route: Route, resident: ResidentModel | None) -> None:
        self.told.append(f"{'loaded' if resident else 'failed'} {route.name}")

    def gone(self, model: str) -> None:
        self.told.append(f"gone {model.removeprefix('fake/')}")

    def answered(self, model: str, tokens: int) -> None:
        self.told.append(f"answered {model.removeprefix('fake/')} {tokens}")

    async def look(self) -> None:
        self.looks += 1

    def account(self, model: str, read: MemoryReading | None = None) -> Mapping[str, Any]:
        return {}


class Desk:
    """A service over a fake provider, with as much memory as a fake book says."""

    def __init__(
        self,
        max_resident: int = 1,
        concurrency: int = 1,
        patience_s: float = 60.0,
        limit: int | None = None,
        max_queue: int = 8,
        max_queue_per_model: int | None = None,
    ) -> None:
        self.provider = FakeProvider()
        self.provider.concurrency = concurrency
        self.book = FakeBook(self.provider, limit) if limit is not None else None
        self.changes: list[ResidencyChange] = []
        self.service = ModelRotationService(
            max_resident=max_resident,
            max_queue=max_queue,
            max_queue_per_model=max_queue_per_model,
            book=self.book,
            patience_s=dict.fromkeys(Priority, patience_s),
            on_change=self.changes.append,
        )

    def route(self, model: str) -> Route:
        return Route(self.provider, model)  # type: ignore[arg-type]

    def events(self) -> list[tuple[str, str]]:
        return [(change.event, change.route.name) for change in self.changes]

    async def ask(self, model: str, **more: object) -> None:
        """One request that ends at once."""
        async with self.slot(model, **more):
            pass

    async def asking(self, model: str, **more: object) -> asyncio.Task[None]:
        """One request, as far as it gets by itself now."""
        task = asyncio.create_task(self.ask(model, **more))
        for _ in range(5):
            await asyncio.sleep(0)
        return task

    def slot(self, model: str, *, keep_alive_s: float = 300, **more: object):  # type: ignore[no-untyped-def]
        return self.service.slot(
            self.route(model),
            mode=more.get("mode", TimingMode.CONCURRENT),
            priority=more.get("priority", Priority.INTERACTIVE),
            keep_alive_s=keep_alive_s,
            context=more.get("context", ORDINARY),
            num_ctx=more.get("num_ctx"),
            cancel=more.get("cancel", CancellationToken()),
            queue_timeout_s=more.get("queue_timeout_s", 5.0),
            on_standing=more.get("on_standing", lambda standing: None),
            on_loading=lambda message: None,
        )
