"""The rotation policy against first-come-first-served with LRU, played over random traces.

    python -m benchmarks.rotation_sim --traces 1000

The policy is the product's own :func:`workbench.rotation.policy.plan`; only time, loads, answers
and memory are played. Every event of every trace checks the invariants:

- no device ever holds more than its limit (models that are loading, in use, idle or leaving, and
  the keys and values of all that they answer);
- no model that is in use or loading is evicted, no pinned one either;
- nobody waits beyond the bound: the patience, and then the work that had arrived before it ran
  out, one request after the other, each with a load;
- every request is answered, and nothing is left waiting, resident by mistake or leased at the end.

A trace: 2 to 50 models of 0.1 to 80 GB on 1 to 4 devices that hold 15 to 60 % of them together; in
half of the traces a request's context takes up to a fifth of its model, in rows as long as the
longest of its model's answers; loads take 0.5 s and a second per 1.5 GB; answers are lognormal
around 4 s; requests name models by Zipf's law. Zipf traces arrive at random moments, bursty ones in
bursts of 5 to 40; mixed ones are Zipf traces of which a tenth of the requests must run alone. The
pressure of a trace is the time that all its loads would take if every request loaded its model,
over the time in which the requests arrive, per device; it is drawn from 1 to 4: a machine that is
asked for more than it can rotate.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import statistics
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Final, Literal

from rich.console import Console
from rich.progress import track

from workbench.rotation.policy import plan
from workbench.rotation.snapshot import Grant, Model, Plan, Snapshot, Ticket, Wait, larger
from workbench.rotation.victims import Candidate, choose
from workbench.types import Priority

Policy = Callable[[Snapshot], Plan]
Kind = Literal["zipf", "bursty", "mixed"]

PATIENCE_S: Final = {Priority.INTERACTIVE: 180.0, Priority.BENCHMARK: 480.0}
"""The defaults of the settings."""
UNLOAD_S: Final = 0.3
CONTEXT: Final = 4096
LOOK_AGAIN_S: Final = 1.0
GB: Final = 10**9


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of a trace."""

    arrives_s: float
    model: str
    answer_s: float
    exclusive: bool
    priority: Priority
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """Models, what the devices hold, and who asks when."""

    seed: int
    kind: Kind
    models: dict[str, Model]
    limits: dict[str, int]
    max_resident: int
    requests: tuple[Asked, ...]
    pressure: float


