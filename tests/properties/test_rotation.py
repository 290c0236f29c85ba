"""The policy, for every snapshot: what it decides is allowed, complete, and the same each time."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.properties import times
from workbench.rotation.estimates import estimate
from workbench.rotation.policy import plan
from workbench.rotation.snapshot import Grant, Model, Plan, Snapshot, Ticket, added
from workbench.rotation.speeds import Speeds
from workbench.rotation.victims import Candidate, choose
from workbench.types import Priority

NAMES = "abcdef"
DEVICES = ("host", "cuda:0")
PATIENCE_S = {Priority.INTERACTIVE: 20.0, Priority.BENCHMARK: 60.0}


# -- one snapshot --------------------------------------------------------------------------------


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Anything that could be: over its limits too, with runners that share and models of others."""
    groups: dict[str, frozenset[str]] = {}
    for pair in draw(st.sampled_from(((), ("ab",), ("ab", "cd"), ("abc",)))):
        groups |= dict.fromkeys(pair, frozenset(pair))
    models: dict[str, Model] = {}
    for use, name in enumerate(draw(st.permutations(NAMES)), start=1):
        device, held = draw(st.sampled_from(DEVICES)), draw(st.integers(1, 6))
        resident = draw(st.booleans())
        concurrency = draw(st.sampled_from((1, 2, 8)))
        running = draw(st.integers(0, concurrency)) if resident else 0
        models[name] = Model(
            resident=resident,
            loading=resident and draw(st.sampled_from((False, False, True))),
            running=running,
            last_use=use,
            need={device: held + draw(st.integers(0, 2))},
            held={device: held} if resident else None,
            token_bytes=draw(st.sampled_from(({}, {device: 1}))),
            tokens=tuple(draw(st.integers(0, 2)) for _ in range(running)),
            concurrency=concurrency,
            counted=draw(st.booleans()),
            pinned=resident and draw(st.sampled_from((False, False, False, True))),
            foreign=resident and not running and draw(st.sampled_from((False, False, False, True))),
            load_s=draw(st.sampled_from((1.0, 5.0, 30.0))),
            gap_s=draw(st.sampled_from((float("inf"), float("inf"), 2.0))),
            doomed=not resident and draw(st.sampled_from((False, False, False, True))),
            shared=groups.get(name, frozenset()),
        )
    now_s = 100.0
    waiting = [
        Ticket(
            number,
            draw(st.sampled_from(NAMES)),
            draw(st.floats(0, now_s)),
            draw(st.sampled_from((False, False, False, True))),
            draw(st.sampled_from(Priority)),
            tokens=draw(st.integers(0, 2)),
        )
        for number in range(1, draw(st.integers(0, 7)) + 1)
    ]
    limits = {device: draw(st.integers(0, 20)) for device in DEVICES}
    return Snapshot(
        waiting,
        models,
        draw(st.integers(1, 4)),
        now_s=now_s,
        limits=limits,
        capacity={device: size + draw(st.integers(0, 6)) for device, size in limits.items()},
        unloading=draw(st.sampled_from(({}, {"leaving": {"host": 3}}))),
        others=draw(st.sampled_from(({}, {"theirs": {"host": 2}}))),
        exclusive_running=draw(st.sampled_from((False, False, False, True))),
        patience_s=draw(st.sampled_from(({}, PATIENCE_S))),
    )


def runner(snapshot: Snapshot, name: str) -> set[str]:
    """All names in the process of a model."""
    return {name, *snapshot.models[name].shared}


@given(snapshots())
@times(2)
def test_everybody_is_told_one_thing(snapshot: Snapshot) -> None:
    planned = plan(snapshot)
    granted = [grant.ticket for grant in planned.grants]
    refused = [refusal.ticket for refusal in planned.refusals]
    numbers = [t.number for t in [*granted, *refused]] + list(planned.waits)
    assert sorted(numbers) == [t.number for t in snapshot.waiting]
    assert sorted(planned.order) == sorted(planned.waits), "each that waits has its position"
    assert set(granted + refused) <= set(snapshot.waiting), "in the names that were asked for"
    said = [*planned.grants, *planned.refusals, *planned.trims, *planned.waits.values()]
    assert all(one.reason for one in said)
    assert planned.again_s > snapshot.now_s


