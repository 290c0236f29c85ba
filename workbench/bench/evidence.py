"""What a run left in the log, gathered for findings, reports and comparisons of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from workbench.analysis.frames import Read
from workbench.errors import WorkbenchError, invalid
from workbench.procfs import is_alive

if TYPE_CHECKING:
    import pandas as pd

FIGURES: Final = (
    "ttft_s",
    "ttfo_s",
    "tpot_s",
    "itl_p50_s",
    "e2e_s",
    "e2e_eff_s",
    "queue_s",
    "load_s",
    "decode_tps",
    "output_tps",
    "chars_per_s",
    "mem_peak_bytes",
    "gpu_peak_bytes",
)
"""Columns of ``latencies`` that a report tells of."""

IDENTITY: Final = ("digest", "dtype", "quantization", "device", "threads")
"""What makes a model the same model in the same form."""

_RUN: Final = """
SELECT run_id FROM benchmark_runs
WHERE $name = 'last' OR run_id = $name OR name = $name OR starts_with(run_id, $name)
ORDER BY run_id = $name DESC, created_at DESC LIMIT 2
"""

_TRIALS: Final = f"""
SELECT
    t.cell_id, t.trial, t.session_id, t.task, t.item, t.family, t.repeat, t.turn, t.prefix,
    t.cancelled_on_purpose, t.status, t.met, t.created_at,
    {", ".join(f"l.{name}" for name in (*FIGURES, *IDENTITY))},
    l.contended, l.cold, l.fallback_from, l.prompt_tokens, l.output_tokens, l.text_chars,
    l.finish_reason, l.count_source, l.environment_id,
    coalesce(l.error_code, t.details->>'$.error.code') AS error_code,
    coalesce(s.error_message, t.details->>'$.error.message') AS error_message,
    t.details->>'$.error.fix' AS error_fix,
    t.status = 'rejected' AND t.session_id IS NULL AS refused
FROM benchmark_trials t LEFT JOIN latencies l ON l.session_id = t.session_id
LEFT JOIN stream_sessions s ON s.session_id = t.session_id
WHERE t.run_id = $run_id
ORDER BY t.cell_id, t.trial
"""  # noqa: S608

# A judge or a scorer may run again: the newest score of an answer counts.
_SCORES: Final = """
SELECT c.cell_id, c.session_id, c.scorer, c.task, c.item, c.family, t.repeat, c.score, c.passed,
    c.details
FROM scores c JOIN benchmark_trials t ON t.session_id = c.session_id
WHERE c.run_id = $run_id AND c.scorer <> 'pairwise'
QUALIFY row_number() OVER (PARTITION BY c.session_id, c.scorer ORDER BY c.created_at DESC) = 1
ORDER BY c.cell_id, t.trial
"""


# Of a pair of answers the newest verdict counts; 1 speaks for the cell, 0 for the other one.
_PAIRS: Final = """
SELECT c.cell_id, c.details->>'$.against_cell' AS against, c.task, c.item, c.family, c.score,
    c.details->>'$.judge' AS judge, (c.details->>'$.consistent')::BOOLEAN AS consistent,
    c.details->>'$.said[0]' AS said, c.details->>'$.said[1]' AS said_swapped
FROM scores c
WHERE c.run_id = $run_id AND c.scorer = 'pairwise'
QUALIFY row_number() OVER (
    PARTITION BY c.session_id, c.details->>'$.against' ORDER BY c.created_at DESC) = 1