def draw(seed: int, kind: Kind, n_requests: int = 200) -> Trace:
    """A random trace."""
    rng = random.Random(seed)
    devices = [f"cuda:{i}" for i in range(rng.randint(1, 4))]
    names = [f"m{i}" for i in range(rng.randint(2, 50))]
    sizes = {name: 0.1 * 800 ** rng.random() * GB for name in names}
    home = {name: rng.choice(devices) for name in names}
    talks = random.Random(seed + 1_000_000).random() < 0.5
    pinned = {rng.choice(names)} if rng.random() < 0.1 else set()
    models = {
        name: Model(
            need={home[name]: int(1.15 * sizes[name])},
            held={home[name]: int(1.05 * sizes[name])},
            concurrency=rng.choice((1, 1, 4, 32)),
            pinned=name in pinned,
            load_s=0.5 + sizes[name] / (1.5 * GB),
            token_bytes={home[name]: int(sizes[name] / 5 / CONTEXT)} if talks else {},
        )
        for name in names
    }
    share = rng.uniform(0.15, 0.6)
    limits = {}
    for device in devices:
        full = [m.needed((CONTEXT,)) for m in models.values()]
        needs = [need[device] for need in full if device in need] or [GB]
        always = sum(models[n].needed((CONTEXT,)).get(device, 0) for n in pinned)
        limits[device] = int(max(max(needs) + always, share * sum(needs)))
    weights = [1 / rank ** rng.uniform(0.6, 1.4) for rank in range(1, len(names) + 1)]
    popular = rng.sample(names, len(names))
    asked = rng.choices(popular, weights, k=n_requests)
    pressure = rng.uniform(1.0, 4.0)
    horizon_s = sum(models[name].load_s for name in asked) / pressure / len(devices)
    lengths = random.Random(seed)
    alone, batch = kind == "mixed", rng.random() < 0.3
    requests = [
        Asked(
            at,
            name,
            rng.lognormvariate(1.4, 0.7),
            alone and rng.random() < 0.1,
            Priority.BENCHMARK if batch and rng.random() < 0.3 else Priority.INTERACTIVE,
            lengths.randint(CONTEXT // 20, CONTEXT) if talks else 0,
        )
        for at, name in zip(_arrivals(rng, kind, n_requests, horizon_s), asked, strict=True)
    ]
    places = rng.choice((2, 3, 6, 1000)) + len(pinned)
    return Trace(seed, kind, models, limits, places, tuple(requests), pressure)


def _arrivals(rng: random.Random, kind: Kind, n: int, horizon_s: float) -> list[float]:
    if kind != "bursty":
        return sorted(rng.uniform(0, horizon_s) for _ in range(n))
    times: list[float] = []
    while len(times) < n:
        start = rng.uniform(0, horizon_s)
        times += [start + rng.expovariate(2.0) for _ in range(rng.randint(5, 40))]
    return sorted(times[:n])


# -- the rival ------------------------------------------------------------------------------------


def first_come(snapshot: Snapshot) -> Plan:
    """Strictly in order of arrival, evicting the least recently used idle models until it fits."""
    models = {name: model for name, model in snapshot.models.items() if model.resident}
    grants: list[Grant] = []
    waiting = sorted(snapshot.waiting, key=lambda ticket: ticket.number)
    alone, leaving = snapshot.exclusive_running, list(snapshot.unloading)
    while waiting and not alone:
        ticket = waiting[0]
        model = models.get(ticket.model) or replace(
            snapshot.models[ticket.model], held={}, last_use=0
        )
        running = sum(other.running for other in models.values())
        if (running and ticket.exclusive) or model.running >= model.concurrency:
            break
        used = {
            device: sum(m.footprint.get(device, 0) for n, m in models.items() if n != ticket.model)
            + larger(model.footprint, model.needed((*model.tokens, ticket.tokens))).get(device, 0)
            for device in model.need
        }
        short = {device: total - snapshot.limits[device] for device, total in used.items()}
        places = len(models | {ticket.model: model}) - snapshot.max_resident
        idle = sorted(
            (n for n, m in models.items() if not m.leased and not m.pinned and n != ticket.model),
            key=lambda n: models[n].last_use,
        )
        going: list[str] = []
        while True:
            freed = [Candidate(n, models[n].footprint, True) for n in going]
            if choose(freed, short, places) is not None:
                break
            if len(going) == len(idle):
                return _unserved(grants, waiting)
            going = idle[: len(going) + 1]
        leaving += going
        grants.append(Grant(ticket, "first come", tuple(going), tuple(leaving)))
        for name in going:
            del models[name]
        last = max((m.last_use for m in models.values()), default=0) + 1
        models[ticket.model] = replace(
            model,
            resident=True,
            running=model.running + 1,
            tokens=(*model.tokens, ticket.tokens),
            last_use=last,
        )
        alone = ticket.exclusive
        waiting.pop(0)
    return _unserved(grants, waiting)


def _unserved(grants: list[Grant], waiting: Sequence[Ticket]) -> Plan:
    waits = {ticket.number: Wait("first come") for ticket in waiting}
    return Plan(tuple(grants), waits, tuple(waits))


# -- the world ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Outcome:
    """What a policy made of a trace; times in seconds."""

    waits_s: list[float] = field(default_factory=list)
    """From arrival until the answer could begin: queue and load."""
    loads: int = 0
    prefetches: int = 0
    evictions: int = 0
    plans: int = 0
    plan_s: float = 0.0


@dataclass(slots=True)
class _Lease:
    asked: Asked
    ready_s: float
    ends_s: float


class World:
    """Plays one trace under one policy.

    Args:
        trace: what happens.
        policy: who decides.
        bounded: whether waits must keep to the bound.
    """

    def __init__(self, trace: Trace, policy: Policy, *, bounded: bool) -> None:
        self._trace = trace
        self._policy = policy
        self._bounded = bounded
        self._events: list[tuple[float, int, str, Any]] = []
        self._order = count()
        self._now = 0.0
        self._waiting: dict[int, Asked] = {}
        self._bounds: dict[int, float] = {}
        self._resident: dict[str, int] = {}
        self._ready: dict[str, float] = {}
        self._leases: dict[str, dict[int, _Lease]] = defaultdict(dict)
        self._unloading: dict[str, float] = {}
        self._alone = False
        self._alarm_s = float("-inf")
        self._uses = count(1)
        self._arrived: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=4))
        self.outcome = Outcome()

    def play(self) -> Outcome:
        """From the first arrival to the last answer."""
        for number, asked in enumerate(self._trace.requests, start=1):
            self._at(asked.arrives_s, "arrives", number)
        served: set[int] = set()
        while self._events:
            self._now, _, what, which = heapq.heappop(self._events)
            if what == "arrives":
                asked = self._trace.requests[which - 1]
                self._waiting[which] = asked
                self._arrived[asked.model].append(self._now)
                self._at(self._now + PATIENCE_S[asked.priority], "due", which)
            elif what == "due" and which in self._waiting:
                self._bounds[which] = self._bound(which)
            elif what == "ended":
                model, number = which
                del self._leases[model][number]
                served.add(number)
                self._alone = False
            elif what == "unloaded":
                self._unloading.pop(which)
            self._decide()
            self._check_memory()
        assert not self._waiting, f"lost: {self._waiting}"
        assert len(served) == len(self._trace.requests), "a request was not answered"
        assert not any(self._leases.values())
        assert not self._unloading
        return self.outcome

    def _at(self, at: float, what: str, which: Any) -> None:
        heapq.heappush(self._events, (at, next(self._order), what, which))

    def _decide(self) -> None:
        if not self._waiting:
            return
        started = time.perf_counter()
        planned = self._policy(self._snapshot())
        self.outcome.plan_s += time.perf_counter() - started
        self.outcome.plans += 1
        assert not planned.refusals, "refused what fits"
        assert not planned.trims, "more held than the limits"
        for grant in planned.grants:
            self._grant(grant)
        if planned.prefetch is not None:
            model = planned.prefetch.model
            assert model not in self._resident
            assert not self._alone
            self._load(model, planned.prefetch.after)
            self.outcome.prefetches += 1
        sooner = planned.again_s < self._alarm_s or self._alarm_s <= self._now
        if sooner and planned.again_s < float("inf"):
            self._alarm_s = max(planned.again_s, self._now + LOOK_AGAIN_S)
            self._at(self._alarm_s, "again", None)
        assert planned.waits.keys() == self._waiting.keys(), "a wait without a reason"

    def _grant(self, grant: Grant) -> None:
        number, model = grant.ticket.number, grant.ticket.model
        asked = self._waiting.pop(number)
        running = sum(map(len, self._leases.values()))
        assert not self._alone, "beside an exclusive one"
        assert not (asked.exclusive and running), "an exclusive one beside others"
        for victim in grant.evict:
            assert not self._leases[victim], "evicted while in use"
            assert self._ready[victim] <= self._now, "evicted while loading"
            assert not self._trace.models[victim].pinned, "evicted though pinned"
            del self._resident[victim]
            self._unloading[victim] = self._now + UNLOAD_S
            self._at(self._now + UNLOAD_S, "unloaded", victim)
            self.outcome.evictions += 1
        if model not in self._resident:
            self._load(model, grant.after)
        self._resident[model] = next(self._uses)
        waits_for = [self._unloading[n] for n in grant.after]
        ready = max([self._now, self._ready[model], *waits_for])
        if asked.exclusive:
            assert not any(at > self._now for n, at in self._ready.items() if n != model)
            self._alone = True
        lease = _Lease(asked, ready, ready + asked.answer_s)
        self._leases[model][number] = lease
        assert len(self._leases[model]) <= self._trace.models[model].concurrency
        self._at(lease.ends_s, "ended", (model, number))
        self.outcome.waits_s.append(ready - asked.arrives_s)
        if self._bounded and number in self._bounds:
            assert self._now <= self._bounds[number] + 1e-6, (
                f"trace {self._trace.seed}: request {number} waited "
                f"{self._now - asked.arrives_s:.1f} s, beyond the bound"
            )

    def _load(self, model: str, after: Sequence[str]) -> None:
        start = max([self._now, *(self._unloading[n] for n in after)])
        self._ready[model] = start + self._trace.models[model].load_s
        self._resident[model] = 0
        self.outcome.loads += 1
        self._at(self._ready[model], "loaded", model)

    def _bound(self, number: int) -> float:
        """When a request that is overdue now must have its turn at the latest."""
        running = [lease.ends_s - self._now for m in self._leases.values() for lease in m.values()]
        loading = [max(at - self._now, 0) for at in self._ready.values()]
        ahead = [
            UNLOAD_S + self._trace.models[asked.model].load_s + asked.answer_s
            for other, asked in self._waiting.items()
            if other != number
        ]
        return self._now + max(running, default=0) + sum(loading) + sum(ahead) + UNLOAD_S

    def _snapshot(self) -> Snapshot:
        models = {}
        for name in {*self._resident, *(asked.model for asked in self._waiting.values())}:
            resident = name in self._resident
            models[name] = replace(
                self._trace.models[name],
                resident=resident,
                loading=resident and self._ready[name] > self._now,
                running=len(self._leases[name]),
                last_use=self._resident.get(name, 0),
                held=self._trace.models[name].held if resident else None,
                tokens=self._contexts(name),
                gap_s=self._gap(name),
            )
        held = self._trace.models
        return Snapshot(
            waiting=[
                Ticket(
                    number,
                    asked.model,
                    asked.arrives_s,
                    asked.exclusive,
                    asked.priority,
                    asked.tokens,
                )
                for number, asked in self._waiting.items()
            ],
            models=models,
            max_resident=self._trace.max_resident,
            now_s=self._now,
            limits=self._trace.limits,
            capacity=self._trace.limits,
            unloading={name: held[name].held or {} for name in self._unloading},
            exclusive_running=self._alone,
            patience_s=PATIENCE_S,
        )

    def _contexts(self, name: str, begun_by_s: float = float("inf")) -> tuple[int, ...]:
        leases = self._leases[name].values()
        return tuple(one.asked.tokens for one in leases if one.ready_s <= begun_by_s)

    def _gap(self, name: str) -> float:
        times = self._arrived[name]
        return (self._now - times[0]) / len(times) if len(times) > 1 else float("inf")

    def _check_memory(self) -> None:
        """What is really held now: what waits for unloads has not begun."""
        total: Counter[str] = Counter()
        for name in self._resident:
            model = self._trace.models[name]
            begins = self._ready[name] - model.load_s
            if begins > self._now:
                continue
            begun = self._contexts(name, self._now)
            busy = begun or self._ready[name] > self._now
            total.update(model.needed(begun) if busy else model.held or {})
        for name in (n for n, done_s in self._unloading.items() if done_s > self._now):
            total.update(self._trace.models[name].held or {})
        for device, limit in self._trace.limits.items():
            assert total[device] <= limit, f"trace {self._trace.seed}: {device} is over its limit"


