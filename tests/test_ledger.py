"""The memory book over real processes: limits, holdings, predictions that learn, alerts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.test_census import MB, Holder
from workbench import memory
from workbench.ledger import Ledger
from workbench.memory import DeviceMemory
from workbench.pressure import Alert, Level
from workbench.providers.base import Footprint, ResidentModel
from workbench.providers.scripted import ScriptedProvider
from workbench.router import Route
from workbench.settings import Settings
from workbench.store import ModelEvent, Store
from workbench.upkeep import Upkeep, left_behind, past_loads

GB = 2**30
MakeLedger = Callable[..., Ledger]


class Runtime(ScriptedProvider):
    """Models whose processes are given."""

    def __init__(self, name: str = "huggingface", *, counts: bool = True) -> None:
        super().__init__({})
        self.name, self.counts_against_cache = name, counts
        self.processes: dict[str, Sequence[int]] = {}
        self.expected: dict[str, Footprint] = {}
        self.trimmed = 0

    def residents(self) -> Sequence[str]:
        return list(self.processes)

    def pids(self, model: str) -> Sequence[int]:
        return self.processes.get(model, ())

    async def footprint(self, model: str, num_ctx: int | None = None) -> Footprint | None:
        return self.expected.get(model)

    async def trim(self) -> None:
        self.trimmed += 1


class Machine:
    """Memory of the devices as a test decides; models take their part of it."""

    def __init__(self) -> None:
        self.devices = {"host": DeviceMemory(20 * GB, 24 * GB)}

    def take(self, size: int, device: str = "host") -> None:
        """Another program takes so much (or gives it back, if negative)."""
        before = self.devices[device]
        self.devices[device] = replace(before, available_bytes=before.available_bytes - size)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(memory, "devices", lambda: dict(made.devices))
    return made


@pytest.fixture
def holder() -> Iterator[Holder]:
    running = Holder()
    yield running
    running.end()


@pytest.fixture
async def make(settings: Settings) -> AsyncIterator[MakeLedger]:
    made: list[Ledger] = []

    def build(*runtimes: Runtime, **more: Any) -> Ledger:
        names = type(settings).model_fields.keys()
        changes = {name: more.pop(name) for name in list(more) if name in names}
        changes = {"workbench_memory_watch_s": 0.02, "workbench_memory_reserve": 2 * GB, **changes}
        chosen = settings.model_copy(update=changes)
        made.append(Ledger(chosen, {runtime.name: runtime for runtime in runtimes}, **more))
        return made[-1]

    yield build
    for ledger in made:
        ledger.close()


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def load(ledger: Ledger, runtime: Runtime, model: str, holder: Holder, size: int) -> Route:
    """Bring a model in that holds so many megabytes."""
    route = Route(runtime, model)
    await ledger.prepare(route)
    ledger.loading(route)
    runtime.processes[model] = [holder.pid]
    holder.hold(size)
    ledger.loaded(route, ResidentModel(model, pids=(holder.pid,), fresh=True))
    await eventually(lambda: ledger.account(route.model).get("memory", {}).get("peak_bytes"))
    return route


def leave(ledger: Ledger, runtime: Runtime, route: Route) -> Mapping[str, Any]:
    told = ledger.account(route.model)
    del runtime.processes[route.name]
    ledger.gone(route.model)
    return dict(told["memory"])


# -- limits ----------------------------------------------------------------------------------------


async def test_budget_is_what_was_free_less_the_reserve_or_what_was_set(
    machine: Machine, make: MakeLedger
) -> None:
    machine.devices["cuda:0"] = DeviceMemory(70 * GB, 80 * GB)
    assert make().limits() == {"host": 18 * GB, "cuda:0": 68 * GB}
    tenth = make(workbench_memory_reserve=None).limits()
    assert tenth == {"host": 20 * GB - int(2.4 * GB), "cuda:0": 62 * GB}
    chosen = make(workbench_memory_budget=5 * GB, workbench_gpu_memory_budget=40 * GB)
    assert chosen.limits() == {"host": 5 * GB, "cuda:0": 40 * GB}


async def test_limits_fall_while_others_take_memory_and_come_back(
    machine: Machine, make: MakeLedger
) -> None:
    ledger = make()
    machine.take(8 * GB)
    await eventually(lambda: ledger.limits()["host"] == 10 * GB)
    machine.take(-100 * MB)  # less than a step: it does not flutter
    await asyncio.sleep(0.05)
    assert ledger.limits()["host"] == 10 * GB
    machine.take(100 * MB - 8 * GB)
    await eventually(lambda: ledger.limits()["host"] == 18 * GB)


async def test_what_models_hold_does_not_lower_the_limit(
    machine: Machine, make: MakeLedger, holder: Holder
) -> None:
    runtime = Runtime()
    ledger = make(runtime)
    machine.take(200 * MB)  # as the system sees what the model takes
    await load(ledger, runtime, "a", holder, 200)
    await eventually(lambda: ledger.held()["huggingface/a"]["host"] > 200 * MB)
    assert ledger.held()["huggingface/a"]["host"] < 220 * MB
    assert ledger.limits()["host"] >= 18 * GB - 20 * MB


async def test_the_rotation_hears_when_more_is_held_than_may_be(
    machine: Machine, make: MakeLedger, holder: Holder
) -> None:
    runtime, told = Runtime(), asyncio.Event()
    ledger = make(runtime, on_change=told.set)
    await load(ledger, runtime, "a", holder, 100)
    machine.take(20 * GB - 50 * MB)
    await asyncio.wait_for(told.wait(), 10)
    await eventually(lambda: ledger.limits()["host"] < ledger.held()["huggingface/a"]["host"])


# -- whose models ----------------------------------------------------------------------------------


async def test_names_of_one_runner_count_once_and_others_models_too(
    machine: Machine, make: MakeLedger, holder: Holder
) -> None:
    ollama = Runtime("ollama", counts=False)
    other = Holder()
    ledger = make(ollama, workbench_evict_others=True)
    await load(ledger, ollama, "ours", holder, 50)
    ollama.processes |= {"twin": [holder.pid], "theirs": [other.pid]}
    await eventually(lambda: len(ledger.held()) == 3)
    held = ledger.held()
    assert held["ollama/ours"]["host"] > 50 * MB
    assert held["ollama/twin"] == {}
    assert held["ollama/theirs"]["host"] > 0
    assert ledger.shared("ollama/twin") == {"ollama/ours", "ollama/twin"}
    assert [route.name for route in ledger.strangers().values()] == ["theirs"]
    other.end()


async def test_others_models_are_not_evicted_unless_that_is_set(
    machine: Machine, make: MakeLedger, holder: Holder
) -> None:
    ollama = Runtime("ollama", counts=False)
    ollama.processes["theirs"] = [holder.pid]
    ledger = make(ollama)
    await eventually(lambda: ledger.held())
    assert list(ledger.others) == ["ollama/theirs"]
    assert ledger.strangers() == {}


@pytest.mark.parametrize(("hours_ago", "whose"), [(0, "inherited"), (1, "theirs")])
async def test_what_an_earlier_workbench_loaded_may_be_evicted(
    machine: Machine, make: MakeLedger, holder: Holder, hours_ago: int, whose: str
) -> None:
    """Unless its runner began after that load: then somebody else has loaded it again."""
    ollama = Runtime("ollama", counts=False)
    ollama.processes["a"] = [holder.pid]
    loaded_at = time.time() - 3600 * hours_ago
    ledger = make(ollama, left=lambda: {"ollama/a": loaded_at, "ollama/gone": loaded_at})
    await ledger.prepare(Route(ollama, "a"))
    mine, others = (["ollama/a"], []) if whose == "inherited" else ([], ["ollama/a"])
    await eventually(lambda: ledger.held() and [*ledger.strangers()] == mine)
    assert [*ledger.others] == others


async def test_the_log_knows_what_was_left_in_memory(store: Store) -> None:
    for n, (event, model, ok) in enumerate(
        [
            ("load", "left", True),
            ("load", "gone", True),
            ("unload", "gone", True),
            ("load", "broken", False),
            ("load", "again", True),
            ("evict", "again", True),
            ("load", "again", True),
        ]
    ):
        store.log_model_event(
            ModelEvent(event=event, provider="ollama", model=model, t_ns=n, ok=ok)  # type: ignore[arg-type]
        )
    store.flush()
    assert left_behind(store).keys() == {"left", "again"}


async def test_what_is_gone_is_not_held_though_the_last_look_saw_it(
    machine: Machine, make: MakeLedger, holder: Holder
) -> None:
    runtime = Runtime()
    ledger = make(runtime, workbench_memory_watch_s=100.0)
    route = await load(ledger, runtime, "a", holder, 20)
    await eventually(lambda: ledger.held())
    leave(ledger, runtime, route)
    assert ledger.held() == {}


async def test_what_cannot_be_measured_is_not_held(machine: Machine, make: MakeLedger) -> None:
    """A server on another machine: nothing of its memory is ours."""
    remote = Runtime("ollama", counts=False)
    remote.processes["far"] = ()
    remote.expected["far"] = Footprint({}, {})
    ledger = make(remote)
    await ledger.prepare(Route(remote, "far"))
    assert ledger.predict(Route(remote, "far")).bytes == {}
    await asyncio.sleep(0.05)
    assert ledger.held() == {}


# -- predictions -----------------------------------------------------------------------------------


async def test_predictions_learn_from_loads_and_survive_a_restart(
    machine: Machine, make: MakeLedger, store: Store
) -> None:
    runtime = Runtime()
    runtime.expected["a"] = Footprint({"host": 100 * MB}, {"host": 100 * MB})
    ledger = make(runtime)
    route = Route(runtime, "a")
    errors = []
    for n in range(4):
        holder = Holder()
        await load(ledger, runtime, "a", holder, 60)
        told = leave(ledger, runtime, route)
        holder.end()
        errors.append(told["error_share"])
        for event in ("load", "unload"):
            store.log_model_event(
                ModelEvent(
                    event=event,  # type: ignore[arg-type]
                    provider="huggingface",
                    model=route.model,
                    t_ns=n,
                    details={"memory": told},
                )
            )
    store.flush()
    assert errors[0] > 0.2
    assert max(errors[1:]) < 0.1
    again = make(runtime, past=lambda: past_loads(store))
    await again.prepare(route)
    prediction = again.predict(route)
    assert (prediction.source, prediction.loads) == ("loads", 4)
    assert prediction.bytes["host"] == pytest.approx(66 * MB, abs=8 * MB)
    assert prediction.error_share is not None
    assert prediction.error_share < 0.1


async def test_what_it_holds_afterwards_is_told_apart_from_the_peak_of_its_load(
    machine: Machine, make: MakeLedger, holder: Holder
) -> None:
    runtime = Runtime()
    ledger = make(runtime)
    route = Route(runtime, "a")
    holder.hold(80)  # both copies of the weights
    holder.let_go()
    await load(ledger, runtime, "a", holder, 40)
    await eventually(lambda: ledger.account(route.model)["memory"]["answering_bytes"]["host"] > 0)
    told = ledger.account(route.model)["memory"]
    assert told["peak_bytes"]["host"] > 80 * MB
    assert 40 * MB < told["answering_bytes"]["host"] < 60 * MB
    holder.hold(70)  # an answer that takes more than the load
    told = leave(ledger, runtime, route)
    assert told["answering_bytes"] == told["peak_bytes"]
    assert told["peak_bytes"]["host"] > 110 * MB


async def test_a_look_from_before_the_end_of_a_load_is_no_answer(
    machine: Machine, make: MakeLedger, holder: Holder
) -> None:
    """Else the load's own peak would count as what answers take, and evict others for nothing."""
    runtime = Runtime()
    ledger = make(runtime, workbench_memory_watch_s=100.0)
    route = Route(runtime, "a")
    ledger.loading(route)
    runtime.processes["a"] = [holder.pid]
    early = ledger._census.look()
    holder.hold(80)
    holder.let_go()
    ledger.loaded(route, ResidentModel("a", pids=(holder.pid,), fresh=True))
    ledger._take(early)
    await ledger.look()
    told = ledger.account(route.model)["memory"]
    assert told["peak_bytes"]["host"] > 80 * MB
    assert told["answering_bytes"]["host"] < 60 * MB


