"""How long a request will wait: from what loads and answers of each model took lately."""

from __future__ import annotations

import statistics
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from workbench.budget import DeviceBytes
from workbench.rotation.snapshot import Model, Snapshot

REMEMBERED: Final = 32
"""The last so many loads and answers of a model count."""
_ANSWER_S: Final = 10.0
_LOAD_S: Final = 3.0
_BYTES_PER_S: Final = 1e9
"""Guesses, until something of the kind has been measured."""

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


def estimate(
    snapshot: Snapshot,
    order: Sequence[int],
    running_for_s: Mapping[str, Sequence[float]],
    speeds: Speeds,
) -> dict[int, float]:
    """Seconds until each waiting request may begin its answer, in the order of the queue.

    Each model has as many lanes as it takes requests at a time. A request takes the lane that is
    free first; one whose model is not in memory waits for the first model that falls idle to leave,
    then for the load. An exclusive one waits for all lanes, and all later ones for its end.

    Args:
        snapshot: what the plan was made from.
        order: numbers of those that wait, the first in line first.
        running_for_s: how long each generation under way has run, by model.
        speeds: what loads and answers take.
    """
    tickets = {ticket.number: ticket for ticket in snapshot.waiting}
    lanes = {
        model: [max(speeds.answer_s(model) - ran, 0.0) for ran in times]
        for model, times in running_for_s.items()
    }
    resident = {name for name, model in snapshot.models.items() if model.resident}
    ready = dict.fromkeys(resident, 0.0)
    barrier, result = 0.0, {}
    for number in order:
        ticket = tickets[number]
        name, model = ticket.model, snapshot.models[ticket.model]
        start = barrier
        if ticket.exclusive:
            start = max([barrier, *(end for ends in lanes.values() for end in ends)])
        if name not in resident:
            if not ticket.exclusive:
                start = max(start, _room_at(resident, lanes, snapshot.models))
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


def _room_at(
    resident: set[str], lanes: Mapping[str, Sequence[float]], models: Mapping[str, Model]
) -> float:
    """When the first of the models in memory falls idle; it makes room and is gone."""
    idle_at = {name: max(lanes.get(name, ()), default=0.0) for name in resident}
    if not idle_at:
        return 0.0
    first = min(idle_at, key=lambda name: (idle_at[name], models[name].last_use))
    resident.discard(first)
    return idle_at[first]