@given(snapshots(), st.randoms())
@times(2)
def test_the_same_picture_gives_the_same_plan(snapshot: Snapshot, chance: random.Random) -> None:
    """Whatever the order in which it is painted."""
    waiting, models = list(snapshot.waiting), list(snapshot.models.items())
    chance.shuffle(waiting)
    chance.shuffle(models)
    planned = plan(snapshot)
    assert plan(snapshot) == planned, "it keeps nothing"
    assert plan(replace(snapshot, waiting=waiting, models=dict(models))) == planned


@given(snapshots())
@times(2)
def test_nobody_leaves_who_may_not_and_nobody_enters_who_must_not(snapshot: Snapshot) -> None:
    planned, models = plan(snapshot), snapshot.models
    leaving = [n for grant in planned.grants for n in grant.evict]
    leaving += [trim.model for trim in planned.trims]
    assert len(leaving) == len(set(leaving)), "nobody leaves twice"
    for name in leaving:
        there = [models[one] for one in runner(snapshot, name)]
        assert any(one.resident for one in there)
        assert not any(one.leased or one.pinned or one.foreign for one in there)
    gone = {one for name in leaving for one in runner(snapshot, name)}
    running = Counter({name: model.running for name, model in models.items()})
    alone = snapshot.exclusive_running
    for grant in planned.grants:
        name = grant.ticket.model
        assert not alone, "beside one that runs alone"
        if grant.ticket.exclusive:
            busy = [n for n, m in models.items() if m.loading and name not in runner(snapshot, n)]
            assert not running.total()
            assert not busy
            alone = True
        assert not models[name].doomed or not grant.evict, "nobody leaves for a load that fails"
        assert set(grant.evict) <= set(grant.after)
        running[name] += 1
        together = sum(running[one] for one in runner(snapshot, name))
        assert together <= max(models[one].concurrency for one in runner(snapshot, name))
        # Whoever leaves for one that came earlier is not given to one that comes later.
        assert name not in gone or models[name].resident
    ahead = planned.prefetch
    if ahead is not None:
        assert not models[ahead.model].resident
        assert any(t.exclusive and t.model == ahead.model for t in snapshot.waiting)


@given(snapshots())
@times(2)
def test_a_refusal_is_of_what_could_never_be(snapshot: Snapshot) -> None:
    for refusal in plan(snapshot).refusals:
        ticket = refusal.ticket
        model = snapshot.models[ticket.model]
        if refusal.cause == "failed":
            assert model.doomed
        elif refusal.cause == "others":
            assert ticket.arrived_s + snapshot.patience_s[ticket.priority] <= snapshot.now_s
            theirs = any(m.foreign for m in snapshot.models.values())
            assert snapshot.others or theirs or snapshot.limits != snapshot.capacity
        elif not model.shared:
            pinned = [
                m
                for n, m in snapshot.models.items()
                if m.resident and m.pinned and n != ticket.model
            ]
            need = added((model.needed((ticket.tokens,)), *(m.unused for m in pinned)))
            over = any(need.get(d, 0) > most for d, most in snapshot.capacity.items())
            full = model.counted and sum(m.counted for m in pinned) >= snapshot.max_resident
            shares = any(m.shared for m in pinned)
            assert over or full or shares


@given(snapshots())
@times(2)
def test_an_estimate_is_for_those_whose_turn_is_ours_to_give(snapshot: Snapshot) -> None:
    planned = plan(snapshot)
    told = estimate(snapshot, planned.order, planned.waits, {}, {}, Speeds())
    assert told.keys() == {n for n in planned.order if planned.waits[n].foreseeable}
    assert all(seconds >= 0 for seconds in told.values())
    barrier = 0.0
    exclusive = {t.number: t.exclusive for t in snapshot.waiting}
    for number in planned.order:
        if number in told:
            assert told[number] >= barrier, "after the one ahead that runs alone"
            barrier = max(barrier, told[number]) if exclusive[number] else barrier