# -- all of them ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pair:
    """Both policies on one trace."""

    trace: Trace
    ours: Outcome
    rival: Outcome


def pair(seed: int, kind: Kind, n_requests: int = 200) -> Pair:
    """Play one trace under both policies."""
    trace = draw(seed, kind, n_requests)
    ours = World(trace, plan, bounded=True).play()
    return Pair(trace, ours, World(trace, first_come, bounded=False).play())


def figures(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Both sides over many traces; falls are shares of the rival's figure."""
    ours = [wait for item in pairs for wait in item.ours.waits_s]
    rival = [wait for item in pairs for wait in item.rival.waits_s]
    loads = sum(p.ours.loads for p in pairs), sum(p.rival.loads for p in pairs)

    def p99(waits: Sequence[float]) -> float:
        return statistics.quantiles(waits, n=100, method="inclusive")[98]

    shorter = [p for p in pairs if p99(p.ours.waits_s) <= p99(p.rival.waits_s) + 1e-9]
    return {
        "traces": len(pairs),
        "requests": len(ours),
        "mean_wait_s": [round(statistics.fmean(ours), 2), round(statistics.fmean(rival), 2)],
        "mean_wait_falls": round(1 - statistics.fmean(ours) / statistics.fmean(rival), 3),
        "median_of_falls_per_trace": round(
            statistics.median(
                1 - statistics.fmean(p.ours.waits_s) / statistics.fmean(p.rival.waits_s)
                for p in pairs
            ),
            3,
        ),
        "loads": list(loads),
        "loads_fall": round(1 - loads[0] / loads[1], 3),
        "p99_wait_s": [round(p99(ours), 1), round(p99(rival), 1)],
        "traces_with_p99_no_worse": round(len(shorter) / len(pairs), 3),
        "evictions": [sum(p.ours.evictions for p in pairs), sum(p.rival.evictions for p in pairs)],
        "prefetches": sum(p.ours.prefetches for p in pairs),
        "plan_us": round(
            1e6 * sum(p.ours.plan_s for p in pairs) / max(sum(p.ours.plans for p in pairs), 1)
        ),
    }


def run(traces: int, n_requests: int = 300, first_seed: int = 0, jobs: int = 1) -> dict[str, Any]:
    """Half Zipf traces, the others bursty or mixed; every invariant is checked on the way."""
    kinds: tuple[Kind, ...] = ("zipf", "bursty", "zipf", "mixed")
    arguments = (
        range(first_seed, first_seed + traces),
        [kinds[number % len(kinds)] for number in range(traces)],
        [n_requests] * traces,
    )
    if jobs == 1:
        pairs = [*map(pair, *arguments)]
    else:
        with ProcessPoolExecutor(jobs) as pool:
            played = pool.map(pair, *arguments)
            pairs = [*track(played, "traces", total=traces, console=Console(stderr=True))]
    by_kind = {
        kind: [p for p in pairs if p.trace.kind == kind] for kind in ("zipf", "bursty", "mixed")
    }
    bands = ((1.0, 2.0), (2.0, 3.0), (3.0, 4.0))
    return {
        **{kind: figures(chosen) for kind, chosen in by_kind.items() if chosen},
        "zipf_by_pressure": {
            f"{low:g} to {high:g}": figures(chosen)
            for low, high in bands
            if (chosen := [p for p in by_kind["zipf"] if low <= p.trace.pressure < high])
        },
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    started = time.perf_counter()
    result = run(arguments.traces, arguments.requests, arguments.seed, arguments.jobs)
    result["seconds"] = round(time.perf_counter() - started, 1)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
