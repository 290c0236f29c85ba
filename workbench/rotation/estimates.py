"""How long a request will wait: from what loads and answers of each model took lately."""

from __future__ import annotations

import statistics
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from workbench.budget import DeviceBytes
from workbench.rotation.snapshot import Model, Snapshot, Wait

REMEMBERED: Final = 32
"""The last so many loads and answers of a model count."""
_ANSWER_S: Final = 10.0
_LOAD_S: Final = 3.0
_BYTES_PER_S: Final = 1e9
"""Guesses, until something of the kind has been measured."""
_OVERTIME: Final = 0.5
"""What has outlasted all that are known is expected to take this share of its time once more."""

HISTORY: Final = """
SELECT model, 'load' AS what, duration_s AS seconds FROM model_events
WHERE event = 'load' AND ok AND duration_s IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY model ORDER BY created_at DESC) <= $remembered
UNION ALL
SELECT model, 'answer', (end_ns - slot_ns) / 1e9 FROM stream_sessions
WHERE status = 'ok' AND slot_ns IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY model ORDER BY created_at DESC) <= $remembered
"""
"""The rows that :meth:`Speeds.restore` takes, out of the log."""


class Speeds:
    """Median seconds of loads and answers by model; a guess where nothing is known."""

    def __init__(self) -> None:
        self._loads: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._answers: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._all_answers: deque[float] = deque(maxlen=REMEMBERED)

    def load_took(self, model: str, seconds: float) -> None:
        """A load has ended well."""
        self._loads[model].append(seconds)

    def answer_took(self, model: str, seconds: float) -> None:
        """A slot was held for so long, the load not counted."""
        self._answers[model].append(seconds)
        self._all_answers.append(seconds)

    def restore(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Learn from the log: rows of :data:`HISTORY`. What was measured since stays the newest."""
        for row in rows:
            known = (self._loads if row["what"] == "load" else self._answers)[row["model"]]
            if len(known) < REMEMBERED:
                known.appendleft(row["seconds"])
            if row["what"] == "answer" and len(self._all_answers) < REMEMBERED:
                self._all_answers.appendleft(row["seconds"])

    def load_s(self, model: str, need: DeviceBytes) -> float:
        """Median load; by the model's size if it has never been loaded."""
        if known := self._loads.get(model):
            return statistics.median(known)
        return sum(need.values()) / _BYTES_PER_S or _LOAD_S

    def answer_s(self, model: str) -> float:
        """Median time that a slot of the model is held; of all models if it never answered."""
        known = self._answers.get(model) or self._all_answers
        return statistics.median(known) if known else _ANSWER_S

    def load_left_s(self, model: str, typical_s: float, ran_s: float) -> float:
        """What remains of a load that has run so long."""
        return _left_s(self._loads.get(model, ()), typical_s, ran_s)

    def answer_left_s(self, model: str, ran_s: float) -> float:
        """What remains of an answer that has run so long."""
        known = self._answers.get(model) or self._all_answers
        return _left_s(known, self.answer_s(model), ran_s)


def _left_s(known: Iterable[float], typical_s: float, ran_s: float) -> float:
    """The median of what remained in those that took longer; a share of its time if none did."""
    if longer := [seconds - ran_s for seconds in known if seconds > ran_s]:
        return statistics.median(longer)
    return typical_s - ran_s if typical_s > ran_s else ran_s * _OVERTIME


def estimate(
    snapshot: Snapshot,
    order: Sequence[int],
    waits: Mapping[int, Wait],
    running_for_s: Mapping[str, Sequence[float | None]],
    loading_for_s: Mapping[str, float],
    speeds: Speeds,
) -> dict[int, float]:
    """Seconds until each waiting request may begin its answer, in the order of the queue.

    Each model has as many lanes as it takes requests at a time. A request takes the lane that is
    free first; one whose model is not in memory waits for those that are to leave for it (else for
    the first model that falls idle), then for the load. An exclusive one waits for all answers and
    loads, and all later ones for its end. Of one whose turn other programs decide nothing is said.

    Args:
        snapshot: what the plan was made from.
        order: numbers of those that wait, the first in line first.
        waits: why each of them waits.
        running_for_s: how long each answer under way has run, by model; None: it is to begin.
        loading_for_s: how long each load under way has run, by model.
        speeds: what loads and answers take.
    """
    tickets = {ticket.number: ticket for ticket in snapshot.waiting}
    resident = {name for name, model in snapshot.models.items() if model.resident}
    ready = dict.fromkeys(resident, 0.0)
    for name, ran in loading_for_s.items():
        if name in snapshot.models:
            ready[name] = speeds.load_left_s(name, snapshot.models[name].load_s, ran)
    lanes = {
        name: [
            speeds.answer_left_s(name, ran)
            if ran is not None
            else ready.get(name, 0.0) + speeds.answer_s(name)
            for ran in times
        ]
        for name, times in running_for_s.items()
    }
    barrier, result = _silent_at(lanes, ready) if snapshot.exclusive_running else 0.0, {}
    for number in order:
        if not waits[number].foreseeable:
            continue
        ticket = tickets[number]
        name, model = ticket.model, snapshot.models[ticket.model]
        start = barrier
        if ticket.exclusive:
            start = max(barrier, _silent_at(lanes, ready))
        if name not in resident:
            if not ticket.exclusive:
                going = waits[number].evicts
                start = max(start, _room_at(going, resident, lanes, ready, snapshot.models))
            start += model.load_s
            ready[name] = start
            resident.add(name)
        own = lanes.setdefault(name, [])
        start = max(start, ready[name])
        if len(own) >= model.concurrency:
            own.sort()
            start = max(start, own.pop(0))
        own.append(start + speeds.answer_s(name))
        if ticket.exclusive:
            barrier = own[-1]
        result[number] = start
    return result


def _silent_at(lanes: Mapping[str, Sequence[float]], ready: Mapping[str, float]) -> float:
    """When all answers and loads have ended."""
    return max([0.0, *ready.values(), *(end for ends in lanes.values() for end in ends)])


def _room_at(
    going: Sequence[str],
    resident: set[str],
    lanes: Mapping[str, Sequence[float]],
    ready: Mapping[str, float],
    models: Mapping[str, Model],
) -> float:
    """When those that are to leave have fallen idle, else the first that may; they are gone."""
    idle_at = {
        name: max([ready.get(name, 0.0), *lanes.get(name, ())])
        for name in resident
        if name in going or not models[name].pinned
    }
    leaving = [name for name in going if name in idle_at]
    if not leaving and idle_at:
        leaving = [min(idle_at, key=lambda name: (idle_at[name], models[name].last_use))]
    resident.difference_update(leaving)
    return max((idle_at[name] for name in leaving), default=0.0)
