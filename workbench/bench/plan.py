"""From a spec to cells, and from cells to trials in the order in which they run. Pure.

Everything random comes from the seed, and ids from what they name: the same spec and run give the
same plan, so that a run that was broken off goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from random import Random
from typing import Any, Final
from urllib.parse import urlencode

from workbench.bench.load import arrivals
from workbench.bench.patterns import (
    Cancel,
    Closed,
    Conversation,
    Open,
    Prefix,
    Ramp,
    Storm,
    Sweep,
    Trace,
)
from workbench.bench.spec import Spec
from workbench.bench.workload import Workload

_ROUNDS: Final = 4
"""Requests for each user of a closed loop, where the spec does not say how many."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One model with one set of options under one load.

    ``common`` are the options that its other models have too, ``own`` those of this model alone.
    ``load`` is the load point: the pattern with its own value of what the spec lists.
    ``position`` is its place in the spec; the order of running is drawn.
    """

    cell_id: str
    position: int
    model: str
    common: Mapping[str, Any]
    load: Mapping[str, Any]
    workload: Workload = field(compare=False, repr=False)
    own: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> Mapping[str, Any]:
        """All options of its requests."""
        return {**self.common, **self.own}

    @property
    def contender(self) -> tuple[str, str]:
        """Model and own options: what is compared with what."""
        return self.model, json.dumps(self.own, sort_keys=True, default=str)


@dataclass(frozen=True, slots=True)
class Trial:
    """One request of a cell.

    Attributes:
        cell: whose it is.
        number: within the cell, from 0.
        question: index into the cell's workload.
        repeat: how often this question was put before.
        turn: of a conversation, from 0.
        at_s: when it is to start, from the start of its block; None: when a user is free.
        stop_after: tokens after which it is stopped on purpose.
    """

    cell: Cell
    number: int
    question: int
    repeat: int
    turn: int = 0
    at_s: float | None = None
    stop_after: int | None = None


Chain = tuple[Trial, ...]
"""Trials of which each needs the answer of the one before; mostly one alone."""


@dataclass(frozen=True, slots=True)
class Block:
    """Trials that run together, without a pause.

    ``users`` take the chains one after another; 0: every chain starts at its ``at_s``.
    """

    cells: tuple[Cell, ...]
    repeat: int
    chains: tuple[Chain, ...]
    users: int
    think_s: float = 0.0


def cells(spec: Spec, run_id: str, workloads: Sequence[Workload]) -> list[Cell]:
    """Every model with every combination of options, lengths and load, in the order of the spec.

    A sweep's load points are not known yet: its cells have none (:func:`at_point`).
    """
    axes = {name: values for name, values in spec.grid.items() if name != "load_options"}
    loading: Mapping[str, Sequence[Any]] = spec.grid.get("load_options", {})
    found: list[Cell] = []
    for use, ways, values, workload, load in product(
        spec.uses,
        _combinations(loading),
        _combinations(axes),
        workloads,
        _points(spec),
    ):
        options = {**spec.options, **values}
        if workload.output_tokens is not None:
            options["max_tokens"] = workload.output_tokens
        model = _loaded(use.model, ways)
        found.append(_cell(run_id, len(found), model, options, load, workload, use.options))
    return found


def at_point(cell: Cell, run_id: str, point: float, position: int) -> Cell:
    """The cell of one load point of a sweep."""
    sweep = cell.load
    load = {**sweep, sweep["of"]: int(point) if sweep["of"] == "users" else point}
    return _cell(run_id, position, cell.model, cell.common, load, cell.workload, cell.own)


def same_sweep(a: Cell, b: Cell) -> bool:
    """Whether two cells are points of one sweep of one model."""
    swept = a.load["pattern"] == "sweep" and a.contender == b.contender
    return swept and a.common == b.common and a.workload.name == b.workload.name


def blocks(spec: Spec, planned: Sequence[Cell]) -> Iterator[Block]:
    """All blocks in the order in which they run, repeat by repeat."""
    tally = _Tally()
    for repeat in range(spec.repeats):
        rng = Random(f"{spec.seed}/order/{repeat}")
        for together in _together(spec, planned, rng):
            if len(together) == 1 and not isinstance(spec.load, Storm):
                cell = together[0]
                own = Random(f"{spec.seed}/{_key(cell)}/{repeat}")
                yield _block(spec, cell, repeat, own, tally)
            else:
                yield _interleaved(spec, together, repeat, rng, tally)


def expected(spec: Spec, planned: Sequence[Cell]) -> dict[str, int | None]:
    """How many trials each cell will have; None where only drawing its arrivals would tell."""
    drawn = isinstance(spec.load, Ramp) or getattr(spec.load, "duration_s", None) is not None
    found: dict[str, int | None] = {cell.cell_id: None if drawn else 0 for cell in planned}
    if drawn:
        return found
    for block in blocks(spec, planned):
        if block.repeat:  # as many in each
            break
        for chain in block.chains:
            cell_id = chain[0].cell.cell_id
            found[cell_id] = (found[cell_id] or 0) + len(chain) * spec.repeats
    return found


# -- cells ---------------------------------------------------------------------------------------


def _cell(
    run_id: str,
    position: int,
    model: str,
    common: Mapping[str, Any],
    load: Mapping[str, Any],
    workload: Workload,
    own: Mapping[str, Any],
) -> Cell:
    what = [run_id, model, {**common, **own}, load, workload.name]
    text = json.dumps(what, sort_keys=True, default=str)
    cell_id = f"cell_{hashlib.sha256(text.encode()).hexdigest()[:20]}"
    return Cell(cell_id, position, model, common, load, workload, own)


def _key(cell: Cell) -> str:
    """What the draws of a cell depend on: not on its model, so that models meet the same load."""
    return json.dumps([cell.load, cell.workload.name], sort_keys=True, default=str)


def _combinations(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def _loaded(model: str, ways: Mapping[str, Any]) -> str:
    if not ways:
        return model
    return f"{model}{'&' if '?' in model else '?'}{urlencode(ways)}"


def _points(spec: Spec) -> list[dict[str, Any]]:
    """The load points that a spec lists."""
    load = spec.load
    base = load.model_dump(mode="json", exclude_none=True)
    match load:
        case Closed() | Conversation() | Cancel() | Storm():
            return [{**base, "users": users} for users in load.users]
        case Open():
            return [{**base, "rate_per_s": rate} for rate in load.rate_per_s]
        case Prefix():
            return [{**base, "variant": variant} for variant in ("shared", "unique")]
        case _ if load.pattern == "cold":
            return [{**base, "variant": variant} for variant in ("cold", "warm")]
    return [base]


# -- order ---------------------------------------------------------------------------------------


class _Tally:
    """Numbers trials within their cells, and tells how often a question was put."""

    def __init__(self) -> None:
        self._trials: dict[str, int] = {}
        self._asked: dict[tuple[str, int], int] = {}

    def trial(self, cell: Cell, question: int) -> Trial:
        return self.chain(cell, question)[0]

    def chain(
        self,
        cell: Cell,
        question: int,
        *,
        turns: int = 1,
        at_s: float | None = None,
        stop_after: int | None = None,
    ) -> Chain:
        first = self._trials.get(cell.cell_id, 0)
        self._trials[cell.cell_id] = first + turns
        repeat = self._asked.get((cell.cell_id, question), 0)
        self._asked[cell.cell_id, question] = repeat + 1
        return tuple(
            Trial(cell, first + turn, question, repeat, turn, at_s, stop_after)
            for turn in range(turns)
        )


def _together(spec: Spec, planned: Sequence[Cell], rng: Random) -> list[tuple[Cell, ...]]:
    """Cells whose trials are mixed with each other, in random order."""
    if isinstance(spec.load, Storm):
        levels = sorted({cell.load["users"] for cell in planned})
        groups = [tuple(c for c in planned if c.load["users"] == level) for level in levels]
    elif spec.alone and spec.order == "interleaved" and not isinstance(spec.load, Prefix):
        groups = [tuple(planned)] if planned else []
    else:  # what a cache knows of a shared prefix, and a loop's steady state, want to be alone
        groups = [(cell,) for cell in planned]
    rng.shuffle(groups)
    return groups


def _interleaved(
    spec: Spec,
    together: tuple[Cell, ...],
    repeat: int,
    rng: Random,
    tally: _Tally,
) -> Block:
    """Every question to all cells before the next one."""
    questions = list(range(max(len(cell.workload.questions) for cell in together)))
    rng.shuffle(questions)
    chains: list[Chain] = []
    for question in questions:
        for cell in rng.sample(together, len(together)):
            if question < len(cell.workload.questions):
                chains.append((tally.trial(cell, question),))
    users = together[0].load["users"] if isinstance(spec.load, Storm) else 1
    return Block(together, repeat, tuple(chains), users)


def _block(spec: Spec, cell: Cell, repeat: int, rng: Random, tally: _Tally) -> Block:
    """One repeat of a cell that runs by itself."""
    load, size = spec.load, len(cell.workload.questions)
    at_s = _arrivals(spec, cell, rng)
    users = 0 if at_s is not None else int(cell.load.get("users", 1))
    wanted = _wanted(spec, size, users) if at_s is None else len(at_s)
    chains: list[Chain] = []
    order: list[int] = []
    for i in range(wanted):
        if not order:
            order = list(range(size))
            if not isinstance(load, Trace):
                rng.shuffle(order)
            order.reverse()
        question = order.pop()
        stop_after = None
        if isinstance(load, Cancel) and rng.random() < load.share:
            stop_after = rng.randint(*load.after_tokens)
        chains.append(
            tally.chain(
                cell,
                question,
                turns=load.turns if isinstance(load, Conversation) else 1,
                at_s=at_s[i] if at_s is not None else None,
                stop_after=stop_after,
            )
        )
    return Block((cell,), repeat, tuple(chains), users, getattr(load, "think_s", 0.0))


def _wanted(spec: Spec, size: int, users: int) -> int:
    if isinstance(spec.load, Closed | Sweep | Cancel):
        return spec.load.requests or max(size, _ROUNDS * users)
    return size


def _arrivals(spec: Spec, cell: Cell, rng: Random) -> list[float] | None:
    """When the requests of an open loop arrive; None for users who wait for their answers."""
    match spec.load:
        case Trace():
            return [one - cell.workload.arrivals_s[0] for one in cell.workload.arrivals_s]
        case Ramp() as load:
            return arrivals.ramp(
                load.arrivals,
                load.from_per_s,
                load.to_per_s,
                load.duration_s,
                rng,
                burst=load.burst,
            )
        case Open() | Sweep() as load if "rate_per_s" in cell.load:
            return arrivals.times(
                load.arrivals,
                cell.load["rate_per_s"],
                rng,
                requests=load.requests,
                duration_s=load.duration_s,
                burst=load.burst,
            )
    return None
