"""Runs as the runner logs them, with known figures, in a real log."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.analysis.conftest import answer
from workbench.bench.items import Item
from workbench.bench.scorers import score_row
from workbench.bench.scorers.base import Score
from workbench.store import Environment, Store
from workbench.types import Message, new_id

WHEN = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
_HOURS = itertools.count()
"""Each run has an hour to itself, unless a test names one: runs at once disturb each other."""
MACHINE = Environment(
    cpu="A CPU",
    cores=2,
    ram_bytes=8 * 2**30,
    os="Linux",
    python="3.11",
    packages={"torch": "2.11"},
    git_revision="abc",
)


@dataclass
class Model:
    """What a model shall have measured: medians, and how likely it is right."""

    name: str
    ttft_s: float = 0.1
    tpot_s: float = 0.02
    right: float = 0.5
    tokens: int = 20
    memory: int = 500_000_000
    changes: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    load: Mapping[str, Any] = field(default_factory=lambda: {"pattern": "isolated"})
    results: Mapping[str, Any] = field(default_factory=dict)


def log_run(
    store: Store,
    models: Iterable[Model],
    *,
    prompts: int = 12,
    repeats: int = 5,
    environment: Environment = MACHINE,
    scorer: str | None = None,
    seed: int = 1,
    edit: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: row,
    run_id: str | None = None,
    hour: int | None = None,
    **run: Any,
) -> str:
    """Log a run; ``edit`` changes the row of a trial before it is written.

    Prompts differ by 10 % and repeats by 2 %, lognormal; answers of a prompt are as hard for all
    models.
    """
    draw = np.random.default_rng(seed)
    run_id = run_id or new_id("run")
    began = WHEN + dt.timedelta(hours=next(_HOURS) if hour is None else hour)
    store.set_environment(environment).result()
    row = {
        "run_id": run_id,
        "created_at": WHEN,
        "finished_at": WHEN + dt.timedelta(minutes=5),
        "name": "a run",
        "status": "ok",
        "timing_mode": "isolated",
        "seed": 1,
        "spec": {"name": "a run", "repeats": repeats, "load": {"pattern": "isolated"}},
        "environment_id": environment.environment_id,
        "details": {},
    }
    store.insert("benchmark_runs", row | run).result()
    prompt_s = np.exp(draw.normal(0, 0.1, prompts))
    hard = draw.random((prompts, repeats))
    waiting = []
    for position, model in enumerate(models):
        cell_id = new_id("cel")
        cell = {
            "cell_id": cell_id,
            "run_id": run_id,
            "position": position,
            "created_at": WHEN,
            "finished_at": WHEN,
            "model": model.name,
            "options": {"temperature": 0, "max_tokens": 32, **model.options},
            "load": dict(model.load),
            "status": "ok",
            "warmups": 1,
            "trials": prompts * repeats,
            "results": {"mem_peak_bytes": model.memory, **model.results},
            "details": {"workload": {"name": "a set", "questions": prompts, "digests": {"d": "1"}}},
        }
        store.insert("benchmark_cells", cell).result()
        trials, scores = [], []
        for number in range(prompts * repeats):
            item, repeat = number % prompts, number // prompts
            noise = np.exp(draw.normal(0, 0.02, 2))
            values: dict[str, Any] = {
                "model": model.name,
                "digest": f"sha256:{model.name}",
                "device": "cpu",
                "threads": 2,
                "dtype": "float32",
                "mem_before_bytes": model.memory,
                "mem_peak_bytes": model.memory,
                "run_id": run_id,
                "cell_id": cell_id,
                "trial": number,
                "created_at": began + dt.timedelta(seconds=number),
                "source": "bench",
                **model.changes,
            }
            session = answer(
                model.ttft_s * prompt_s[item] * noise[0],
                model.tpot_s * noise[1],
                model.tokens,
                **values,
            )
            waiting.append(store.log_session(session, [Message("user", f"prompt {item}")]))
            trial = {
                "cell_id": cell_id,
                "trial": number,
                "run_id": run_id,
                "created_at": session.created_at,
                "session_id": session.session_id,
                "task": "d",
                "item": f"i{item}",
                "family": f"i{item}",
                "repeat": repeat,
                "turn": 0,
                "prefix": "unique",
                "cancelled_on_purpose": False,
                "status": "ok",
                "met": None,
                "details": {"block": repeat},
            }
            trials.append(edit(trial))
            if scorer is not None:
                asked = Item.of(f"i{item}", "?")
                value = float(hard[item, repeat] < model.right)
                scores.append(
                    score_row(
                        Score(value, {} if value else {"reason": "wrong"}),
                        scorer,
                        asked,
                        dataset="d",
                        session_id=session.session_id,
                        run_id=run_id,
                        cell_id=cell_id,
                    )
                )
        waiting.append(store.insert("benchmark_trials", *trials))
        if scores:
            waiting.append(store.insert("scores", *scores))
    for receipt in waiting:
        receipt.result()
    return run_id
