"""What loads and answers of each model took lately, and what such a one will take."""

from __future__ import annotations

import statistics
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from workbench.budget import DeviceBytes
from workbench.rotation.leases import Progress

REMEMBERED: Final = 32
"""The last so many loads and answers of a model count."""
_ANSWER_S: Final = 10.0
_LOAD_S: Final = 3.0
_BYTES_PER_S: Final = 1e9
"""Guesses, until something of the kind has been measured."""
_OVERTIME: Final = 0.5
"""What has outlasted all that are known is expected to take this share of its time once more."""
_TELLING_TOKENS: Final = 8
"""After so many tokens an answer's own pace says more than that of others."""

HISTORY: Final = """
SELECT model, 'load' AS what, duration_s AS seconds,
       NULL AS first_s, 0 AS tokens, false AS cut
FROM model_events
WHERE event = 'load' AND ok AND duration_s IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY model ORDER BY created_at DESC) <= $remembered
UNION ALL
SELECT model, 'answer', (end_ns - slot_ns) / 1e9,
       (first_any_ns - slot_ns) / 1e9, streamed_tokens, finish_reason IS NOT DISTINCT FROM 'length'
FROM stream_sessions
WHERE status = 'ok' AND slot_ns IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY model ORDER BY created_at DESC) <= $remembered
"""
"""The rows that :meth:`Speeds.restore` takes, out of the log."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that ended well."""

    seconds: float
    """For which its slot was held, the load not counted."""
    first_s: float | None = None
    """Of these until its first token."""
    tokens: int = 0
    cut: bool = False
    """A bound ended it: how long it would have become is not known."""

    @property
    def pace_s(self) -> float | None:
        """Seconds of a token."""
        if self.first_s is None or self.tokens < 2:
            return None
        return max(self.seconds - self.first_s, 0.0) / (self.tokens - 1)


class Speeds:
    """Medians of what was measured, by model; a guess where nothing is known.

    What an answer will take is the time to its first token, then its tokens, each in the pace of
    the model. How many they will be is told from answers that ended by themselves; one that was cut
    says only that this one may become as long as it may.
    """

    def __init__(self) -> None:
        self._loads: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._answers: dict[str, deque[Answer]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._all_answers: deque[Answer] = deque(maxlen=REMEMBERED)

    def load_took(self, model: str, seconds: float) -> None:
        """A load has ended well."""
        self._loads[model].append(seconds)

    def answer_took(self, model: str, answer: Answer) -> None:
        """And an answer."""
        self._answers[model].append(answer)
        self._all_answers.append(answer)

    def restore(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Learn from the log: rows of :data:`HISTORY`. What was measured since stays the newest."""
        for row in rows:
            if row["what"] == "load":
                if len(loads := self._loads[row["model"]]) < REMEMBERED:
                    loads.appendleft(row["seconds"])
                continue
            answer = Answer(row["seconds"], row["first_s"], row["tokens"], row["cut"])
            for known in (self._answers[row["model"]], self._all_answers):
                if len(known) < REMEMBERED:
                    known.appendleft(answer)

    # -- loads

    def load_s(self, model: str, need: DeviceBytes) -> float:
        """Median load; by the model's size if it has never been loaded."""
        if known := self._loads.get(model):
            return statistics.median(known)
        return sum(need.values()) / _BYTES_PER_S or _LOAD_S

    def load_left_s(self, model: str, typical_s: float, ran_s: float) -> float:
        """What remains of a load that has run so long."""
        return _left_s(self._loads.get(model, ()), typical_s, ran_s)

    # -- answers

    def answer_s(self, model: str, most: int | None = None) -> float:
        """A whole answer of ``most`` tokens at most (None: unknown), once the model is ready."""
        if most == 0:
            return 0.0
        known = self._known(model)
        if (paces := _paces(known)) and (length := _length(known, most, 0)):
            first = statistics.median(a.first_s for a in known if a.first_s is not None)
            return first + (length - 1) * statistics.median(paces)
        return statistics.median(a.seconds for a in known) if known else _ANSWER_S

    def answer_left_s(self, model: str, progress: Progress, now_s: float) -> float:
        """What remains of an answer whose model is ready."""
        assert progress.ready_s is not None
        ran_s, most = now_s - progress.ready_s, progress.ticket.answer_tokens
        if most == 0:
            return 0.0
        known = self._known(model)
        paces = _paces(known)
        length = _length(known, most, progress.streamed)
        if progress.first_s is not None and progress.streamed >= _TELLING_TOKENS:
            paces = [(now_s - progress.first_s) / (progress.streamed - 1)]
        if not paces or not length:
            guess_s = 0.0 if known else _ANSWER_S
            return _left_s((answer.seconds for answer in known), guess_s, ran_s)
        pace = statistics.median(paces)
        if progress.first_s is not None:
            return max(length - progress.streamed, 0) * pace
        firsts = [answer.first_s for answer in known if answer.first_s is not None]
        return _left_s(firsts, 0.0, ran_s) + (length - 1) * pace

    def _known(self, model: str) -> Sequence[Answer]:
        """Its own; as models answer here if it never did."""
        return self._answers.get(model) or self._all_answers


def _paces(answers: Iterable[Answer]) -> list[float]:
    return [pace for answer in answers if (pace := answer.pace_s) is not None]


def _length(answers: Iterable[Answer], most: int | None, streamed: int) -> int | None:
    """Tokens that an answer will have which has so many and may have ``most``; None: unknown.

    The median of those that became longer. One that outlasts all of them is expected to go on to
    its bound: that is sure to count down.
    """
    longer: list[int] = []
    for answer in answers:
        if answer.cut and most is not None:
            longer.append(most)
        elif answer.tokens > streamed:
            longer.append(answer.tokens if most is None else min(answer.tokens, most))
    if longer:
        return max(round(statistics.median(longer)), streamed)
    return most


def _left_s(known: Iterable[float], typical_s: float, ran_s: float) -> float:
    """The median of what remained in those that took longer; a share of its time if none did."""
    if longer := [seconds - ran_s for seconds in known if seconds > ran_s]:
        return statistics.median(longer)
    return typical_s - ran_s if typical_s > ran_s else ran_s * _OVERTIME
