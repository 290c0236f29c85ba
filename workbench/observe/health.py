"""Health: what of a running engine works, since when not, and why.

Asking is cheap and bounded: every part is probed at most every few seconds whoever asks, all parts
at once, and one that does not answer in time is told as such and left alone until it does.

Degraded is not down. The whole is

    ok        every part is well
    degraded  something is missing and the rest works
    down      no model can be served: no runtime answers, or the server is being stopped
"""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import psutil

from workbench.engine import Engine
from workbench.errors import WorkbenchError, unforeseen
from workbench.runtimes import Seen

State = Literal["ok", "degraded", "down"]

FRESH_S: Final = 2.0
"""A probe's answer is taken for this long instead of asking again."""

_NO_RUNTIME: Final = "scripted"


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its state, the reason if it is not well, and when it last was.

    A part that is well has a ``reason`` only if there is something to know all the same.

    ``figures`` are its own (bytes, seconds, counts; units in the names). ``last_good_at`` is wall
    time, ``last_good_age_s`` how long ago that is; both None: never since the start.
    """

    state: State
    reason: str | None = None
    fix: str | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    last_good_at: dt.datetime | None = None
    last_good_age_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "status": self.state,
            **({"reason": self.reason} if self.reason else {}),
            **({"fix": self.fix} if self.fix else {}),
            **self.figures,
            "last_good_at": self.last_good_at.isoformat() if self.last_good_at else None,
            "last_good_age_s": self.last_good_age_s,
        }


@dataclass(frozen=True, slots=True)
class Health:
    """The whole and its parts by name."""

    state: State
    parts: Mapping[str, Part]

    @property
    def ready(self) -> bool:
        """Whether a request for a model has a chance."""
        return self.state != "down"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "status": self.state,
            "ready": self.ready,
            "parts": {name: part.to_dict() for name, part in self.parts.items()},
        }


Probe = Callable[[], Awaitable[Part]]


class _Probed:
    """One part's probe: its last answer, and the one under way.

    Args:
        probe: asks it.
        seen: when it was last well as others have seen it.
    """

    def __init__(self, probe: Probe, seen: Callable[[], Seen | None]) -> None:
        self._probe = probe
        self._seen = seen
        self._task: asyncio.Task[Part] | None = None
        self._part: Part | None = None
        self._asked = 0.0
        self._good: Seen | None = None

    def ask(self) -> asyncio.Task[Part] | None:
        """The probe to wait for; None when the last answer is fresh enough."""
        self._collect()
        if self._task is None:
            if self._part is not None and time.monotonic() - self._asked < FRESH_S:
                return None
            self._asked = time.monotonic()
            # In a context of its own: it serves whoever asks next, not this request alone.
            self._task = asyncio.get_running_loop().create_task(
                self._run(), context=contextvars.Context()
            )
        return self._task

    def part(self, patience_s: float) -> Part:
        """What is known now."""
        self._collect()
        part = self._part
        if self._task is not None:  # it was waited for in vain
            waited_s = time.monotonic() - self._asked
            part = Part(
                "down",
                f"No answer for {max(waited_s, patience_s):.1f} s.",
                "See what it is busy with; it is asked again as soon as it answers.",
            )
        assert part is not None
        moments = [seen for seen in (self._good, self._seen()) if seen is not None]
        if not moments:
            return part
        last = max(moments, key=lambda seen: seen.monotonic_s)
        age_s = time.monotonic() - last.monotonic_s
        return replace(part, last_good_at=last.at, last_good_age_s=age_s)

    def _collect(self) -> None:
        if self._task is not None and self._task.done():
            self._part = self._task.result()
            self._task = None

    def cancel(self) -> None:
        """Give up what is under way."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> Part:
        try:
            part = await self._probe()
        except WorkbenchError as error:
            part = Part("down", str(error), error.fix or None)
        except Exception as error:  # a probe that fails is news about its part, not about health
            part = Part("down", f"{type(error).__name__}: {error}")
        if part.state == "ok":
            self._good = Seen(dt.datetime.now(dt.UTC), time.monotonic())
        return part