async def test_no_peak_is_below_a_reading_in_its_own_row(
    machine: Machine, make: MakeLedger, holder: Holder
) -> None:
    runtime = Runtime()
    ledger = make(runtime, workbench_memory_watch_s=100.0)
    route = await load(ledger, runtime, "a", holder, 20)
    reading = replace(memory.read_tree([holder.pid]), pss_bytes=900 * MB)  # between two looks
    told = ledger.account(route.model, reading)["memory"]
    assert told["peak_bytes"] == told["answering_bytes"] == {"host": 900 * MB}
    assert ledger.account(route.model)["memory"] == told


async def test_names_of_one_runner_have_its_figures(
    machine: Machine, make: MakeLedger, holder: Holder
) -> None:
    ollama = Runtime("ollama", counts=False)
    ledger = make(ollama)
    await load(ledger, ollama, "ours", holder, 50)
    twin = await load(ledger, ollama, "twin", holder, 0)
    await ledger.look()
    assert ledger.account(twin.model)["memory"]["peak_bytes"]["host"] > 50 * MB


async def test_a_heavy_stay_does_not_make_a_short_request_dear(
    machine: Machine, make: MakeLedger, holder: Holder
) -> None:
    runtime = Runtime()
    runtime.expected["a"] = Footprint(
        {"host": 60 * MB}, {"host": 50 * MB}, "", {"host": 10_000}, 8192
    )
    ledger = make(runtime)
    route = await load(ledger, runtime, "a", holder, 40)
    await ledger.look()
    idle = ledger.held()[route.model]["host"]
    holder.hold(200)
    ledger.answered(route.model, 20_000)
    await ledger.look()
    told = leave(ledger, runtime, route)
    assert told["context_tokens"] == 20_000
    assert told["predicted_bytes"] == {"host": 50 * MB + 200_000_000}
    assert told["error_share"] < 0.2
    await ledger.prepare(route)
    prediction = ledger.predict(route)
    assert prediction.source == "loads"
    assert prediction.peak(100)["host"] == pytest.approx(idle, abs=20 * MB)
    assert prediction.peak(20_000)["host"] == pytest.approx(told["peak_bytes"]["host"], rel=0.05)