ORDER BY c.cell_id, c.task, c.item
"""

# Which answers ran beside requests that are not of this run: by the clock, for stamps of one boot
# mean nothing in another. Of the others that began before an answer's end, did any end after its
# begin? That is the latest end so far, so one look back for each answer is enough.
_BESIDE: Final = """
WITH spans AS (
    SELECT
        session_id, run_id,
        epoch_ns(created_at) + sent_ns - queued_ns AS begin_ns,
        epoch_ns(created_at) + end_ns - queued_ns AS stop_ns
    FROM stream_sessions WHERE sent_ns IS NOT NULL
), mine AS (
    SELECT t.cell_id, begin_ns, stop_ns
    FROM benchmark_trials t JOIN spans USING (session_id) WHERE t.run_id = $run_id
), others AS (
    SELECT
        begin_ns AS other_ns,
        max(stop_ns) OVER (ORDER BY begin_ns ROWS UNBOUNDED PRECEDING) AS latest_ns
    FROM spans
    WHERE run_id IS DISTINCT FROM $run_id
        AND begin_ns < (SELECT max(stop_ns) FROM mine)
        AND stop_ns > (SELECT min(begin_ns) FROM mine)
)
SELECT cell_id, count(*) AS beside
FROM mine ASOF JOIN others ON stop_ns > other_ns
WHERE latest_ns > begin_ns GROUP BY cell_id
"""


@dataclass(frozen=True)
class CellEvidence:
    """One cell: what was asked for and which trials and scores it has."""

    cell_id: str
    position: int
    model: str
    options: Mapping[str, Any]
    load: Mapping[str, Any]
    workload: Mapping[str, Any]
    status: str
    results: Mapping[str, Any]
    details: Mapping[str, Any]
    trials: pd.DataFrame = field(repr=False, compare=False)
    scores: pd.DataFrame = field(repr=False, compare=False)
    beside: int = 0
    """Answers that overlapped requests which were not of this run."""

    @property
    def own(self) -> dict[str, Any]:
        """Of the options those that are this model's own; the others have their own, or none."""
        return as_mapping(self.details.get("own"))

    @property
    def contender(self) -> str:
        """The model, with the options of its own: what is compared with what."""
        own = json.dumps(self.own, sort_keys=True, default=str) if self.own else ""
        return f"{self.model} {own}".rstrip()

    @property
    def key(self) -> tuple[str, str, str]:
        """Common options, load and workload as text: cells of the same key are contenders."""
        return (
            json.dumps(self.details.get("common", self.options), sort_keys=True, default=str),
            json.dumps(self.load, sort_keys=True, default=str),
            str(self.workload.get("name", "")),
        )

    @cached_property
    def good(self) -> pd.DataFrame:
        """Trials whose figures are the model's own: ended well, not stopped on purpose."""
        own = (self.trials["status"] == "ok") & self.trials["fallback_from"].isna()
        return self.trials[own & ~self.trials["cancelled_on_purpose"].astype(bool)]

    def identity(self) -> dict[str, tuple[Any, ...]]:
        """The values of :data:`IDENTITY` among its trials; one each, if nothing changed."""
        return {
            name: tuple(sorted(self.trials[name].dropna().unique().tolist(), key=str))
            for name in IDENTITY
        }

    def median(self, figure: str) -> float | None:
        """The median of a figure over its good trials."""
        values = self.good[figure].dropna()
        return float(values.median()) if len(values) else None


@dataclass(frozen=True)
class Evidence:
    """A run with its cells, in the order of its spec, and the environments it ran in."""

    run: Mapping[str, Any]
    cells: tuple[CellEvidence, ...]
    environments: Mapping[str, Mapping[str, Any]]
    pairs: pd.DataFrame = field(repr=False, compare=False)
    """What a judge said of pairs of answers: ``cell_id, against, task, item, family, score, judge,
    consistent, said, said_swapped``."""

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return str(self.run["run_id"])

    @property
    def name(self) -> str:
        """The name of the run."""
        return str(self.run["name"])

    @property
    def spec(self) -> Mapping[str, Any]:
        """The spec that it ran."""
        return as_mapping(self.run["spec"])

    def label(self, cell: CellEvidence) -> str:
        """What tells a cell from the others of its run, in few words."""
        return ", ".join(self.words(cell))

    def words(self, cell: CellEvidence) -> list[str]:
        """The words of its label: its model, then what else tells it from others."""
        words = [short(cell.model)]
        if len({json.dumps(c.options, sort_keys=True, default=str) for c in self.cells}) > 1:
            words += [
                f"{name} {value}"
                for name, value in sorted(cell.options.items())
                if any(other.options.get(name) != value for other in self.cells)
            ]
        words += [
            said(name, cell.load[name])
            for name in ("users", "rate_per_s", "variant")
            if name in cell.load and len({str(c.load.get(name)) for c in self.cells}) > 1
        ]
        if len({c.workload.get("name") for c in self.cells}) > 1:
            words.append(str(cell.workload.get("name")))
        return words


