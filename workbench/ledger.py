"""The memory book that measures: limits, holdings, predictions and alerts over all providers."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import psutil

from workbench import logs, memory, pressure
from workbench.budget import HOST, DeviceBytes, Prediction
from workbench.census import Census, Holding, Sample
from workbench.prediction import Load, keep, predict
from workbench.pressure import Alert, Level, Thresholds
from workbench.providers import guard
from workbench.providers.base import Footprint, Provider, ResidentModel
from workbench.router import Route
from workbench.settings import Settings

_log = logs.get(__name__)

_STEP_SHARE: Final = 0.02
"""Of the capacity: by how much room must grow before a lowered limit rises."""
_OVER_BUDGET: Final = Thresholds(high=1.0, critical=1.05, band=0.02)
"""Shares of the budget that models are measured to hold."""
_NEWS_S: Final = 1.0
"""While more is held than may be, the rotation is told again after this time."""

PastLoads = Callable[[], Iterable[tuple[str, str, Mapping[str, Any]]]]
"""Rows of the log, oldest first: model id, event, its ``details.memory``."""


@dataclass(slots=True)
class _Stay:
    """A model's stay in memory, from the beginning of its load."""

    route: Route
    num_ctx: int | None
    variant: str
    prediction: Prediction
    loaded_ns: int = 0
    """Monotonic: when it was in memory; 0 before."""
    loading: DeviceBytes = field(default_factory=dict)
    """The most that its load took."""
    high_water: int = 0
    """Of its load, as the kernel has it."""
    settled: DeviceBytes = field(default_factory=dict)
    """The least that it held since."""
    answering: DeviceBytes = field(default_factory=dict)
    """The most that it held since."""
    tokens: int = 0
    """The most context that its requests had together."""

    def see(self, holding: Holding) -> None:
        """Account for a look at its processes."""
        if not holding.now:
            return
        if not self.loaded_ns or holding.began_ns <= self.loaded_ns:
            self.loading = _most(self.loading, holding.peak)
            return
        if not self.high_water:
            self.high_water = holding.high_water_bytes
            self.loading = _most(self.loading, holding.peak)
            self.settled = holding.now
        self.settled = _least(self.settled, holding.now)
        self.answering = _most(self.answering, holding.now)
        if holding.high_water_bytes > self.high_water:
            # Above the load's peak: that was an answer.
            self.answering = _most(self.answering, holding.peak)

    def load(self) -> Load:
        """What is to be remembered of it."""
        return Load(
            loading=self.loading,
            settled=self.settled,
            answering=self.answering,
            predicted=self.prediction.peak(self.tokens) if self.prediction.bytes else {},
            source=self.prediction.source,
            variant=self.variant,
            num_ctx=self.num_ctx,
            tokens=self.tokens,
        )


_CLOCK_S: Final = 2.0
"""How exactly the system tells when a process began."""