async def test_a_load_that_failed_or_was_none_teaches_nothing(
    machine: Machine, make: MakeLedger, holder: Holder
) -> None:
    runtime = Runtime()
    ledger = make(runtime)
    route = Route(runtime, "a")
    ledger.loading(route)
    ledger.loaded(route, None)
    ledger.gone(route.model)
    ledger.loading(route)
    ledger.loaded(route, ResidentModel("a", fresh=False))
    ledger.gone(route.model)
    assert ledger.predict(route).source == "files"


async def test_an_unreadable_log_stops_nobody(machine: Machine, make: MakeLedger) -> None:
    def broken() -> Any:
        raise OSError("the disk is gone")

    runtime = Runtime()
    runtime.expected["a"] = Footprint({"host": 5}, {"host": 5})
    ledger = make(runtime, past=broken)
    await ledger.prepare(Route(runtime, "a"))
    assert ledger.predict(Route(runtime, "a")).bytes == {"host": 5}


# -- alerts ----------------------------------------------------------------------------------------


async def test_alerts_rise_and_end_and_memory_is_given_back(
    machine: Machine, make: MakeLedger, holder: Holder, store: Store
) -> None:
    runtime = Runtime()
    upkeep = Upkeep(store, {"huggingface": runtime})
    seen: list[tuple[str, Level, Level]] = []

    def on_alert(alert: Alert, before: Level) -> None:
        seen.append((alert.device, before, alert.level))
        upkeep.alerted(alert, before)

    ledger = make(runtime, on_alert=on_alert)
    await load(ledger, runtime, "a", holder, 10)
    assert ledger.alerts == ()
    machine.take(int(18.5 * GB))  # 1.5 of 24 GB are left: 93.75 % in use
    await eventually(lambda: runtime.trimmed)
    (alert,) = ledger.alerts
    assert (alert.device, alert.level) == ("host", "high")
    machine.take(-10 * GB)
    await eventually(lambda: not ledger.alerts and len(seen) == 2)
    assert seen == [("host", "ok", "high"), ("host", "high", "ok")]
    assert ledger.alert_counts == {("host", "high"): 1, ("host", "ok"): 1}
    store.flush()
    rows = store.rows("SELECT event, reason FROM model_events ORDER BY t_ns")
    assert [row["event"] for row in rows] == ["pressure", "relief"]
    assert "is short" in rows[0]["reason"]


async def test_more_than_the_budget_is_an_alert(
    machine: Machine, make: MakeLedger, holder: Holder
) -> None:
    runtime = Runtime()
    seen: list[Alert] = []
    ledger = make(
        runtime,
        workbench_memory_budget=100 * MB,
        on_alert=lambda alert, before: seen.append(alert),
    )
    await load(ledger, runtime, "a", holder, 60)
    assert ledger.alerts == ()
    holder.hold(100)
    await eventually(lambda: ledger.alerts)
    (alert,) = ledger.alerts
    assert (alert.level, alert.of_budget, alert.total_bytes) == ("critical", True, 100 * MB)
    assert alert.sentence().endswith("more than the budget of 0.10 GB.")
    holder.let_go()
    await eventually(lambda: seen and not seen[-1].rising)
    assert ledger.alert_counts["host budget", "critical"] == 1


async def test_an_idle_book_costs_nothing(
    machine: Machine, make: MakeLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = make(Runtime())
    looks: list[float] = []
    monkeypatch.setattr(memory, "devices", lambda: looks.append(time.monotonic()) or {})
    await asyncio.sleep(0.2)
    assert looks == []
    assert ledger.held() == {}