def gather(read: Read, name: str) -> Evidence:
    """Everything of one run.

    Args:
        read: runs the queries.
        name: the run's id or the beginning of it, its name (the newest of that name), or ``last``.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``: no such run, or it has no trials.
    """
    found = read(_RUN, {"name": name})
    if found.empty:
        raise invalid(f"There is no run {name!r}.", fix="See `workbench bench list`.")
    run_id = found["run_id"].iloc[0]
    run = _first(read("SELECT * FROM benchmark_runs WHERE run_id = $id", {"id": run_id}))
    run["status"] = status_of(run)
    trials = read(_TRIALS, {"run_id": run_id})
    if trials.empty:
        raise _nothing(run)
    scores = read(_SCORES, {"run_id": run_id})
    rows = read(
        "SELECT * FROM benchmark_cells WHERE run_id = $id ORDER BY position", {"id": run_id}
    )
    beside = {
        row["cell_id"]: int(row["beside"])
        for row in read(_BESIDE, {"run_id": run_id}).to_dict("records")
    }
    by_trial = dict(iter(trials.groupby("cell_id", sort=False)))
    by_score = dict(iter(scores.groupby("cell_id", sort=False)))
    cells = tuple(
        CellEvidence(
            cell_id=row["cell_id"],
            position=int(row["position"]),
            model=row["model"],
            options=as_mapping(row["options"]),
            load=as_mapping(row["load"]),
            workload=as_mapping(as_mapping(row["details"]).get("workload")),
            status=row["status"],
            results=as_mapping(row["results"]),
            details=as_mapping(row["details"]),
            trials=by_trial.get(row["cell_id"], trials.iloc[:0]),
            scores=by_score.get(row["cell_id"], scores.iloc[:0]),
            beside=beside.get(row["cell_id"], 0),
        )
        for row in rows.to_dict("records")
    )
    ids = [*trials["environment_id"].dropna().unique(), run["environment_id"]]
    environments = {
        str(one): _environment(read, str(one)) for one in dict.fromkeys(ids) if isinstance(one, str)
    }
    return Evidence(run, cells, environments, read(_PAIRS, {"run_id": run_id}))


def _nothing(run: Mapping[str, Any]) -> WorkbenchError:
    """Why a run without trials has nothing to report."""
    told = f"The run {run['run_id']} has no trials"
    if run["status"] == "active":
        return invalid(f"{told} yet.", fix="It is under way: ask again.")
    if failed := as_mapping(run["details"]).get("failed"):
        return invalid(f"{told}: {'; '.join(failed)}", fix="Mend this and run its spec again.")
    return invalid(
        f"{told}; its status is {run['status']}.",
        fix=f"Go on with `workbench bench resume {run['run_id']}`.",
    )


def status_of(run: Mapping[str, Any]) -> str:
    """The status of a row of ``benchmark_runs``: ``interrupted`` if its process is gone."""
    if run["status"] == "active" and not is_alive(as_mapping(run["details"]).get("process", {})):
        return "interrupted"
    return str(run["status"])


def as_mapping(value: Any) -> dict[str, Any]:
    """A JSON column as a dictionary, however it was read; empty for null."""
    if isinstance(value, str):
        value = json.loads(value)
    return dict(value) if isinstance(value, Mapping) else {}


def said(name: str, value: Any) -> str:
    """A value of a load in words."""
    if name == "users":
        return f"{value} {'user' if value == 1 else 'users'}"
    return f"{value:g} a second" if name == "rate_per_s" else str(value)


def short(model: str) -> str:
    """A model id without the folders before its name; how it is loaded stays."""
    provider, _, name = model.partition("/")
    path, mark, ways = name.partition("?")
    return f"{provider}/{path.rsplit('/', 1)[-1]}{mark}{ways}"


def changed(values: Sequence[Any]) -> bool:
    """Whether there is more than one value among those that are known."""
    return len({str(value) for value in values if value is not None}) > 1


def _environment(read: Read, environment_id: str) -> dict[str, Any]:
    found = read(
        "SELECT content FROM environments WHERE environment_id = $id", {"id": environment_id}
    )
    return {} if found.empty else as_mapping(found["content"].iloc[0])


def _first(frame: pd.DataFrame) -> dict[str, Any]:
    known = frame.astype(object).where(frame.notna(), None)
    return {str(name): known[name].iloc[0] for name in known.columns}