class HealthMonitor:
    """Knows how an engine does. Use it from the engine's event loop.

    Args:
        engine: what is looked at.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._settings = engine.settings
        self._stopping = False
        self._runtimes = [name for name in engine.router.providers if name != _NO_RUNTIME]
        probes: dict[str, Probe] = {
            name: lambda name=name: self._provider(name)  # type: ignore[misc]
            for name in engine.router.providers
        }
        probes |= {
            "store": self._store,
            "memory": self._memory,
            "disk": self._disk,
            "event_loop": self._event_loop,
        }
        self._probed = {
            name: _Probed(probe, partial(engine.runtimes.last_good, name))
            for name, probe in probes.items()
        }

    def stop(self) -> None:
        """The server is about to stop: nothing new shall be sent to it."""
        self._stopping = True
        for probed in self._probed.values():
            probed.cancel()

    async def check(self) -> Health:
        """Look at every part, within ``WORKBENCH_HEALTH_TIMEOUT_S``."""
        patience_s = self._settings.workbench_health_timeout_s
        if self._stopping:
            return Health("down", {"server": Part("down", "It is being stopped.")})
        asked = [task for probed in self._probed.values() if (task := probed.ask()) is not None]
        if asked:
            await asyncio.wait(asked, timeout=patience_s)
        parts = {name: probed.part(patience_s) for name, probed in self._probed.items()}
        return Health(self._whole(parts), parts)

    def _whole(self, parts: Mapping[str, Part]) -> State:
        if self._runtimes and all(parts[name].state == "down" for name in self._runtimes):
            return "down"
        return "ok" if all(part.state == "ok" for part in parts.values()) else "degraded"

    # -- the probes

    async def _provider(self, name: str) -> Part:
        try:
            models = await self._engine.router.providers[name].list_models()
        except WorkbenchError:
            raise
        except (Exception, SystemExit) as error:
            raise unforeseen(error, "list", provider=name, theirs=True) from error
        usable = sum(model.status != "unusable" for model in models)
        resident = sum(model.status == "resident" for model in models)
        return Part("ok", figures={"models": usable, "resident": resident})

    async def _store(self) -> Part:
        store = self._engine.store
        serving = store.serving
        figures = {
            "queue_depth": store.queue_depth,
            "dropped": store.dropped,
            "size_bytes": await asyncio.to_thread(store.size_bytes),
            "served_at": serving.uri,
            **({"not_served": str(serving.problem)} if serving.problem else {}),
        }
        if (problem := store.last_error) is not None:
            return Part("down", str(problem), problem.fix or None, figures)
        if repairs := await asyncio.to_thread(lambda: store.repairs):
            # One that lost nothing is told, and is over; one that did is, until it was seen.
            lossy = [told for told in repairs if told.details["lost"]]
            told = (lossy or repairs)[-1]
            return Part("degraded" if lossy else "ok", told.message, told.fix, figures)
        return Part("ok", figures=figures)

    async def _memory(self) -> Part:
        memory, low = psutil.virtual_memory(), self._settings.workbench_low_memory
        figures = {"available_bytes": memory.available, "total_bytes": memory.total}
        if memory.available < low:
            return Part(
                "degraded",
                f"{memory.available / 1e6:.0f} MB are available, less than {low / 1e6:.0f} MB.",
                "Unload models or close other programs (WORKBENCH_LOW_MEMORY sets the limit).",
                figures,
            )
        return Part("ok", figures=figures)

    async def _disk(self) -> Part:
        folders = {"log": self._engine.store.path.parent, "models": self._settings.hf_model_path}
        return await asyncio.to_thread(disk_part, folders, self._settings.workbench_low_disk)

    async def _event_loop(self) -> Part:
        lag, limit_s = self._engine.lag.lag, self._settings.workbench_lag_warning_ms / 1000
        figures = {"p50_s": lag.p50_s, "p99_s": lag.p99_s, "max_s": lag.max_s}
        if lag.p99_s > limit_s:
            return Part(
                "degraded",
                f"Every hundredth wake-up was {lag.p99_s * 1000:.0f} ms late or more.",
                "The machine is overloaded: token times taken in this process are late as well.",
                figures,
            )
        return Part("ok", figures=figures)


def disk_part(folders: Mapping[str, Path], low_bytes: int) -> Part:
    """The file systems of some folders; blocks."""
    figures: dict[str, Any] = {}
    low: list[str] = []
    for name, folder in folders.items():
        place = folder.expanduser().absolute()
        while not place.exists():
            place = place.parent
        usage = shutil.disk_usage(place)
        figures |= {f"{name}_free_bytes": usage.free, f"{name}_total_bytes": usage.total}
        if usage.free < low_bytes:
            low.append(f"{name}: {usage.free / 1e9:.2f} GB free")
    if low:
        return Part(
            "degraded",
            f"Less than {low_bytes / 1e9:.1f} GB on disk ({'; '.join(low)}).",
            "Delete models or prune the log (WORKBENCH_LOW_DISK sets the limit).",
            figures,
        )
    return Part("ok", figures=figures)