@given(st.data())
def test_running_counts_are_kept(data: st.DataObject) -> None:
    """No model gets more generations than it takes, whatever waits for it."""
    limits = {name: data.draw(st.integers(1, 4)) for name in NAMES}
    waiting = [
        Ticket(number, name)
        for number, name in enumerate(data.draw(st.lists(st.sampled_from(NAMES))), start=1)
    ]
    models = {name: Model(concurrency=limits[name]) for name in NAMES}
    going = Counter(g.ticket.model for g in plan(Snapshot(waiting, models, 100)).grants)
    asked = Counter(t.model for t in waiting)
    assert going == {name: min(asked[name], limits[name]) for name in asked}


# -- who makes room ------------------------------------------------------------------------------

SIZES = st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans())


@given(
    st.lists(SIZES, max_size=11),
    st.integers(0, 30),
    st.integers(0, 20),
    st.integers(0, 3),
)
@times(2)
def test_enough_goes_and_nobody_in_vain(
    sizes: list[tuple[int, int, bool]], host: int, gpu: int, places: int
) -> None:
    there = [
        Candidate(name, {"host": a, "cuda:0": b}, counted)
        for name, (a, b, counted) in zip("abcdefghijk", sizes, strict=False)
    ]
    short = {"host": host, "cuda:0": gpu}
    found = choose(there, short, places)

    def enough(names: Any) -> bool:
        going = [one for one in there if one.model in names]
        freed = all(sum(one.bytes[d] for one in going) >= size for d, size in short.items())
        return freed and sum(one.counted for one in going) >= places

    everybody = [one.model for one in there]
    if found is None:
        assert not enough(everybody)
        return
    assert enough(found)
    assert not any(enough(set(found) - {name}) for name in found), "in vain"
    assert list(found) == sorted(found), "the oldest first"
    for at in range(len(there)):
        if enough(everybody[:at]):
            assert set(found) <= set(everybody[:at]), "no younger one than must"


# -- from one to the next ------------------------------------------------------------------------


@st.composite
def traits(draw: st.DrawFn) -> dict[str, Model]:
    """What stays the same of each model."""
    found = {}
    for name in NAMES:
        device = draw(st.sampled_from(DEVICES))
        held = draw(st.integers(1, 6))
        found[name] = Model(
            need={device: held + draw(st.integers(0, 2))},
            held={device: held},
            token_bytes=draw(st.sampled_from(({}, {}, {device: 1}))),
            concurrency=draw(st.sampled_from((1, 2, 8))),
            counted=draw(st.booleans()),
            load_s=draw(st.sampled_from((1.0, 5.0, 30.0))),
        )
    return found


