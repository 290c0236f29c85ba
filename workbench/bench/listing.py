"""The runs of the log: which there are, and one of them as files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from workbench.analysis.frames import Read
from workbench.bench.evidence import status_of
from workbench.errors import invalid

FORMATS: Final = ("parquet", "csv")

NAMED: Final = (
    "$name = 'last' OR run_id = $name OR name = $name OR starts_with(run_id, $name) "
    "ORDER BY run_id = $name DESC, created_at DESC"
)
"""SQL: how a user names a run. Of several the newest is meant."""

_RUNS: Final = """
SELECT
    r.run_id, r.name, r.created_at, r.finished_at, r.status, r.timing_mode, r.environment_id,
    r.details,
    (SELECT count(*) FROM benchmark_cells c WHERE c.run_id = r.run_id) AS cells,
    (SELECT count(*) FROM benchmark_trials t WHERE t.run_id = r.run_id) AS trials
FROM benchmark_runs r
"""

_FILES: Final = {
    "trials": "SELECT t.*, l.* EXCLUDE (session_id, created_at, run_id, cell_id, trial, status), "
    "s.options, s.sent_ns, s.end_ns, s.intended_ns "
    "FROM benchmark_trials t LEFT JOIN latencies l ON l.session_id = t.session_id "
    "LEFT JOIN stream_sessions s ON s.session_id = t.session_id "
    "WHERE t.run_id = $run_id ORDER BY t.cell_id, t.trial",
    "cells": "FROM benchmark_cells WHERE run_id = $run_id ORDER BY position",
    "scores": "SELECT c.* FROM scores c JOIN benchmark_trials t ON t.session_id = c.session_id "
    "WHERE c.run_id = $run_id ORDER BY c.cell_id, c.scorer, t.trial",
}


def runs(read: Read, limit: int) -> list[dict[str, Any]]:
    """The newest runs; one whose process is gone without a word is ``interrupted``.

    Returns:
        ``run_id, name, created_at, finished_at, status, timing_mode, environment_id, cells, trials,
        slo_met, notes, failed``.
    """
    frame = read(f"{_RUNS} ORDER BY r.created_at DESC LIMIT $limit", {"limit": limit})
    return [_run(row) for row in frame.to_dict("records")]


def find(read: Read, name: str) -> dict[str, Any]:
    """A run by its id or the beginning of it, its spec's name, or ``last``.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``, there is none.
    """
    frame = read(f"{_RUNS} WHERE {NAMED} LIMIT 1", {"name": name})
    if not len(frame):
        raise invalid(f"There is no run {name!r}.", fix="List them: workbench bench list.")
    return _run(frame.to_dict("records")[0])


def export_run(read: Read, name: str, folder: Path, form: str) -> dict[str, Any]:
    """A run as files: trials with their figures, cells, scores, and ``run.json``.

    Args:
        read: asks the log.
        name: id of the run, or the name of its spec.
        folder: is made.
        form: ``parquet`` or ``csv``.

    Returns:
        ``run_id``, and ``files`` with their numbers of rows.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``: no such run or format, or the folder is there.
    """
    import duckdb

    if form not in FORMATS:
        raise invalid(f"The format {form!r} is unknown.", fix=f"Use one of {', '.join(FORMATS)}.")
    run = find(read, name)
    folder = folder.expanduser()
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise invalid(
            f"{folder} cannot be made: {error.strerror}.", fix="Name a folder that is not there."
        ) from None
    files: dict[str, int] = {}
    with duckdb.connect() as connection:
        for table, sql in _FILES.items():
            found = read(sql, {"run_id": run["run_id"]})
            connection.register("found", found)
            path = folder / f"{table}.{form}"
            connection.table("found").write_parquet(str(path)) if form == "parquet" else (
                connection.table("found").write_csv(str(path), header=True)
            )
            files[str(path)] = len(found)
    spec = read("SELECT spec FROM benchmark_runs WHERE run_id = $run_id", {"run_id": run["run_id"]})
    environment = read(
        "SELECT content FROM environments WHERE environment_id = $id", {"id": run["environment_id"]}
    )
    told = {
        **run,
        "spec": json.loads(spec["spec"].iloc[0]),
        "environment": json.loads(environment["content"].iloc[0]) if len(environment) else None,
    }
    (folder / "run.json").write_text(json.dumps(told, indent=2, default=str), encoding="utf-8")
    return {"run_id": run["run_id"], "files": files}


def _run(given: Mapping[Any, Any]) -> dict[str, Any]:
    row = dict(given)
    row["status"] = status_of(row)
    details = json.loads(row.pop("details") or "{}")
    finished = row["finished_at"]
    return {
        **row,
        "created_at": row["created_at"].isoformat(),
        "finished_at": None if finished is None or finished != finished else finished.isoformat(),
        "slo_met": details.get("slo_met"),
        "notes": details.get("notes", []),
        "failed": details.get("failed", []),
    }
