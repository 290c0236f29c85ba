"""A small run of the simulator in benchmarks/: its assertions are the invariants."""

from __future__ import annotations

import pytest

from benchmarks import rotation_sim as sim
from workbench.rotation.snapshot import Plan, Snapshot


@pytest.mark.parametrize("kind", ["zipf", "bursty", "mixed"])
def test_invariants_hold_and_waits_and_loads_fall(kind: sim.Kind) -> None:
    pairs = [sim.pair(seed, kind, n_requests=60) for seed in range(12)]
    figures = sim.figures(pairs)
    assert figures["requests"] == 12 * 60
    assert figures["loads_fall"] > 0
    if kind != "mixed":  # there exclusive requests keep the order of arrival
        assert figures["mean_wait_falls"] > 0.4
        assert figures["p99_wait_s"][0] <= figures["p99_wait_s"][1]


def test_simulator_notices_a_policy_that_breaks_a_promise() -> None:
    """Else its assertions would prove nothing."""

    def deaf(snapshot: Snapshot) -> Plan:
        return Plan((), sim.plan(snapshot).waits, ())

    with pytest.raises(AssertionError):
        sim.World(sim.draw(0, "zipf", 20), deaf, bounded=True).play()

    def careless(snapshot: Snapshot) -> Plan:
        planned = sim.first_come(snapshot)
        everything = tuple(n for n, m in snapshot.models.items() if m.resident)
        grants = tuple(
            sim.replace(g, evict=everything, after=everything) for g in planned.grants[:1]
        )
        waits = {t.number: sim.Wait("") for t in snapshot.waiting}
        for grant in grants:
            del waits[grant.ticket.number]
        return sim.replace(planned, grants=grants, waits=waits)

    with pytest.raises((AssertionError, KeyError)):
        sim.World(sim.draw(0, "zipf", 20), careless, bounded=True).play()