class Rotation(RuleBasedStateMachine):
    """Requests come, answers end, time passes; the plan is carried out at once."""

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, Model] = {}
        self.waiting: list[Ticket] = []
        self.running: list[Ticket] = []
        self.unloading: set[str] = set()
        self.now, self.number = 0.0, 0
        self.limits = {"host": 12, "cuda:0": 9}
        self.places = 3

    @precondition(lambda self: not self.models)
    @rule(models=traits())
    def begin(self, models: dict[str, Model]) -> None:
        self.models = models

    @precondition(lambda self: self.models)
    @rule(
        name=st.sampled_from(NAMES),
        exclusive=st.sampled_from((False, False, False, True)),
        priority=st.sampled_from(Priority),
        tokens=st.integers(0, 2),
    )
    def comes(self, name: str, exclusive: bool, priority: Priority, tokens: int) -> None:
        self.number += 1
        self.waiting.append(Ticket(self.number, name, self.now, exclusive, priority, tokens=tokens))
        self.decide()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        done = data.draw(st.sampled_from(self.running))
        self.running.remove(done)
        self.count(done.model)
        self.decide()

    @precondition(lambda self: self.unloading)
    @rule()
    def unloaded(self) -> None:
        self.unloading.clear()
        self.decide()

    @precondition(lambda self: self.models)
    @rule(seconds=st.sampled_from((1.0, 10.0, 100.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.models = {n: replace(m, loading=False) for n, m in self.models.items()}
        self.decide()

    @precondition(lambda self: self.models)
    @rule(name=st.sampled_from(NAMES))
    def pinned(self, name: str) -> None:
        """At most one, of a model that is there."""
        chosen = self.models[name].resident
        self.models = {n: replace(m, pinned=chosen and n == name) for n, m in self.models.items()}

    def count(self, name: str) -> None:
        """Who is answered by a model now."""
        tokens = tuple(one.tokens for one in self.running if one.model == name)
        self.change(name, running=len(tokens), tokens=tokens)

    def change(self, name: str, **changes: Any) -> None:
        self.models[name] = replace(self.models[name], **changes)

    def snapshot(self) -> Snapshot:
        shown = {
            name: replace(model, held=model.held if model.resident else None)
            for name, model in self.models.items()
        }
        return Snapshot(
            self.waiting,
            shown,
            self.places,
            now_s=self.now,
            limits=self.limits,
            capacity=self.limits,
            unloading={name: self.models[name].held or {} for name in self.unloading},
            exclusive_running=any(t.exclusive for t in self.running),
            patience_s=PATIENCE_S,
        )

    def decide(self) -> None:
        snap = self.snapshot()
        planned = plan(snap)
        silent = not self.running and not any(m.loading for m in self.models.values())
        gone = {grant.ticket.number for grant in planned.grants}
        gone |= {refusal.ticket.number for refusal in planned.refusals}
        assert set(planned.waits) | gone == {t.number for t in self.waiting}, "each is told"
        assert not set(planned.waits) & gone
        assert all(wait.reason for wait in planned.waits.values())
        assert sorted(planned.order) == sorted(planned.waits), "each has its position"
        for grant in planned.grants:
            self.carry_out(grant)
        if planned.prefetch is not None:
            assert not self.models[planned.prefetch.model].resident
            self.change(planned.prefetch.model, resident=True, loading=True)
        self.waiting = [t for t in self.waiting if t.number not in gone]
        if silent and snap.waiting:
            assert gone, "with nothing running somebody goes on"
        self.fairness(planned)

    def carry_out(self, grant: Grant) -> None:
        name = grant.ticket.model
        assert not any(t.exclusive for t in self.running), "beside an exclusive one"
        assert not (grant.ticket.exclusive and self.running), "an exclusive one beside others"
        for victim in grant.evict:
            model = self.models[victim]
            assert model.resident
            assert not model.leased, "evicted while in use"
            assert not model.pinned, "evicted though pinned"
            self.change(victim, resident=False)
            self.unloading.add(victim)
        assert set(grant.evict) <= set(grant.after), "its own victims have left first"
        self.unloading -= set(grant.after)
        model = self.models[name]
        self.change(
            name,
            resident=True,
            loading=model.loading or not model.resident,
            last_use=self.number,
        )
        self.running.append(grant.ticket)
        self.count(name)
        assert self.models[name].running <= model.concurrency

    def fairness(self, planned: Plan) -> None:
        """Nobody who came after a request was overdue took what that request waits for."""
        for grant in planned.grants:
            for stays in self.waiting:
                due = stays.arrived_s + PATIENCE_S[stays.priority]
                if due > self.now or grant.ticket.arrived_s <= due:
                    continue
                assert grant.ticket.model not in planned.waits[stays.number].evicts, "overtaken"
                assert not stays.exclusive, "an overdue exclusive one is passed"

    @invariant()
    def budget_is_kept(self) -> None:
        there = [m.footprint for m in self.models.values() if m.resident]
        leaving = [self.models[n].held or {} for n in self.unloading]
        total = added([*there, *leaving])
        for device, limit in self.limits.items():
            assert total.get(device, 0) <= limit, f"{device} is over its limit"
        assert sum(m.resident and m.counted for m in self.models.values()) <= self.places


TestRotation = Rotation.TestCase
TestRotation.settings = settings(stateful_step_count=30)