class Ledger:
    """Implements :class:`workbench.budget.MemoryBook`.

    Args:
        settings: budget, reserve, thresholds, interval.
        providers: whose models are looked at.
        past: reads the loads of the log, once, in a thread.
        left: and what the log knows to have been left in memory: model -> Unix seconds of its load.
        on_change: told on the event loop when limits changed or less may be held than is.
        on_alert: told on the event loop of each change of a device's level, with the level before.
    """

    def __init__(
        self,
        settings: Settings,
        providers: Mapping[str, Provider],
        *,
        past: PastLoads = lambda: (),
        left: Callable[[], Mapping[str, float]] = dict,
        on_change: Callable[[], None] = lambda: None,
        on_alert: Callable[[Alert, Level], None] = lambda alert, before: None,
    ) -> None:
        self._settings = settings
        self._providers = providers
        self._past: PastLoads | None = past
        self._read_left = left
        self._restoring = asyncio.Lock()
        self._on_change = on_change
        self._on_alert = on_alert
        self._thresholds = Thresholds(
            settings.workbench_memory_high,
            settings.workbench_memory_critical,
            settings.workbench_memory_band,
        )
        self._lock = threading.Lock()
        self._files: dict[tuple[str, int | None], Footprint | None] = {}
        self._loads: dict[str, list[Load]] = {}
        self._stays: dict[str, _Stay] = {}
        self._again: dict[str, _Stay] = {}
        self._ours: dict[str, Route] = {}
        self._left: dict[str, float] = {}
        self._inherited: frozenset[str] = frozenset()
        self._departed: dict[str, int] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told_at = float("-inf")
        self._alerts: dict[str, Alert] = {}
        self.alert_counts: Counter[tuple[str, str]] = Counter()
        """How often each device came to each level, for metrics."""
        self._census = Census(self._sources, settings.workbench_memory_watch_s, self._take)
        self._sample = self._bare_sample()
        self._capacity = {
            name: self._budget(name, device.available_bytes, device.total_bytes)
            for name, device in self._sample.devices.items()
        }
        self._limits = dict(self._capacity)
        self._account(self._sample)

    # -- what the rotation asks

    def limits(self) -> DeviceBytes:
        """See the protocol. While nothing is in memory the devices are asked here and now."""
        age_s = (time.monotonic_ns() - self._sample.t_ns) / 1e9
        if age_s > self._settings.workbench_memory_watch_s and not self._census.active:
            if self._sources():
                self._census.wake()
            else:
                self._account(self._bare_sample())
        return dict(self._limits)

    @property
    def capacity(self) -> DeviceBytes:
        """What all models together may hold while no other program takes memory."""
        return self._capacity

    @property
    def devices(self) -> Mapping[str, memory.DeviceMemory]:
        """All memory of each device, as last looked at."""
        self.limits()
        return self._sample.devices

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """Devices whose memory is short now."""
        return tuple(alert for alert in self._alerts.values() if alert.rising)

    def held(self) -> Mapping[str, DeviceBytes]:
        """See the protocol."""
        if not self._census.active and self._sources():
            self._census.wake()
        sample = self._sample
        held: dict[str, DeviceBytes] = {}
        for model, holding in sample.holdings.items():
            if self._departed.get(model, 0) < sample.t_ns:
                held[model] = holding.now
        for model, owner in sample.shared.items():
            if owner in held:
                held[model] = {}
        return held

    def shared(self, model: str) -> frozenset[str]:
        """See the protocol."""
        sample = self._sample
        owner = sample.shared.get(model, model)
        seen = {model, owner, *(m for m, o in sample.shared.items() if o == owner)}
        return frozenset(seen.union(*(self._sharing(one) for one in seen)))

    def strangers(self) -> Mapping[str, Route]:
        """See the protocol; ``WORKBENCH_EVICT_OTHERS``."""
        found = self._unknown()
        if self._settings.workbench_evict_others:
            return found
        return {m: route for m, route in found.items() if self._is_inherited(m)}

    @property
    def others(self) -> Mapping[str, Route]:
        """Models in memory that somebody else loaded, whether or not they may be evicted."""
        return {m: r for m, r in self._unknown().items() if not self._is_inherited(m)}

    def _is_inherited(self, model: str) -> bool:
        """Whether a workbench that ended has loaded it."""
        return not self._inherited.isdisjoint(self.shared(model))

    def _unknown(self) -> dict[str, Route]:
        """Models in memory that this process did not load."""
        found: dict[str, Route] = {}
        for model in self.held():
            ours = any(one in self._ours or one in self._stays for one in self.shared(model))
            provider = self._providers.get(model.partition("/")[0])
            if not ours and provider is not None and not provider.counts_against_cache:
                found[model] = Route(provider, model.partition("/")[2])
        return found

    async def prepare(self, route: Route, num_ctx: int | None = None) -> None:
        """See the protocol."""
        if self._past is not None:
            async with self._restoring:
                if self._past is not None:
                    await asyncio.to_thread(self._restore, self._past)
                    self._past = None
        key = (route.model, num_ctx)
        if key not in self._files:
            with guard.blamed(route.provider.name, "load"):
                self._files[key] = await route.provider.footprint(route.name, num_ctx)

    async def prepare_listed(self, models: Iterable[str]) -> None:
        """As :meth:`prepare` for many, of those whose files lie here: nobody else is asked."""
        for model in models:
            provider = self._providers.get(model.partition("/")[0])
            if provider is not None and provider.counts_against_cache:
                await self.prepare(Route(provider, model.partition("/")[2]))

    def predict(self, route: Route, num_ctx: int | None = None) -> Prediction:
        """See the protocol."""
        files = self._files.get((route.model, num_ctx))
        if files is not None and not files.peak_bytes:
            return Prediction({}, {}, "files")
        # Where loading is ours the context is a matter of each request.
        of_load = None if route.provider.counts_against_cache else num_ctx
        return predict(files, self._loads_of(route.model), of_load)

    def expectation(self, model: str) -> Prediction:
        """What was predicted of a model: of one in memory for its load, with its own error.

        Of any other as :meth:`predict`, with the error of such predictions so far.
        """
        stay = self._stays.get(model)
        if stay is not None and stay.prediction.bytes:
            own = stay.load().error_share if stay.answering else None
            peak = stay.prediction.peak(stay.tokens)
            return replace(stay.prediction, bytes=peak, error_share=own)
        provider = self._providers.get(model.partition("/")[0])
        if provider is None:
            return Prediction({}, {}, "files")
        return self.predict(Route(provider, model.partition("/")[2]))

    # -- what the rotation tells

    def loading(self, route: Route, num_ctx: int | None = None) -> None:
        """See the protocol."""
        self._loop = asyncio.get_running_loop()
        files = self._files.get((route.model, num_ctx))
        stay = _Stay(
            route,
            None if route.provider.counts_against_cache else num_ctx,
            files.variant if files is not None else "",
            self.predict(route, num_ctx),
        )
        before = self._stays.get(route.model)
        if before is None or not before.loaded_ns:
            self._stays[route.model] = stay
        else:
            self._again[route.model] = stay  # counts only if it turns out to be a load
        self._census.wake()

    def loaded(self, route: Route, resident: ResidentModel | None) -> None:
        """See the protocol."""
        model = route.model
        again = self._again.pop(model, None)
        if resident is None:
            if again is None:
                self._stays.pop(model, None)
            return
        if again is not None and resident.fresh:
            self._learn(model)
            self._stays[model] = again
        stay = self._stays.get(model)
        if stay is None or stay.loaded_ns:
            return
        if resident.fresh:
            self._ours[model] = route
            stay.loaded_ns = time.monotonic_ns()
        else:
            del self._stays[model]  # it was there already: no load to learn from
        self._forget_files(model)
        self._census.wake()

    def answered(self, model: str, tokens: int) -> None:
        """See the protocol."""
        if (stay := self._stays.get(model)) is not None:
            stay.tokens = max(stay.tokens, tokens)

    def gone(self, model: str) -> None:
        """See the protocol."""
        self._learn(model)
        self._ours.pop(model, None)
        self._left.pop(model, None)
        self._departed[model] = time.monotonic_ns()
        self._forget_files(model)
        self._census.wake()

    def account(self, model: str, read: memory.MemoryReading | None = None) -> Mapping[str, Any]:
        """See the protocol: ``{"memory": ...}``, empty for a load that was not followed."""
        stay = self._stays.get(model)
        if stay is None:
            return {}
        if read is not None:
            stay.answering = _most(stay.answering, {HOST: read.pss_bytes})
        sample = self._census.latest
        runner = sample.shared.get(model, model) if sample is not None else model
        if (holding := self._census.glance(runner)) is not None:
            stay.see(holding)
        return {"memory": stay.load().to_dict()} if stay.loading else {}

    async def look(self) -> None:
        """Look now: :meth:`held` is of this moment afterwards."""
        await asyncio.to_thread(lambda: self._take(self._census.look()))

    def close(self) -> None:
        """Stop looking."""
        self._census.close()

    # -- inside

    def _sharing(self, model: str) -> list[str]:
        """As its runtime knows it, before anybody has seen the process."""
        runtime, _, name = model.partition("/")
        provider = self._providers.get(runtime)
        return [f"{runtime}/{one}" for one in provider.sharing(name)] if provider else []

    def _loads_of(self, model: str) -> Sequence[Load]:
        """Its measured loads; if it has none, those of another name of its weights."""
        names = (model, *sorted(self.shared(model) - {model}))
        return next((known for one in names if (known := self._loads.get(one))), ())

    def _budget(self, device: str, available: int, total: int) -> int:
        settings = self._settings
        chosen = (
            settings.workbench_memory_budget
            if device == HOST
            else settings.workbench_gpu_memory_budget
        )
        return chosen or max(0, available - self._reserve(total))

    def _reserve(self, total: int) -> int:
        chosen = self._settings.workbench_memory_reserve
        return total // 10 if chosen is None else chosen

    def _sources(self) -> dict[str, Sequence[int]]:
        """Process ids by model: ours first, in the order of their loads, then others'."""
        routes = {model: stay.route for model, stay in list(self._stays.items())}
        routes = {**self._ours, **routes}
        for provider in self._providers.values():
            for name in guard.residents(provider):
                route = Route(provider, name)
                routes.setdefault(route.model, route)
        found: dict[str, Sequence[int]] = {}
        for model, route in routes.items():
            pids = guard.pids(route.provider, route.name)
            stay = self._stays.get(model)
            if pids or (stay is not None and not stay.loaded_ns):
                found[model] = pids
        left = list(self._left.items())
        self._inherited = frozenset(m for m, at in left if _older(found.get(m, ()), at))
        return found

    def _bare_sample(self) -> Sample:
        return Sample(time.monotonic_ns(), memory.devices())

    def _take(self, sample: Sample) -> None:
        """In the census's thread: a look was taken."""
        for model, stay in list(self._stays.items()):
            holding = sample.holdings.get(sample.shared.get(model, model))
            if holding is not None:
                stay.see(holding)
        news = self._account(sample)
        over = any(
            sum(holding.now.get(device, 0) for holding in sample.holdings.values()) > limit
            for device, limit in self._limits.items()
        )
        now = time.monotonic()
        if news or (over and now - self._told_at > _NEWS_S):
            self._told_at = now
            self._post(self._on_change)

    def _account(self, sample: Sample) -> bool:
        """Limits and levels from a sample; whether a limit changed."""
        with self._lock:
            before = dict(self._limits)
            for name, device in sample.devices.items():
                held = held_now = sum(h.now.get(name, 0) for h in sample.holdings.values())
                if name == HOST:
                    held -= sum(h.droppable_bytes for h in sample.holdings.values())
                capacity = self._capacity.setdefault(
                    name, self._budget(name, device.available_bytes + held, device.total_bytes)
                )
                room = device.available_bytes + max(held, 0) - self._reserve(device.total_bytes)
                self._limits[name] = pressure.limit(
                    self._limits.get(name, capacity), room, capacity, _STEP_SHARE
                )
                used = device.used_bytes
                self._level(Alert(name, "ok", used, device.total_bytes, sample.t_ns))
                self._level(Alert(name, "ok", held_now, capacity, sample.t_ns, of_budget=True))
            self._sample = sample
            return self._limits != before

    def _level(self, seen: Alert) -> None:
        """Tell of a share of memory in use that came to another level."""
        known = self._alerts.get(seen.key)
        before: Level = known.level if known is not None else "ok"
        thresholds = _OVER_BUDGET if seen.of_budget else self._thresholds
        level = thresholds.level(before, seen.used_bytes / max(seen.total_bytes, 1))
        since = known.since_ns if known is not None and level == before else seen.since_ns
        alert = replace(seen, level=level, since_ns=since)
        self._alerts[alert.key] = alert
        if level != before:
            self.alert_counts[alert.key, level] += 1
            self._post(lambda: self._on_alert(alert, before))

    def _post(self, call: Callable[[], None]) -> None:
        """Run it on the event loop, if there is one."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(call)

    def _learn(self, model: str) -> None:
        stay = self._stays.pop(model, None)
        if stay is not None and stay.answering:
            self._loads[model] = keep(self._loads.get(model, ()), stay.load())

    def _forget_files(self, model: str) -> None:
        for key in [key for key in self._files if key[0] == model]:
            del self._files[key]

    def _restore(self, past: PastLoads) -> None:
        """From the log: the last row of each stay has the most in it."""
        open_stays: dict[str, Load] = {}

        def close(model: str) -> None:
            if (load := open_stays.pop(model, None)) is not None:
                self._loads[model] = keep(self._loads.get(model, ()), load)

        try:
            for model, event, values in past():
                if event == "load":
                    close(model)
                try:
                    open_stays[model] = Load.from_dict(values)
                except (KeyError, TypeError, ValueError, AttributeError):
                    continue  # an older version's, which did not tell load and answers apart
                if event != "load":
                    close(model)
            self._left = dict(self._read_left())
        except Exception as error:  # whatever is wrong with the log, models can be loaded
            _log.warning("no_past_loads", error=str(error))
        for model in list(open_stays):
            close(model)


def _older(pids: Sequence[int], loaded_at: float) -> bool:
    """Whether processes were there when a load ended: a runner started since is somebody else's."""
    try:
        latest = max((psutil.Process(pid).create_time() for pid in pids), default=math.inf)
    except psutil.Error:
        return False
    return latest <= loaded_at + _CLOCK_S


def _least(one: DeviceBytes, other: DeviceBytes) -> DeviceBytes:
    return {name: min(one.get(name, 0), other.get(name, 0)) for name in {*one, *other}}


def _most(one: DeviceBytes, other: DeviceBytes) -> DeviceBytes:
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in {*one, *other}}
